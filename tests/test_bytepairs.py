"""Byte pairs with bytes for the rest, against the ``tokenizers`` library."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from tynda.errors import TyndaError
from tynda.text.bytepairs import BytePairTokenizer


def theirs():
    """In the form of Llama's: specials, bytes, pieces, and specials behind them."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    names += [
        "\u2581",
        "\u2581t",
        "he",
        "\u2581the",
        "\u2581\u2581",
        "é",
        "日本",
        "<0x4",
        "s\u2581",
    ]
    vocab = {name: i for i, name in enumerate(names)}
    bpe = Tokenizer(BPE(vocab, [("\u2581t", "he")], byte_fallback=True, unk_token="<unk>"))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    bpe.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    bpe.add_special_tokens(["<unk>", "<s>", "</s>", *(f"<<ST_{i}>>" for i in range(5))])
    return bpe


THEIRS = theirs()
OURS = BytePairTokenizer.from_json(json.loads(THEIRS.to_str()), sot=1, eot=2)


@given(st.lists(st.integers(0, THEIRS.get_vocab_size() - 1), max_size=12))
@settings(max_examples=300, deadline=None)
def test_tokens_are_read_as_the_library_reads_them(tokens):
    assert OURS.decode(tokens) == THEIRS.decode(tokens)


@given(st.text(st.characters(exclude_characters="\u2581", codec="utf-8"), max_size=20))
@settings(max_examples=100, deadline=None)
def test_a_text_comes_back(text):
    # The library's normaliser begins even an empty text with a space.
    assert OURS.decode(THEIRS.encode(text).ids) == text


@given(st.text(st.sampled_from("the  é日本s4\n<0x"), max_size=20))
@settings(max_examples=300, deadline=None)
def test_a_text_is_spelt_as_the_library_spells_it(text):
    # The library's normaliser begins even an empty text with a space.
    assert OURS.encode(text) == (THEIRS.encode(text, add_special_tokens=False).ids if text else [])


def test_merges_as_pairs_and_as_lines():
    data = json.loads(THEIRS.to_str())
    pair = data["model"]["merges"][0]
    for merges in ([["\u2581t", "he"]], ["\u2581t he"]):
        data["model"]["merges"] = merges
        assert BytePairTokenizer.from_json(data, sot=1, eot=2).encode("the") == OURS.encode("the")
    assert pair in (["\u2581t", "he"], "\u2581t he")


def test_a_text_that_no_token_spells_is_refused():
    names = ["<unk>", "<s>", "</s>", "\u2581", "a"]
    data = {
        "model": {
            "vocab": {n: i for i, n in enumerate(names)},
            "merges": [],
            "byte_fallback": True,
        },
        "added_tokens": [],
    }
    tokenizer = BytePairTokenizer.from_json(data, sot=1, eot=2)
    assert tokenizer.encode("a a") == [3, 4, 3, 4]
    with pytest.raises(TyndaError, match=r"cannot spell 'é'"):
        tokenizer.encode("é")


def test_broken_bytes_are_one_replacement_each():
    tokens = [OURS.names.index(f"<0x{byte:02X}>") for byte in (0xE6, 0x97, 0xA5, 0xE6, 0x97)]
    assert OURS.decode(tokens[:3]) == "日"
    assert OURS.decode(tokens) == THEIRS.decode(tokens) == 5 * "\ufffd"
    # A special token prints nothing and does not part them.
    assert OURS.decode([*tokens[:2], 1, tokens[2]]) == "日"


def test_sizes_and_numbers():
    assert len(OURS) == THEIRS.get_vocab_size()
    assert OURS.names == [THEIRS.id_to_token(i) for i in range(len(OURS))]
    assert (OURS.sot, OURS.eot, OURS.timestamp_begin) == (1, 2, None)
    assert OURS.decode([5, len(OURS), -1, 10**9]) == "\x02"


def test_description_round_trip():
    data = OURS.to_dict()
    arrays = {name: data.pop(name) for name in ("pieces", "ends", "merges")}
    again = BytePairTokenizer.from_dict(json.loads(json.dumps(data)) | arrays)
    assert again.names == OURS.names
    assert again.encode("the he") == OURS.encode("the he")
    assert again.to_dict()["special"] == data["special"]


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "whisper"},
        {"pieces": None},
        {"pieces": np.zeros(3, np.int32)},
        {"ends": np.zeros((2, 2), np.int32)},
        {"ends": np.array([3, 1], np.int32)},
        {"ends": np.array([-1], np.int32)},
        {"merges": None},
        {"merges": np.zeros(2, np.int32)},
        {"merges": np.zeros((2, 3), np.int32)},
        {"merges": np.array([[0, 10**6]], np.int32)},
        {"special": [10**6]},
        {"special": ["a"]},
        {"special": None},
        {"sot": -1},
        {"eot": 10**6},
        {"eot": True},
    ],
)
def test_a_damaged_description_is_refused(changes):
    with pytest.raises(TyndaError, match="not readable"):
        BytePairTokenizer.from_dict(OURS.to_dict() | changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"byte_fallback": False}}, "no byte_fallback"),
        ({"model": 3}, "a byte pair"),
        ({"added_tokens": 3}, "a byte pair"),
        ({"added_tokens": [{"content": "a", "id": 10**9, "special": True}]}, "a byte pair"),
        ({"added_tokens": [{"content": "other", "id": 5, "special": True}]}, "a byte pair"),
        ({"model": {"byte_fallback": True, "vocab": {"a": "b"}, "merges": []}}, "a byte pair"),
        ({"model": {"byte_fallback": True, "vocab": {"\udc80": 0}, "merges": []}}, "a byte pair"),
        ({"model": {"byte_fallback": True, "vocab": {"a": 0}}}, "a byte pair"),
        ({"model": {"byte_fallback": True, "vocab": {"a": 0}, "merges": ["a b"]}}, "a byte pair"),
    ],
)
def test_a_damaged_file_is_refused(changes, says):
    with pytest.raises(TyndaError, match=says) as error:
        BytePairTokenizer.from_json(json.loads(THEIRS.to_str()) | changes, sot=1, eot=2)
    assert "\n" not in str(error.value)
