"""The encoder and the files, against tiktoken, Hugging Face tokenizers and transformers on the real Qwen ranks."""

import importlib.util
import json
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import tiktoken.load
import tokenizers
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from schemas.errors import ConfigError
from tokenizer.qwen import ADDED_TOKENS, BYTE_ORDER, END_OF_DOCUMENT, PATTERN, Tokenizer, write_tokenizer
from tokenizer.train import from_tiktoken_ranks

SHARED = Path(__file__).parents[3] / "shared" / "data"

SAMPLES = [
    "",
    "\x00",
    "a\x00b\x00\x00",
    "The quick brown fox isn't here; we'LL see what they'Ve done.",
    "Zażółć gęślą jaźń – «niño», crème brûlée, Straße, İstanbul ıslak.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण",
    "আমি বাংলায় গান গাই",
    "இறைவன் படைத்த உலகம்",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "သီဟိုဠ်မှ ဉာဏ်ကြီးရှင်သည်",
    "ქართული ენა, հայերեն լեզու, አማርኛ ቋንቋ, ភាសាខ្មែរ",
    "敏捷的棕色狐狸跳过了懒狗。いろはにほへと ちりぬるを。다람쥐 헌 쳇바퀴에 타고파",
    "def f(x):\n\treturn {k: v**2 for k, v in x.items()}  # done\n\n\n    if (a[i] != b->c) { ++n; }\n",
    "12345 3.14159 ½ ² Ⅷ ٣ १२३",
    "👩‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️ 😀😀😀",
    unicodedata.normalize("NFD", "Ångström café Việt Nam 한국어"),
    "q\u0323\u0307 q\u0307\u0323 \u0958 \u2126 \ufb01 \u1e9b\u0323",
    "one  two   three\t\tfour \n five\r\n\r\n six \u00a0\u3000 seven   ",
    "  leading\n   \n\n\t\n x",
    "\r\r\n\n \r",
    "!!!\n\n???\r\n...  \n",
]


@pytest.fixture(scope="session")
def ranks_file() -> Path:
    spec = importlib.util.find_spec("dashscope")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "resources" / "qwen.tiktoken"


