"""What the model does not read: personal data that the recipe's section `mask` names, and what earlier stages cut.

Every kind of personal data has one replacement, a value that is reserved for examples and can be nobody's. The text
stays natural and the model learns no marks; this is what FineWeb does with addresses (Penedo et al. 2024). The cuts of
`dedup` (repeated lines and passages) and `decontaminate` (items of benchmarks) are in files beside the documents,
`cuts/<shard>.parquet`, where these stages make any. All of it is taken out of the text on its way into training; the
documents themselves are not touched.
"""

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.sidecars import read_checked
from schemas.cuts import CUTS, apply_cuts, merge_cuts
from schemas.errors import DataError
from schemas.tables import struct_lists

REPLACEMENTS = {
    "email": "email@example.com",  # RFC 2606
    "ip": "192.0.2.1",  # RFC 5737
    "phone": "+1 202-555-0100",  # the range for fiction of the North American Numbering Plan
    "iban": "GB82WEST12345698765432",  # an example whose check digits are right
    "credit_card": "4111 1111 1111 1111",  # a test number of the networks
}
IPV6_REPLACEMENT = "2001:db8::1"  # RFC 3849

CUTTING = ("dedup", "decontaminate")  # stages that may write cuts, by the order of their say about a reason
PII = "pii"
_REASON = f"{PII}."
# In the sums of the shards: spans that were masked by kind, spans and bytes that were removed by reason.
MASKED, SPANS, BYTES, TOUCHED, EMPTIED = "masked/", "cut/spans/", "cut/bytes/", "cut/documents", "cut/emptied"


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


def sidecars(kinds: list[str]) -> dict[str, tuple[str, str]]:
    """Sidecars of a document shard that say what is not read: name -> (stage, folder)."""
    found = {stage: (stage, "cuts") for stage in CUTTING}
    return found | ({PII: ("annotate", PII)} if kinds else {})


def read_spans(keys: pa.Table, files: Mapping[str, str | None], kinds: list[str]) -> pa.Table:
    """What is not read of the documents `keys`: a column for each of the `sidecars` that there is a file of.

    Raises DataError if a file is of other documents, or if `kinds` are to be masked and nobody looked for them.
    """
    if kinds and files.get(PII) is None:
        raise DataError("`mask.pii` needs the labels `pii` beside the documents; run `annotate` first")
    columns = {}
    for name, (_, folder) in sidecars(kinds).items():
        path = files.get(name)
        if path is not None:
            columns[name] = read_checked(path, keys, [folder])[folder].combine_chunks()
    return pa.table(columns)


def all_cuts(texts: pa.Array, spans: pa.Table, kinds: list[str]) -> pa.ListArray:
    """The cuts (type CUTS) of each of the texts; `spans` are rows of `read_spans`, at least one column."""
    lists = []
    for name in spans.column_names:
        column = spans[name].combine_chunks()
        lists.append(pii_cuts(texts, column, kinds) if name == PII else column)
    return merge_cuts(*lists)


def cut_texts(texts: pa.Array, cuts: pa.ListArray) -> pa.LargeStringArray:
    """The texts as the model reads them. Of which the cuts leave nothing but white space, that is empty."""
    done = apply_cuts(texts, cuts)
    changed = np.flatnonzero(pc.list_value_length(cuts).to_numpy(zero_copy_only=False))
    blank = pc.equal(pc.utf8_trim_whitespace(done.take(pa.array(changed))), "").to_numpy(zero_copy_only=False)
    if not blank.any():
        return done
    mask = np.zeros(len(done), bool)
    mask[changed[blank]] = True
    return pc.if_else(pa.array(mask), pa.scalar("", pa.large_string()), done)


def count_cuts(cuts: pa.ListArray, after: pa.Array) -> Counter[str]:
    """What the cuts did to the texts that are now `after`, by the names above."""
    lengths = pc.list_value_length(cuts).to_numpy(zero_copy_only=False)
    flat = cuts.flatten()
    found: Counter[str] = Counter()
    if not len(flat):
        return found
    removes = pc.equal(flat.field("replacement"), "")
    sizes = pc.subtract(flat.field("end"), flat.field("begin")).cast(pa.int64())
    table = pa.table({"reason": flat.field("reason"), "removes": removes, "bytes": sizes})
    groups = table.group_by(["reason", "removes"]).aggregate([("bytes", "count"), ("bytes", "sum")])
    for group in groups.to_pylist():
        if group["removes"]:
            found[SPANS + group["reason"]] += group["bytes_count"]
            found[BYTES + group["reason"]] += group["bytes_sum"]
        else:
            found[MASKED + group["reason"].removeprefix(_REASON)] += group["bytes_count"]
    touched = np.unique(np.repeat(np.arange(len(cuts)), lengths)[removes.to_numpy(zero_copy_only=False)])
    left = pc.binary_length(after).to_numpy(zero_copy_only=False)[touched]
    return found + Counter({TOUCHED: len(touched), EMPTIED: int((left == 0).sum())})
