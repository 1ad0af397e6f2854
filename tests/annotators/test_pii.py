"""Personal data as spans: what is found, what is not, and that spans are whole characters whatever the text."""

import time

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators import pii
from annotators.pii import IBAN_LENGTHS, iban_is_valid, luhn_is_valid, spans
from schemas.labels import PII, PII_KINDS
from tests.annotators.documents import documents


def found(text: str) -> list[tuple[str, str]]:
    """Kind and text of what is found."""
    data = text.encode()
    return [(span.kind, data[span.begin : span.end].decode()) for span in spans(data)]


@pytest.mark.parametrize(
    ("before", "address", "after"),
    [
        ("Write to ", "jane.doe+x@mail.example.org", "."),
        ("<", "BOB@EXAMPLE.COM", ">"),
        ("mailto:", "o'neil_1%x@host-name.co.uk", "?subject=hi"),
        ("请联系", "zhang.wei@qq.com", "谢谢"),
        ("메일은 ", "kim@naver.com", "으로 보내세요"),
        ("an ", "jörg.müller@büro-köln.de", ", bitte"),
        ("на ", "иван@почта.рф", ""),
        ("or ", "jane [at] example [dot] org", " (no spam)"),
        ("or ", "jane(at)example.org", ""),
        ("or ", "jane at example dot co dot uk", " please"),
        ("or ", "jane{AT}example{DOT}org", ""),
        ("メールは", "info＠example.jp", "まで"),
        ("(", "first.last@sub.domain.museum", ")"),
    ],
)
def test_emails(before: str, address: str, after: str) -> None:
    assert found(f"{before}{address}{after}") == [("email", address)]


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        ("ip", "86.121.97.248"),
        ("ip", "2a01:238:43ed:c300:10c3:bcf3:3266:da74"),
        ("ip", "2a00:1450:4001:81b::200e"),
        ("ip", "::ffff:86.121.97.248"),
        ("iban", "DE89370400440532013000"),
        ("iban", "DE89 3704 0044 0532 0130 00"),
        ("iban", "gb82 west 1234 5698 7654 32"),
        ("iban", "FR14-2004-1010-0505-0001-3M02-606"),
        ("credit_card", "4111 1111 1111 1111"),
        ("credit_card", "378282246310005"),
        ("credit_card", "3782-822463-10005"),
        ("credit_card", "5555555555554444"),
        ("phone", "+49 30 1234567"),
        ("phone", "+44 (0)20 7946 0958"),
        ("phone", "0049 30 1234567"),
        ("phone", "(212) 555-0123"),
        ("phone", "212-555-0123 ext. 12"),
        ("phone", "212.555.0123x4567"),
        ("phone", "030/1234567"),
        ("phone", "020 7946 0958"),
        ("phone", "01.42.68.53.00"),
        ("phone", "8 (495) 123-45-67"),
        ("phone", "138 0013 8000"),
        ("phone", "(11) 91234-5678"),
        ("phone", "+91 98765 43210"),
        ("phone", "+81 3\u20111234\u20115678"),  # hyphens that do not break
        ("phone", "+33\u00a01\u202f42\u00a068\u00a053\u00a000"),  # spaces that do not break
        ("phone", "+\u0669\u0666\u0666 \u0665\u0660 \u0661\u0662\u0663 \u0664\u0665\u0666\u0667"),  # Arabic digits
        ("phone", "+९१ ९८७६५ ४३२१०"),
    ],
)
def test_numbers_with_a_form_need_no_word_before_them(kind: str, number: str) -> None:
    assert found(f"Das ist {number}, oder?") == [(kind, number)]
    assert found(number) == [(kind, number)]
    assert found(f"我的是{number}。") == [(kind, number)]


@pytest.mark.parametrize(
    ("before", "number"),
    [
        ("Phone: ", "5551234567"),
        ("Tél. : ", "12 34 56 78"),
        ("Call me on ", "9472 7916"),
        ("телефон ", "123-45-67"),
        ("电话：", "62345678"),
        ("\u0647\u0627\u062a\u0641: ", "0501234567"),
        ("WhatsApp ", "612 345 678"),
    ],
)
def test_other_numbers_are_phones_only_after_a_word_that_says_so(before: str, number: str) -> None:
    assert found(f"{before}{number}") == [("phone", number)]
    assert found(f"The result was {number}") == []


