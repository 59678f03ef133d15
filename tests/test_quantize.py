"""A model as one file in fewer bits: it hears what the model hears."""

from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import tynda
from helpers import noise, read_raw, save_tiny
from test_huggingface import write_mms
from tynda import checkpoint, huggingface
from tynda.cli import main
from tynda.errors import TyndaError
from tynda.quant.weight import Quantized, dense
from tynda.quantize import quantize
from tynda.tensors import Stored
from whisper_peer import write_folder

OPTIONS = [
    {},
    {"word_timestamps": True, "language": "en"},
    {"initial_prompt": "Tyńda, бұл.", "prefix": "And", "hotwords": "kazakh, ♪"},
]
COMMON = {"temperature": (0.0,), "max_new_tokens": 12, "no_speech_threshold": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "whisper-nano"
    write_folder(folder, layers=1, frames=200)
    return folder


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_a_whisper_of_the_hub_hears_the_same_from_its_file(folder, tmp_path, bits):
    quantize(folder, tmp_path / "m.safetensors", bits)
    one, other = (
        tynda.load(folder, bits=32 if bits > 8 else 8),
        tynda.load(tmp_path / "m.safetensors"),
    )
    samples = noise(3)
    for options in OPTIONS if bits != 16 else []:
        heard = [m.transcribe_samples(samples, **COMMON, **options).to_dict() for m in (one, other)]
        assert heard[0] == heard[1]
        assert heard[0]["text"]
    tokenizers = [m._model.tokenizer for m in (one, other)]
    np.testing.assert_equal(*(t.to_dict() for t in tokenizers))
    assert len({t.non_speech for t in tokenizers}) == 1
    assert [m.header.languages for m in (one, other)] == [list(tokenizers[0].languages)] * 2


def test_a_file_in_8_bits_has_the_codes_that_a_folder_is_computed_with(folder, tmp_path):
    path, again = tmp_path / "m.safetensors", tmp_path / "again.safetensors"
    quantize(folder, path, 8)
    quantize(path, again, 8)
    assert path.read_bytes() == again.read_bytes()
    exact, read = huggingface.load(folder).weights, checkpoint.load(path).weights
    for name, weight in read.items():
        if isinstance(weight, Quantized):
            steps = (dense(read)[name] - exact[name]) / weight.scale.reshape(
                -1, *[1] * (weight.codes.ndim - 1)
            )
            assert np.abs(steps).max() < 0.51
        else:
            np.testing.assert_array_equal(weight, exact[name])
    kept = [name for name, weight in read.items() if not isinstance(weight, Quantized)]
    assert "model.encoder.embed_positions.weight" in kept
    assert "model.decoder.embed_tokens.weight" not in kept


def test_a_model_with_letters_becomes_a_file(tmp_path):
    save_tiny(tmp_path / "tiny.safetensors", lm=b"lm")
    quantize(tmp_path / "tiny.safetensors", tmp_path / "m.safetensors", 8)
    one, other = (checkpoint.load(tmp_path / f"{name}.safetensors") for name in ("tiny", "m"))
    assert one.config == other.config
    assert replace(one.header, config={}) == replace(other.header, config={})
    assert one.tokenizer == other.tokenizer
    assert one.lm == other.lm == b"lm"


def test_of_several_languages_a_file_has_the_models_own(tmp_path):
    write_mms(tmp_path / "mms")
    quantize(tmp_path / "mms", tmp_path / "m.safetensors", 32)
    one, other = tynda.load(tmp_path / "mms"), tynda.load(tmp_path / "m.safetensors")
    assert other.header.languages == one.header.languages[:1]
    np.testing.assert_array_equal(one.log_probs(noise(1)), other.log_probs(noise(1)))
    with pytest.raises(TyndaError, match="does not know"):
        other.transcribe_samples(noise(1), language=one.header.languages[1])


def test_codes_stay_in_the_file_and_may_be_any(tmp_path):
    path = save_tiny(tmp_path / "good.safetensors", bits=8)
    tensors, _ = read_raw(path)
    weights = checkpoint.load(path).weights
    for name, weight in weights.items():
        if tensors[name].ndim > 1:
            assert isinstance(weight, Stored)
            assert weight.shape == tensors[name].shape
            np.testing.assert_array_equal(weight.codes, tensors[name])
            np.testing.assert_array_equal(weight[1:3].codes, tensors[name][1:3])
    data = path.read_bytes()
    codes = tensors["head.weight"].copy()
    at = data.index(codes.tobytes())
    path.write_bytes(data[:at] + b"\x80" + data[at + 1 :])
    assert checkpoint.load(path).weights["head.weight"].codes[0, 0] == -127


def test_the_command(folder, tmp_path):
    output = tmp_path / "m.safetensors"

    def run(*args):
        return CliRunner().invoke(main, ["quantize", *map(str, args)])

    done = run(folder, "-o", output)
    assert (done.exit_code, done.output) == (0, f"{output}\n")
    before = output.read_bytes()
    for args, says in (
        ((folder, "--output", output), f"error: {output} is there already"),
        (("nobody", "-o", tmp_path / "x"), "error: no model 'nobody'"),
        ((folder, "-o", tmp_path / "no" / "x"), "error: cannot write"),
    ):
        failed = run(*args)
        assert failed.exit_code == 1
        assert failed.stdout == ""
        (line,) = failed.stderr.splitlines()
        assert line.startswith(says)
    assert output.read_bytes() == before
    assert run(folder, "-o", tmp_path / "x", "--bits", "9").exit_code == 2
    assert run(folder).exit_code == 2
