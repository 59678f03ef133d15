import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tynda.score import Errors, change, errors, score

texts = st.lists(st.sampled_from(["a", "b", "ab", "ba", "c"]), max_size=8).map(" ".join)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "expected"),
    [
        ("the cat sat", "the cat sat", Errors(0, 0, 0)),
        ("the cat sat", "the bat sat", Errors(1, 0, 0)),
        ("the cat sat", "the cat", Errors(0, 0, 1)),
        ("the cat sat", "oh the cat sat down", Errors(0, 2, 0)),
        ("the cat sat", "", Errors(0, 0, 3)),
        ("", "the cat", Errors(0, 2, 0)),
        ("", "", Errors(0, 0, 0)),
        # Two substitutions, or a deletion and an insertion, which leaves one word correct.
        ("a b", "b c", Errors(0, 1, 1)),
        ("one two three four", "two thee four five", Errors(1, 1, 1)),
    ],
)
def test_errors_by_hand(reference: str, hypothesis: str, expected: Errors) -> None:
    assert errors(reference.split(), hypothesis.split()) == expected


def test_characters_by_hand() -> None:
    assert errors("kitten", "sitting") == Errors(2, 1, 0)


def test_rates_are_over_all_utterances_together() -> None:
    scores = score([("the cat sat", "the bat"), ("yes", "yes")])
    assert scores.wer == 2 / 4
    # "the cat sat" to "the bat": one substitution and the four characters of " sat".
    assert (scores.char_errors, scores.chars, scores.cer) == (5, 14, 5 / 14)
    assert (scores.utterances, scores.words) == (2, 4)
    assert (scores.substitutions, scores.insertions, scores.deletions) == (1, 0, 1)


def test_empty_references() -> None:
    assert score([]).wer == score([("", "")]).wer == score([("", "")]).cer == 0
    undefined = score([("", "a b")])
    assert undefined.wer is undefined.cer is None
    assert undefined.insertions == 2
    assert score([("", "a"), ("b c", "b c")]).wer == 1 / 2


def test_whitespace_does_not_count() -> None:
    assert score([(" a\tb ", "a  b")]) == score([("a b", "a b")])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(texts.filter(bool), texts), min_size=1, max_size=4))
def test_rates_equal_those_of_jiwer(pairs: list[tuple[str, str]]) -> None:
    references, hypotheses = [list(side) for side in zip(*pairs, strict=True)]
    ours = score(pairs)
    words = jiwer.process_words(references, hypotheses)
    assert ours.wer == pytest.approx(words.wer)
    assert ours.cer == pytest.approx(jiwer.cer(references, hypotheses))
    assert ours.words == words.hits + words.substitutions + words.deletions
    # The distances agree; among equally good alignments tynda prefers the most correct words.
    assert ours.words - ours.substitutions - ours.deletions >= words.hits


@settings(max_examples=100, deadline=None)
@given(texts, texts)
def test_swapping_the_texts_swaps_insertions_and_deletions(a: str, b: str) -> None:
    there, back = errors(a, b), errors(b, a)
    assert there == Errors(back.substitutions, back.deletions, back.insertions)


def test_a_change_of_error_rates_by_hand():
    said = [("a b", "a b"), ("a b c d", "a b c d")]
    worse = [("a b", "a"), ("a b c d", "a b c d")]
    found = change(said, worse)
    assert found.wer == pytest.approx(1 / 6)
    # The first utterance is drawn twice, once or never.
    assert found.low == 0
    assert found.high == pytest.approx(1 / 2)
    assert found.is_noise
    assert change(worse, said).wer == pytest.approx(-1 / 6)
    assert change(said, said).wer == 0


def test_a_change_is_told_from_noise():
    said = [("a b c", "a b c")] * 200
    some = [("a b c", "a b" if i % 4 == 0 else "a b c") for i in range(200)]
    found = change(said, some)
    assert not found.is_noise
    # 50 of 600 words: the binomial's deviation is 0.25 ** 0.5 * 0.75 ** 0.5 / 200 ** 0.5 / 3.
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.0102, rel=0.1)


def test_changes_are_of_the_same_utterances():
    with pytest.raises(ValueError, match="differ"):
        change([("a", "a")], [("b", "a")])
    with pytest.raises(ValueError, match="no word"):
        change([("", "a")], [("", "a")])
    with pytest.raises(ValueError, match="shorter"):
        change([("a", "a")], [])
