import pyarrow.parquet as pq
import pytest

from annotators.language import annotate, identify
from annotators.train import class_figures
from schemas.labels import check_sidecar
from tests.annotators.documents import SHARED, documents, needs_shared_data

SENTENCES = {
    "eng_Latn": "The children walked home through the rain because the last bus had already left the village.",
    "deu_Latn": "Gestern haben wir den ganzen Abend auf den Zug gewartet, aber er ist nicht gekommen.",
    "fra_Latn": "Nous avons oublié nos clés dans la voiture et il a fallu appeler un serrurier.",
    "spa_Latn": "Mañana por la tarde iremos al mercado para comprar naranjas y un poco de pan.",
    "pol_Latn": "Wczoraj wieczorem poszliśmy do kina, ale wszystkie bilety były już sprzedane.",
    "rus_Cyrl": "Вчера вечером мы долго ждали автобус, а потом решили идти домой пешком.",
    "ell_Grek": "Το βράδυ φάγαμε ψάρι σε μια μικρή ταβέρνα δίπλα στη θάλασσα.",
    "hin_Deva": "कल सुबह हम बाज़ार जाएँगे और बच्चों के लिए नई किताबें खरीदेंगे।",
    "zho_Hans": "昨天晚上我们在河边散步，后来下雨了，大家都跑回家去了。",
    "jpn_Jpan": "昨日の夜、友達と一緒に駅前の小さな店でラーメンを食べました。",
    "kor_Hang": "어제 저녁에 친구들과 함께 강가를 산책하다가 비가 와서 집으로 돌아왔다.",
    "tur_Latn": "Dün akşam arkadaşlarımla birlikte deniz kenarında uzun bir yürüyüş yaptık.",
    "swh_Latn": "Jana jioni tulikwenda sokoni kununua matunda na samaki kwa ajili ya wageni wetu.",
    "tha_Thai": "เมื่อวานนี้เราไปตลาดเพื่อซื้อผลไม้และปลาสดสำหรับอาหารเย็น",
}


def test_obvious_sentences() -> None:
    found = identify(list(SENTENCES.values()))
    assert found["language"] == list(SENTENCES)
    assert min(found["language_score"]) > 0.5
    scripts = {"Hans": "Hani"}
    assert found["script"] == [scripts.get(label[4:], label[4:]) for label in SENTENCES]


@pytest.mark.parametrize("text", ["", "a", "ok", "12:30", "😀😀", "\u200f\u200f", "\x00\x00\x00"])
def test_too_few_letters_are_undetermined(text: str) -> None:
    found = identify([text])
    assert found["language"] == ["und"]
    assert found["language_score"] == found["language_margin"] == [0.0]


@pytest.mark.parametrize("text", ["ሰላም ለዓለም ሁሉ ይሁን እንዴት ነህ", "ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ ᎠᏂᏴᏫᏯ", "ꆈꌠꉙ ꉬ ꊈ ꆈꌠꁱꂷ ꉬ"])
def test_a_script_of_no_label_is_another_language(text: str) -> None:
    assert identify([text])["language"] == ["other"]


def test_script_is_that_of_most_letters() -> None:
    texts = ["abc абвгд", "漢字 test", "ひらがなと漢字漢字", "123", "漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字の"]
    assert identify(texts)["script"] == ["Cyrl", "Latn", "Jpan", "Zyyy", "Hani"]


def test_source_code_has_the_language_of_its_comments() -> None:
    code = "# Diese Funktion liest alle Zeilen der Datei und gibt sie sortiert zurück.\ndef read(path):\n    pass\n"
    batch = documents([code, "int main(void) { return 0; }\n"], ["read.py", "main.c"])
    labels = annotate(batch)
    check_sidecar(batch, labels)
    assert labels["language"].to_pylist() == ["deu_Latn", "und"]


@pytest.mark.shared_data
@needs_shared_data
def test_macro_f1_on_the_development_lines() -> None:
    lines = pq.read_table(SHARED / "languages" / "dev.parquet", columns=["text", "label"]).slice(0, 5000)
    found = identify(lines["text"].to_pylist())
    assert class_figures(lines["label"].to_pylist(), found["language"])["macro_f1"] >= 0.90
