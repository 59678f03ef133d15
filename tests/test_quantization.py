"""A model as one file in fewer bits transcribes as the model itself does."""

import fnmatch
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

import tynda
from helpers import noise, read_raw, save_tiny, write_manifest, write_raw, write_wav
from test_huggingface import write_mms
from tynda.cli import main
from tynda.compile.engine import Eager, open_engine
from tynda.errors import TyndaError
from tynda.heads.seq2seq import sliding
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.rules import log_softmax
from tynda.heads.seq2seq.search import decode, likeliest_languages, start_tokens
from tynda.models.base import sinusoids
from tynda.ops.numpy import NumpyOps
from tynda.quantization import asymmetric, fold, layerwise, methods, statistics
from tynda.quantization.calibrate import Calibration
from tynda.quantization.mixed import Mixer
from tynda.quantization.plan import (
    Sensitivity,
    allocate,
    divergences,
    read_plan,
    save_plan,
    weight_bytes,
)
from tynda.quantization.run import matrix_names, new_header, quantize, trainable, uniform_plan
from tynda.store import checkpoint, huggingface, library
from tynda.weights import stored
from tynda.weights.grid import BITS, Grid
from tynda.weights.rounding import round_to_nearest
from tynda.weights.tensors import MappedRows
from tynda.weights.weight import by_tap, dequantize_all, floats, is_integer, stored_bits
from whisper_peer import write_folder

