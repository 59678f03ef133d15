"""Model files: written files are read, and invalid ones are rejected in one line.

Nothing in a model file can run code: safetensors holds numbers and text, no pickles; the
header is JSON; the family is looked up in a fixed tuple of names; and a language model is
accepted as ARPA text only, never in kenlm's binary format.
"""

import json
import lzma
import math
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from helpers import CONFIG, header, read_raw, save_tiny, weights, write_raw
from tynda.errors import TyndaError
from tynda.files import write_whole
from tynda.heads.ctc import ngram
from tynda.heads.ctc.options import CTCOptions
from tynda.model import Model
from tynda.store import checkpoint
from tynda.weights.weight import dequantize_all


def refused(path, *words):
    """Return the message with which a file is rejected; it names the file and is one line."""
    with pytest.raises(TyndaError) as caught:
        checkpoint.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for word in words:
        assert word in message
    return message


def changed(tmp_path, tensors=None, **values):
    """Write the tiny model with tensors (None: removed) and header values replaced."""
    old_tensors, old_values = read_raw(save_tiny(tmp_path / "good.safetensors", bits=8))
    new = {k: v for k, v in (old_tensors | (tensors or {})).items() if v is not None}
    return write_raw(tmp_path / "changed.safetensors", new, old_values | values)


@pytest.mark.parametrize("bits", [32, 16])
def test_floats_come_back_as_they_were_stored(tmp_path, bits):
    model = checkpoint.load(save_tiny(tmp_path / "m.safetensors", bits=bits))
    expected = weights()
    assert model.weights.keys() == expected.keys()
    for name, value in expected.items():
        stored = value.astype(np.float16).astype(np.float32) if bits == 16 else value
        np.testing.assert_array_equal(model.weights[name], stored)
        assert model.weights[name].dtype == np.float32


def test_eight_bits_err_by_at_most_half_a_scale(tmp_path):
    path = save_tiny(tmp_path / "m.safetensors", bits=8)
    tensors, _ = read_raw(path)
    read = dequantize_all(checkpoint.load(path).weights)
    for name, value in weights().items():
        if value.ndim == 1:
            np.testing.assert_array_equal(read[name], value.astype(np.float16))
            continue
        assert tensors[name].dtype == np.int8
        rows = value.reshape(len(value), -1)
        error = np.abs(read[name].reshape(rows.shape) - rows).max(1)
        # 2 ** -11: the scale itself is rounded to f16.
        step = np.abs(rows).max(1) / 127 * (1 + 2**-11)
        assert (error <= step / 2 + 1e-7).all()
        assert error.max() > 0


def test_a_row_of_zeros_and_a_transposed_matrix_survive_eight_bits(tmp_path):
    values = weights()
    name = "blocks.0.ff1.in.weight"
    values[name] = np.zeros((16, 16), np.float32).T
    values[name][3] = np.linspace(-1.27, 1.27, 16)
    checkpoint.save_model(tmp_path / "m.safetensors", header(), values, bits=8)
    read = dequantize_all(checkpoint.load(tmp_path / "m.safetensors").weights)[name]
    np.testing.assert_array_equal(read[[0, 1, 2, 4]], 0)
    np.testing.assert_allclose(read[3], values[name][3], atol=0.00502)


def test_eight_bits_take_about_a_quarter_of_the_bytes(tmp_path):
    sizes = {
        bits: checkpoint.load(save_tiny(tmp_path / f"{bits}.safetensors", bits=bits))
        for bits in (8, 32)
    }
    assert sizes[32].bytes == (tmp_path / "32.safetensors").stat().st_size
    assert sizes[8].bytes < 0.55 * sizes[32].bytes  # the header is a large part of so small a file


def test_the_header_and_the_language_model_come_back(tmp_path):
    arpa = ngram.train(["one two", "two one two"], 2)
    extras = {
        "decoding": {"beam_size": 8, "alpha": 0.5, "beta": -1.0, "unknown_penalty": 3.0},
        "training": {"command": "tynda train ü"},
        "scores": {"dev": {"wer": 0.25, "cer": None}},
    }
    path = save_tiny(tmp_path / "m.safetensors", lm=ngram.pack(arpa), **extras)
    model = checkpoint.load(path)
    assert model.header == header(**extras) == checkpoint.read_header(path)
    assert ngram.unpack(model.lm) == arpa
    assert model.frontend.bins == model.config.bins == 8
    assert checkpoint.load(save_tiny(tmp_path / "n.safetensors")).lm is None


@pytest.mark.parametrize("bits", [4, 0, 64])
def test_other_widths_are_a_programming_error(tmp_path, bits):
    with pytest.raises(ValueError, match="8, 16 or 32"):
        save_tiny(tmp_path / "m.safetensors", bits=bits)