@pytest.mark.parametrize(
    "text",
    [
        "In 2024 we sold 12,345 units at 3.14 each; see 10.1000/182 and version 1.2.3.",
        "256.300.1.1 is no address, nor is a@b, nor 12:30:45, nor logo@2x.png, nor left-pad@1.3.0.",
        "127.0.0.1, 0.0.0.0, 10.0.0.1, 192.168.0.1, 172.16.4.2, 169.254.1.1, 255.255.255.0, 224.0.0.251, 192.0.2.7",
        "::1, fe80::1, fd12:3456:789a::1, ff02::fb, 2001:db8::8a2e:370:7334, std::vector, a::b, Foo::Bar::baz()",
        "Chrome/91.2.72.124, v1.2.3.4, version 2.60.7.1, foo-4.19.206.1.tar.gz, see 28.6.3.1, OID 1.3.6.1.4.1.311",
        "aa:bb:cc:dd:ee:ff, 00:11:22:33:44:55:66:77, sha 4f:3a:99:10:aa:bb:cc:dd:ee:ff:00:11:22:33:44:55",
        "From 2023-05-12 to 12.05.2023, 01/02/2023, 1995-2001, 2020/12/31 23:59:59, 20230512T101010",
        "ISBN 978-3-16-148410-0, ISBN-10 0-306-40615-2, ISSN 2049-3630, doi:10.1093/ajae/aaq063",
        "3.14159265358979, 0.123456789012, 1234567890123456, -273.15, 6.02214076e23, $1 000 000 000",
        "1. e4 e5 2. Nf3 Nc6 3. Bb5 a6 4. Ba4 Nf6 5. O-O Be7 6. Re1 b5 7. Bb3 d6 8. c3 O-O",
        "4111 1111 1111 1112, 1234 5678 9012 3456, 0000 0000 0000 0000",
        "DE89370400440532013001, XX89370400440532013000, DE8937040044053201300",
        "1995 1996 1997 1998 1999 2000 2001, 10 20 30 40 50 60 70, 100 200 300 400 500",
        "id 1234567, order 20230512001, build 7654321, 0x12345678, 12345678abc, abc12345678, #1234567",
        "Boston, MA 02110-1301 USA; 23(4) 345-367; Nature (1998) 123-145; pp. 1234-1267",
        "05 12 23 31 44 and 01 02 03 04 05 06 07 08 and 00 20 00 00 00 00",
        "root@localhost, @app.route, user@host, git clone a@b:c, x = a@b.T, 5@3.50",
    ],
)
def test_what_only_looks_like_it_is_left(text: str) -> None:
    assert found(text) == []


def test_several_in_one_text_in_its_order() -> None:
    text = "Ring +49 30 1234567 or 0171 1234567, fax (030) 123 45 67; jane@example.org, 86.121.97.248:8080"
    assert [kind for kind, _ in found(text)] == ["phone", "phone", "phone", "email", "ip"]


def test_glued_numbers_are_taken_apart() -> None:
    assert found("Tel. +49 30 1234567 10115 Berlin") == [("phone", "+49 30 1234567")]
    assert found("212-555-0123 212-555-0199") == [("phone", "212-555-0123"), ("phone", "212-555-0199")]


REGISTRY = (  # the examples of SWIFT's registry
    "AE070331234567890123456 AT611904300234573201 BE68539007547034 BR1800360305000010009795493C1 CH9300762011623852957 "
    "CZ6508000000192000145399 DE89370400440532013000 DK5000400440116243 ES9121000418450200051332 FI2112345600000785 "
    "FR1420041010050500013M02606 GB29NWBK60161331926819 GR1601101250000000012300695 HU42117730161111101800000000 "
    "IE29AIBK93115212345678 IL620108000000099999999 IT60X0542811101000000123456 KZ86125KZT5004100100 "
    "MT84MALT011000012345MTLCAST001S NL91ABNA0417164300 NO9386011117947 PL61109010140000071219812874 "
    "PT50000201231234567890154 RO49AAAA1B31007593840000 SA0380000000608010167519 SE4550000000058398257466 "
    "TR330006100519786457841326 UA213223130000026007233566001"
).split()


@pytest.mark.parametrize("iban", REGISTRY)
def test_examples_of_the_registry(iban: str) -> None:
    groups = " ".join(iban[begin : begin + 4] for begin in range(0, len(iban), 4))
    for spelled in (iban, groups, iban.lower()):
        assert found(f"to {spelled}, please") == [("iban", spelled)]
    for place in range(4, len(iban)):
        other = "1" if iban[place] != "1" else "2"
        assert not iban_is_valid(iban[:place] + other + iban[place + 1 :])


