import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tynda.errors import TyndaError
from tynda.heads.ctc.beam import beam_search
from tynda.heads.ctc.hotwords import HotWords
from tynda.heads.ctc.ngram import LanguageModel, train
from tynda.heads.ctc.paths import align, greedy, hypothesis
from tynda.text.tokenizer import BLANK, ENGLISH, CharTokenizer

TINY = CharTokenizer([BLANK, " ", "a"])
ABC = CharTokenizer([BLANK, " ", "a", "b", "c"])
EXACT = {"beam_size": 10_000, "token_margin": math.inf, "top_tokens": 99, "beam_margin": math.inf}


def logs(rows):
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, dtype=np.float32))


def collapse(alignment):
    return tuple(k for k, _ in itertools.groupby(alignment) if k != 0)


def labellings(log_probs):
    """Return the probability of every labelling, the sum over all its alignments."""
    total = defaultdict(float)
    frames, vocab = log_probs.shape
    for alignment in itertools.product(range(vocab), repeat=frames):
        p = math.exp(sum(float(log_probs[t, k]) for t, k in enumerate(alignment)))
        total[collapse(alignment)] += p
    return total


def random_log_probs(vocab, max_frames=5):
    shape = st.tuples(st.integers(1, max_frames), st.just(vocab))
    values = st.floats(-4, 4, width=32)
    return arrays(np.float32, shape, elements=values).map(
        lambda x: x - np.logaddexp.reduce(x, axis=1, keepdims=True)
    )


def spelled(text, frames_each=2, p=0.9, tokenizer=ENGLISH):
    """Return log-probabilities that spell `text`: one frame for each letter, then blanks."""
    rows = []
    for token in tokenizer.encode(text):
        for k in [token] + [0] * (frames_each - 1):
            row = np.full(len(tokenizer), (1 - p) / (len(tokenizer) - 1))
            row[k] = p
            rows.append(row)
    return logs(rows)


def mix(*parts):
    """Return the mean of several distributions, in the log domain."""
    return np.log(np.mean([np.exp(p) for p in parts], axis=0))


# The best labelling is not that of the best alignment (Hannun et al. 2014, section 2).


def test_two_frames_by_hand():
    # frames: blank 0.6, a 0.4 each. Alignments: -- 0.36; a- 0.24, -a 0.24, aa 0.16.
    # Best alignment: blanks, 0.36. Best labelling: "a", 0.24 + 0.24 + 0.16 = 0.64.
    log_probs = logs([[0.6, 0.0, 0.4]] * 2)
    best = greedy(log_probs, TINY)
    assert best.text == ""
    assert best.tokens == []
    assert best.words == []
    assert best.score == pytest.approx(math.log(0.36), abs=1e-5)
    first, second = beam_search(log_probs, TINY, n_best=5)
    assert (first.text, second.text) == ("a", "")
    assert first.score == pytest.approx(math.log(0.64), abs=1e-5)
    assert second.score == pytest.approx(math.log(0.36), abs=1e-5)


def test_repeated_letter_needs_a_blank_between():
    # a, blank, a with 0.8 each: "aa" 0.8^3 = 0.512; without the blank frame it is one "a".
    log_probs = logs([[0.2, 0.0, 0.8], [0.8, 0.0, 0.2], [0.2, 0.0, 0.8]])
    assert greedy(log_probs, TINY).text == "aa"
    best = beam_search(log_probs, TINY)[0]
    assert best.tokens == [2, 2]
    assert best.score == pytest.approx(math.log(0.512), abs=1e-5)
    assert greedy(log_probs[[0, 2]], TINY).text == "a"
    assert beam_search(log_probs[[0, 2]], TINY)[0].text == "a"


def test_no_frames():
    nothing = np.zeros((0, len(ENGLISH)), dtype=np.float32)
    lm = LanguageModel.from_arpa(train(["a b"]))
    for h in (greedy(nothing, ENGLISH), *beam_search(nothing, ENGLISH)):
        assert (h.text, h.tokens, h.score, h.words) == ("", [], 0.0, [])
    assert beam_search(nothing, ENGLISH, lm=lm, hotwords=["hi"])[0].text == ""


def test_all_blank():
    log_probs = logs([[0.9999, 0.00005, 0.00005]] * 50)
    for h in (greedy(log_probs, TINY), *beam_search(log_probs, TINY)):
        assert h.text == ""
        assert h.words == []
        assert h.score == pytest.approx(50 * math.log(0.9999), abs=1e-3)


