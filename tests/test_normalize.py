import json
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tynda.errors import TyndaError
from tynda.text.normalize import NORMALIZERS, basic, english_letters

SPEECH = Path(__file__).parents[2] / "shared" / "data"
needs_speech = pytest.mark.skipif(
    not SPEECH.is_dir(), reason="needs the transcripts in ../shared/data"
)
# Random texts with many characters that the rules match.
texts = st.text(max_size=40) | st.lists(
    st.sampled_from([*"0123456789 .,:$£€%&@+-'’′aмɴé", "st.", "mr", "etc", "1,000", "5:30", "pm"]),
    max_size=15,
).map("".join)


def sentences(name: str) -> list[str]:
    with open(SPEECH / name, encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("", ""),
        ("Hello,  WORLD!", "hello world"),
        ("well-known — dash…", "well known dash"),
        ("It’s five o‘clock, isn´t it?", "it's five o'clock isn't it"),
        ("'quoted' rock 'n' roll, the boys' yard", "quoted rock n roll the boys yard"),
        ("Café, naïve façade, Łódź", "cafe naive facade lodz"),
        ("ﬁve full ｗｉｄｔｈ", "five full width"),
        ("soft\u00adhyphen", "softhyphen"),
        ("Привет", ""),
    ],
)
def test_letters(written: str, spoken: str) -> None:
    assert english_letters(written) == spoken


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("0 7 42 105", "zero seven forty two one hundred and five"),
        ("1,234 and 12345", "one thousand two hundred and thirty four and "
         "twelve thousand three hundred and forty five"),
        ("1000000 or 2,000,000", "one million or two million"),
        ("3.14, .5 and -2", "three point one four point five and minus two"),
        ("version 1.2.3", "version one point two point three"),
        ("the 1st, 22nd and 103rd", "the first twenty second and one hundred and third"),
        ("in 1813, 1905, 2005 and 2024", "in eighteen thirteen nineteen oh five "
         "two thousand and five and twenty twenty four"),
        ("1914-1918", "nineteen fourteen nineteen eighteen"),
        ("the 1980s and the '90s", "the nineteen eighties and the nineties"),
        ("5:30, 5:05, 5:00", "five thirty five oh five five o'clock"),
        ("at 5:30 p.m. or 9am", "at five thirty p m or nine a m"),
        ("17:00", "seventeen hundred"),
        ("$5, $1, £2.50, €0.20", "five dollars one dollar two pounds and fifty pence twenty cents"),
        ("$2.5 million", "two point five million dollars"),
        ("100% of 12.5%", "one hundred percent of twelve point five percent"),
        ("code 0351", "code zero three five one"),
        ("555-1234", "five five five one two three four"),
        ("1-800-555-0199", "one eight zero zero five five five zero one nine nine"),
        ("No. 5 and #1", "number five and number one"),
        ("1" * 400, " ".join(["one"] * 400)),
    ],
)  # fmt: skip
def test_figures(written: str, spoken: str) -> None:
    assert english_letters(written) == spoken


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Mr. Hale, Mrs Hall and Dr. No", "mister hale missus hall and doctor no"),
        ("St. Louis, Main St.", "saint louis main street"),
        ("The Hon. H. G. Bennet etc.", "the honorable h g bennet et cetera"),
        ("That's OK", "that's okay"),
        ("R&D @ home + away", "r and d at home plus away"),
        ("visit www.asterisk.org.", "visit www dot asterisk dot org"),
    ],
)
def test_abbreviations(written: str, spoken: str) -> None:
    assert english_letters(written) == spoken


@settings(max_examples=300, deadline=None)
@given(texts)
def test_english_letters_is_idempotent_and_closed(text: str) -> None:
    once = english_letters(text)
    assert set(once) <= set("abcdefghijklmnopqrstuvwxyz' ")
    assert english_letters(once) == once
    assert once == " ".join(once.split())


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("П’ять зʼїзд, «об'єкт»!", "п'ять з'їзд об'єкт"),
        ("Хм-хм… Ёлка № 5", "хм хм ёлка no 5"),
        ("ӘҒҚҢӨҰҮҺІ — әріптер", "әғқңөұүһі әріптер"),
        ("Don't 'quote' me", "don't quote me"),
        ("e\u0301te\u0301 ÉTÉ", "été été"),
        ("नमस्ते दुनिया", "नमस्ते दुनिया"),
        ("\u0301", ""),
    ],
)
def test_basic(written: str, plain: str) -> None:
    assert basic(written) == plain


