"""The 119 languages and dialects of Qwen3, as labels ISO 639-3 + ISO 15924 script, and their coarse groups.

A document whose language is none of the 119 is `other`; one with too few letters to tell is `und`. Source
code has no label of its own here: it is labelled by the language of its comments or `und`, and its domain
says `code`.
"""

from dataclasses import dataclass

OTHER = "other"
UNDETERMINED = "und"

GROUPS = (
    "english",
    "chinese",
    "european",
    "middle-east",
    "south-asia",
    "east-asia",
    "south-east-asia",
    "africa-and-creole",
    "other",
)
"""Language groups of the mixture's cells; `other` holds the labels `other` and `und`.

The groups follow how languages help each other in training and how much text there is, not borders alone:
`chinese` is all writing in Han characters only; `european` is Indo-European of Europe and the Caucasus (with
Yiddish and Afrikaans, which are Germanic), Uralic, Basque, Georgian and Maltese; `middle-east` is Arabic,
Hebrew, Iranian and Turkic, hence reaches into Central Asia; `south-asia` is Indo-Aryan and Dravidian;
`east-asia` is Japanese and Korean; `south-east-asia` is Austronesian, Austroasiatic, Tai-Kadai and Burmese;
`africa-and-creole` is Swahili and creoles.
"""

UNSPACED_SCRIPTS = ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
"""Unicode names of the scripts in wide use that put no spaces between words."""


@dataclass(frozen=True, slots=True)
class Language:
    """One label, e.g. `Language("eng_Latn", "English", "IE-Germanic", "Latn", "english")`."""

    label: str
    name: str
    family: str
    script: str  # ISO 15924
    group: str  # one of GROUPS


_GROUP_OF_LABEL = {
    "eng_Latn": "english",
    "zho_Hans": "chinese",
    "zho_Hant": "chinese",
    "yue_Hant": "chinese",
    "mlt_Latn": "european",
}

_GROUP_OF_FAMILY = {
    "IE-Germanic": "european",
    "IE-Romance": "european",
    "IE-Slavic": "european",
    "IE-Baltic": "european",
    "IE-Celtic": "european",
    "IE-Greek": "european",
    "IE-Albanian": "european",
    "IE-Armenian": "european",
    "Uralic": "european",
    "Kartvelian": "european",
    "isolate": "european",  # Basque
    "IE-Iranian": "middle-east",
    "Afro-Asiatic": "middle-east",
    "Turkic": "middle-east",
    "IE-Indo-Aryan": "south-asia",
    "Dravidian": "south-asia",
    "Japonic": "east-asia",
    "Koreanic": "east-asia",
    "Sino-Tibetan": "south-east-asia",  # Burmese; Chinese is a group of its own
    "Austronesian": "south-east-asia",
    "Austroasiatic": "south-east-asia",
    "Tai-Kadai": "south-east-asia",
    "Niger-Congo": "africa-and-creole",
    "Creole-French": "africa-and-creole",
    "Creole-Portuguese": "africa-and-creole",
    "Creole-Portuguese/Spanish": "africa-and-creole",
    "Creole-English": "africa-and-creole",
}