def test_zero_probabilities_are_no_trouble():
    log_probs = logs([[0, 0, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 1, 0]])
    for h in (greedy(log_probs, ABC), *beam_search(log_probs, ABC, n_best=3, **EXACT)):
        assert h.text == "ab"
        assert h.score == pytest.approx(0.0)
        assert h.words[0].confidence == pytest.approx(1.0)


@settings(max_examples=60, deadline=None)
@given(random_log_probs(3))
def test_exact_search_finds_every_labelling(log_probs):
    expected = labellings(log_probs)
    found = beam_search(log_probs, TINY, n_best=10_000, **EXACT)
    best = max(expected.values())
    assert math.exp(found[0].score) == pytest.approx(best, rel=1e-4)
    for h in found:
        assert math.exp(h.score) == pytest.approx(expected[tuple(h.tokens)], rel=1e-4)
    # There is one hypothesis for each distinct text, in order.
    texts = [h.text for h in found]
    assert len(set(texts)) == len(texts)
    assert set(texts) == {" ".join(TINY.decode(y).split()) for y in expected}
    scores = [h.score for h in found]
    assert scores == sorted(scores, reverse=True)


@settings(max_examples=25, deadline=None)
@given(random_log_probs(5, max_frames=4))
def test_pruning_only_drops(log_probs):
    """Whatever is pruned, a labelling never gets more than its probability."""
    expected = labellings(log_probs)
    for h in beam_search(log_probs, ABC, n_best=5, beam_size=4, top_tokens=3, token_margin=2.0):
        assert math.exp(h.score) <= expected[tuple(h.tokens)] * (1 + 1e-4)


LM = LanguageModel.from_arpa(train(["a b", "b a", "ab c", "c ab a", "a c"], 3))


@settings(max_examples=25, deadline=None)
@given(random_log_probs(5, max_frames=5), st.sampled_from([(), ("b a",), ("ac", "c a")]))
def test_fusion_equals_its_formula(log_probs, hotwords):
    """With nothing pruned, the best score is the best of the docstring's formula."""
    alpha, beta, penalty, boost = 0.7, 0.4, 2.0, 1.5

    def total(tokens, p):
        words = ABC.decode(tokens).split()
        state, lm = LM.start(), 0.0
        for word in words:
            log_prob, state = LM.score(state, word)
            lm += log_prob
        lm += LM.end(state)
        known = LM.words | {w for phrase in hotwords for w in phrase.split()}
        unknown = sum(word not in known for word in words)
        characters = 0
        for phrase in map(str.split, hotwords):
            for i in range(len(words)):
                if words[i : i + len(phrase)] == phrase:
                    characters += len(" ".join(phrase))
        return math.log(p) + alpha * lm + beta * len(words) - penalty * unknown + boost * characters

    expected = max(total(y, p) for y, p in labellings(log_probs).items())
    options = {"lm": LM, "alpha": alpha, "beta": beta, "unknown_penalty": penalty}
    options |= {"hotwords": hotwords, "hotword_boost": boost}
    exact = beam_search(log_probs, ABC, **options, **EXACT)[0]
    assert exact.score == pytest.approx(expected, abs=1e-3)
    # The shortcut for hopeless prefixes does not change the result: a wide beam finds the same.
    wide = beam_search(log_probs, ABC, **options, **{**EXACT, "beam_margin": 40.0})[0]
    assert wide.score == pytest.approx(expected, abs=1e-3)


def test_long_input_neither_underflows_nor_forgets():
    text = "the quick brown fox " * 40
    log_probs = spelled(text, p=0.6)
    best = beam_search(log_probs, ENGLISH, beam_size=8)[0]
    assert best.text == text.strip()
    assert len(best.words) == 160


# Language model


def test_language_model_decides_between_sounds():
    # "sea" and "see" are equally likely; only "i see" was in the text.
    log_probs = mix(spelled("i sea"), spelled("i see"))
    lm = LanguageModel.from_arpa(train(["i see you", "i see", "the sea is deep"], 2))
    assert beam_search(log_probs, ENGLISH, lm=lm)[0].text == "i see"
    log_probs = mix(spelled("the sea"), spelled("the see"))
    assert beam_search(log_probs, ENGLISH, lm=lm)[0].text == "the sea"


def test_unknown_words_cost():
    log_probs = mix(spelled("bat"), spelled("bat"), spelled("cat"))
    lm = LanguageModel.from_arpa(train(["cat", "dog"], 2))
    assert beam_search(log_probs, ENGLISH)[0].text == "bat"
    assert beam_search(log_probs, ENGLISH, lm=lm, unknown_penalty=9.0)[0].text == "cat"
    without = beam_search(log_probs, ENGLISH, lm=lm, alpha=0, beta=0, unknown_penalty=0)[0]
    assert without.text == "bat"
    # A hot word counts as known: there is no penalty, even if the boost is zero.
    hot = beam_search(
        log_probs, ENGLISH, lm=lm, alpha=0, beta=0, hotwords=["bat"], hotword_boost=0
    )[0]
    assert hot.text == "bat"
    assert hot.score == pytest.approx(without.score, abs=1e-4)