@pytest.mark.parametrize(("bits", "value"), [(32, np.nan), (8, np.inf), (16, 7e4), (8, 1e7)])
def test_weights_that_a_width_cannot_hold_are_not_written(tmp_path, bits, value):
    values = weights()
    values["head.weight"][2, 3] = value
    with pytest.raises(TyndaError, match=r"head\.weight"):
        checkpoint.save_model(tmp_path / "m.safetensors", header(), values, bits=bits)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_older_file(tmp_path):
    path = save_tiny(tmp_path / "m.safetensors", bits=8)
    before = path.read_bytes()
    resource = pytest.importorskip("resource")  # not on Windows
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
    try:
        with pytest.raises(TyndaError, match="cannot write"):
            save_tiny(path, bits=32)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["no/such/folder/m.safetensors", "file/m.safetensors"])
def test_saving_where_there_is_no_folder_is_said_in_one_line(tmp_path, name):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(TyndaError, match="cannot write"):
        save_tiny(tmp_path / name)


def test_saving_over_a_folder_is_refused(tmp_path):
    (tmp_path / "m.safetensors").mkdir()
    with pytest.raises(TyndaError, match="cannot write"):
        save_tiny(tmp_path / "m.safetensors")
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_a_missing_tensor_is_named(tmp_path):
    path = changed(tmp_path, {"blocks.0.conv.in.weight": None})
    refused(path, "blocks.0.conv.in.weight", "missing")


def test_a_missing_scale_is_named(tmp_path):
    refused(changed(tmp_path, {"head.weight.scale": None}), "head.weight.scale", "missing")


def test_a_scale_that_does_not_fit_is_refused(tmp_path):
    path = changed(tmp_path, {"head.weight.scale": np.ones(3, np.float16)})
    refused(path, "head.weight.scale", "fit")


def test_a_wrong_shape_is_named_with_both_shapes(tmp_path):
    path = changed(tmp_path, {"head.bias": np.zeros(28, np.float16)})
    refused(path, "head.bias", "(28,)", "(29,)")


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.bool_])
def test_a_tensor_of_another_type_is_refused(tmp_path, dtype):
    refused(changed(tmp_path, {"head.bias": np.zeros(29, dtype)}), "head.bias")


@pytest.mark.parametrize(("dtype", "width"), [("BF16", 2), ("F8_E4M3", 1)])
@pytest.mark.parametrize("name", ["head.bias", "head.weight.scale", "lm"])
def test_types_that_numpy_does_not_know_are_refused(tmp_path, dtype, width, name):
    path = changed(tmp_path, {name: np.zeros(29 * width, np.uint8)})
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    entries = json.loads(data[8 : 8 + size])
    entries[name] |= {"dtype": dtype, "shape": [29]}
    text = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    refused(path, name, dtype)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_damage(tmp_path, value):
    bias = np.zeros(29, np.float16)
    bias[4] = value
    refused(changed(tmp_path, {"head.bias": bias}), "head.bias", "finite")


def test_a_scale_that_is_not_finite_is_damage(tmp_path):
    scale = np.full(29, np.nan, np.float16)
    refused(changed(tmp_path, {"head.weight.scale": scale}), "head.weight", "finite")


def test_a_newer_format_asks_for_an_upgrade(tmp_path):
    refused(changed(tmp_path, format=checkpoint.FORMAT + 1), "upgrade")


@pytest.mark.parametrize("format", [0, -1, True, "1", 1.0, None])
def test_a_format_that_is_no_version_is_no_reason_to_upgrade(tmp_path, format):
    assert "upgrade" not in refused(changed(tmp_path, format=format), "format", repr(format))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("beam_size", value) for value in (0, 1025, 2.0, True)),
        *(("alpha", value) for value in (-1, 1e308, math.nan, True)),
        *(("beta", value) for value in (-math.inf, math.inf, math.nan)),
    ],
)
def test_settings_out_of_bounds_are_refused(tmp_path, key, value):
    refused(changed(tmp_path, decoding={key: value}), key)


@pytest.mark.parametrize("values", [{"licence": "\ud800"}, {"scores": {"\udfff": {"wer": 0}}}])
def test_a_header_with_half_a_character_is_damage(tmp_path, values):
    refused(changed(tmp_path, **values), "header is damaged")


def test_a_file_that_may_not_be_read_is_no_damage(tmp_path, monkeypatch):
    path = save_tiny(tmp_path / "m.safetensors")
    monkeypatch.setattr(type(path), "open", no_permission)
    refused(path, "no permission to read")


def no_permission(*_):
    raise PermissionError(13, "Permission denied")


def test_a_name_as_long_as_the_file_system_takes_is_written(tmp_path):
    write_whole(tmp_path / ("x" * 255), b"all")
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"all"]


def test_a_tail_cut_off_anywhere_is_refused(tmp_path):
    data = save_tiny(tmp_path / "m.safetensors", bits=8).read_bytes()
    path = tmp_path / "cut.safetensors"
    for size in {*range(0, 64), *range(64, len(data), 97), len(data) - 1}:
        path.write_bytes(data[:size])
        refused(path)