OPTIONS = [
    {},
    {"word_timestamps": True, "language": "en"},
    {"initial_prompt": "Tyńda, бұл.", "prefix": "And", "hotwords": "kazakh, ♪"},
]
COMMON = {"temperature": (0.0,), "max_new_tokens": 12}
COMMON |= {"no_speech_threshold": None, "speech_threshold": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "whisper-nano"
    write_folder(folder, layers=1, frames=200)
    return folder


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_a_published_whisper_transcribes_the_same_from_its_file(folder, tmp_path, bits):
    quantize(folder, tmp_path / "m.safetensors", bits)
    one, other = (
        tynda.load(folder, bits=32 if bits > 8 else 8),
        tynda.load(tmp_path / "m.safetensors"),
    )
    samples = noise(3)
    for options in OPTIONS if bits != 16 else []:
        heard = [m.transcribe(samples, **COMMON, **options).to_dict() for m in (one, other)]
        assert heard[0] == heard[1]
        assert heard[0]["text"]
    tokenizers = [m.checkpoint.tokenizer for m in (one, other)]
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
        if is_integer(weight):
            steps = (dequantize_all(read)[name] - exact[name]) / weight.row_scales.reshape(
                -1, *[1] * (weight.codes.ndim - 1)
            )
            assert np.abs(steps).max() < 0.51
        else:
            np.testing.assert_array_equal(weight, exact[name])
    kept = [name for name, weight in read.items() if not is_integer(weight)]
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
    np.testing.assert_array_equal(one.encode(noise(1)), other.encode(noise(1)))
    with pytest.raises(TyndaError, match="does not know"):
        other.transcribe(noise(1), language=one.header.languages[1])


def test_codes_stay_in_the_file_and_may_be_any(tmp_path):
    path = save_tiny(tmp_path / "good.safetensors", bits=8)
    tensors, _ = read_raw(path)
    weights = checkpoint.load(path).weights
    for name, weight in weights.items():
        if tensors[name].ndim > 1:
            assert isinstance(weight.rows, MappedRows)
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


FEW = [1.58, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("bits", FEW)
def test_few_bits_come_back_from_their_file(folder, tmp_path, bits):
    path = tmp_path / "m.safetensors"
    quantize(folder, path, bits, group=32)
    model = huggingface.load(folder)
    read = checkpoint.load(path).weights
    for name in matrix_names(model):
        exact = dequantize_all(model.weights)[name]
        if "embed_positions" in name:
            assert stored_bits(read[name]) == (32 if "encoder" in name else 8)
            continue
        grid = Grid(bits, 32)
        expected = round_to_nearest(exact, grid, asymmetric.fit_scales(by_tap(exact), grid))
        np.testing.assert_array_equal(read[name].codes, expected.codes)
        np.testing.assert_array_equal(read[name].row_scales, expected.row_scales)
        assert read[name].shape == exact.shape
    # Results in float32 are the same as with these weights in any other format.
    one = tynda.load(path, bits=32, backend="numpy")
    assert one.transcribe(noise(3), **COMMON).text


def test_a_files_header_is_read_once_for_all_its_tensors(folder, tmp_path, monkeypatch):
    quantize(folder, tmp_path / "m", 4)
    read = []
    offsets = stored.tensor_offsets
    monkeypatch.setattr(stored, "tensor_offsets", lambda path: read.append(path) or offsets(path))
    assert sum(stored_bits(w) == 4 for w in checkpoint.load(tmp_path / "m").weights.values()) > 5
    assert len(read) == 1


def test_few_bits_take_few_bytes(folder, tmp_path):
    sizes = {}
    for bits in (*FEW, 32):
        quantize(folder, tmp_path / f"{bits}", bits, group=0 if bits == 1.58 else 32)
        weights, _ = read_raw(tmp_path / f"{bits}")
        parts = [t for name, t in weights.items() if name.startswith("model.decoder.embed_tokens")]
        sizes[bits] = sum(t.nbytes for t in parts)
    assert all(a < b for a, b in zip(sizes.values(), list(sizes.values())[1:], strict=False))
    assert sizes[4] <= 0.15 * sizes[32]
    assert sizes[1.58] <= 0.08 * sizes[32]  # rows are short here


@pytest.mark.parametrize("bits", FEW)
def test_the_step_of_whole_rows_is_not_stored(folder, tmp_path, bits):
    quantize(folder, tmp_path / "m", bits, group=0)
    tensors, header = read_raw(tmp_path / "m")
    assert not [name for name in tensors if name.endswith(".step")]
    # A file may also store these steps, and a reader then uses them.
    name = next(iter(header["grids"]))
    read = checkpoint.load(tmp_path / "m").weights[name]
    assert (read.scales.group == 254 // (Grid(bits).levels - 1)).all()
    smaller = dict(tensors) | {f"{name}.step": read.scales.group - 1}
    path = write_raw(tmp_path / "n.safetensors", smaller, header)
    assert (checkpoint.load(path).weights[name].scales.group == read.scales.group - 1).all()


def test_a_constant_table_is_left_out_only_where_it_is_the_computed_one(folder, tmp_path):
    name, model = "model.encoder.embed_positions.weight", huggingface.load(folder)
    table = sinusoids(*model.weights[name].shape)
    for change, kept in ((0, False), (2**-12, False), (2**-10, True)):
        path = tmp_path / f"{change}"
        weights = dict(model.weights) | {name: table + np.float32(change)}
        checkpoint.save_model(path, new_header(model), weights, bits=16)
        assert (name in load_file(path)) is kept
        expected = (table + np.float32(change)).astype(np.float16) if kept else table
        np.testing.assert_array_equal(checkpoint.load(path).weights[name], expected)
    checkpoint.save_model(tmp_path / "exact", new_header(model), weights, bits=32)
    np.testing.assert_array_equal(checkpoint.load(tmp_path / "exact").weights[name], weights[name])


def test_the_reader_in_the_docs_reads_all_of_it(folder, tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "format.md").read_text("utf-8")
    space = {}
    exec(text.split("```python")[1].split("```")[0], space)
    for method, bits, group in (
        ("clip", 1.58, 32),
        ("clip", 1.58, 0),
        ("hqq", 3, 32),
        ("clip", 4, 32),
        ("hqq", 4, 0),
        ("kmeans", 2, 32),
        ("nf4", 4, 32),
    ):
        path = tmp_path / f"{method}{bits}{group}"
        quantize(folder, path, bits, method=method, group=group)
        _, weights, _ = space["read"](path)
        read = checkpoint.load(path).weights
        assert read.keys() - weights.keys() == {"model.encoder.embed_positions.weight"}
        for name, weight in ((name, read[name]) for name in read if name in weights):
            expected = floats(weight)
            if stored_bits(weight) < 8:
                expected = by_tap(expected)
                weights[name] = weights[name][:, : expected.shape[1]]
            np.testing.assert_array_equal(weights[name].astype(np.float32), expected)
    coded = Grid(8, relative_step=0.3)
    quantize(
        folder, tmp_path / "coded", dict.fromkeys(uniform_plan(checkpoint.load(path), 8), coded)
    )
    _, weights, _ = space["read"](tmp_path / "coded")
    for name, weight in checkpoint.load(tmp_path / "coded").weights.items():
        expected = floats(weight)
        if name in weights:
            np.testing.assert_array_equal(weights[name].reshape(expected.shape), expected)


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speech")
    for i in range(3):
        write_wav(folder / f"{i}.wav", noise(1 + i / 2, seed=i))
    return write_manifest(folder / "m.jsonl", [(f"{i}.wav", f"and {i}") for i in range(3)])


def with_outliers(model, path):
    """Return the model with some far larger activations and correspondingly small weights."""
    weights = dict(dequantize_all(model.weights))
    for norm, after in (
        ("self_attn_layer_norm", "self_attn.[qkv]_proj"),
        ("final_layer_norm", "fc1"),
    ):
        for name in fnmatch.filter(weights, f"*.{norm}.*"):
            weights[name] = weights[name] * np.where(np.arange(len(weights[name])) == 3, 40, 1)
        for name in fnmatch.filter(weights, f"*.{after}.weight"):
            weights[name] = weights[name] / np.where(np.arange(weights[name].shape[1]) == 3, 40, 1)
    header = replace(model.header, config=asdict(model.config), tokenizer=model.tokenizer.to_dict())
    checkpoint.save_model(path, header, weights)
    return path


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("whisper", "gptq"),
        ("whisper", "awq"),
        ("whisper", "smooth"),
        pytest.param("whisper", "learnt", marks=pytest.mark.slow),  # it trains for minutes
        ("conformer", "gptq"),
    ],
)
def test_calibrated_methods_keep_more_of_the_model(folder, tmp_path, speech, family, method):
    """Outputs are closer to the model's own than with plain rounding, on unseen speech."""
    source = folder if family == "whisper" else save_tiny(tmp_path / "tiny.safetensors")
    if method == "smooth":
        source = with_outliers(library.load(source), tmp_path / "loud.safetensors")
    model = library.load(source)
    bits = 8 if method == "smooth" else 3
    quantize(source, tmp_path / "a", bits, method="rtn")
    quantize(source, tmp_path / "b", bits, method=method, calibration=speech)
    write_wav(tmp_path / "x.wav", noise(2, seed=9))
    other = write_manifest(tmp_path / "x.jsonl", [("x.wav", "and so")])
    heard = Calibration(model, other)

    def outputs(weights, compute):
        return heard.outputs(Eager(NumpyOps(compute), weights), 0)

    expected = outputs(dequantize_all(model.weights), 32)
    off = []
    for name in ("a", "b"):
        weights = checkpoint.load(tmp_path / name).weights
        found = outputs(
            weights if bits == 8 else dequantize_all(weights), bits if bits == 8 else 32
        )
        off.append(np.square(found - expected).mean())
    assert off[1] < 0.8 * off[0]


def test_a_model_is_learnt_in_parts(folder, speech):
    """Each hands a single tensor on; a decoder, whose steps read several, is one."""
    run = Calibration(huggingface.load(folder), speech).layerwise()
    names = {part.name for part in run.weight_slices(matrix_names(huggingface.load(folder)))}
    blocks = run.blocks(names, min_rows=64)
    assert [stop for _, stop in blocks[:-1]] == [start for start, _ in blocks[1:]]
    assert (blocks[0][0], blocks[-1][1]) == (0, len(run.steps))
    inside = [
        {
            v.name.removeprefix("model.").split(".weight")[0]
            for s in run.steps[a:b]
            for v in s.weights
        }
        for a, b in blocks
    ]
    assert {"encoder.conv1", "encoder.conv2"} <= inside[0]
    assert {"encoder.layers.0.self_attn.q_proj", "encoder.layers.0.self_attn.out_proj"} <= inside[1]
    assert {"encoder.layers.0.fc1", "encoder.layers.0.fc2"} <= inside[2]
    assert {"decoder.layers.0.fc1", "decoder.embed_tokens"} <= inside[3]
    assert len(blocks) == 4


@pytest.mark.parametrize("method", ["awq", "smooth"])
def test_scales_that_move_leave_the_model_as_it_is(folder, speech, method):
    model = huggingface.load(folder)
    heard = Calibration(model, speech)
    plan = uniform_plan(model, 4)
    changed = fold.fold_factors(model.weights, plan, method, heard)
    assert {"model.encoder.layers.0.self_attn.q_proj.weight"} < changed.keys()
    assert "model.decoder.embed_tokens.weight" not in changed
    before, after = (
        heard.outputs(Eager(NumpyOps(), weights), 0)
        for weights in (dequantize_all(model.weights), dequantize_all(model.weights) | changed)
    )
    np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-4 * np.abs(before).max())
    weight = model.weights["model.encoder.layers.0.fc1.weight"]
    assert not np.allclose(changed["model.encoder.layers.0.fc1.weight"], weight, rtol=0.01)


