"""The engines that a profile measures, compared with tynda's own on tiny models.

Engines that are not installed are skipped: `pip install -e '.[peers]'` installs all of them.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import tynda
from helpers import noise
from test_huggingface import write_wav2vec2
from tynda.profiling.case import Case
from tynda.profiling.engines import ENGINES, base, engine, ggml
from tynda.profiling.engines.base import Clock
from tynda.weights.blocks import FORMATS

sys.path.append(str(Path(__file__).parents[1] / "bench"))
import peer_models

# Tolerances relative to the maximum of states or logits.
TOLERANCES = {"32": 1e-3, "16": 1e-2, "bf16": 8e-2, "8": 0.2}
WHOLE = [("transformers", bits) for bits in ("32", "16", "bf16")]
WHOLE += [("faster-whisper", bits) for bits in ("32", "8")]
SPEAKING = [*WHOLE, *(("whisper.cpp", bits) for bits in ("16", "8", "5", "4"))]
SPEAKING += [("sherpa-onnx", bits) for bits in ("32", "8")]
GRAPHS = [(name, bits) for name in ("onnxruntime", "openvino") for bits in ("32", "8")]
SPEAKING += GRAPHS
CTC = [*WHOLE[:3], *GRAPHS]


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "whisper-nano"
    folder.mkdir()
    torch.manual_seed(0)
    peer_models.write_whisper(folder, 64, 1, 2)
    # Published weights are in f16.
    path, config = folder / "model.safetensors", folder / "config.json"
    save_file({name: x.half() for name, x in load_file(path).items()}, path, {"format": "pt"})
    config.write_text(json.dumps(json.loads(config.read_text()) | {"dtype": "float16"}))
    return folder


@pytest.fixture(scope="module")
def wav2vec2(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "wav2vec2-nano"
    write_wav2vec2(folder)
    return folder


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Return a function that opens a model, converting it once for each format, or skips."""
    forms = tmp_path_factory.mktemp("forms")

    def open_(name, bits, model, **changes):
        case = Case("speed", str(model), name, bits, threads=1, **changes)
        maker = engine(name)
        if why := maker.missing(case):
            pytest.skip(why)
        form = maker.format(case)
        path = forms / model.name / form if form else model
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            maker.prepare(case, model, path)
        maker.load()
        return maker.open(case, path)

    yield open_
    torch.set_grad_enabled(True)  # engines disable gradients


def states(session, samples):
    """Return the encoder's result as an array."""
    found = session.encoder(session.frontend(samples))
    return np.asarray(found.float() if isinstance(found, torch.Tensor) else found, np.float32)


def near(found, expected, tolerance):
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize(("name", "bits"), [*WHOLE, *GRAPHS])
def test_encoder_states_are_tyndas(opened, whisper, name, bits):
    network = tynda.load(whisper).head.network
    samples = noise(30)[None]
    mel = tynda.load(whisper).checkpoint.frontend(samples[0])[None]
    expected, _ = network.encode(mel, np.array([mel.shape[1]]))
    session = opened(name, bits, whisper, seconds=30.0)
    near(states(session, samples), network.engine.array(expected), TOLERANCES[bits])


def convolves_in_groups(dtype):
    """Whether torch is right: oneDNN's convolution in groups of 8 channels in bfloat16 is off by
    the size of its results on processors with AMX (torch 2.13.0, a Xeon)."""
    torch.manual_seed(0)
    layer, x = torch.nn.Conv1d(32, 32, 16, groups=4), torch.randn(1, 32, 200)
    with torch.no_grad():
        exact = layer(x)
        found = layer.to(dtype)(x.to(dtype)).float()
    return bool((found - exact).abs().max() < 0.1 * exact.abs().max())


@pytest.mark.parametrize(("name", "bits"), CTC)
def test_logits_are_tyndas(opened, wav2vec2, name, bits):
    if bits == "bf16" and not convolves_in_groups(torch.bfloat16):
        pytest.skip("torch's convolution in groups is wrong in bfloat16 on this processor")
    samples = noise(2)[None]
    expected = tynda.load(wav2vec2).encode(samples[0])
    logits = states(opened(name, bits, wav2vec2, seconds=2.0), samples)[0]
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    near(log_probs, expected, TOLERANCES[bits])


