"""Files of whisper.cpp, whole, damaged and hostile."""

import base64
import gzip
import struct
import tracemalloc
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tynda
from foreign_files import ggml_head, read_folder, token_bytes, write_ggml
from helpers import noise
from tynda.errors import TyndaError
from tynda.models.whisper_foreign import LANGUAGES, known_heads, special_tokens
from tynda.store import library
from tynda.weights.blocks import FORMATS
from whisper_peer import openai, write_folder

OPTIONS = {"temperature": (0.0,), "max_new_tokens": 20}
OPTIONS |= {"no_speech_threshold": None, "speech_threshold": 0.0}
WEIGHTS = Path(__file__).parents[2] / "weights"
SPEECH = Path(__file__).parents[2] / "shared" / "data" / "audio" / "fixtures"
BLOCKS = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model of the hub, in f16."""
    folder = tmp_path_factory.mktemp("hub") / "nano"
    write_folder(folder, layers=1, frames=1500, dtype=np.float16)
    return folder


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A file with weights in q4_0, to damage."""
    return write_ggml(tmp_path_factory.mktemp("ggml") / "a.bin", folder, "q4_0").read_bytes()


@contextmanager
def little_memory(limit):
    """Check the peak of the memory that Python and NumPy allocate, in bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def same_model(ours, hub):
    """Check that all but the weights are equal; ``decoding`` has the alignment heads."""
    assert ours.config == hub.config
    assert ours.frontend == hub.frontend
    assert ours.header.languages == hub.header.languages
    assert ours.header.decoding == hub.header.decoding
    assert ours.tokenizer.names == hub.tokenizer.names[: len(ours.tokenizer.names)]
    assert np.array_equal(ours.tokenizer.merges, hub.tokenizer.merges)
    assert ours.tokenizer.languages == hub.tokenizer.languages
    for name in ("eot", "sot", "translate", "transcribe", "sot_prev", "no_timestamps", "blanks"):
        assert getattr(ours.tokenizer, name) == getattr(hub.tokenizer, name)


@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_a_file_is_the_same_as_the_folder(folder, tmp_path, kind):
    path = write_ggml(tmp_path / "model.safetensors", folder, kind)  # the name means nothing
    ours, hub = tynda.load(path), tynda.load(folder)
    same_model(ours.checkpoint, hub.checkpoint)
    assert ours.header.name == "model"
    assert ours.bytes == path.stat().st_size
    for name, value in hub.checkpoint.weights.items():
        np.testing.assert_array_equal(ours.checkpoint.weights[name], value)
    options = OPTIONS | {"word_timestamps": True}
    texts = [model.transcribe(noise(4), **options).to_dict() for model in (ours, hub)]
    assert texts[0]["segments"] == texts[1]["segments"] != []
    prompt = "Kathleen's 12 résumés"
    assert ours.checkpoint.tokenizer.encode(prompt) == hub.checkpoint.tokenizer.encode(prompt)


@pytest.mark.parametrize(("multilingual", "languages"), [(False, 99), (True, 100)])
def test_tokens_follow_from_their_number(tmp_path, multilingual, languages):
    changes = {"layers": 1, "decoder_layers": 1}
    write_folder(tmp_path / "a", multilingual=multilingual, languages=languages, **changes)
    path = write_ggml(tmp_path / "a.bin", tmp_path / "a", "f16")
    same_model(library.load(path), library.load(tmp_path / "a"))
    row = library.show(str(path))
    assert (row["family"], row["bytes"]) == ("whisper", path.stat().st_size)


def test_special_tokens_and_heads_are_those_of_openai():
    assert tuple(import_module("whisper.tokenizer").LANGUAGES) == LANGUAGES
    assert special_tokens(51864)["<|endoftext|>"] == 50256
    assert special_tokens(51866)["<|notimestamps|>"] == 50364
    sizes = {
        "tiny.en": (4, 4, 51864, 6),
        "tiny": (4, 4, 51865, 6),
        "base.en": (6, 6, 51864, 8),
        "base": (6, 6, 51865, 8),
        "small.en": (12, 12, 51864, 12),
        "small": (12, 12, 51865, 12),
        "medium.en": (24, 24, 51864, 16),
        "medium": (24, 24, 51865, 16),
        "large-v3": (32, 32, 51866, 20),
        "turbo": (32, 4, 51866, 20),
    }
    for name, (layers, text_layers, vocab, heads) in sizes.items():
        mask = np.frombuffer(gzip.decompress(base64.b85decode(openai._ALIGNMENT_HEADS[name])), bool)
        expected = np.argwhere(mask.reshape(text_layers, heads)).tolist()
        assert [[*pair] for pair in known_heads(layers, text_layers, vocab)] == expected
    assert known_heads(32, 32, 51865) == []  # large-v1 and large-v2 have other heads each


def plain_block(data, kind):
    """The 32 weights of a block, one after the other, from ggml's description."""
    scale = struct.unpack_from("<e", data)[0]
    if kind == "q8_0":
        return [np.float32(scale) * np.float32(c) for c in struct.unpack_from("<32b", data, 2)]
    offset = struct.unpack_from("<e", data, 2)[0] if kind.endswith("1") else 0.0
    start = 4 if kind.endswith("1") else 2
    fifth = 0
    if kind.startswith("q5"):
        fifth = struct.unpack_from("<I", data, start)[0]
        start += 4
    values = []
    for i in range(32):
        code = data[start + i % 16] >> 4 * (i // 16) & 15 | (fifth >> i & 1) << 4
        if not kind.endswith("1"):
            code -= 16 if kind.startswith("q5") else 8
        values.append(np.float32(scale) * np.float32(code) + np.float32(offset))
    return values


FORMAT = {each.name: each for each in FORMATS.values()}


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_by_hand(kind):
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (6, FORMAT[kind].size), np.uint8)
    blocks[:, :4] = np.array([0.5, -3.0], "<f2").view(np.uint8)[None]
    found = FORMAT[kind].floats(blocks.reshape(-1), (2, 96))
    expected = [plain_block(block.tobytes(), kind) for block in blocks]
    np.testing.assert_array_equal(found, np.array(expected).reshape(2, 96))


