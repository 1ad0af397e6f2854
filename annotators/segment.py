"""Where words begin in scripts written without spaces, by a very small linear model.

A word begins before a letter, or it does not, by the sum of three weights: of the pair of characters around the place,
and of the three characters that end or begin there with one more. The weights lie in tables under the hash of their
characters; `annotators.segment_train` makes them from the words that a dictionary (ICU) finds. Tibetan, of which
there is no training text, is divided at the mark between its syllables.

The statistics need the number of words, their length, and the same words wherever a passage is repeated. Two letters
at a time give .76 (Burmese) to 1.6 times (Lao) as many words as ICU, all of one length, and cut a passage differently
when it begins a letter later; this model gives .94 to 1.03 times as many. ICU itself would have to be compiled on every
machine, and another version of its dictionaries would change stored labels.
"""

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from schemas.hashing import GOLDEN

MODEL = Path(__file__).parent / "models" / "segment.npy"
BITS = 16  # of the hash: places in a table
_ONE_MORE = np.uint64(0xD6E8FEB86659FD93)  # odd: another multiplier for the third character

Places = npt.NDArray[np.int64]


@cache
def weights() -> npt.NDArray[np.int8]:
    """The packaged tables: int8 [3, 2**BITS]."""
    found: npt.NDArray[np.int8] = np.load(MODEL)
    return found


def features(characters: npt.NDArray[np.uint32], at: npt.NDArray[np.int64]) -> tuple[Places, Places, Places]:
    """Rows of the three tables for the places before the characters `at`.

    `characters` are code points, 0 for all that is no letter or mark of such a script: what stands beyond does not
    matter. Two characters must stand before every place and one behind.
    """
    left, right = characters[at - 1].astype(np.uint64), characters[at].astype(np.uint64)
    pair = (left * np.uint64(GOLDEN) ^ right) * np.uint64(GOLDEN)
    pair ^= pair >> np.uint64(29)
    before = pair + characters[at - 2].astype(np.uint64) * _ONE_MORE
    behind = pair - (characters[at + 1].astype(np.uint64) + np.uint64(1)) * _ONE_MORE
    return _row(pair), _row(before), _row(behind)


def _row(hashes: npt.NDArray[np.uint64]) -> Places:
    mixed = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(GOLDEN)
    return (mixed >> np.uint64(64 - BITS)).astype(np.int64)


def begins_word(characters: npt.NDArray[np.uint32], at: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether a word begins at each of the places `at`; see `features`."""
    pair, before, behind = weights()
    one, two, three = features(characters, at)
    return pair[one].astype(np.int16) + before[two] + behind[three] > 0