@pytest.mark.parametrize(("name", "bits"), SPEAKING)
def test_as_many_tokens_as_asked_for(opened, whisper, name, bits):
    clock = Clock()
    both = opened(name, bits, whisper, batch=2)
    both.run(np.stack([noise(31), noise(31, seed=1)]), 3.0, clock)
    if name == "sherpa-onnx":  # the number of its tokens cannot be set
        assert clock.tokens == 0
    else:
        assert clock.tokens == 90 + 3
        assert clock.stages.keys() == {"frontend", "encoder", "decoder"}
    session = opened(name, bits, whisper)
    for count in (1, 2, 3, 5):
        clock = Clock()
        session.run(noise(1)[None], count, clock)
        assert clock.tokens == count or name == "sherpa-onnx"


@pytest.mark.parametrize(("name", "bits"), [*WHOLE, *GRAPHS])
def test_a_batch_is_its_recordings(opened, whisper, name, bits):
    samples = np.stack([noise(3), noise(3, seed=1)])
    both = states(opened(name, bits, whisper, batch=2), samples)
    single = opened(name, bits, whisper)
    assert single.batched
    for one, row in zip(samples, both, strict=True):
        near(states(single, one[None])[0], row, TOLERANCES[bits] / 10)


@pytest.mark.usefixtures("all_is_speech")
@pytest.mark.parametrize(("name", "bits"), SPEAKING)
@pytest.mark.parametrize("seconds", [2, 32])
def test_whisper_transcribes(opened, whisper, name, bits, seconds):
    if seconds > 30 and bits not in ("32", "4"):
        pytest.skip("once for each engine")
    session = opened(name, bits, whisper)
    assert session.transcribe(noise(seconds)).strip()


@pytest.mark.parametrize(("name", "bits"), CTC)
def test_ctc_transcribes_and_says_no_tokens(opened, wav2vec2, name, bits):
    session, clock = opened(name, bits, wav2vec2), Clock()
    session.run(noise(2)[None], 3.0, clock)
    assert clock.tokens == 0
    assert clock.stages.keys() == {"frontend", "encoder", "decoder"}
    found = session.transcribe(noise(2))
    assert found
    if bits == "32":  # transformers prints special symbols, too
        for silent in ("<s>", "</s>", "<unk>"):
            found = found.replace(silent, "")
        assert found == tynda.load(wav2vec2).transcribe(noise(2), speech_threshold=0).text


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("batch", [1, 2])
def test_graphs_say_what_transformers_says(opened, whisper, name, batch):
    samples = np.stack([noise(3, seed=seed) for seed in range(batch)])
    session, peer = (opened(x, "32", whisper, batch=batch) for x in (name, "transformers"))
    tokens = np.array([session._start, [*session._start[:3], 7]][:batch])
    said = [tokens, *(np.full((batch, 1), token) for token in (300, 2, 17))]
    for _ in range(2):  # the second time starts with an empty cache
        session._decoder.begin(session.encoder(session.frontend(samples)))
        found = [session._decoder.advance(tokens).copy() for tokens in said]
    states, whole = peer.encoder(peer.frontend(samples)), np.concatenate(said, 1)
    with torch.no_grad():
        out = peer._model(encoder_outputs=(states,), decoder_input_ids=torch.from_numpy(whole))
    near(np.stack(found, 1), out.logits[:, len(session._start) - 1 :].numpy(), 1e-3)


@pytest.mark.parametrize("name", ENGINES)
def test_a_missing_module_is_named(monkeypatch, name):
    maker = engine(name)
    case = Case("speed", "m", name, next(iter(maker.bits)))
    monkeypatch.setattr(base, "_is_there", lambda module: False)
    packages = {**maker.modules, **maker.converters}.values()
    assert packages or maker.modules == {}
    for package in packages:
        assert package in maker.missing(case)


