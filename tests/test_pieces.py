"""Pieces of words as CTC symbols: tokenizer, word times, language model and hot words."""

import itertools
import json
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tynda.errors import TyndaError
from tynda.heads.ctc.beam import beam_search
from tynda.heads.ctc.ngram import LanguageModel, train
from tynda.heads.ctc.paths import greedy, hypothesis
from tynda.text.pieces import PieceTokenizer
from tynda.text.tokenizer import BLANK, ENGLISH, CharTokenizer

PIECES = PieceTokenizer([BLANK, "<unk>", "▁", "▁a", "▁ab", "b", "c", "▁c"])
UNK, SPACE, A, AB, B, C, WORD_C = range(1, 8)
EXACT = {"beam_size": 10_000, "token_margin": math.inf, "top_tokens": 99, "beam_margin": math.inf}


def logs(rows):
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, np.float32))


def said(*tokens, p=0.9):
    """Log-probabilities of a frame for each token, the other symbols sharing what is left."""
    rows = np.full((len(tokens), len(PIECES)), (1 - p) / (len(PIECES) - 1))
    rows[np.arange(len(tokens)), tokens] = p
    return logs(rows)


def words(tokens):
    h = hypothesis(
        said(*tokens), PIECES, list(tokens), 0.0, [(i, i + 1) for i in range(len(tokens))]
    )
    return [(w.text, w.start, w.end) for w in h.words]


def test_a_word_begins_with_a_piece_that_begins_with_a_space():
    assert words([A, B, WORD_C]) == [("ab", 0, 2), ("c", 2, 3)]
    assert words([AB, C, C, AB]) == [("abcc", 0, 3), ("ab", 3, 4)]
    # A text may begin amid a word, and a space may stand alone: it is part of no word.
    assert words([B, SPACE, C, SPACE]) == [("b", 0, 1), ("c", 2, 3)]
    assert words([SPACE, A]) == [("a", 1, 2)]
    assert words([A, SPACE, SPACE, WORD_C]) == [("a", 0, 1), ("c", 3, 4)]
    # A piece without visible characters belongs to the word beside it and is no word by itself.
    assert words([UNK, B]) == [("b", 0, 2)]
    assert words([UNK, WORD_C]) == [("c", 1, 2)]
    assert words([]) == []


def test_word_times_and_confidence():
    # Frames: "▁a" "b" - "▁c". "▁a" has 0.6 of the 0.9 that is not blank, "b" 0.8 of 0.9, "▁c" 0.5
    # of 1. Word "ab": sqrt(0.6/0.9 * 0.8/0.9) = 0.7698, word "c": 0.5.
    rows = np.zeros((4, len(PIECES)))
    rows[0, [0, A, B]] = 0.1, 0.6, 0.3
    rows[1, [0, B, C]] = 0.1, 0.8, 0.1
    rows[2, [0, AB]] = 0.9, 0.1
    rows[3, [WORD_C, C, AB]] = 0.5, 0.25, 0.25
    for h in (greedy(logs(rows), PIECES), beam_search(logs(rows), PIECES)[0]):
        assert (h.text, h.tokens) == ("ab c", [A, B, WORD_C])
        assert [(w.text, w.start, w.end) for w in h.words] == [("ab", 0, 2), ("c", 3, 4)]
        assert h.words[0].confidence == pytest.approx(math.sqrt(0.6 / 0.9 * 0.8 / 0.9), abs=1e-5)
        assert h.words[1].confidence == pytest.approx(0.5, abs=1e-5)


LM = LanguageModel.from_arpa(train(["ab c", "a c", "ab ab", "c abb"], 3))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([(), ("ab c",), ("cb", "a")]))
def test_fusion_equals_its_formula(seed, frames, hotwords):
    """With nothing pruned, the best score is the best of `beam_search`'s formula."""
    alpha, beta, penalty, boost = 0.7, 0.4, 2.0, 1.5
    tokenizer = PieceTokenizer([n for n in PIECES.names if n != "<unk>"])
    log_probs = 2 * np.random.default_rng(seed).standard_normal((frames, len(tokenizer)))
    log_probs = (log_probs - np.logaddexp.reduce(log_probs, 1, keepdims=True)).astype(np.float32)
    labellings = defaultdict(float)
    for path in itertools.product(range(len(tokenizer)), repeat=frames):
        labels = tuple(k for k, _ in itertools.groupby(path) if k)
        labellings[labels] += math.exp(sum(float(log_probs[t, k]) for t, k in enumerate(path)))

    def total(tokens, p):
        found = tokenizer.decode(tokens).split()
        state, lm = LM.start(), 0.0
        for word in found:
            log_prob, state = LM.score(state, word)
            lm += log_prob
        lm += LM.end(state)
        known = LM.words | {w for phrase in hotwords for w in phrase.split()}
        unknown = sum(word not in known for word in found)
        characters = sum(
            len(phrase)
            for phrase in hotwords
            for i in range(len(found))
            if found[i : i + len(phrase.split())] == phrase.split()
        )
        lm = alpha * lm + beta * len(found)
        return math.log(p) + lm - penalty * unknown + boost * characters

    expected = max(total(y, p) for y, p in labellings.items())
    options = {"lm": LM, "alpha": alpha, "beta": beta, "unknown_penalty": penalty}
    options |= {"hotwords": hotwords, "hotword_boost": boost}
    for margin in (math.inf, 40.0):
        best = beam_search(log_probs, tokenizer, **options, **EXACT | {"beam_margin": margin})[0]
        assert best.score == pytest.approx(expected, abs=1e-3)