@given(st.sampled_from(sorted(IBAN_LENGTHS)), st.text("0123456789", min_size=30, max_size=30))
def test_check_digits_of_ibans_are_98_minus_the_remainder(country: str, digits: str) -> None:
    account = digits[: IBAN_LENGTHS[country] - 4]
    remainder = 0
    for digit in f"{account}{ord(country[0]) - 55}{ord(country[1]) - 55}00":  # digit by digit, as with pen and paper
        remainder = (remainder * 10 + int(digit)) % 97
    assert [check for check in range(2, 99) if iban_is_valid(f"{country}{check:02}{account}")] == [98 - remainder]


@given(st.text("0123456789", min_size=11, max_size=18))
def test_one_check_digit_in_ten_is_right_and_no_single_error_passes(digits: str) -> None:
    valid = [digits + check for check in "0123456789" if luhn_is_valid(digits + check)]
    assert len(valid) == 1
    for place, digit in enumerate(valid[0]):
        other = str((int(digit) + 1) % 10)
        assert not luhn_is_valid(valid[0][:place] + other + valid[0][place + 1 :])


PIECES = [
    *("jane@example.org", " at ", "[dot]", "+49 30 1234567", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00"),
    *("86.121.97.248", "2a00::1", "é", "日", "\u200f", "\u0301", "\u0663", "\n", " ", "0", "-", ".", ":", "@", "\x00"),
    *("😀", "Tel ", "+", "(", "\uff11", "\u2013", "\u00a0", "ext. 12", "x5"),
]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=6), max_size=14).map("".join))
def test_spans_are_sorted_apart_and_whole_characters(text: str) -> None:
    data = text.encode("utf-8", "replace")
    last = 0
    for span in spans(data):
        assert last <= span.begin < span.end <= len(data)
        assert span.kind in PII_KINDS
        data[span.begin : span.end].decode()  # whole characters
        last = span.end


def test_a_batch_has_its_spans_row_by_row() -> None:
    texts = ["no marks at all", "jane@example.org", "", "é 86.121.97.248 or +49 30 1234567", "none again"]
    labels = pii.annotate(documents(texts))
    assert labels.schema.equals(PII)
    assert labels["pii_count"].to_pylist() == [0, 1, 0, 2, 0]
    assert labels["pii"].to_pylist()[3] == [
        {"begin": 3, "end": 16, "kind": "ip"},
        {"begin": 20, "end": 34, "kind": "phone"},
    ]
    assert pii.annotate(documents([])).num_rows == 0


HOSTILE = [
    *("1", "1 ", "1.", "12 34-", "a@", "@a.", "a.b@c.", "0:", "a1:", "DE89 ", "+1 ", "(", "4111 ", "1.1.1.", "\uff11"),
    *("\u0663-", "x at y dot ", "日", "\u0301", "\u200f", "😀", "\x00", "a-", "1234567\n", "tel 1234567 ", "a[at]b"),
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_is_linear_in_the_length_of_hostile_text(piece: str) -> None:
    data = (piece * 200_000)[:200_000].encode()
    started = time.process_time()
    spans(data)
    assert time.process_time() - started < 3  # a quadratic pass takes minutes


@pytest.mark.shared_data
def test_recall_and_precision_on_sentences_with_generated_data(shared_data) -> None:
    kinds = {"EMAIL_ADDRESS": "email", "PHONE_NUMBER": "phone", "IP_ADDRESS": "ip", "IBAN_CODE": "iban"}
    kinds["CREDIT_CARD"] = "credit_card"
    right = given_ = wanted = 0
    for row in pl.read_parquet(shared_data / "safety" / "pii_spans.parquet").iter_rows(named=True):
        truth = {
            (len(row["text"][: one["start"]].encode()), len(row["text"][: one["end"]].encode()), kinds[one["type"]])
            for one in row["spans"]
            if one["type"] in kinds
        }
        answer = set(map(tuple, spans(row["text"].encode())))
        right, given_, wanted = right + len(truth & answer), given_ + len(answer), wanted + len(truth)
    assert right / given_ >= 0.95
    assert right / wanted >= 0.9


@pytest.mark.shared_data
def test_clean_sentences_in_all_languages_hold_next_to_none(shared_data) -> None:
    lines = pl.read_parquet(shared_data / "languages" / "dev.parquet")["text"].to_list()
    assert sum(len(spans(line.encode())) for line in lines) <= 3
