"""Which language packs of tesseract read the 119 languages, and in which scripts.

Names are those of tesseract's own files (`tesseract --list-langs`). A dialect is read with the pack of its written
standard, and a language without any pack with that of its script, which knows the letters but not the words.
"""

from schemas.languages import LANGUAGES

_OWN = """
eng eng | fra fra | por por | deu deu | ron ron | swe swe | dan dan | bul bul | rus rus | ces ces | ell ell | ukr ukr
spa spa | nld nld | slk slk | hrv hrv | pol pol | lit lit | nob nor | nno nor | pes fas | slv slv | guj guj | lvs lav
ita ita | oci oci | npi nep | mar mar | bel bel | srp srp | ltz ltz | asm asm | cym cym | snd snd | gle gle | fao fao
hin hin | pan pan | ben ben | ory ori | tgk tgk | ydd yid | glg glg | cat cat | isl isl | als sqi | prs fas | afr afr
mkd mkd | sin sin | urd urd | bos bos | hye hye | mya mya | heb heb | mlt mlt | ind ind | zsm msa | tgl fil | ceb ceb
jav jav | sun sun | tam tam | tel tel | kan kan | mal mal | tur tur | azj aze | uzn uzb | kaz kaz | tat tat | tha tha
lao lao | fin fin | est est | hun hun | vie vie | khm khm | jpn jpn | kor kor | kat kat | eus eus | hat hat | swh swa
arb ara | ars ara | apc ara | arz ara | ary ara | acm ara | acq ara | aeb ara | yue chi_tra
zho_Hans chi_sim | zho_Hant chi_tra
"""

SCRIPT_PACKS: dict[str, str] = {
    "Latn": "Latin",
    "Cyrl": "Cyrillic",
    "Grek": "Greek",
    "Arab": "Arabic",
    "Hebr": "Hebrew",
    "Armn": "Armenian",
    "Geor": "Georgian",
    "Deva": "Devanagari",
    "Beng": "Bengali",
    "Guru": "Gurmukhi",
    "Gujr": "Gujarati",
    "Orya": "Oriya",
    "Taml": "Tamil",
    "Telu": "Telugu",
    "Knda": "Kannada",
    "Mlym": "Malayalam",
    "Sinh": "Sinhala",
    "Thai": "Thai",
    "Laoo": "Lao",
    "Khmr": "Khmer",
    "Mymr": "Myanmar",
    "Hang": "Hangul",
    "Jpan": "Japanese",
    "Hans": "HanS",
    "Hant": "HanT",
}
"""ISO 15924 code -> tesseract's pack of the whole script."""

DETECTED_SCRIPTS: dict[str, tuple[str, ...]] = {
    "Han": ("Hans", "Hant", "Jpan", "Hang"),
    "Japanese": ("Jpan", "Hans", "Hant", "Hang"),
    "Hiragana": ("Jpan", "Hans"),
    "Katakana": ("Jpan", "Hans"),
    "Korean": ("Hang", "Jpan", "Hans"),
    "Hangul": ("Hang", "Jpan", "Hans"),
    "Fraktur": ("Latn",),
    **{name: (code,) for code, name in SCRIPT_PACKS.items() if code not in ("Hang", "Jpan", "Hans", "Hant")},
}
"""Names that tesseract's script detection gives -> scripts to try, the likeliest first."""


def _own_packs() -> dict[str, str]:
    packs = {}
    for pair in _OWN.replace("|", "\n").strip().splitlines():
        code, pack = pair.split()
        for label in LANGUAGES:
            if label == code or label.partition("_")[0] == code:
                packs[label] = pack
    return packs


OWN_PACKS: dict[str, str] = _own_packs()
"""Language label -> its pack; the labels that are missing here are read with the pack of their script."""

_BETTER_BY_SCRIPT = {"Hans", "Hant", "Jpan"}  # 5-gram F1 .91-.96 beside .88-.92 of the language's pack
ALONE = {
    "Latin", "Japanese", "HanS", "HanT", "Arabic", "Hebrew",
    *(pack for label, pack in OWN_PACKS.items() if label[-4:] in ("Latn", "Arab", "Hebr") and pack != "vie"),
}  # fmt: skip
"""Packs without the one for English beside them: they read English words, or lose more of their own than they gain."""

VERTICAL = ("Japanese_vert", "jpn_vert", "HanT_vert", "chi_tra_vert", "HanS_vert", "chi_sim_vert")
"""Packs for writing from top to bottom: in pairs, the better one first."""


def packs_of(label: str) -> tuple[str, ...]:
    """Packs that read a language, the best first; tesseract needs one of them.

    Raises KeyError for anything that is not one of the 119 labels.
    """
    script = LANGUAGES[label].script
    packs = [OWN_PACKS[label]] if label in OWN_PACKS else []
    if script in _BETTER_BY_SCRIPT:
        return (SCRIPT_PACKS[script], *packs)
    return (*packs, SCRIPT_PACKS[script])


def debian_package(pack: str) -> str:
    """Name of the Debian package that holds a pack."""
    plain = pack.removesuffix("_vert")
    suffix = "-vert" if pack != plain else ""
    for script, name in SCRIPT_PACKS.items():
        if plain == name:
            return f"tesseract-ocr-script-{script.lower()}{suffix}"
    return f"tesseract-ocr-{plain.replace('_', '-')}{suffix}"