def test_what_comes_to_a_weight_is_seen(folder, speech):
    model = huggingface.load(folder)
    heard = Calibration(model, speech)
    weight_slices = heard.layerwise().weight_slices(matrix_names(model))
    assert weight_slices[0] == ("model.encoder.conv1.weight", 0, model.config.channels)
    assert weight_slices[-1].name == "model.decoder.embed_tokens.weight"
    seen = heard.statistics(dequantize_all(model.weights), ["model.encoder.conv2.weight"])
    (found,) = seen.values()
    frames = sum(len(features) // 2 for features in heard.inputs)
    assert found.count == frames
    np.testing.assert_allclose(found.mean_squares, np.diag(found.hessians[0]), rtol=1e-5)
    each = heard.statistics(
        dequantize_all(model.weights), ["model.encoder.conv2.weight"], diagonal=True
    )
    np.testing.assert_array_equal(
        each["model.encoder.conv2.weight"].mean_squares, found.mean_squares
    )


def test_calibration_runs_the_model_as_it_is_used(folder, speech):
    """A whole window, and behind it what the model itself writes; no text of the manifest."""
    model = huggingface.load(folder)
    heard = Calibration(model, speech)
    window = model.config.stride * model.config.frames
    assert [len(features) for features in heard.inputs] == [window] * len(heard.inputs)
    network = tynda.Model(model, bits=32).head.network
    cross = sliding.encode_windows(network, heard.inputs[:1], Options())
    ((language, _),) = likeliest_languages(network, cross)
    (spoken,) = decode(network, cross, Options(max_new_tokens=8), [language])
    (own,) = heard.generated[0]
    begin = start_tokens(network.tokenizer, language, "transcribe")
    assert own[: len(begin) + 8] == [*begin, *spoken.tokens]

    name = "model.decoder.layers.0.fc1.weight"
    found = heard.statistics(dequantize_all(model.weights), [name])[name]
    assert found.count == sum(len(row) for rows in heard.generated for row in rows)
    # What is observed gives what the engine is told to compute.
    run, inputs = heard.layerwise(), []
    run.observe(
        dequantize_all(model.weights),
        ["model.decoder.embed_tokens.weight"],
        lambda _, start, rows: inputs.append(rows),
    )
    logits = inputs[0] @ dequantize_all(model.weights)["model.decoder.embed_tokens.weight"].T
    engine = Eager(NumpyOps(), dequantize_all(model.weights))
    np.testing.assert_allclose(heard.outputs(engine, 0), logits, rtol=1e-4, atol=1e-4)


def test_a_calibration_set_has_the_language_that_its_manifest_states(tmp_path, folder):
    write_wav(tmp_path / "a.wav", noise(1, seed=0))
    rows = [("a.wav", "", {"language": code}) for code in ("uk", "en", "none that Whisper knows")]
    model = huggingface.load(folder)
    uk, en, detected = Calibration(model, write_manifest(tmp_path / "m.jsonl", rows)).generated
    known = model.tokenizer.languages
    assert (uk[0][1], en[0][1]) == (known["uk"], known["en"])
    plain = write_manifest(tmp_path / "plain.jsonl", [("a.wav", "")])
    assert Calibration(model, plain).generated == [detected]


@pytest.mark.parametrize("room", [0, 1 << 14, 1 << 40])
def test_a_run_in_pieces_observes_the_same(tmp_path, speech, monkeypatch, room):
    monkeypatch.setattr(layerwise, "_MAX_LIVE_BYTES", room)
    model = library.load(save_tiny(tmp_path / "tiny.safetensors"))
    weights = dequantize_all(model.weights)
    heard = Calibration(model, speech)
    whole = heard.statistics(weights, matrix_names(model))
    run, at = heard.layerwise(), []
    for part in run.weight_slices(matrix_names(model)):
        run.advance(weights, [part.name])
        at.append(run._position)
        found = methods.input_statistics(run, weights, [part])[part]
        np.testing.assert_allclose(found.hessians, whole[part.name].hessians, rtol=1e-4, atol=1e-5)
    assert (at[-1] > 0) == (room > 0)


def test_groups_of_a_convolution_are_calibrated_separately(tmp_path, speech, monkeypatch):
    source = Path(__file__).parent / "data/witness-wav2vec2.safetensors"
    monkeypatch.setattr(statistics, "_MAX_INPUTS", 500)
    model = library.load(source)
    name = "wav2vec2.encoder.pos_conv_embed.conv.weight"
    heard, weights = Calibration(model, speech), dequantize_all(model.weights)
    weight_slices = heard.layerwise().weight_slices([name])
    assert [(p.start, p.stop) for p in weight_slices] == [(24 * i, 24 * i + 24) for i in range(8)]
    seen = methods.input_statistics(heard.layerwise(), weights, weight_slices)
    merged = heard.statistics(weights, [name])[name]
    assert [len(b) for b in merged.hessians] == [384, 384]  # 24 channels, 32 taps
    np.testing.assert_allclose(
        np.mean([s.mean_squares for s in seen.values()], 0), merged.mean_squares, rtol=1e-3
    )
    monkeypatch.setattr(methods, "_MAX_STATISTICS", 1)
    few = methods.quantize(model, {name: Grid(4, 32)}, "gptq", heard)[name]
    assert few.shape == weights[name].shape
    rows = methods.round_weight(weights[name][24:48], Grid(4, 32), "gptq", seen[weight_slices[1]])
    np.testing.assert_array_equal(few[24:48].rows, rows.rows)


def test_an_interrupted_call_goes_on(folder, tmp_path, speech, monkeypatch):
    monkeypatch.setattr(methods, "_MAX_STATISTICS", 1)  # one weight at a time
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    quantize(folder, whole, 3, calibration=speech)
    counts = []

    def stop(done, total):
        counts.append(done)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize(folder, parts, 3, calibration=speech, on_progress=stop)
    assert (tmp_path / "parts.partial").exists()
    assert not parts.exists()
    counts.clear()
    quantize(
        folder,
        parts,
        3,
        calibration=speech,
        on_progress=lambda done, _: counts.append(done),
    )
    assert counts[0] == 6
    assert parts.read_bytes() == whole.read_bytes()
    assert not (tmp_path / "parts.partial").exists()


def stop(done, total):
    raise KeyboardInterrupt


@pytest.mark.parametrize("method", ["clip", "gptq"])
def test_a_file_of_the_users_own_is_left_alone(folder, tmp_path, speech, method):
    (tmp_path / "m.partial").write_bytes(b"my notes")
    calibration = speech if method == "gptq" else None
    if calibration:
        with pytest.raises(TyndaError, match="in the way"):
            quantize(folder, tmp_path / "m", 3, method=method, calibration=calibration)
    else:
        quantize(folder, tmp_path / "m", 3, method=method)
    assert (tmp_path / "m.partial").read_bytes() == b"my notes"


def test_scores_are_those_of_a_file(tmp_path):
    scores = {"dev": {"wer": 0.25, "cer": None}}
    source = save_tiny(tmp_path / "tiny.safetensors", scores=scores)
    quantize(source, tmp_path / "m", 4)
    header = checkpoint.read_header(tmp_path / "m")
    assert header.scores == {}
    assert header.training["quantized"] == {"method": "clip", "bits": [4]}
    shown = CliRunner().invoke(main, ["models", "show", str(tmp_path / "m")]).stdout
    assert "quantized" in shown
    assert "bits [4], method clip" in shown
    quantize(source, tmp_path / "n", 32)
    assert checkpoint.read_header(tmp_path / "n").scores == scores


def test_what_was_begun_otherwise_is_begun_anew(folder, tmp_path, speech):
    # The name does not distinguish this model from another one.
    model = library.load(folder)
    other = {
        k: np.negative(w) if w.ndim > 1 else w for k, w in dequantize_all(model.weights).items()
    }
    header = new_header(model)
    checkpoint.save_model(tmp_path / "other", header, other)
    checkpoint.save_model(tmp_path / "same", header, dequantize_all(model.weights))
    with pytest.raises(KeyboardInterrupt):
        quantize(tmp_path / "other", tmp_path / "m", 3, calibration=speech, on_progress=stop)
    assert (tmp_path / "m.partial").exists()
    quantize(tmp_path / "same", tmp_path / "m", 3, calibration=speech)
    folder = tmp_path / "same"
    quantize(folder, tmp_path / "n", 3, calibration=speech)
    assert (tmp_path / "m").read_bytes() == (tmp_path / "n").read_bytes()


def test_mixed_bits_fill_the_size_with_the_smallest_error(folder, tmp_path, speech):
    pytest.importorskip("scipy")
    quantize(folder, tmp_path / "3", 3)
    size = (tmp_path / "3").stat().st_size
    mixer = Mixer(folder, speech)
    with pytest.raises(TyndaError, match="ask for a larger"):
        mixer.for_size(1000)
    assert "_sensitivities" not in vars(mixer)  # which takes minutes to measure
    plan = mixer.for_size(size)
    quantize(folder, tmp_path / "mixed", plan)
    # The embedding is most of this model, and has this many bits or one more.
    assert 0.8 * size < (tmp_path / "mixed").stat().st_size <= size
    assert len({grid.bits for grid in plan.values()}) > 1
    save_plan(tmp_path / "plan.json", plan)
    assert read_plan(tmp_path / "plan.json", list(plan)) == plan


def test_divergences_are_those_of_whole_runs(folder, speech):
    """They begin at the first use of a tensor: an embedding is read before its last product."""
    model = library.load(folder)
    weights = {name: floats(weight) for name, weight in model.weights.items()}
    names = [
        "model.decoder.embed_tokens.weight",
        "model.encoder.conv1.weight",
        "model.decoder.layers.0.encoder_attn.k_proj.weight",
        "model.encoder.layers.0.fc2.weight",
    ]
    calibration = Calibration(model, speech)
    found = dict(divergences(weights, names, calibration, lambda name: weights[name] * 1.1))

    def outputs(other):
        engine = open_engine({**weights, **other}, trainable(model), bits=32)
        return [log_softmax(calibration.outputs(engine, i)) for i in range(3)]

    assert list(found) == [names[1], names[3], names[2], names[0]]
    for name, divergence in found.items():
        pairs = zip(outputs({}), outputs({name: weights[name] * 1.1}), strict=True)
        expected = np.mean([(np.exp(a) * (a - b)).sum(-1).mean() for a, b in pairs])
        assert divergence == pytest.approx(float(expected), rel=1e-3)
        assert divergence > 0


def test_the_smallest_plan_within_a_loss_is_found(tmp_path, speech, monkeypatch):
    """The predicted increase of WER starts below four bits on average."""
    pytest.importorskip("scipy")
    source = save_tiny(tmp_path / "tiny.safetensors")
    mixer, tried = Mixer(source, speech), []

    def heard(name, bits):
        if bits is None:
            grids = read_raw(name)[1].get("grids", {})
            tried.append(np.mean([grids.get(k, {"bits": 8})["bits"] for k in mixer._sensitivities]))
        return [("a b", "a" if bits is None and tried[-1] < 4 else "a b")]

    monkeypatch.setattr(mixer, "_pairs", heard)
    plan = mixer.for_loss(1)
    assert len(tried) >= 4
    assert np.mean([grid.bits for grid in plan.values()]) == min(t for t in tried if t >= 4)
    assert mixer.for_loss(50)
    monkeypatch.setattr(mixer, "_pairs", lambda name, bits: [("a", "a" if bits else "")])
    with pytest.raises(TyndaError, match="no bits lose as little"):
        mixer.for_loss(1)


def test_bits_are_given_to_the_largest_gain_by_hand():
    pytest.importorskip("scipy")
    shape = (8, 64)
    harm = {bits: 4.0**-bits for bits in BITS}
    sensitivities = {
        "dear": Sensitivity(shape, {b: 1000 * h for b, h in harm.items()}),
        "cheap": Sensitivity(shape, harm),
    }
    each = {bits: weight_bytes(shape, Grid(bits, 32)) for bits in (2, 4)}
    plan = allocate(sensitivities, 32, each[2] + each[4])
    assert {name: grid.bits for name, grid in plan.items()} == {"dear": 4, "cheap": 2}


def test_a_few_tensors_may_have_bits_of_their_own(folder, tmp_path):
    overrides = [("*.fc?.*", 3), ("*.fc2.*", 8)]
    quantize(folder, tmp_path / "m", 4, overrides=overrides)
    grids = read_raw(tmp_path / "m")[1]["grids"]
    assert grids["model.encoder.layers.0.fc1.weight"]["bits"] == 3
    assert "model.encoder.layers.0.fc2.weight" not in grids
    assert grids["model.encoder.conv2.weight"]["bits"] == 4


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--bits", "4", "--method", "gptq"], 1, "error: gptq needs speech"),
        (["--bits", "3", "--method", "nf4"], 1, "error: nf4 is a table of 4 bits"),
        (
            ["--bits", "4", "--method", "clip", "--calibration", "M"],
            1,
            "error: clip uses no calibration set",
        ),
        (["--bits", "16", "--method", "clip"], 1, "error: 16 bits are not rounded"),
        (["--bits", "32", "--save-plan", "P"], 1, "error: --save-plan: there is no plan"),
        (
            ["--bits", "4", "--group", "33"],
            1,
            "error: group must be a whole number, a multiple of 32",
        ),
        (["--bits", "8", "--group", "64"], 2, "--group is for weights in fewer than 8 bits"),
        (["--group", "64"], 2, "--group is for"),
        (["--bits", "32", "--group", "64"], 2, "--group is for"),
        (["--bits", "4", "--override", "fc1"], 2, "--override fc1: write"),
        (["--bits", "4", "--override", "fc1=16"], 2, "--override fc1=16: write"),
        (["--bits", "4", "--override", "nothing=8"], 1, "error: no weight is called nothing"),
        (["--bits", "4", "--calibration", "nothing"], 1, "error: nothing: cannot read"),
        (["--plan", "nothing"], 1, "error: nothing: cannot read the plan"),
        (["--bits", "mixed", "--target-size", "nan", "--calibration", "M"], 2, "finite"),
        (["--bits", "mixed", "--target-size", "inf", "--calibration", "M"], 2, "finite"),
        (
            ["--bits", "mixed", "--target-size", "1", "--calibration", "M", "--method", "rtn"],
            2,
            "need a method of gptq",
        ),
        (
            ["--bits", "4", "--group", "1000000000"],
            1,
            "error: group must be a whole number, a multiple of 32",
        ),
        (["--plan", "P", "--bits", "4"], 2, "leave out --bits"),
        (["--bits", "mixed"], 2, "needs either"),
        (["--max-wer-loss", "1"], 2, "--max-wer-loss needs --bits mixed"),
        (["--bits", "entropy", "--max-wer-loss", "1"], 2, "--max-wer-loss needs --bits mixed"),
        (["--bits", "entropy"], 2, "--bits entropy needs --target-size"),
        (["--bits", "entropy", "--target-size", "3", "--group", "32"], 2, "--group is for"),
        (["--bits", "entropy", "--target-size", "3", "--method", "clip"], 2, "the method rtn or"),
        (["--bits", "entropy", "--target-size", "0.01"], 1, "with the largest steps"),
        (["--bits", "mixed", "--max-wer-loss", "1", "--target-size", "3"], 2, "needs either"),
        (["--target-size", "3"], 2, "which needs it or --bits mixed"),
        (["--bits", "mixed", "--target-size", "3"], 2, "mixed bits need a calibration set"),
        (
            ["--bits", "mixed", "--target-size", "0.01", "--calibration", "M"],
            1,
            "with the fewest bits",
        ),
        (["--bits", "7"], 2, "7"),
    ],
)
def test_what_does_not_go_together_is_told(folder, tmp_path, speech, args, code, says):
    args = [str(speech) if a == "M" else a for a in args]
    output = tmp_path / "m"
    done = CliRunner().invoke(main, ["quantize", str(folder), "-o", str(output), *args])
    assert done.exit_code == code, done.output
    assert says in done.stderr
    if code == 1:
        lines = done.stderr.splitlines()
        assert len([line for line in lines if not line.startswith("warning: calibrating")]) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "guess"},
        {"group": 33},
        {"utterances": 0},
        {"utterances": 2.5},
        {"bits": 7},
        {"overrides": [("*fc1*", 7)]},
    ],
)
def test_settings_that_cannot_be_are_told_to_programs(folder, tmp_path, settings):
    with pytest.raises(TyndaError, match=" must be "):
        quantize(folder, tmp_path / "m", **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"model.encoder.conv1.weight": 3}',
        '{"x": {"bits": 4, "group": 32}}',
        '{"model.encoder.conv1.weight": {"bits": 9, "group": 32}}',
    ],
)
def test_damaged_plans_are_told(folder, tmp_path, text):
    (tmp_path / "plan.json").write_text(text)
    args = [
        "quantize",
        str(folder),
        "-o",
        str(tmp_path / "m"),
        "--plan",
        str(tmp_path / "plan.json"),
    ]
    done = CliRunner().invoke(main, args)
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert "plan.json" in line


