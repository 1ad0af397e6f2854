"""What text-dedup, datatrove and rensa make of the same documents; each runs in an environment of its own.

    python3 -m venv build/text-dedup
    build/text-dedup/bin/pip install "datasets>=2.17,<4" "click<9" "click-option-group<0.6" "fire<0.7" ftfy regex \\
        "rich<14" scipy xxhash zstandard tqdm psutil bitarray pybloom-live
    build/text-dedup/bin/pip install --no-deps text-dedup==0.4.0   # its other packages are for Spark and embeddings
    python3 -m venv build/datatrove
    build/datatrove/bin/pip install datatrove==0.10.1 "xxhash<4" pyarrow orjson fasteners regex nltk "spacy>=3.8" \\
        tokenizers zstandard
    python3 -m venv build/rensa
    build/rensa/bin/pip install rensa==0.5.0 numpy pyarrow regex

    build/text-dedup/bin/python benchmarks/_dedup_peers.py text-dedup DOCUMENTS WORK ANSWERS

PEER is `text-dedup` (its defaults), `text-dedup-fast` (xxh3 instead of SHA-1, 32 bits instead of 64), `datatrove` (its
defaults) or `rensa`. DOCUMENTS is a folder of Parquet files with `text`; WORK is an empty folder. ANSWERS gets one JSON
object: `seconds`, CPU seconds of this process and its children by part; for the first three also `clusters`, the
cluster of every document in the order of the files. rensa only makes signatures, from texts and from hashes of n-grams.
"""

import json
import os
import resource
import sys
from pathlib import Path

NGRAM, BANDS, ROWS = 5, 14, 8


def spent():
    return sum(
        part
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        for part in resource.getrusage(who)[:2]  # user and system
    )


def text_dedup(documents, work, fast):
    os.environ |= {"HF_HOME": f"{work}/home", "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    from text_dedup import minhash

    imported = spent()
    arguments = f"--path parquet --split train --output {work}/output --cache_dir {work}/cache --column text"
    arguments += f" --num_proc 1 --ngram {NGRAM} --num_perm {BANDS * ROWS} --b {BANDS} --r {ROWS}"
    arguments += " --hash_func xxh3 --hash_bits 32" if fast else ""
    minhash.main([*arguments.split(), "--data_files", f"{documents}/*.parquet"], standalone_mode=False)
    seconds = {"imports": imported, "deduplication": spent() - imported}

    import pyarrow.dataset as ds

    rows = ds.dataset(documents).count_rows()
    return {"seconds": seconds, "clusters": [minhash.uf.find(row) for row in range(rows)]}


def datatrove(documents, work):
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.writers import JsonlWriter

    imported = spent()
    config = MinhashConfig(n_grams=NGRAM, num_buckets=BANDS, hashes_per_bucket=ROWS)
    read = ParquetReader(str(documents), glob_pattern="*.parquet")
    parts = [f"{work}/{name}" for name in ("signatures", "buckets", "clusters", "output")]
    signatures, buckets, clusters, output = parts
    steps = [
        ([read, MinhashDedupSignature(signatures, config)], 1),
        ([MinhashDedupBuckets(signatures, buckets, config=config)], BANDS),
        ([MinhashDedupCluster(buckets, clusters, config, save_cluster_id=True)], 1),
        ([read, MinhashDedupFilter(clusters), JsonlWriter(output, compression=None)], 1),
    ]
    for number, (step, tasks) in enumerate(steps):
        LocalPipelineExecutor(
            pipeline=step, tasks=tasks, workers=1, skip_completed=False, logging_dir=f"{work}/logs{number}"
        ).run()
    seconds = {"imports": imported, "deduplication": spent() - imported}

    import numpy as np
    import pyarrow.dataset as ds

    found = np.fromfile(f"{clusters}/000000.clusters", "<u4").reshape(-1, 2)
    names = -1 - np.arange(ds.dataset(documents).count_rows())
    names[found[:, 0]] = found[:, 1]
    return {"seconds": seconds, "clusters": names.tolist()}


def rensa(documents):
    import numpy as np
    import pyarrow.dataset as ds
    import regex
    from rensa import RMinHash

    texts = ds.dataset(documents).to_table(columns=["text"])["text"].to_pylist()
    begin = spent()
    grams = []
    for text in texts:
        words = regex.findall(r"\w+", text.lower())
        grams.append([" ".join(words[place : place + NGRAM]) for place in range(len(words) - NGRAM + 1)])
    made = spent()
    RMinHash.digest_matrix_from_token_sets(grams, BANDS * ROWS, 0)
    signed = spent()
    hashes = np.random.default_rng(0).integers(1 << 63, size=sum(map(len, grams)), dtype=np.uint64)
    offsets = np.cumsum([0, *map(len, grams)]).astype(np.uint64)
    before = spent()
    RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, BANDS * ROWS, 0)
    seconds = {"texts": signed - begin, "n-grams": signed - made, "hashes": spent() - before}
    return {"seconds": seconds}


def main():
    peer, documents, work, answers = sys.argv[1:]
    run = {
        "text-dedup": lambda: text_dedup(documents, work, False),
        "text-dedup-fast": lambda: text_dedup(documents, work, True),
        "datatrove": lambda: datatrove(documents, work),
        "rensa": lambda: rensa(documents),
    }[peer]
    Path(answers).write_text(json.dumps(run()))


if __name__ == "__main__":
    main()
