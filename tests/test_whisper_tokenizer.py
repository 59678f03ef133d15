"""Whisper's tokenizer against openai-whisper's own."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tynda.errors import TyndaError
from tynda.text.whisper import WhisperTokenizer

openai = pytest.importorskip("whisper.tokenizer", reason="openai-whisper is not installed")

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40)


def from_openai(multilingual, languages=99):
    """The published vocabulary, spelt as in the hub's files."""
    theirs = openai.get_tokenizer(
        multilingual, num_languages=languages, language="en", task="transcribe"
    )
    from tynda.text.whisper import _BYTES

    letters = {b: c for c, b in _BYTES.items()}
    ranks = theirs.encoding._mergeable_ranks
    vocab = {"".join(letters[b] for b in piece): rank for piece, rank in ranks.items()}
    merges = []
    for piece, rank in sorted(ranks.items(), key=lambda item: item[1]):
        halves = _halves(piece, rank, ranks)
        if len(halves) == 2:
            merges.append(" ".join("".join(letters[b] for b in half) for half in halves))
    return theirs, vocab, merges, dict(theirs.special_tokens)


def _halves(piece, rank, ranks):
    """Return the two pieces that were merged to ``piece``, by applying all earlier merges."""
    parts = [bytes([b]) for b in piece]
    while len(parts) > 1:
        best, i = min((ranks.get(a + b, rank), i) for i, (a, b) in enumerate(pairwise(parts)))
        if best >= rank:
            break
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts


@pytest.fixture(scope="module", params=[True, False], ids=["multilingual", "english"])
def pair(request):
    theirs, *ours = from_openai(request.param)
    return theirs, WhisperTokenizer.from_vocab(*ours, multilingual=request.param)


def test_special_tokens(pair):
    theirs, ours = pair
    for name in (
        *("eot", "sot", "translate", "transcribe", "sot_lm", "sot_prev"),
        *("no_speech", "no_timestamps", "timestamp_begin"),
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert list(ours.languages.values()) == sorted(theirs.all_language_tokens)
    assert ours.languages["kk"] == theirs.to_language_token("kk")
    assert ours.non_speech == set(theirs.non_speech_tokens)


@given(TEXTS)
@settings(max_examples=60, deadline=None)
def test_encoding_and_decoding(pair, text):
    theirs, ours = pair
    tokens = ours.encode(text)
    assert tokens == theirs.encode(text, disallowed_special=())
    assert ours.decode([*tokens, ours.eot, ours.timestamp_begin + 3]) == text


@given(
    st.sampled_from(["", " "]),
    st.text("abcdeghinorstü", min_size=1) | st.text("-'\"([{<*♪", min_size=1),
)
@settings(max_examples=60, deadline=None)
def test_a_single_word_or_symbol_is_spelt_without_the_library(pair, space, word):
    theirs, ours = pair
    assert ours.spell(space + word) == ours.encode(space + word) == theirs.encode(space + word)


@given(st.lists(st.integers(0, 50255), max_size=12))
@settings(max_examples=60, deadline=None)
def test_decoding_any_tokens(pair, tokens):
    theirs, ours = pair
    assert ours.decode(tokens) == theirs.decode(tokens)


@pytest.mark.parametrize("language", ["en", "ja"])
@given(text=TEXTS, tokens=st.none() | st.lists(st.integers(0, 50255), max_size=12))
@settings(max_examples=60, deadline=None)
def test_words(pair, language, text, tokens):
    theirs, ours = pair
    tokens = ours.encode(text) if tokens is None else tokens
    split = theirs.split_tokens_on_unicode if language == "ja" else theirs.split_tokens_on_spaces
    try:
        words, parts = split(tokens)
    except IndexError:  # openai's tokenizer reads beyond the end for some incomplete characters
        assume(False)
    assert ours.words(tokens, language) == list(zip(words, parts, strict=True))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Тыңда, бұл қазақ тілі.", ["Тыңда", ",", " бұл", " қазақ", " тілі", "."]),
        ("Привіт, світе!", ["Привіт", ",", " світе", "!"]),
        ("don't stop", ["don't", " stop"]),
    ],
)
def test_words_of_real_sentences(pair, text, words):
    _, ours = pair
    assert [w for w, _ in ours.words(ours.encode(text), None)] == words


def small():
    special = ["endoftext", "startoftranscript", "en", "translate", "transcribe", "startoflm"]
    special += ["startofprev", "nospeech", "notimestamps"]
    return {
        "type": "whisper",
        "vocab": {"a": 0, "b": 1, "ab": 2},
        "merges": ["a b"],
        "special": {f"<|{name}|>": 3 + i for i, name in enumerate(special)},
        "multilingual": False,
    }


def test_from_a_description_and_back():
    for merges in (["a b"], [["a", "b"]]):
        ours = WhisperTokenizer.from_dict(small() | {"merges": merges})
        assert ours.encode("aab") == [0, 2]
        same(WhisperTokenizer.from_dict(ours.to_dict()), ours)