def test_a_plan_is_written_edited_and_used(folder, tmp_path):
    plan = tmp_path / "plan.json"

    def run(*args):
        done = CliRunner().invoke(main, ["quantize", str(folder), *map(str, args)])
        assert done.exit_code == 0, done.output
        return done

    run("-o", tmp_path / "a", "--bits", 3, "--save-plan", plan)
    edited = json.loads(plan.read_text())
    run("-o", tmp_path / "c", "--bits", 3, "--override", "*.fc1.*=6", "--save-plan", plan)
    changed = json.loads(plan.read_text())
    assert changed["model.encoder.layers.0.fc1.weight"]["bits"] == 6
    run("-o", tmp_path / "d", "--plan", plan)
    assert (tmp_path / "c").read_bytes() == (tmp_path / "d").read_bytes()
    edited["model.encoder.conv1.weight"]["bits"] = 6
    plan.write_text(json.dumps(edited))
    told = run("-o", tmp_path / "b", "--plan", plan).stderr
    assert told == ""
    assert read_raw(tmp_path / "b")[1]["grids"]["model.encoder.conv1.weight"]["bits"] == 6


W = "stem.convs.1.weight"
STEP, SCALE = f"{W}.step", f"{W}.scale"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t, h: t.pop(SCALE), "scale is missing"),
        (
            lambda t, h: t.update({STEP: t[STEP][1:]}),
            "does not fit",
        ),
        (
            lambda t, h: t.update({STEP: 0 * t[STEP]}),
            "invalid steps",
        ),
        (
            lambda t, h: t.update({STEP: 40 + t[STEP]}),
            "invalid steps",
        ),
        (lambda t, h: t[SCALE].fill(np.inf), "invalid steps"),
        (
            lambda t, h: t.update({W: t[W][:, 1:]}),
            "should be U8",
        ),
        (lambda t, h: h["grids"][W].update(bits=7), "an invalid grid"),
        (lambda t, h: h["grids"][W].pop("group"), "an invalid grid"),
        (lambda t, h: h["grids"].update({W: 4}), "an invalid grid"),
        (lambda t, h: h["grids"][W].update(group=10**30 * 32), "an invalid grid"),
        (lambda t, h: h["grids"][W].update(group=32.0), "an invalid grid"),
        (lambda t, h: h["grids"][W].update(table=[float(x) for x in range(16)]), "an invalid grid"),
        (
            lambda t, h: h["grids"][W].update(group=0, table=list(range(16))),
            "invalid|does not fit",
        ),
        (lambda t, h: h["grids"][W].update(other=1), "an invalid grid"),
        (lambda t, h: h["grids"].update(x=h["grids"][W]), "a grid for x"),
        (lambda t, h: h.update(format=1), "need format 2"),
        (
            lambda t, h: h["grids"][W].update(table=[1, "a"]),
            "an invalid grid",
        ),
        (lambda t, h: h.update(grids=[]), "should be a dict"),
        (
            lambda t, h: h["grids"].update({"head.bias": h["grids"][W]}),
            "few bits",
        ),
    ],
)
def test_damaged_few_bits_are_told(tmp_path, change, what):
    quantize(save_tiny(tmp_path / "tiny.safetensors"), tmp_path / "good", 4)
    tensors, values = read_raw(tmp_path / "good")
    assert W in values["grids"]
    tensors = {name: tensor.copy() for name, tensor in tensors.items()}
    change(tensors, values)
    path = write_raw(tmp_path / "bad.safetensors", tensors, values)
    with pytest.raises(TyndaError, match=what) as told:
        checkpoint.load(path)
    assert str(path) in str(told.value)