@settings(max_examples=300, deadline=None)
@given(texts)
def test_basic_is_idempotent(text: str) -> None:
    once = basic(text)
    assert basic(once) == once
    assert once == " ".join(once.split())


@needs_speech
@pytest.mark.parametrize("name", ["train", "dev", "prompts_en"])
def test_real_english(name: str) -> None:
    for text in sentences(f"{name}.jsonl"):
        letters = english_letters(text)
        assert letters
        assert english_letters(letters) == letters


@needs_speech
@pytest.mark.parametrize(
    ("name", "alphabet"),
    [
        ("prompts_uk", "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя'"),
        ("prompts_ru", "абвгдеёжзийклмнопрстуфхцчшщъыьэюя"),
        ("prompts_kk", "аәбвгғдеёжзийкқлмнңоөпрстуұүфхһцчшщъыіьэюя"),
    ],
)
def test_real_cyrillic(name: str, alphabet: str) -> None:
    for text in sentences(f"{name}.jsonl"):
        plain = basic(text)
        assert plain
        assert set(plain) <= set(alphabet + " abcdefghijklmnopqrstuvwxyz")
        assert plain == basic(plain)


SENTENCES = [
    # Ukrainian, Russian and Kazakh, from the prompts of Asterisk and Kazakh commands.
    ("П’ять, будь ласка!", "п'ять будь ласка"),
    (
        "Ваш дзвінок — дуже важливий для нас; зачекайте.",
        "ваш дзвінок дуже важливий для нас зачекайте",
    ),
    ("Їжак із ґудзиком є у Києві.", "їжак із ґудзиком є у києві"),
    ("Ещё раз: всё занято… Перезвоните.", "ещё раз всё занято перезвоните"),
    ("Подъезд № 4, объём 10 %", "подъезд no 4 объём 10"),
    ("Қазақ тілі — әлемдегі ең бай тіл.", "қазақ тілі әлемдегі ең бай тіл"),
    ("ТЫҢДА, өйткені ғылым үлкен һәм күрделі", "тыңда өйткені ғылым үлкен һәм күрделі"),
]


@pytest.mark.parametrize(("text", "expected"), SENTENCES)
def test_basic_keeps_the_letters_of_ukrainian_russian_and_kazakh(text, expected):
    assert basic(text) == expected
    # The result does not depend on composition: "й" may be one code point or two.
    assert basic(unicodedata.normalize("NFD", text)) == expected


@needs_speech
@pytest.mark.parametrize("language", ["uk", "ru", "kk"])
def test_real_sentences_lose_no_letter(language):
    for text in sentences(f"prompts_{language}.jsonl"):
        letters = [c for c in unicodedata.normalize("NFKC", text).lower() if c.isalpha()]
        assert [c for c in basic(text) if c.isalpha()] == letters
        assert basic(basic(text)) == basic(text)


def test_whispers_normalisers_are_those_of_openai():
    pytest.importorskip("whisper_normalizer")
    reference = pytest.importorskip("whisper.normalizers")
    texts = [
        "Mr. O'Neill paid $5.50 for, uh, colourful 21st-century kites (laughs) in the 1990s!",
        "I'd've gone, won't you? It's twenty-one degrees; two hundred and five per cent.",
        *(text for text, _ in SENTENCES),
    ]
    for name, theirs in (
        ("whisper-english", reference.EnglishTextNormalizer()),
        ("whisper-basic", reference.BasicTextNormalizer()),
    ):
        ours = NORMALIZERS[name]()
        for text in texts:
            assert ours(text) == " ".join(theirs(text).split())
    assert NORMALIZERS["letters"]() is english_letters
    assert NORMALIZERS["basic"]() is basic


def test_a_missing_package_is_told_in_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "whisper_normalizer.english", None)
    with pytest.raises(TyndaError, match="normalizers"):
        NORMALIZERS["whisper-english"]()