_TABLE = """
eng_Latn | English | IE-Germanic
fra_Latn | French | IE-Romance
por_Latn | Portuguese | IE-Romance
deu_Latn | German | IE-Germanic
ron_Latn | Romanian | IE-Romance
swe_Latn | Swedish | IE-Germanic
dan_Latn | Danish | IE-Germanic
bul_Cyrl | Bulgarian | IE-Slavic
rus_Cyrl | Russian | IE-Slavic
ces_Latn | Czech | IE-Slavic
ell_Grek | Greek | IE-Greek
ukr_Cyrl | Ukrainian | IE-Slavic
spa_Latn | Spanish | IE-Romance
nld_Latn | Dutch | IE-Germanic
slk_Latn | Slovak | IE-Slavic
hrv_Latn | Croatian | IE-Slavic
pol_Latn | Polish | IE-Slavic
lit_Latn | Lithuanian | IE-Baltic
nob_Latn | Norwegian Bokmål | IE-Germanic
nno_Latn | Norwegian Nynorsk | IE-Germanic
pes_Arab | Persian | IE-Iranian
slv_Latn | Slovenian | IE-Slavic
guj_Gujr | Gujarati | IE-Indo-Aryan
lvs_Latn | Latvian | IE-Baltic
ita_Latn | Italian | IE-Romance
oci_Latn | Occitan | IE-Romance
npi_Deva | Nepali | IE-Indo-Aryan
mar_Deva | Marathi | IE-Indo-Aryan
bel_Cyrl | Belarusian | IE-Slavic
srp_Cyrl | Serbian | IE-Slavic
ltz_Latn | Luxembourgish | IE-Germanic
vec_Latn | Venetian | IE-Romance
asm_Beng | Assamese | IE-Indo-Aryan
cym_Latn | Welsh | IE-Celtic
szl_Latn | Silesian | IE-Slavic
ast_Latn | Asturian | IE-Romance
hne_Deva | Chhattisgarhi | IE-Indo-Aryan
awa_Deva | Awadhi | IE-Indo-Aryan
mai_Deva | Maithili | IE-Indo-Aryan
bho_Deva | Bhojpuri | IE-Indo-Aryan
snd_Arab | Sindhi | IE-Indo-Aryan
gle_Latn | Irish | IE-Celtic
fao_Latn | Faroese | IE-Germanic
hin_Deva | Hindi | IE-Indo-Aryan
pan_Guru | Punjabi | IE-Indo-Aryan
ben_Beng | Bengali | IE-Indo-Aryan
ory_Orya | Oriya | IE-Indo-Aryan
tgk_Cyrl | Tajik | IE-Iranian
ydd_Hebr | Eastern Yiddish | IE-Germanic
lmo_Latn | Lombard | IE-Romance
lij_Latn | Ligurian | IE-Romance
scn_Latn | Sicilian | IE-Romance
fur_Latn | Friulian | IE-Romance
srd_Latn | Sardinian | IE-Romance
glg_Latn | Galician | IE-Romance
cat_Latn | Catalan | IE-Romance
isl_Latn | Icelandic | IE-Germanic
als_Latn | Tosk Albanian | IE-Albanian
lim_Latn | Limburgish | IE-Germanic
prs_Arab | Dari | IE-Iranian
afr_Latn | Afrikaans | IE-Germanic
mkd_Cyrl | Macedonian | IE-Slavic
sin_Sinh | Sinhala | IE-Indo-Aryan
urd_Arab | Urdu | IE-Indo-Aryan
mag_Deva | Magahi | IE-Indo-Aryan
bos_Latn | Bosnian | IE-Slavic
hye_Armn | Armenian | IE-Armenian
zho_Hans | Chinese (Simplified) | Sino-Tibetan
zho_Hant | Chinese (Traditional) | Sino-Tibetan
yue_Hant | Cantonese | Sino-Tibetan
mya_Mymr | Burmese | Sino-Tibetan
arb_Arab | Standard Arabic | Afro-Asiatic
ars_Arab | Najdi Arabic | Afro-Asiatic
apc_Arab | Levantine Arabic | Afro-Asiatic
arz_Arab | Egyptian Arabic | Afro-Asiatic
ary_Arab | Moroccan Arabic | Afro-Asiatic
acm_Arab | Mesopotamian Arabic | Afro-Asiatic
acq_Arab | Ta'izzi-Adeni Arabic | Afro-Asiatic
aeb_Arab | Tunisian Arabic | Afro-Asiatic
heb_Hebr | Hebrew | Afro-Asiatic
mlt_Latn | Maltese | Afro-Asiatic
ind_Latn | Indonesian | Austronesian
zsm_Latn | Malay | Austronesian
tgl_Latn | Tagalog | Austronesian
ceb_Latn | Cebuano | Austronesian
jav_Latn | Javanese | Austronesian
sun_Latn | Sundanese | Austronesian
min_Latn | Minangkabau | Austronesian
ban_Latn | Balinese | Austronesian
bjn_Latn | Banjar | Austronesian
pag_Latn | Pangasinan | Austronesian
ilo_Latn | Iloko | Austronesian
war_Latn | Waray | Austronesian
tam_Taml | Tamil | Dravidian
tel_Telu | Telugu | Dravidian
kan_Knda | Kannada | Dravidian
mal_Mlym | Malayalam | Dravidian
tur_Latn | Turkish | Turkic
azj_Latn | North Azerbaijani | Turkic
uzn_Latn | Northern Uzbek | Turkic
kaz_Cyrl | Kazakh | Turkic
bak_Cyrl | Bashkir | Turkic
tat_Cyrl | Tatar | Turkic
tha_Thai | Thai | Tai-Kadai
lao_Laoo | Lao | Tai-Kadai
fin_Latn | Finnish | Uralic
est_Latn | Estonian | Uralic
hun_Latn | Hungarian | Uralic
vie_Latn | Vietnamese | Austroasiatic
khm_Khmr | Khmer | Austroasiatic
jpn_Jpan | Japanese | Japonic
kor_Hang | Korean | Koreanic
kat_Geor | Georgian | Kartvelian
eus_Latn | Basque | isolate
hat_Latn | Haitian Creole | Creole-French
pap_Latn | Papiamento | Creole-Portuguese/Spanish
kea_Latn | Kabuverdianu | Creole-Portuguese
tpi_Latn | Tok Pisin | Creole-English
swh_Latn | Swahili | Niger-Congo
"""


def _read_table() -> dict[str, Language]:
    languages = {}
    for row in _TABLE.strip().splitlines():
        label, name, family = row.split(" | ")
        group = _GROUP_OF_LABEL.get(label) or _GROUP_OF_FAMILY[family]
        languages[label] = Language(label, name, family, label.partition("_")[2], group)
    return languages


LANGUAGES: dict[str, Language] = _read_table()
"""The 119 languages by label, in the order of Qwen3's list."""

LABELS: tuple[str, ...] = (*LANGUAGES, OTHER, UNDETERMINED)
"""Every value the column `language` of the labels can have."""


def script_of(label: str) -> str:
    """The script of one of the 119 labels as the column `script` has it, for example `Hani` for zho_Hant."""
    script = LANGUAGES[label].script
    return "Hani" if script in ("Hans", "Hant") else script  # letters alone do not tell the two apart


def group(label: str) -> str:
    """Coarse group of a language label, one of GROUPS. `other` and `und` are in the group `other`.

    Raises KeyError for anything that is not a label: a typo must not become a cell of its own.
    """
    if label in (OTHER, UNDETERMINED):
        return "other"
    return LANGUAGES[label].group
