"""How far an extraction is, in bytes of its input files: shards that are written, and files and pages of the others.

A shard may be hours of recognition. Its worker leaves the number of files that are done beside the dataset now and
then, and the ranges of long PDF files lie there anyway. Only the driver looks, to show it.
"""

import time
from collections.abc import Mapping, Sequence
from itertools import accumulate

from pipelines.runner import finished_files
from schemas import paths

FOLDER = ".progress"
_SECONDS = 2.0  # between two looks at the clock that write


class FilesDone:
    """The number of files of one shard that are done, for the driver to read."""

    def __init__(self, output: str, shard: str) -> None:
        self._path = paths.join(output, FOLDER, shard)
        self._count = 0
        self._told = time.monotonic()

    def add(self) -> None:
        self._count += 1
        if time.monotonic() - self._told >= _SECONDS:
            paths.write_text(self._path, str(self._count))
            self._told = time.monotonic()


def range_name(shard: str, position: int, first: int, last: int, pages: int) -> str:
    """File name of the pages `first` to `last` of `pages` of the PDF file `position` of a shard."""
    return f"{shard}-{position:05d}-{first:07d}-{last:07d}-{pages:07d}.parquet"


class BytesDone:
    """Called, it gives the bytes of input that are done.

    `documents` and `ranges` are the folders of the shards and of the ranges; `sizes` has the bytes of the files of
    every shard in their order.
    """

    def __init__(self, output: str, documents: str, ranges: str, sizes: Mapping[str, Sequence[int]]) -> None:
        self._output, self._documents, self._ranges = output, documents, ranges
        self._sizes = sizes
        self._sums = {shard: [0, *accumulate(files)] for shard, files in sizes.items()}
        self.total = sum(sums[-1] for sums in self._sums.values())

    def __call__(self) -> float:
        written = self._sizes.keys() & {name.removesuffix(".parquet") for name in self._names(self._documents)}
        done = float(sum(self._sums[shard][-1] for shard in written))
        files = {shard: self._files_done(shard) for shard in self._names(FOLDER) if shard not in written}
        done += sum(self._sums[shard][count] for shard, count in files.items())
        for name in self._names(self._ranges):
            shard, *numbers = name.removesuffix(".parquet").split("-")
            position, first, last, pages = map(int, numbers)
            if shard not in written and position >= files.get(shard, 0):
                done += self._sizes[shard][position] * (last - first + 1) / pages
        return done

    def _names(self, folder: str) -> list[str]:
        return finished_files(paths.join(self._output, folder))

    def _files_done(self, shard: str) -> int:
        try:
            return int(paths.read_text(paths.join(self._output, FOLDER, shard)))
        except FileNotFoundError:  # an object store that is just writing it anew
            return 0