def test_merges_are_listed_only_where_they_do_not_follow_from_the_tokens():
    plain = WhisperTokenizer.from_dict(small())
    assert "merges" not in plain.to_dict()
    assert WhisperTokenizer.from_dict(plain.to_dict()).encode("aab") == [0, 2]
    none = WhisperTokenizer.from_dict(small() | {"merges": []})
    assert len(none.to_dict()["merges"]) == 0
    assert WhisperTokenizer.from_dict(none.to_dict()).encode("aab") == [0, 0, 1]


def test_published_merges_follow_from_the_tokens(pair):
    _, ours = pair
    assert "merges" not in ours.to_dict()


def same(one, other):
    np.testing.assert_equal(one.to_dict(), other.to_dict())


def test_tokens_that_are_none_stand_for_nothing():
    ours = WhisperTokenizer.from_dict(small() | {"vocab": {"a": 7, "b": 1, "ab": 2}})
    assert ours.names == ["", "b", "ab", "", "", "", "", "a"]
    assert ours.encode("ab") == [2]
    assert ours.decode([-1, 0, 1, 2, 999]) == "bab"
    assert ours.highest == 11


def test_from_a_folder_old_or_new(tmp_path):
    data = small()
    (tmp_path / "vocab.json").write_text(json.dumps(data["vocab"] | {"<|endoftext|>": 3}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\na b\n")
    added = {k: v for k, v in data["special"].items() if v != 3}
    (tmp_path / "added_tokens.json").write_text(json.dumps(added))
    old = WhisperTokenizer.from_folder(tmp_path, multilingual=False)
    same(old, WhisperTokenizer.from_dict(data))
    for merges in (["a b"], [["a", "b"]]):
        new = {
            "model": {"vocab": data["vocab"], "merges": merges},
            "added_tokens": [{"content": k, "id": v} for k, v in data["special"].items()],
        }
        (tmp_path / "tokenizer.json").write_text(json.dumps(new))
        again = WhisperTokenizer.from_folder(tmp_path, multilingual=False)
        same(again, old)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("vocab.json", "{}", "no tokenizer"),
        ("tokenizer.json", "[]", "damaged"),
        ("tokenizer.json", "{", "damaged"),
        ("tokenizer.json", "{}", "not a byte pair"),
        (
            "tokenizer.json",
            '{"model": {"vocab": {"a": -1}, "merges": []}, "added_tokens": []}',
            "readable",
        ),
        ("tokenizer.json", '{"model": {"vocab": {}, "merges": []}, "added_tokens": []}', "Whisper"),
    ],
)
def test_damaged_folders(tmp_path, name, content, says):
    (tmp_path / name).write_text(content)
    with pytest.raises(TyndaError, match=says):
        WhisperTokenizer.from_folder(tmp_path, multilingual=True)


@pytest.mark.parametrize("key", ["type", "vocab", "merges", "special", "multilingual"])
def test_damaged_descriptions(key):
    for value in (None, "x", [1], ["a a a"], {"a": "b"}, {"a": -1}, {"a": 2**70}, {"a": 0, "b": 0}):
        with pytest.raises(TyndaError):
            WhisperTokenizer.from_dict(small() | {key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pieces", None),
        ("pieces", np.zeros(3, np.uint8)),
        ("pieces", np.zeros((2, 2), np.uint8)),
        ("pieces", np.zeros(4, np.int32)),
        ("ends", np.array([], np.int32)),
        ("ends", np.array([1, 2, 3], np.int32)),
        ("ends", np.array([-1, 2, 4], np.int32)),
        ("ends", np.array([2, 1, 4], np.int32)),
        ("ends", np.array([2**31 - 1, -(2**31), 4], np.int32)),
        ("merges", np.array([[0, 3]], np.int32)),
        ("merges", np.array([[-1, 0]], np.int32)),
        ("merges", np.array([[0, 1, 2]], np.int32)),
    ],
)
def test_damaged_arrays(key, value):
    good = WhisperTokenizer.from_dict(small()).to_dict()
    with pytest.raises(TyndaError, match="readable"):
        WhisperTokenizer.from_dict(good | {key: value})


def test_a_byte_is_missing_or_spelt_strangely():
    with pytest.raises(TyndaError, match="no token for a byte of 'x'"):
        WhisperTokenizer.from_dict(small()).spell("x")
    with pytest.raises(TyndaError, match="spells a byte as GRINNING FACE"):
        WhisperTokenizer.from_dict(small() | {"vocab": {"a": 0, "b": 1, "😀": 2}})


def test_damaged_merges():
    with pytest.raises(TyndaError, match="merges"):
        WhisperTokenizer.from_dict(small() | {"merges": ["a c"]}).encode("a")
    with pytest.raises(TyndaError, match="merges"):
        WhisperTokenizer.from_dict(small() | {"merges": ["a"]}).encode("a")
