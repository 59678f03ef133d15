import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tynda.text import kazakh
from tynda.text.kazakh import from_arabic, from_latin, is_tote, repair, script_of

# The beginning of the Universal Declaration of Human Rights in the scripts of Kazakh.
CYRILLIC = (
    "Барлық адамдар тумысынан азат және қадір-қасиеті мен құқықтары тең болып дүниеге келеді. "
    "Адамдарға ақыл-парасат, ар-ождан берілген, сондықтан олар бір-бірімен туыстық, "
    "бауырмалдық қарым-қатынас жасаулары тиіс."
)
LATIN = {
    "2021": "Barlyq adamdar tumysynan azat jäne qadır-qasietı men qūqyqtary teñ bolyp düniege "
    "keledı. Adamdarğa aqyl-parasat, ar-ojdan berılgen, sondyqtan olar bır-bırımen tuystyq, "
    "bauyrmaldyq qarym-qatynas jasaulary tiıs.",
    "2018": "Barlyq adamdar týmysynan azat jáne qadir-qasıeti men quqyqtary teń bolyp dúnıege "
    "keledi. Adamdarǵa aqyl-parasat, ar-ojdan berilgen, sondyqtan olar bir-birimen týystyq, "
    "baýyrmaldyq qarym-qatynas jasaýlary tıis.",
    "2017": "Barlyq adamdar ty'mysynan azat ja'ne qadir-qasi'eti men quqyqtary ten' bolyp "
    "du'ni'ege keledi. Adamdarg’a aqyl-parasat, ar-ojdan berilgen, sondyqtan olar bir-birimen "
    "ty'ystyq, bay'yrmaldyq qarym-qatynas jasay'lary ti'is.",
    "wikipedia": "Barlıq adamdar twmısınan azat jäne qadir-qasïeti men quqıqtarı teñ bolıp "
    "dünïege keledi. Adamdarğa aqıl-parasat, ar-ojdan berilgen, sondıqtan olar bir-birimen "
    "twıstıq, bawırmaldıq qarım-qatınas jasawları tïis.",
}
ARABIC = (
    "بارلىق ادامدار تۋمىسىنان ازات جانە قادىر-قاسيەتى مەن قۇقىقتارى تەڭ بولىپ دۇنيەگە كەلەدى. "
    "ادامدارعا اقىل-پاراسات، ار-وجدان بەرىلگەن، سوندىقتان ولار ءبىر-بىرىمەن تۋىستىق، "
    "باۋىرمالدىق قارىم-قاتىناس جاساۋلارى ءتيىس."
)


@pytest.mark.parametrize("name", LATIN)
def test_each_latin_alphabet_is_read(name):
    assert CYRILLIC in list(from_latin(LATIN[name]))


def test_arabic_letters_are_read():
    assert is_tote(ARABIC)
    # The script does not show the front vowel beside қ: "қадір" is read as "қадыр".
    assert from_arabic(ARABIC) == CYRILLIC.lower().replace("қадір", "қадыр")


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("ٴان", "ән"),
        ("ٴۇي", "үй"),
        ("ۇي", "ұй"),
        ("اكە", "әке"),
        ("كىتاپ", "кітап"),
        ("قويان", "қоян"),
        ("ماسەلە", "мәселе"),
        ("٢٠٢١", "2021"),
    ],
)
def test_words_in_arabic_letters(written, read):
    assert from_arabic(written) == read


@pytest.mark.parametrize(
    "text",
    [
        "این یک جمله فارسی است",  # Persian
        "هذه جملة باللغة العربية",  # Arabic
        "بۇ ئۇيغۇرچە بىر جۈملە",  # Uyghur
    ],
)
def test_other_languages_in_arabic_letters_are_not_kazakh(text):
    assert not is_tote(text)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("qoian", "қоян"),
        ("Qoi", "Қой"),
        ("ziian", "зиян"),
        ("aşşy", "ащы"),
        ("QAZAQSTAN", "ҚАЗАҚСТАН"),
        ("İt", "Ит"),
        ("Is", "Іс"),
        ("2021-de", "2021-де"),
    ],
)
def test_words_in_the_latin_letters_of_2021(written, read):
    assert next(from_latin(written)) == read


@pytest.mark.parametrize(
    ("written", "repaired"),
    [
        ("cәлем", "сәлем"),  # a Latin c
        ("Windоws", "Windows"),  # a Cyrillic о
        ("əке ӊ", "әке ң"),
        ("ұpпаққа ауыcып", "ұрпаққа ауысып"),
        ("Google-дан", "Google-дан"),
        ("Wordта", "Wordта"),
        ("ол cop", "ол cop"),
        ("Вiн", "Він"),
    ],
)
def test_letters_that_look_alike(written, repaired):
    assert repair(written) == repaired


def test_letters_of_related_alphabets_stay_in_other_languages():
    assert repair("ӊ", "ru") == "ӊ"


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("сәлем abc", "cyrillic"),
        ("salem", "latin"),
        (ARABIC, "arabic"),
        ("你好", "other"),
        ("1", None),
    ],
)
def test_scripts(text, script):
    assert script_of(text) == script


@given(
    st.text(st.sampled_from("абвгғдежзйкқлмнңоөпрстуұүфхшыіәъьияюёэц ,.-'aeopcyxABCё"), max_size=40)
)
def test_repairing_twice_changes_nothing(text):
    once = repair(text)
    assert repair(once) == once
    assert len(once) == len(unicodedata.normalize("NFC", text))


@given(st.text(max_size=60))
def test_any_text_is_read(text):
    for reading in from_latin(text):
        assert isinstance(reading, str)
    assert "\0" not in from_arabic(text.replace("\0", ""))
    assert script_of(text) in {"cyrillic", "latin", "arabic", "other", None}


def test_alphabets_have_all_letters_of_kazakh():
    needed = set("абгғдежзкқлмнңоөпрстуұүфхшыіә")
    for name, alphabet in kazakh.ALPHABETS.items():
        assert needed <= set(alphabet.values()), name