@pytest.mark.parametrize("kind", BLOCKS)
def test_blocks_are_those_of_gguf(kind):
    gguf = pytest.importorskip("gguf", reason="needs gguf, ggml's own package")
    quants, type_ = gguf.quants, gguf.GGMLQuantizationType[kind.upper()]
    value = np.random.default_rng(1).standard_normal((40_000, 32)).astype(np.float32)
    packed = quants.quantize(value, type_)
    found = FORMAT[kind].floats(np.ascontiguousarray(packed).reshape(-1), value.shape)
    np.testing.assert_array_equal(found, quants.dequantize(packed, type_))


@pytest.mark.parametrize("kind", [*BLOCKS, "bf16"])
def test_quantised_files(folder, tmp_path, kind):
    ours = library.load(write_ggml(tmp_path / "a.bin", folder, kind)).weights
    error = {"bf16": 2**-7, "q8_0": 1 / 100, "q5": 1 / 12, "q4": 1 / 6}
    tolerance = error.get(kind) or error[kind[:2]]
    for name, value in library.load(folder).weights.items():
        assert ours[name].dtype == np.float32
        np.testing.assert_allclose(ours[name], value, atol=tolerance * np.abs(value).max())


def test_a_file_is_quantised_and_transcribed(folder, tmp_path):
    path = write_ggml(tmp_path / "a.bin", folder, "q8_0")
    tynda.quantize(path, tmp_path / "a.safetensors", 4)
    model = tynda.load(tmp_path / "a.safetensors")
    assert model.transcribe(noise(4), **OPTIONS).text
    assert model.bytes < path.stat().st_size


def refused(path, data, says=None, memory=None):
    """Check that this file is refused in one line, without memory for what it states."""
    path.write_bytes(data)
    with (
        little_memory(memory) if memory else nullcontext(),
        pytest.raises(TyndaError, match=says) as caught,
    ):
        library.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.fixture(scope="module")
def parts(folder):
    """Settings, tokens and all that precedes the tensors."""
    settings, tensors, tokenizer = read_folder(folder)
    tokens = token_bytes(tokenizer)
    return settings, tokens, tensors


HUGE = 2**31 - 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vocab": 50257}, "50257 tokens; a Whisper has 51864 to 51866"),
        ({"vocab": HUGE}, "tokens"),
        ({"frames": HUGE}, "frames"),
        ({"frames": 0}, "frames"),
        ({"channels": 64}, "64 and 32 channels"),
        ({"channels": 65536, "width": 65536}, "hidden must be"),
        ({"heads": 65536}, "heads"),
        ({"heads": -1}, "heads"),
        ({"layers": 65536, "text_layers": 65536}, "layers are missing"),
        ({"layers": 2}, "is missing"),
        ({"context": 449}, "does not fit"),
        ({"bins": 128}, "does not fit"),
    ],
)
def test_hostile_sizes(parts, whole, tmp_path, changes, says):
    settings, tokens, _ = parts
    rest = whole[len(ggml_head(settings, tokens)) :]
    refused(tmp_path / "a.bin", ggml_head(settings, tokens, **changes) + rest, says, 40e6)


