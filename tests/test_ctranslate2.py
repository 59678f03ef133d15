"""Folders of CTranslate2, as faster-whisper's, whole, damaged and hostile."""

import json
import shutil
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tynda
from foreign_files import (
    ctranslate2_bytes,
    ctranslate2_tensor,
    ctranslate2_tensors,
    read_folder,
    text,
    write_ctranslate2,
    write_small_folder,
)
from helpers import noise
from tynda.errors import TyndaError
from tynda.store import library
from tynda.weights.weight import floats
from whisper_peer import write_folder

OPTIONS = {"temperature": (0.0,), "max_new_tokens": 20}
OPTIONS |= {"no_speech_threshold": None, "speech_threshold": 0.0}
WEIGHTS = Path(__file__).parents[2] / "weights"
SPEECH = Path(__file__).parents[2] / "shared" / "data" / "audio" / "fixtures"
TOKENS = 374
"""The number of tokens of the small model."""
EMBEDDING = "model.decoder.embed_tokens.weight"
HEADS = [[0, 1], [1, 0]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model of the hub, in f16."""
    folder = tmp_path_factory.mktemp("hub") / "nano"
    write_folder(folder, layers=1, frames=1500, dtype=np.float16)
    (folder / "generation_config.json").write_text(json.dumps({"alignment_heads": HEADS}))
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A random model of the hub with few tokens, which is read fast."""
    return write_small_folder(tmp_path_factory.mktemp("small") / "nano")


@pytest.fixture(scope="module")
def parts(small):
    """Settings, and tensors by name and in the format's own bytes, in 8 bits."""
    settings, tensors, _ = read_folder(small)
    return settings, tensors, ctranslate2_tensors(settings, tensors, "int8")


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    return write_ctranslate2(tmp_path_factory.mktemp("whole") / "a", small, "int8")


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of a folder for tests that damage it."""
    return shutil.copytree(whole, tmp_path / "a")


@pytest.mark.parametrize(("kind", "tokenizer"), [("float32", True), ("float16", False)])
def test_a_folder_is_the_same_as_the_hubs(folder, tmp_path, kind, tokenizer):
    path = write_ctranslate2(tmp_path / "a", folder, kind, tokenizer=tokenizer, heads=HEADS)
    ours, hub = tynda.load(path), tynda.load(folder)
    mine, theirs = ours.checkpoint, hub.checkpoint
    assert (mine.config, mine.frontend) == (theirs.config, theirs.frontend)
    assert mine.header.decoding == theirs.header.decoding
    assert mine.header.languages == theirs.header.languages
    assert mine.tokenizer.names == theirs.tokenizer.names[: len(mine.tokenizer.names)]
    assert np.array_equal(mine.tokenizer.merges, theirs.tokenizer.merges)
    for name, value in theirs.weights.items():
        np.testing.assert_array_equal(mine.weights[name], value)
    options = OPTIONS | {"word_timestamps": True}
    texts = [model.transcribe(noise(4), **options).to_dict() for model in (ours, hub)]
    assert texts[0]["segments"] == texts[1]["segments"] != []


@pytest.mark.parametrize("kind", ["int8", "int8_float16", "int8_float32", "int8_bfloat16"])
def test_codes_of_8_bits_stay_as_they_are(small, tmp_path, kind):
    ours = library.load(write_ctranslate2(tmp_path / "a", small, kind))
    for name, value in library.load(small).weights.items():
        found = ours.weights[name]
        if value.ndim == 1 or "positions" in name:
            tolerance = {"int8_bfloat16": 2**-7}.get(kind, 0)
            np.testing.assert_allclose(found, value, rtol=tolerance)
            continue
        rows = np.abs(value.reshape(len(value), -1)).max(1)
        scale = (127 / rows).reshape(-1, *[1] * (value.ndim - 1))
        codes = np.rint(value * scale)
        np.testing.assert_array_equal(found.codes, codes)
        np.testing.assert_allclose(floats(found), codes / scale, rtol=3e-7)


def test_codes_are_multiplied_as_tyndas_own(folder, tmp_path):
    """Weights are rounded to 8 bits in the same way here and there."""
    ours = tynda.load(write_ctranslate2(tmp_path / "a", folder, "int8"))
    texts = [m.transcribe(noise(4), **OPTIONS).text for m in (ours, tynda.load(folder, bits=8))]
    assert texts[0] == texts[1] != ""
    tynda.quantize(tmp_path / "a", tmp_path / "a.safetensors", 4)
    assert tynda.load(tmp_path / "a.safetensors").transcribe(noise(4), **OPTIONS).text


def test_codes_of_16_bits_and_bfloat16(small, tmp_path):
    for kind, tolerance in (("int16", 2**-10), ("bfloat16", 2**-7)):
        ours = library.load(write_ctranslate2(tmp_path / kind, small, kind))
        for name, value in library.load(small).weights.items():
            assert ours.weights[name].dtype == np.float32
            limit = tolerance * np.abs(value).max()
            np.testing.assert_allclose(ours.weights[name], value, atol=limit, rtol=0)


def test_a_folder_is_shown(whole):
    assert library.show(str(whole))["family"] == "whisper"
    assert library.show(str(whole))["bytes"] == (whole / "model.bin").stat().st_size


def test_further_names_of_tensors(parts, copy):
    """The converter writes equal tensors once."""
    settings, tensors, _ = parts
    norms = {n: np.ones_like(v) for n, v in tensors.items() if n.endswith("layer_norm.weight")}
    found = ctranslate2_tensors(settings, tensors | norms, "float32")
    last, kept = text("decoder/layer_norm/gamma"), "encoder/layer_norm/gamma"
    (gone,) = [i for i, data in enumerate(found) if data.startswith(last)]
    model = ctranslate2_bytes(
        found[:gone] + found[gone + 1 :], aliases=[("decoder/layer_norm/gamma", kept)]
    )
    (copy / "model.bin").write_bytes(model)
    assert (library.load(copy).weights["model.decoder.layer_norm.weight"] == 1).all()


@pytest.mark.parametrize("name", ["vocabulary.json", "vocabulary.txt"])
def test_tokens_from_a_vocabulary(copy, name):
    expected = library.load(copy).tokenizer
    (copy / "tokenizer.json").unlink()
    if name == "vocabulary.txt":
        words = json.loads((copy / "vocabulary.json").read_text())
        (copy / "vocabulary.json").unlink()
        (copy / name).write_text("".join(f"{word}\n" for word in words))
    found = library.load(copy).tokenizer
    assert found.encode("Kathleen's 12 résumés") == expected.encode("Kathleen's 12 résumés")
    assert found.languages == expected.languages
    for damage in (b"{", b"[1]", b"[" * 100_000, b"\xff"):
        (copy / name).write_bytes(damage)
        with pytest.raises(TyndaError):
            library.load(copy)
    (copy / name).unlink()
    with pytest.raises(TyndaError, match=r"neither tokenizer\.json nor vocabulary\.json"):
        library.load(copy)


def test_content_tells_the_format(small, copy, tmp_path):
    both = shutil.copytree(small, tmp_path / "both")
    shutil.copy(copy / "model.bin", both)
    assert library.load(both).weights[EMBEDDING].dtype == np.float32  # of the hub
    with pytest.raises(TyndaError, match="part of a CTranslate2 model: give its folder"):
        library.load(copy / "model.bin")
    (copy / "config.json").unlink()  # older versions wrote none
    layers, heads = library.load(copy).config.decoder_layers, library.load(copy).config.heads
    assert library.load(copy).header.decoding["alignment_heads"] == [
        (layer, head) for layer in range(layers // 2, layers) for head in range(heads)
    ]
    (copy / "config.json").write_text("{")
    with pytest.raises(TyndaError, match=r"config\.json is damaged"):
        library.load(copy)


def refused(copy, model, says=None):
    """Check that this ``model.bin`` is refused in one line, without memory for its sizes."""
    (copy / "model.bin").write_bytes(model)
    tracemalloc.start()
    try:
        with pytest.raises(TyndaError, match=says) as caught:
            library.load(copy)
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "version", "says"),
    [
        ("TransformerSpec", 6, "'TransformerSpec' are not known; known: ggml, WhisperSpec"),
        ("WhisperSpec", 3, "version 3, not one from 4 to 6"),
        ("WhisperSpec", 7, "version 7"),
        ("WhisperSpec", 0x6C6D6767, "version"),
    ],
)
def test_other_models(parts, copy, spec, version, says):
    refused(copy, ctranslate2_bytes(parts[2], spec, version), says)


def tensor(name, shape, kind=0, size=None, data=b""):
    axes = struct.pack(f"<B{len(shape)}I", len(shape), *shape)
    return text(name) + axes + struct.pack("<BI", kind, len(data) if size is None else size) + data


HUGE = 2**32 - 1


@pytest.mark.parametrize(
    ("added", "says"),
    [
        (tensor("x", (HUGE, HUGE)), "another size"),
        (tensor("x", [HUGE] * 255), "another size"),
        (tensor("x", (2**30,), 1, 2**30), "truncated"),
        (tensor("x", (0,)), "empty"),
        (tensor("x", (1,), 9, 4, b"abcd"), "number 9"),
        (tensor("decoder/num_heads", (), 1, 1, b"a"), "twice"),
        (struct.pack("<H", 65535), "too long"),
        (struct.pack("<H", 0), "empty"),
        (b"\x02\0\xff\0", "not text"),
    ],
)
def test_hostile_tensors(parts, copy, added, says):
    refused(copy, ctranslate2_bytes([*parts[2], added]), says)


def without(tensors, name):
    return [data for data in tensors if not data.startswith(text(name))]


@pytest.mark.parametrize(
    ("name", "new", "says"),
    [
        ("encoder/conv1/weight", None, "encoder/conv1/weight is missing"),
        ("encoder/conv1/bias", None, "encoder/conv1/bias is missing"),
        ("encoder/num_heads", None, "num_heads is missing"),
        ("decoder/embeddings/weight_scale", None, "integers without scales"),
        ("encoder/conv1/weight", np.zeros((32, 80)), "2 axes, not 3"),
        ("encoder/layer_0/self_attention/linear_0/weight", np.zeros((64, 32)), "does not fit"),
        ("decoder/layer_norm/gamma", np.zeros(31), "does not fit"),
        ("decoder/layer_norm/gamma", np.array(1.0), "does not fit"),
        ("decoder/layer_norm/gamma", np.full(32, np.nan), "not finite"),
        ("decoder/embeddings/weight_scale", np.zeros(TOKENS), "not finite"),
        ("decoder/embeddings/weight_scale", np.full(TOKENS, np.nan), "not finite"),
        ("decoder/embeddings/weight_scale", np.full(TOKENS, 1e-40), "not finite"),
        ("decoder/embeddings/weight_scale", np.ones(TOKENS - 1), "does not fit its codes"),
        ("encoder/layer_9999/layer_norm/gamma", np.ones(32), "layers are missing"),
        ("encoder/layer_3/layer_norm/gamma", np.ones(32), "is missing"),
    ],
)
def test_tensors_that_do_not_fit(parts, copy, name, new, says):
    tensors = without(parts[2], name)
    if new is not None:
        tensors.append(ctranslate2_tensor(name, new, "float32"))
    refused(copy, ctranslate2_bytes(tensors), says)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("encoder/num_heads", 0, "heads must be"),
        ("encoder/num_heads", -1, "heads must be"),
        ("encoder/num_heads", 7, "7 heads"),
        ("decoder/activation", 0, "not gelu"),
        ("decoder/pre_norm", 0, "norms follow"),
    ],
)
def test_numbers_that_do_not_fit(parts, copy, name, value, says):
    changed = ctranslate2_tensor(name, np.array(value), "int16")
    refused(copy, ctranslate2_bytes([*without(parts[2], name), changed]), says)


def test_hostile_counts(parts, copy):
    head = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<I", 3)
    refused(copy, head + struct.pack("<I", HUGE), f"{HUGE} tensors")
    refused(copy, head + struct.pack("<I", 65536), "truncated")
    model = ctranslate2_bytes(parts[2])
    refused(copy, model[:-4] + struct.pack("<I", HUGE), f"{HUGE} tensors")
    refused(copy, ctranslate2_bytes(parts[2], aliases=[("a", "b")]), "tensor b is missing")


@pytest.mark.parametrize("size", [0, 1, 4, 5, 10, 24, 1000, 20_000, -1, -4])
def test_truncated_files(whole, copy, size):
    refused(copy, (whole / "model.bin").read_bytes()[:size], "truncated|empty")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_damaged_files_are_read_or_refused(whole, tmp_path_factory, data):
    """A few bytes are others, most of them in the descriptions of tensors."""
    model = (whole / "model.bin").read_bytes()
    names = (b"encoder/conv1/bias", b"decoder/layer_0/ffn/linear_0/weight", b"encoder/num_heads")
    starts = [0, *(model.index(name) for name in names)]
    near = st.builds(int.__add__, st.sampled_from(starts), st.integers(0, 60))
    anywhere = st.integers(0, len(model) - 1)
    damaged = bytearray(model)
    for at in data.draw(st.lists(st.one_of(near, anywhere), min_size=1, max_size=4)):
        damaged[at] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.getbasetemp() / "damaged"
    shutil.copytree(whole, folder, dirs_exist_ok=True)
    cut = data.draw(st.one_of(st.just(len(damaged)), anywhere))
    (folder / "model.bin").write_bytes(damaged[:cut])
    with suppress(TyndaError):
        library.load(folder)


@pytest.mark.parametrize(
    "kind", ["float32", "float16", "bfloat16", "int8", "int8_float16", "int16"]
)
def test_the_converters_own_folders(folder, tmp_path, kind):
    """The weights of CTranslate2's converter are those that `write_ctranslate2` writes."""
    converters = pytest.importorskip("ctranslate2", reason="needs ctranslate2").converters
    hub = shutil.copytree(folder, tmp_path / "hub")
    described = json.loads((hub / "tokenizer.json").read_text())
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [token | flags | {"special": True} for token in described["added_tokens"]]
    model = described["model"] | {"type": "BPE"}
    whole = {"version": "1.0", "added_tokens": added, "model": model}
    (hub / "tokenizer.json").write_text(json.dumps(whole))
    converters.TransformersConverter(str(hub)).convert(tmp_path / "a", quantization=kind)
    theirs = library.load(tmp_path / "a").weights
    ours = library.load(write_ctranslate2(tmp_path / "b", folder, kind)).weights
    for name, value in ours.items():
        np.testing.assert_allclose(floats(theirs[name]), floats(value), rtol=2**-7, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["tiny.en", "base"])
def test_published_models(size):
    """The text, its times and tokens are those of the hub's folder."""
    folder = WEIGHTS / f"whisper-{size}"
    if not (folder / "ctranslate2").is_dir() or not SPEECH.is_dir():
        pytest.skip(f"needs ../weights/whisper-{size} and the recordings in ../shared/data")
    ours, hub = tynda.load(folder / "ctranslate2"), tynda.load(folder)
    assert ours.header.decoding == hub.header.decoding
    for name in ("jfk", "beckett", "61-70968-0000"):
        found = [m.transcribe(SPEECH / f"{name}.flac", language="en") for m in (ours, hub)]
        assert found[0].to_dict()["segments"] == found[1].to_dict()["segments"]
        assert found[0].text