def test_word_bonus_splits():
    log_probs = mix(spelled("a b", tokenizer=ABC), spelled("ab", 3, tokenizer=ABC))
    lm = LanguageModel.from_arpa(train(["a b ab"], 2))
    few = beam_search(log_probs, ABC, lm=lm, beta=-9)[0]
    many = beam_search(log_probs, ABC, lm=lm, beta=9)[0]
    assert len(few.words) < len(many.words)


# Hot words


def test_hot_word_wins():
    log_probs = mix(spelled("call ann"), spelled("call ann"), spelled("call aya"))
    assert beam_search(log_probs, ENGLISH)[0].text == "call ann"
    assert beam_search(log_probs, ENGLISH, hotwords=["aya"])[0].text == "call aya"
    # Only whole words count: no boost for a word that merely contains, begins or ends so.
    plain = beam_search(log_probs, ENGLISH)[0]
    for other in ("an", "all", "cal", "nn"):
        h = beam_search(log_probs, ENGLISH, hotwords=[other], hotword_boost=0.1)[0]
        assert h.text == "call ann"
        assert h.score == pytest.approx(plain.score, abs=0.05)  # other prefixes were pruned


def test_hot_phrase_is_worth_its_characters():
    log_probs = spelled("in new york now")
    plain = beam_search(log_probs, ENGLISH)[0]
    hot = beam_search(log_probs, ENGLISH, hotwords=["new york"], hotword_boost=0.5)[0]
    assert hot.text == plain.text
    assert hot.score - plain.score == pytest.approx(0.5 * len("new york"), abs=0.05)
    half = beam_search(log_probs, ENGLISH, hotwords=["new yorker"], hotword_boost=0.5)[0]
    assert half.text == plain.text
    assert half.score == pytest.approx(plain.score, abs=0.05)


def test_hot_word_that_cannot_be_spelled():
    with pytest.raises(TyndaError, match="Ö"):
        beam_search(spelled("a"), ENGLISH, hotwords=["Ö"])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.text("ab ", min_size=1, max_size=5).map(str.split), max_size=4),
    st.text("ab ", max_size=12).map(str.split),
)
def test_automaton_counts_phrases(phrases, words):
    phrases = list({" ".join(p) for p in phrases if p})
    automaton = HotWords([[ord(c) for c in p] for p in phrases], ord(" "))
    state, count = automaton.start, 0
    for c in "".join(f"{w} " for w in words):
        state, gain = automaton.step(state, ord(c))
        assert gain <= automaton.max_gain
        count += gain
    text = f" {' '.join(words)} "
    occurrences = sum(
        len(p) for p in phrases for i in range(len(text)) if text.startswith(f" {p} ", i)
    )
    assert count - automaton.pending[state] == occurrences


# Alignment, word times, confidence


def test_align_by_hand():
    # Best path for "ab" over 5 frames: - a a - b
    log_probs = logs(
        [
            [0.7, 0.0, 0.2, 0.1, 0.0],
            [0.1, 0.0, 0.8, 0.1, 0.0],
            [0.3, 0.0, 0.6, 0.1, 0.0],
            [0.8, 0.0, 0.1, 0.1, 0.0],
            [0.2, 0.0, 0.1, 0.7, 0.0],
        ]
    )
    assert align(log_probs, [2, 3]) == [(1, 3), (4, 5)]
    # "aa" must put a blank between: - a - - a would give 0.7*0.8*0.3*0.8*0.1 = 0.0134,
    # a - a - - has 0.2*0.1*0.6*0.8*0.2 = 0.0019, - a a - a 0.7*0.8*0.6*0.8*0.1 = 0.0269.
    assert align(log_probs, [2, 2]) == [(1, 3), (4, 5)]
    assert align(log_probs, []) == []


def test_align_that_cannot_be():
    log_probs = logs([[0.2] * 5] * 3)
    assert align(log_probs, [2, 3, 2]) == [(0, 1), (1, 2), (2, 3)]
    assert align(log_probs, [2, 2]) == [(0, 1), (2, 3)]
    with pytest.raises(ValueError, match="do not fit 3 frames"):
        align(log_probs, [2, 2, 3])
    with pytest.raises(ValueError, match="do not fit 0 frames"):
        align(log_probs[:0], [2])


