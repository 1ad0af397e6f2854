"""datatrove's n-gram decontamination; runs in its own environment, see benchmarks/_datatrove.py.

    build/datatrove/bin/python benchmarks/_datatrove_decontamination.py ITEMS TEXTS ANSWERS NGRAM INDEX

ITEMS and TEXTS have one JSON value a line: [benchmark, question, answer with choices], and strings. ANSWERS gets, for
each text, the benchmark that it is dropped for or null, and at the end the CPU seconds of building and of searching.
INDEX is a folder. All n-grams of question and answer are looked up (`find_query_ngrams`), or a question alone would
never be found.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter, NGramsDecontIndexer

NGramsDecontIndexer._requires_dependencies = []  # it asks for lighteval, for tasks that are downloaded


def main(items, texts, answers, ngram, folder):
    config = NGramsDecontConfig(n_grams=int(ngram), find_query_ngrams=True)
    indexer, search = NGramsDecontIndexer(folder, config=config), NGramsDecontFilter(folder, config=config)
    indexer.tokenizer.word_tokenize("It loads.")
    begin = time.process_time()
    hashes = {}
    for line in Path(items).read_text(encoding="utf-8").splitlines():
        benchmark, question, answer = json.loads(line)
        hashes.setdefault(benchmark, set()).update(indexer.compute_hashes(answer, question))
    for benchmark, found in hashes.items():
        np.array(list(found), config.hash_config.np_descr).tofile(Path(folder, f"{benchmark}.index.hashes"))
    search.load_index_hashes()
    built = time.process_time()
    with Path(answers).open("w", encoding="utf-8") as file, Path(texts).open(encoding="utf-8") as lines:
        for line in lines:
            document = Document(text=json.loads(line), id="")
            search.filter(document)
            file.write(json.dumps(document.metadata.get("contaminated_task")) + "\n")
        file.write(json.dumps([built - begin, time.process_time() - built]) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