FILTERS = 56 + 80 * 201 * 4
"""Where the number of tokens is."""


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (48, HUGE, "truncated"),  # bins of the filters
        (48, -1, "negative"),
        (FILTERS, HUGE, "2147483647 tokens"),
        (FILTERS, -1, "-1 tokens"),
        (FILTERS, 100, "100 tokens|axes|name"),
        (FILTERS + 4, HUGE, "truncated"),  # length of the first token
        (FILTERS + 4, -1, "truncated"),
    ],
)
def test_hostile_tables(whole, tmp_path, at, value, says):
    data = whole[:at] + struct.pack("<i", value) + whole[at + 4 :]
    refused(tmp_path / "a.bin", data, says, 40e6)


def tensor(name="decoder.ln.weight", shape=(32,), kind=0, axes=None, length=None, data=b"\0" * 128):
    about = struct.pack("<3i", axes or len(shape), length or len(name), kind)
    return about + struct.pack(f"<{len(shape)}i", *shape) + name.encode() + data


@pytest.mark.parametrize(
    ("added", "says"),
    [
        (tensor(), "twice"),
        (tensor("x", data=b""), "truncated"),
        (tensor("x", (HUGE, HUGE, HUGE, HUGE)), "truncated"),
        (tensor("x", (HUGE, 32), kind=2), "no multiple"),
        (tensor("x", (32, HUGE), kind=2), "truncated"),
        (tensor("x", (-32,)), "length -32"),
        (tensor("x", (0,), data=b""), "length 0"),
        (tensor("x", axes=5), "5 axes"),
        (tensor("x", axes=-1), "-1 axes"),
        (tensor("x", kind=14), "number 14, not one of f32"),
        (tensor("x", length=HUGE), "too long"),
        (tensor("x", length=-1), "too long"),
        (tensor("x").replace(b"x", b"\xff"), "not text"),
        (b"\0", "truncated"),
    ],
)
def test_hostile_tensors(whole, tmp_path, added, says):
    refused(tmp_path / "a.bin", whole + added, says)


def test_many_empty_tensors_end_soon(whole, tmp_path):
    many = b"".join(tensor(f"{i:06}", (1,), data=b"\0\0\0\0") for i in range(70_000))
    refused(tmp_path / "a.bin", whole + many, "too many")


@pytest.mark.parametrize("kind", ["f32", "q8_0"])
def test_values_that_are_not_finite(parts, folder, tmp_path, kind):
    data = write_ggml(tmp_path / "a.bin", folder, kind).read_bytes()
    start = data.index(b"decoder.token_embedding.weight") + len("decoder.token_embedding.weight")
    broken = np.array([np.inf], "<f4" if kind == "f32" else "<f2").tobytes()
    refused(tmp_path / "a.bin", data[:start] + broken + data[start + len(broken) :], "not finite")


@pytest.mark.parametrize("size", [4, 5, 47, 48, 55, 5000, 65_000, 300_000, -1])
def test_truncated_files(whole, tmp_path, size):
    refused(tmp_path / "a.bin", whole[:size], "truncated")


def test_other_files_are_no_models_of_ggml(tmp_path):
    silero = b"lmgg" + struct.pack("<i", 10) + b"silero-16k" + bytes(64)
    refused(tmp_path / "a.bin", silero)
    for data in (b"", b"lmg", b"GGUF" + bytes(100), bytes(1000)):
        refused(tmp_path / "a.bin", data)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_damaged_files_are_read_or_refused(whole, tmp_path_factory, data):
    """A few bytes are others, among them the sizes at the beginning and those of tensors."""
    damaged = bytearray(whole)
    first = whole.index(b"encoder.") - 30
    near = st.one_of(st.integers(0, 70), st.integers(first, first + 200))
    anywhere = st.integers(0, len(whole) - 1)
    for at in data.draw(st.lists(st.one_of(near, anywhere), min_size=1, max_size=4)):
        damaged[at] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.write_bytes(damaged[: data.draw(st.one_of(st.just(len(damaged)), anywhere))])
    with suppress(TyndaError):
        library.load(path)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny.en", "base"])
def test_published_models(tmp_path, size):
    """The text, its times and tokens are those of the folder that the file was made of."""
    folder = WEIGHTS / f"whisper-{size}"
    if not folder.is_dir() or not SPEECH.is_dir():
        pytest.skip(f"needs ../weights/whisper-{size} and the recordings in ../shared/data")
    path = write_ggml(tmp_path / "a.bin", folder, "f16")
    ours, hub = tynda.load(path), tynda.load(folder)
    assert ours.header.decoding == hub.header.decoding
    for name in ("jfk", "beckett", "61-70968-0000"):
        found = [m.transcribe(SPEECH / f"{name}.flac", language="en") for m in (ours, hub)]
        assert found[0].to_dict()["segments"] == found[1].to_dict()["segments"]
        assert found[0].text
