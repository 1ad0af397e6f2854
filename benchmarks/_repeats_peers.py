"""datatrove's sentence deduplication, C4's rule; in an environment of its own, as benchmarks/_dedup_peers.py says.

    build/datatrove/bin/python benchmarks/_repeats_peers.py DOCUMENTS WORK ANSWERS

All but one of any three sentences in a row that occur more than once are removed. DOCUMENTS is a folder of Parquet
files with `text` and `id`; WORK is an empty folder. ANSWERS gets one JSON object: `seconds`, CPU seconds by part, and
`texts`, what is left of each document by its id.
"""

import json
import resource
import sys
from pathlib import Path


def spent():
    return sum(
        part
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        for part in resource.getrusage(who)[:2]  # user and system
    )


def main(documents, work, answers):
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import SentenceDedupFilter, SentenceDedupSignature, SentenceFindDedups
    from datatrove.pipeline.dedup.sentence_dedup import SentDedupConfig
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import JsonlWriter

    imported = spent()
    config = SentDedupConfig(n_sentences=3, min_doc_words=0, min_num_sentences=0)
    read = ParquetReader(documents, glob_pattern="*.parquet")
    signatures, found, output = (f"{work}/{name}" for name in ("signatures", "found", "output"))
    steps = (
        [read, SentenceDedupSignature(signatures, config=config)],
        [SentenceFindDedups(signatures, found, config=config)],
        [read, SentenceDedupFilter(found, config=config), JsonlWriter(output, compression=None)],
    )
    for number, step in enumerate(steps):
        LocalPipelineExecutor(step, tasks=1, logging_dir=f"{work}/logs{number}").run()
    seconds = {"imports": imported, "deduplication": spent() - imported}
    texts = {}
    for path in Path(output).rglob("*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            texts[row["id"]] = row["text"]
    Path(answers).write_text(json.dumps({"seconds": seconds, "texts": texts}))


if __name__ == "__main__":
    main(*sys.argv[1:])
