import pyarrow as pa
import pytest

from schemas.errors import DataError
from schemas.labels import ANNOTATORS, DOMAINS, KEY_FIELDS, check_sidecar
from schemas.languages import GROUPS, LABELS, LANGUAGES, OTHER, UNDETERMINED, group


def keys(*rows: tuple[bytes, bytes]) -> pa.RecordBatch:
    return pa.record_batch(
        {
            "document_id": pa.array([row[0] * 16 for row in rows], pa.binary(16)),
            "text_hash": pa.array([row[1] * 16 for row in rows], pa.binary(16)),
        }
    )


def test_every_sidecar_begins_with_the_key_columns_and_explains_its_columns() -> None:
    for name, schema in ANNOTATORS.items():
        assert schema.names[:4] == ["document_id", "id", "text_hash", "annotator"]
        assert list(schema)[:4] == list(KEY_FIELDS)
        assert schema.metadata == {b"sluice.labels": name.encode()}
        assert len(set(schema.names)) == len(schema.names)
        assert all(field.metadata[b"description"].endswith(b".") for field in schema)


def test_label_columns_of_different_annotators_do_not_clash() -> None:
    columns = [name for schema in ANNOTATORS.values() for name in schema.names[len(KEY_FIELDS) :]]
    assert len(set(columns)) == len(columns)


def test_sidecar_of_the_same_rows_passes() -> None:
    check_sidecar(keys((b"a", b"1"), (b"b", b"2")), keys((b"a", b"1"), (b"b", b"2")))


def test_batches_and_tables_in_any_chunks_compare() -> None:
    batch = keys((b"a", b"1"), (b"b", b"2"), (b"c", b"3"))
    chunked = pa.Table.from_batches([batch.slice(0, 2), batch.slice(2)])
    variable = chunked.cast(pa.schema([(name, pa.binary()) for name in chunked.schema.names]))
    for labels in (batch, chunked, variable):
        check_sidecar(batch, labels)
        check_sidecar(labels, batch)
    other = pa.Table.from_batches([batch.slice(0, 2), keys((b"c", b"4"))])
    with pytest.raises(DataError, match=r"row 2 .* another text"):
        check_sidecar(chunked, other)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (keys((b"a", b"1")), "1 rows and the documents have 2"),
        (keys((b"b", b"2"), (b"a", b"1")), "row 0 .* another document: document_id is 6262"),
        (keys((b"a", b"1"), (b"b", b"3")), "row 1 .* another text: text_hash is 3333"),
    ],
)
def test_sidecar_of_other_rows_is_an_error(labels: pa.RecordBatch, message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_sidecar(keys((b"a", b"1"), (b"b", b"2")), labels)


def test_languages_are_the_119_of_qwen3_with_script_and_group() -> None:
    assert len(LANGUAGES) == 119
    assert list(LABELS) == [*LANGUAGES, "other", "und"]
    for label, language in LANGUAGES.items():
        assert language.label == label == f"{label[:3]}_{language.script}"
        assert language.name and language.family
    assert {group(label) for label in LABELS} == set(GROUPS)


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        ("eng_Latn", "english"),
        ("yue_Hant", "chinese"),
        ("mya_Mymr", "south-east-asia"),
        ("mlt_Latn", "european"),
        ("arz_Arab", "middle-east"),
        ("tgk_Cyrl", "middle-east"),
        ("ydd_Hebr", "european"),
        ("urd_Arab", "south-asia"),
        ("jpn_Jpan", "east-asia"),
        ("hat_Latn", "africa-and-creole"),
        (OTHER, "other"),
        (UNDETERMINED, "other"),
    ],
)
def test_group(label: str, expected: str) -> None:
    assert group(label) == expected


def test_group_of_no_label_is_an_error() -> None:
    with pytest.raises(KeyError):
        group("eng")


def test_domains_are_slugs_in_order() -> None:
    assert list(DOMAINS) == sorted(set(DOMAINS))
    assert all(slug == slug.lower() and " " not in slug for slug in DOMAINS)