@settings(max_examples=60, deadline=None)
@given(random_log_probs(3), st.lists(st.integers(1, 2), min_size=1, max_size=3))
def test_align_equals_brute_force(log_probs, tokens):
    paths = [
        (sum(float(log_probs[t, k]) for t, k in enumerate(path)), path)
        for path in itertools.product(range(3), repeat=len(log_probs))
        if collapse(path) == tuple(tokens)
    ]
    if not paths:
        with pytest.raises(ValueError, match="do not fit"):
            align(log_probs, tokens)
        return
    path = [0] * len(log_probs)
    for token, (first, last) in zip(tokens, align(log_probs, tokens), strict=True):
        assert first < last
        path[first:last] = [token] * (last - first)
    assert collapse(path) == tuple(tokens)
    score = sum(float(log_probs[t, k]) for t, k in enumerate(path))
    assert score == pytest.approx(max(paths)[0], abs=1e-4)


@given(st.integers(0, 60), st.floats(0.1, 8), st.integers(0, 1 << 30))
def test_the_greedy_alignment_is_the_best_of_its_labelling(frames, sharp, seed):
    values = sharp * np.random.default_rng(seed).standard_normal((frames, len(ENGLISH)))
    log_probs = (values - np.logaddexp.reduce(values, 1, keepdims=True)).astype(np.float32)
    found = greedy(log_probs, ENGLISH)
    assert found == hypothesis(log_probs, ENGLISH, found.tokens, found.score)  # which aligns


def test_word_times_and_confidence():
    # Frames: a b - " " c. Letters a: 0.6 of the 0.9 that is not blank, b: 0.8 of 0.9,
    # c: 0.5 of 1. Word "ab": sqrt(0.6/0.9 * 0.8/0.9) = 0.7698, word "c": 0.5.
    log_probs = logs(
        [
            [0.1, 0.1, 0.6, 0.1, 0.1],
            [0.1, 0.0, 0.1, 0.8, 0.0],
            [0.9, 0.0, 0.1, 0.0, 0.0],
            [0.1, 0.9, 0.0, 0.0, 0.0],
            [0.0, 0.2, 0.2, 0.1, 0.5],
        ]
    )
    for h in (greedy(log_probs, ABC), beam_search(log_probs, ABC)[0]):
        assert h.text == "ab c"
        assert h.tokens == [2, 3, 1, 4]
        assert [(w.text, w.start, w.end) for w in h.words] == [("ab", 0, 2), ("c", 4, 5)]
        assert h.words[0].confidence == pytest.approx(math.sqrt(0.6 / 0.9 * 0.8 / 0.9), abs=1e-5)
        assert h.words[1].confidence == pytest.approx(0.5, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(random_log_probs(5, max_frames=8))
def test_hypotheses_hold_together(log_probs):
    for h in [greedy(log_probs, ABC), *beam_search(log_probs, ABC, n_best=4)]:
        assert [w.text for w in h.words] == h.text.split()
        ends = [0, *itertools.chain(*((w.start, w.end) for w in h.words)), len(log_probs)]
        assert ends == sorted(ends)
        assert all(w.start < w.end and 0 <= w.confidence <= 1 for w in h.words)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match=r"\[frames, 29\]"):
        greedy(np.zeros((3, 5), dtype=np.float32), ENGLISH)
    with pytest.raises(ValueError, match="NaN"):
        beam_search(np.full((3, 29), np.nan, dtype=np.float32), ENGLISH)
    with pytest.raises(ValueError, match="at least 1"):
        beam_search(spelled("a"), ENGLISH, beam_size=0)


# Tokenizer


@given(st.text("abcdefghijklmnopqrstuvwxyz '"))
def test_tokenizer_round_trip(text):
    assert ENGLISH.decode(ENGLISH.encode(text)) == text
    assert 0 not in ENGLISH.encode(text)


def test_tokenizer():
    assert (ENGLISH.blank, ENGLISH.space_id, len(ENGLISH)) == (0, 1, 29)
    assert ENGLISH.decode([0, 3, 3, 0, 2]) == "aa'"
    assert CharTokenizer.from_dict(ENGLISH.to_dict()) == ENGLISH
    with pytest.raises(TyndaError, match="'E'"):
        ENGLISH.encode("hEllo")


@pytest.mark.parametrize(
    "symbols", [[], ["a", " "], [BLANK, "a"], [BLANK, " ", "a", "a"], [BLANK, " ", "ab"], [1]]
)
def test_tokenizer_that_makes_no_sense(symbols):
    with pytest.raises(TyndaError):
        CharTokenizer.from_dict({"type": "char", "symbols": symbols})
