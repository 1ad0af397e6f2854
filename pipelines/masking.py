"""What the recipe's section `mask` takes out of the text on its way into training.

Every kind of personal data has one replacement, a value that is reserved for examples and can be nobody's. The text
stays natural and the model learns no marks; this is what FineWeb does with addresses (Penedo et al. 2024). The
documents themselves are not touched.
"""

from collections import Counter
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.cuts import CUTS, apply_cuts
from schemas.errors import DataError
from schemas.tables import struct_lists

T = TypeVar("T")

REPLACEMENTS = {
    "email": "email@example.com",  # RFC 2606
    "ip": "192.0.2.1",  # RFC 5737
    "phone": "+1 202-555-0100",  # the range for fiction of the North American Numbering Plan
    "iban": "GB82WEST12345698765432",  # an example whose check digits are right
    "credit_card": "4111 1111 1111 1111",  # a test number of the networks
}
IPV6_REPLACEMENT = "2001:db8::1"  # RFC 3849

MASKED = "masked/"  # in the sums of the shards: spans that were masked, by kind
_REASON = "pii."


def pii_cuts(texts: pa.Array, spans: pa.ListArray, kinds: list[str]) -> pa.ListArray:
    """The cuts (type CUTS) that mask the personal data of `kinds`; `spans` is the column `pii` of the same rows."""
    flat = spans.flatten()
    rows = np.repeat(np.arange(len(spans)), pc.list_value_length(spans).to_numpy(zero_copy_only=False))
    names = flat.field("kind").cast(pa.string())
    wanted = pc.is_in(names, pa.array(kinds, pa.string()))
    flat, names, rows = flat.filter(wanted), names.filter(wanted), rows[wanted.to_numpy(zero_copy_only=False)]
    begins, ends = flat.field("begin"), flat.field("end")
    replacements = [REPLACEMENTS[name] for name in names.to_pylist()]
    for place in np.flatnonzero(pc.equal(names, "ip").to_numpy(zero_copy_only=False)):
        text = texts[rows[place]].as_buffer()
        if b":" in text[begins[place].as_py() : ends[place].as_py()].to_pybytes():
            replacements[place] = IPV6_REPLACEMENT
    reasons = pc.binary_join_element_wise(_REASON, names, "")
    fields = [begins, ends, reasons, pa.array(replacements, pa.string())]
    return struct_lists(CUTS, fields, np.bincount(rows, minlength=len(spans)))


def labelled(found: T | None) -> T:
    """The labels of personal data; DataError where there are none."""
    if found is None:
        raise DataError("`mask.pii` needs the labels `pii` beside the documents; run `annotate` first")
    return found


def masked(texts: pa.Array, spans: pa.ListArray, kinds: list[str]) -> pa.LargeStringArray:
    """The texts as the model reads them."""
    return apply_cuts(texts, pii_cuts(texts, spans, kinds))


def count_masked(spans: pa.ListArray, kinds: list[str]) -> Counter[str]:
    """How many spans of each of `kinds` there are, with MASKED before the kind."""
    found = spans.flatten().field("kind").cast(pa.string()).to_pylist()
    return Counter(MASKED + kind for kind in found if kind in kinds)
