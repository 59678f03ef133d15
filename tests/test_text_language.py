import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tynda.text import language

SPEECH = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Барлығына қалай уақыт табасың?", "kk"),
        ("Алға қарай бес метр жүр тоқта", "kk"),
        ("Введите номер оператора и нажмите решетку", "ru"),
        ("Введіть номер оператора і натисніть решітку", "uk"),
        ("Please enter your account number", "en"),
        ("Bitte geben Sie Ihr Kennwort ein", "de"),
    ],
)
def test_sentences(text, code):
    assert language.identify(text).language == code


def test_a_text_without_letters_has_no_language():
    assert language.identify("12:30 …") is None
    assert language.shares("12", ("kk", "ru")) == {}
    assert language.cost("", "kk") == float("inf")


def test_words_of_two_languages():
    shares = language.shares(
        "Мен бүгін жұмысқа бармаймын, потому что сегодня болею", ("kk", "ru", "en")
    )
    kazakh, russian = len("менбүгінжұмысқабармаймын"), len("потомучтосегодняболею")
    assert shares == {
        "kk": pytest.approx(kazakh / (kazakh + russian)),
        "ru": pytest.approx(russian / (kazakh + russian)),
    }


@pytest.mark.skipif(not SPEECH.is_dir(), reason="needs the transcripts in ../shared/data")
@pytest.mark.parametrize("code", ["kk", "ru", "uk", "en"])
def test_spoken_prompts(code):
    """Nearly all prompts of four words and more are told apart; some spell letters."""
    with open(SPEECH / f"prompts_{code}.jsonl", encoding="utf-8") as file:
        texts = [json.loads(line)["text"] for line in file]
    long = [text for text in texts if len(language.words(text)) >= 4]
    found = [language.identify(text).language for text in long]
    assert found.count(code) >= 0.95 * len(found)


@given(st.text(max_size=50))
def test_any_text_has_shares_of_one(text):
    shares = language.shares(text, ("kk", "ru", "en"))
    assert not shares or sum(shares.values()) == pytest.approx(1)
    guess = language.identify(text)
    assert (guess is None) == (not shares)