def test_bytes_behind_the_end_are_refused(tmp_path):
    path = save_tiny(tmp_path / "m.safetensors")
    path.write_bytes(path.read_bytes() + b"\0")
    refused(path)


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 64, b"RIFF....WAVEfmt ", b"{}" * 99])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    refused(path, "safetensors")


def test_a_directory_and_a_missing_file_are_refused(tmp_path):
    refused(tmp_path, "is a folder, not a model file")
    refused(tmp_path / "absent.safetensors", "no model file")
    refused(tmp_path / ("long" * 100), "no model file")


def test_the_file_of_another_program_is_told_apart(tmp_path):
    path = tmp_path / "m.safetensors"
    for metadata in (None, {}, {"format": "pt"}):
        path.write_bytes(save({"weight": np.zeros(3, np.float32)}, metadata))
        refused(path, "not a tynda model")


def test_a_pickle_is_not_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "m.safetensors"
    path.write_bytes(pickle.dumps(Bomb()))
    refused(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("text", ["", "nonsense", "[" * 100_000, "3", "null", '"text"', "[1]"])
def test_a_header_that_is_no_json_object_is_damage(tmp_path, text):
    tensors, _ = read_raw(save_tiny(tmp_path / "m.safetensors"))
    refused(write_raw(tmp_path / "bad.safetensors", tensors, text), "header is damaged")


@pytest.mark.parametrize(
    "values",
    [
        {"name": 3},
        {"family": None},
        {"family": "os"},
        {"family": "../conformer"},
        {"config": [1, 2]},
        {"config": {"width": 3}},
        {"frontend": "log_mel"},
        {"frontend": {"kind": "cochlea"}},
        {"frontend": {"kind": "log_mel", "bins": 10**9}},
        {"tokenizer": {"type": "char", "symbols": "abc"}},
        {"languages": "en"},
        {"languages": [3]},
        {"licence": {}},
        {"decoding": [3]},
        {"decoding": {"beam_size": "wide"}},
        {"decoding": {"beam_size": 0}},
        {"decoding": {"alpha": -1.0}},
        {"decoding": {"beta": float("nan")}},
        {"decoding": {"width": 3}},
        {"training": "yes"},
        {"scores": {"dev": 0.3}},
        {"scores": {"dev": {"wer": "low"}}},
        {"format": "1"},
        {"format": None},
        {"surprise": 1},
    ],
)
def test_a_header_with_a_wrong_value_is_refused(tmp_path, values):
    refused(changed(tmp_path, **values))


def test_front_end_and_tokenizer_must_fit_the_model(tmp_path):
    refused(changed(tmp_path, frontend={"kind": "log_mel", "bins": 9}), "front end (9)")
    symbols = ["<blank>", " ", "a"]
    refused(changed(tmp_path, tokenizer={"type": "char", "symbols": symbols}), "tokenizer (3)")


@pytest.mark.parametrize(
    "absurd",
    [
        {"layers": 65_536},
        {"layers": 10**12},
        {"channels": 65_536},
        {"hidden": 10**9},
        {"stem": 10**18},
        {"heads": 0},
        {"heads": -2},
        {"channels": 16.0},
        {"channels": "16"},
        {"layers": True},
        {"layers": None},
        {"dropout": "much"},
        {"kernel": 10**9 + 1},
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_allocated(tmp_path, absurd):
    path = changed(tmp_path, config=CONFIG | absurd)
    tracemalloc.start()
    refused(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


def test_a_language_model_in_kenlms_binary_form_is_not_taken(tmp_path):
    magic = "mmap lm http://kheafield.com/code format version 5\n\0"
    path = save_tiny(tmp_path / "m.safetensors", lm=ngram.pack(magic + "\0" * 999))
    with pytest.raises(TyndaError, match=r"m\.safetensors: its n-gram is damaged"):
        Model(checkpoint.load(path)).prepare(CTCOptions(beam_size=4))


def test_a_language_model_that_unpacks_to_gigabytes_is_refused():
    packed = lzma.compress(b"\\data\\" + b" " * (1 << 27), preset=0)
    assert len(packed) < 100_000
    with pytest.raises(TyndaError, match="damaged"):
        ngram.unpack(packed)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    good = save_tiny(folder / "good.safetensors", bits=8)
    return good.read_bytes(), folder / "fuzzed.safetensors"


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.integers(1, 255)), max_size=5))
@example([(0.0, True, 255)])
def test_flipped_bytes_give_an_error_or_a_model(scratch, flips):
    good, path = scratch
    data = bytearray(good)
    header_end = 8 + struct.unpack("<Q", good[:8])[0]
    for where, in_header, mask in flips:
        data[int(where * ((header_end if in_header else len(data)) - 1))] ^= mask
    path.write_bytes(data)
    try:
        model = checkpoint.load(path)
    except TyndaError:
        return
    assert all(np.isfinite(value).all() for value in dequantize_all(model.weights).values())
    samples = np.sin(np.arange(3000)).astype(np.float32)
    assert Model(model).encode(samples).shape[1] == model.config.vocab
