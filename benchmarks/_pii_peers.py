"""What datatrove and presidio find in texts; runs in an environment of its own.

    python -m venv build/pii
    build/pii/bin/pip install datatrove==0.10.1 presidio-analyzer==2.2.366 spacy
    build/pii/bin/python benchmarks/_pii_peers.py PEER TEXTS ANSWERS

TEXTS has one JSON string a line; ANSWERS gets a JSON list of [begin, end, kind] a line (in characters), and at last the
CPU seconds. PEER is `datatrove` (its PIIFormatter, which knows e-mail and public IP addresses) or `presidio` (its
recognisers of patterns, without a language model).
"""

import json
import sys
import time
from pathlib import Path


def datatrove():
    from datatrove.pipeline.formatters import PIIFormatter

    formatter = PIIFormatter()
    replacers = {"email": formatter.emails_replacer, "ip": formatter.ip_replacer}

    def find(text):
        for kind, replacer in replacers.items():
            for match in replacer.regex.finditer(text):
                if replacer.validator is None or replacer.validator(match[0]):
                    yield match.start(), match.end(), kind

    return find


def presidio():
    from presidio_analyzer.predefined_recognizers import (
        CreditCardRecognizer,
        EmailRecognizer,
        IbanRecognizer,
        IpRecognizer,
        PhoneRecognizer,
    )

    recognisers = {
        "email": EmailRecognizer(),
        "phone": PhoneRecognizer(),
        "ip": IpRecognizer(),
        "iban": IbanRecognizer(),
        "credit_card": CreditCardRecognizer(),
    }

    def find(text):
        for kind, recogniser in recognisers.items():
            for found in recogniser.analyze(text, recogniser.supported_entities, None) or ():
                yield found.start, found.end, kind

    return find


def main():
    peer, texts, answers = sys.argv[1:]
    lines = [json.loads(line) for line in Path(texts).read_text().splitlines()]
    find = {"datatrove": datatrove, "presidio": presidio}[peer]()
    list(find("Write to jane@example.org."))
    started = time.process_time()
    found = [sorted(find(text)) for text in lines]
    seconds = time.process_time() - started
    Path(answers).write_text("".join(json.dumps(row) + "\n" for row in [*found, seconds]))


if __name__ == "__main__":
    main()