def test_a_hot_word_is_found_however_it_is_spelled():
    # By hand: "ab" is worth its two letters, once, whether it is "▁ab", "▁a" "b" or "▁" "▁a" "b";
    # "abc" and "a" are not, since hot words are whole words.
    for tokens, gain in (
        ([AB], 2),
        ([A, B], 2),
        ([SPACE, A, B, WORD_C], 2),
        ([AB, WORD_C, AB], 4),
        ([AB, C], 0),
        ([A], 0),
    ):
        log_probs = said(*tokens, p=0.9999)
        plain = beam_search(log_probs, PIECES)[0]
        hot = beam_search(log_probs, PIECES, hotwords=["ab"], hotword_boost=0.5)[0]
        assert plain.tokens == hot.tokens == tokens
        assert hot.score - plain.score == pytest.approx(0.5 * gain, abs=1e-3)


def test_hot_words_and_language_model_decide():
    log_probs = np.log(0.55 * np.exp(said(A, WORD_C)) + 0.45 * np.exp(said(AB, WORD_C)))
    assert greedy(log_probs, PIECES).text == "a c"
    assert beam_search(log_probs, PIECES, hotwords=["ab c"])[0].text == "ab c"
    lm = LanguageModel.from_arpa(train(["ab c", "c"], 2))
    assert beam_search(log_probs, PIECES, lm=lm)[0].text == "ab c"
    with pytest.raises(TyndaError, match="cannot spell 'xylo'"):
        beam_search(log_probs, PIECES, hotwords=["xylo"])


def test_encode_by_hand():
    assert PIECES.encode("") == PIECES.encode(" ") == []
    assert PIECES.encode("ab") == [AB]  # one piece, not two
    assert PIECES.encode(" abc  c") == [AB, C, WORD_C]
    assert PIECES.encode("bc") == [SPACE, B, C]
    assert PIECES.decode(PIECES.encode("a bc")) == " a bc"
    for text in ("a x", "ä", "<unk>"):
        with pytest.raises(TyndaError, match="cannot spell"):
            PIECES.encode(text)


@given(st.lists(st.text("bc", min_size=1), max_size=4).map(" ".join))
def test_encode_spells_the_text_in_the_fewest_pieces(text):
    ids = PIECES.encode(text)
    assert PIECES.decode(ids).strip() == text
    # A word of b and c has a piece for each letter, and one for its space unless "▁c" begins it.
    assert len(ids) == sum(len(word) + (word[0] == "b") for word in text.split())


def test_description_round_trip():
    described = json.loads(json.dumps(PIECES.to_dict()))
    assert described["type"] == "pieces"
    assert PieceTokenizer.from_dict(described) == PIECES
    assert len(PIECES) == 8
    assert PIECES != ENGLISH
    for other in (ENGLISH.to_dict(), described | {"symbols": None}, {}):
        with pytest.raises(TyndaError, match="not readable"):
            PieceTokenizer.from_dict(other)
    with pytest.raises(TyndaError, match="not readable"):
        CharTokenizer.from_dict(described)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "first symbol must be <blank>"),
        (["▁a", BLANK], "first symbol must be <blank>"),
        ([BLANK, "a", "a"], "distinct"),
        ([BLANK, ""], "piece '', which"),
        ([BLANK, "a▁"], "piece 'a▁', which"),
        ([BLANK, "▁▁"], "piece '▁▁', which"),
        ([BLANK, "a b"], "piece 'a b', which"),
        ([BLANK, "<0x0A>"], "piece '<0x0A>', which"),
    ],
)
def test_pieces_that_make_no_sense(names, message):
    with pytest.raises(TyndaError, match=message):
        PieceTokenizer(names)