def test_devices_and_bits_that_are_not_there():
    maker = engine("transformers")
    if not torch.cuda.is_available():
        assert "no GPU" in maker.missing(Case("speed", "m", "transformers", "32", "cuda"))
    assert "has no 4 bits" in maker.missing(Case("speed", "m", "transformers", "4"))


@pytest.mark.parametrize(("kind", "error"), [("q8_0", 1 / 254), ("q5_0", 1 / 16), ("q4_0", 1 / 8)])
def test_blocks_of_ggml(kind, error):
    rng = np.random.default_rng(0)
    value = rng.standard_normal((3, 64)).astype(np.float32)
    value[1, :32] = 0
    packed = ggml.quantize(value, kind)
    assert packed.shape == (6, {"q8_0": 34, "q5_0": 22, "q4_0": 18}[kind])
    back = FORMATS[ggml.KINDS[kind][0]].floats(packed, value.shape)
    assert (back[1, :32] == 0).all()
    most = np.abs(value.reshape(-1, 32)).max(1).repeat(32).reshape(value.shape)
    assert (np.abs(back - value) <= 1.01 * error * most).all()


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q5_0", "q4_0"])
def test_whisper_cpp_computes_with_the_weights_that_it_was_given(opened, whisper, kind):
    bits = {"f16": "16", "q8_0": "8", "q5_0": "5", "q4_0": "4"}[kind]
    session = opened("whisper.cpp", bits, whisper)
    model = transformers.WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if kind != "f16" and weight.ndim == 2 and "positions" not in name:
                packed = ggml.quantize(weight.numpy(), kind)
                value = FORMATS[ggml.KINDS[kind][0]].floats(packed, tuple(weight.shape))
                weight.copy_(torch.from_numpy(value))
        mel = tynda.load(whisper).checkpoint.frontend(noise(30)).T[None]
        tokens = [*session._start, 0, 17, 400]
        features = torch.from_numpy(np.ascontiguousarray(mel))
        said = torch.tensor([tokens])
        logits = model(input_features=features, decoder_input_ids=said).logits[0, :, 0].numpy()
    session.encoder(session.frontend(noise(30)[None]))
    core, context, found = session._core, session._model._ctx, []
    for at, token in enumerate(tokens):
        core.whisper_decode(context, token, 1, at, 1)
        found.append(core.whisper_get_logits(context))  # of token 0 only
    np.testing.assert_allclose(found, logits, atol=0.01)


def test_graphs_of_sherpa_onnx_say_what_transformers_says(whisper, tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from tynda.profiling.engines import sherpa_export

    sherpa_export.export(whisper, tmp_path)
    torch.set_grad_enabled(True)
    encoder, decoder = (
        runtime.InferenceSession(str(tmp_path / f"{part}.onnx")) for part in ("encoder", "decoder")
    )
    model = transformers.WhisperForConditionalGeneration.from_pretrained(whisper).eval()
    mel = np.ascontiguousarray(tynda.load(whisper).checkpoint.frontend(noise(30)).T[None])
    tokens = np.array([[50258, 50259, 50359, 50363, 7, 300, 2]])
    with torch.no_grad():
        features, said = torch.from_numpy(mel), torch.from_numpy(tokens)
        expected = model(input_features=features, decoder_input_ids=said).logits.numpy()
    cross = encoder.run(None, {"mel": mel})
    keys = values = np.zeros((1, 1, 448, 64), np.float32)
    names, found = [x.name for x in decoder.get_inputs()], []
    for start, end in ((0, 4), (4, 5), (5, 6), (6, 7)):
        given = [tokens[:, start:end], keys, values, *cross, np.array([start])]
        logits, keys, values = decoder.run(None, dict(zip(names, given, strict=True)))
        found.append(logits)
    near(np.concatenate(found, 1), expected, 1e-3)
    assert encoder.run(None, {"mel": mel[:, :, :1500]})[0].shape == (1, 1, 750, 64)
