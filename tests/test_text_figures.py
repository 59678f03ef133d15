import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from num2words import num2words

from tynda.text.figures import speak
from tynda.text.numerals import kazakh, kazakh_ordinal


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("2021 жылы 25 желтоқсанда", "екі мың жиырма бірінші жылы жиырма бесінші желтоқсанда"),
        ("25.12.2021 ж.", "жиырма бесінші желтоқсан екі мың жиырма бірінші жыл"),
        ("2021-12-25", "жиырма бесінші желтоқсан екі мың жиырма бірінші жыл"),
        ("1941-1945 жылдары", "мың тоғыз жүз қырық бірінші-мың тоғыз жүз қырық бесінші жылдары"),
        ("5-сынып", "бесінші сынып"),
        ("3-ші, 6-шы", "үшінші, алтыншы"),
        ("10-ға дейін, 2021-де", "онға дейін, екі мың жиырма бірде"),
        ("2-еу, 6-ау, 7-еу", "екеу, алтау, жетеу"),
        ("3,5 км", "үш бүтін оннан бес километр"),
        ("0,05", "нөл бүтін жүзден бес"),
        ("25%-ы", "жиырма бес пайызы"),
        ("1 000 000 теңге", "бір миллион теңге"),
        ("20 ₸, $5", "жиырма теңге, бес доллар"),
        ("XX ғасырда", "жиырмасыншы ғасырда"),
        ("14:05", "он төрт нөл бес"),
        ("-5°", "минус бес градус"),
        ("5-6 күн", "бес-алты күн"),
        ("007", "нөл нөл жеті"),
        ("№5", "нөмір бес"),
        ("1.2.3", "бір нүкте екі нүкте үш"),
    ],
)
def test_kazakh(written, spoken):
    assert speak(written, "kk") == spoken


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("в 2021 году", "в две тысячи двадцать первом году"),
        ("1-го мая, 3-й, 3-я", "первого мая, третий, третья"),
        ("25 декабря", "двадцать пятого декабря"),
        ("25.12.2021 г.", "двадцать пятое декабря две тысячи двадцать первого года"),
        ("21%, 22 %, 25%", "двадцать один процент, двадцать два процента, двадцать пять процентов"),
        ("3,5 кг", "три целых пять десятых килограмма"),
        ("в XX веке", "в двадцатом веке"),
    ],
)
def test_russian(written, spoken):
    assert speak(written, "ru") == spoken


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("у 2021 році", "у дві тисячі двадцять першому році"),
        ("1-го травня, 3-й, 3-го", "першого травня, третій, третього"),
        ("25 грудня", "двадцять п'ятого грудня"),
        ("3,5 кг", "три кома п'ять кілограма"),
        ("5%", "п'ять відсотків"),
    ],
)
def test_ukrainian(written, spoken):
    assert speak(written, "uk") == spoken


def test_english():
    spoken = "It costs five dollars and fifty cents in nineteen ninety-nine"
    assert speak("It costs $5.50 in 1999", "en") == spoken


def test_other_languages_stay():
    assert speak("5 Äpfel", "de") == "5 Äpfel"


@given(st.integers(0, 10**15 - 1))
def test_kazakh_numbers_are_those_of_num2words(number):
    """The library says "бір мың" and "бір миллион"; a thousand alone is "мың" in years."""
    expected = re.sub(r"^бір мың|(?<= )бір мың(?= |$)", "мың", num2words(number, lang="kz"))
    spoken = kazakh(number)
    # "жиырма бір мың" keeps its one.
    plain = num2words(number, lang="kz")
    assert spoken in (expected, plain)


@given(st.integers(0, 10**12))
def test_kazakh_ordinals_end_in_harmony(number):
    *_, last = kazakh_ordinal(number).split()
    assert re.search("[іеүөә]нші$" if last.endswith("і") else "[ыаоұ]ншы$", last)


@pytest.mark.parametrize("language", ["kk", "ru", "uk", "en"])
@given(text=st.text(st.sampled_from("0123456789.,:-/ %№$XVI км жылы-ші году-го"), max_size=30))
def test_no_figures_remain(language, text):
    assert not re.search("[0-9]", speak(text, language))


@pytest.mark.parametrize("language", ["kk", "ru", "uk"])
def test_long_runs_of_figures_need_little_time(language):
    for text in ("1" * 50_000, "1." * 20_000, "1-" * 20_000, "1 000 " * 10_000):
        assert not re.search("[0-9]", speak(text, language))