@pytest.fixture(scope="session")
def folder(ranks_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen")
    assert from_tiktoken_ranks(ranks_file, folder) == {"vocabulary_size": 151_669, "merges": 151_387}
    return folder


@pytest.fixture(scope="session")
def qwen(folder: Path) -> Tokenizer:
    return Tokenizer.load(folder)


@pytest.fixture(scope="session")
def reference(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.fixture(scope="session")
def published_ranks(ranks_file: Path) -> tiktoken.Encoding:
    ranks = tiktoken.load.load_tiktoken_bpe(str(ranks_file))
    return tiktoken.Encoding("ranks", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bytes and three merges: `he`, `ll`, `hell`."""
    folder = tmp_path_factory.mktemp("small")
    tokens = [bytes([b]) for b in BYTE_ORDER]
    h, e, ll = (BYTE_ORDER.index(b) for b in b"hel")
    write_tokenizer(folder, [*tokens, b"he", b"ll", b"hell"], [(h, e), (ll, ll), (256, 257)])
    return folder


@pytest.mark.parametrize("text", SAMPLES)
def test_ids_equal_every_reference(
    text: str,
    qwen: Tokenizer,
    reference: tokenizers.Tokenizer,
    published_ranks: tiktoken.Encoding,
) -> None:
    ids = qwen.encode(text)
    assert ids == reference.encode(text).ids
    assert ids == published_ranks.encode_ordinary(unicodedata.normalize("NFC", text))
    assert qwen.decode(ids) == unicodedata.normalize("NFC", text)


def test_ids_equal_transformers(folder: Path, qwen: Tokenizer) -> None:
    auto = AutoTokenizer.from_pretrained(folder)
    assert auto(SAMPLES)["input_ids"] == [row.tolist() for row in qwen.encode_batch(SAMPLES)]
    assert len(auto) == qwen.vocabulary_size
    assert (auto.eos_token, auto.pad_token) == (END_OF_DOCUMENT, END_OF_DOCUMENT)
    assert auto.eos_token_id == qwen.end_of_document


# Characters assigned by Unicode 3.2: Python and the Rust libraries know different later versions.
_OLD = [chr(c) for c in range(0x20000) if unicodedata.ucd_3_2_0.category(chr(c)) not in ("Cn", "Cs")]
_TEXT = st.text(st.sampled_from(_OLD) | st.sampled_from(" \t\r\n\u00a0'’sStTlL\u0301\u0323\u1100\u1161\u11a8.!09aà中क"))


@settings(max_examples=300)
@given(text=_TEXT)
def test_any_text(text: str, qwen: Tokenizer, reference: tokenizers.Tokenizer) -> None:
    assume(not any(name in text for name in qwen.added_tokens))  # the reference reads those as added tokens
    ids = qwen.encode(text)
    assert ids == reference.encode(text).ids
    assert qwen.decode(ids) == unicodedata.normalize("NFC", text)
    assert int(qwen.bytes_per_token[ids].sum()) == len(unicodedata.normalize("NFC", text).encode())


@pytest.mark.shared_data
def test_119_languages(qwen: Tokenizer, reference: tokenizers.Tokenizer) -> None:
    path = SHARED / "languages" / "dev.parquet"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    import pyarrow.parquet as pq

    texts = pq.read_table(path, columns=["text"])["text"].to_pylist()[::5]
    assert [row.tolist() for row in qwen.encode_batch(texts)] == [e.ids for e in reference.encode_batch_fast(texts)]


def test_added_tokens(folder: Path, qwen: Tokenizer) -> None:
    auto = AutoTokenizer.from_pretrained(folder)
    assert qwen.end_of_document == 151_643
    assert qwen.added_tokens == {name: 151_643 + i for i, (name, _) in enumerate(ADDED_TOKENS)}
    special = [name for name, special in ADDED_TOKENS if special]
    assert len(ADDED_TOKENS) == 26 and len(special) == 14
    assert (ADDED_TOKENS[13][0], ADDED_TOKENS[14][0], ADDED_TOKENS[25][0]) == (
        "<|video_pad|>",
        "<tool_call>",
        "</think>",
    )
    for name, is_special in ADDED_TOKENS:
        token = auto.added_tokens_decoder[qwen.added_tokens[name]]
        assert (token.content, token.special, token.normalized) == (name, is_special, False)
        assert auto.convert_tokens_to_ids(name) == qwen.added_tokens[name]
        assert qwen.decode([qwen.added_tokens[name]]) == name
        assert qwen.bytes_per_token[qwen.added_tokens[name]] == 0
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert {int(i) for i in config["added_tokens_decoder"]} == set(range(151_643, 151_669))


def test_added_tokens_in_text_stay_text(qwen: Tokenizer) -> None:
    text = " ".join(name for name, _ in ADDED_TOKENS)
    ids = qwen.encode(text)
    assert max(ids) < 151_643
    assert qwen.decode(ids) == text
    assert qwen.encode_batch([text])[0].max() < 151_643


def test_chat_template(folder: Path, qwen: Tokenizer) -> None:
    auto = AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "system", "content": "Be kind. "}, {"role": "user", "content": "a\nb"}]
    text = auto.apply_chat_template(messages, tokenize=False)
    assert text == "<|im_start|>system\nBe kind. <|im_end|>\n<|im_start|>user\na\nb<|im_end|>\n"
    prompt = auto.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt == text + "<|im_start|>assistant\n"
    assert auto(prompt)["input_ids"].count(qwen.added_tokens["<|im_start|>"]) == 3


def test_files_written_by_transformers_load(folder: Path, qwen: Tokenizer, tmp_path: Path) -> None:
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.added_tokens == qwen.added_tokens
    assert [again.encode(text) for text in SAMPLES] == [qwen.encode(text) for text in SAMPLES]


def test_import_is_byte_stable(ranks_file: Path, small: Path, tmp_path: Path) -> None:
    published = tiktoken.load.load_tiktoken_bpe(str(ranks_file))
    head = ranks_file.read_bytes().splitlines(keepends=True)[:2000]
    (tmp_path / "head.tiktoken").write_bytes(b"".join(head))
    for name in ("a", "b"):
        from_tiktoken_ranks(tmp_path / "head.tiktoken", tmp_path / name)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    tokenizer = Tokenizer.load(tmp_path / "a" / "tokenizer.json")
    assert [published[tokenizer.token_bytes(i)] for i in range(2000)] == list(range(2000))
    with pytest.raises(ConfigError, match="base64"):
        from_tiktoken_ranks(small / "tokenizer.json", tmp_path)
    (tmp_path / "gap.tiktoken").write_bytes(b"".join(head[:300] + head[301:]))
    with pytest.raises(ConfigError, match="rank 301 where 300 was expected"):
        from_tiktoken_ranks(tmp_path / "gap.tiktoken", tmp_path)


@pytest.mark.parametrize(
    "text",
    ["a" * 1_000_000, "\n" * 300_000 + "x", "中" * 300_000, "!" * 300_000, (" " * 50_000 + "x") * 5],
    ids=["letter", "newline", "han", "sign", "space"],
)
def test_long_pieces_take_bounded_time_and_equal_ids(
    text: str, qwen: Tokenizer, reference: tokenizers.Tokenizer
) -> None:
    begin = time.process_time()
    ids = qwen.encode(text)
    assert time.process_time() - begin < 5
    assert ids == reference.encode_batch_fast([text])[0].ids


@pytest.mark.parametrize(
    "text",
    [" " * 1_000_000 + "x", " " * 1_000_000, "\t" * 1_000_000 + "\n1", "a" + "\u0301\u0316" * 250_000],
    ids=["spaces", "only spaces", "tabs", "marks"],
)
def test_cut_runs_lose_nothing(text: str, qwen: Tokenizer) -> None:
    begin = time.process_time()
    ids = qwen.encode(text)
    assert time.process_time() - begin < 5
    decoded = qwen.decode(ids)
    if text.isascii():
        assert decoded == text
    else:
        assert len(decoded) == len(text) - 1  # the first accent joins its letter
        assert sorted(decoded[1:]) == sorted(text[2:])


def test_lone_surrogates_become_replacement_characters(qwen: Tokenizer) -> None:
    assert qwen.decode(qwen.encode("a\ud800b")) == "a\ufffdb"


def test_decode_of_broken_and_unknown_ids(qwen: Tokenizer) -> None:
    lead = next(i for i in range(256) if qwen.token_bytes(i) == b"\xe4")
    assert qwen.decode([lead]) == "\ufffd"
    assert qwen.decode(np.array([lead, 151_700, 151_935], dtype=np.uint32)) == "\ufffd"
    assert qwen.decode([]) == ""


def test_arrays(qwen: Tokenizer) -> None:
    rows = qwen.encode_batch(["", "hello"])
    assert [row.dtype for row in rows] == [np.uint32, np.uint32]
    assert [len(row) for row in rows] == [0, 1]
    assert qwen.encode_batch([]) == []
    assert len(qwen.bytes_per_token) == qwen.vocabulary_size == 151_669


def test_small_vocabulary(small: Path) -> None:
    tokenizer = Tokenizer.load(small)
    assert tokenizer.vocabulary_size == 256 + 3 + 26
    assert tokenizer.end_of_document == 259
    assert tokenizer.encode("hello") == [258, BYTE_ORDER.index(b"o")]
    assert sorted(tokenizer.token_bytes(i) for i in range(256)) == [bytes([b]) for b in range(256)]


def _swap_merges(content: dict) -> None:
    merges = content["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def _change_pattern(content: dict) -> None:
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+|\S+"


def _drop_merge(content: dict) -> None:
    content["model"]["merges"].pop()


def _drop_end_of_document(content: dict) -> None:
    content["added_tokens"][0]["content"] = "<s>"


def _move_added(content: dict) -> None:
    content["added_tokens"][3]["id"] = 3


def _drop_model(content: dict) -> None:
    del content["model"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_swap_merges, "does not make token 256"),
        (_change_pattern, "pre_tokenizer is not Qwen's"),
        (_drop_merge, "2 merges, but 3 tokens"),
        (_drop_end_of_document, "no added token"),
        (_move_added, "do not follow the 259 BPE tokens"),
        (_drop_model, "not a tokenizer.json"),
    ],
)
def test_files_that_contradict_themselves(damage, message: str, small: Path, tmp_path: Path) -> None:
    content = json.loads((small / "tokenizer.json").read_text())
    damage(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        Tokenizer.load(tmp_path)


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_bytes(b"\xff{")
    with pytest.raises(ConfigError, match="not JSON"):
        Tokenizer.load(tmp_path)
