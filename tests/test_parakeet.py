"""Parakeet with a CTC head against transformers on random weights."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import load_file
from transformers import ParakeetCTCConfig

import tynda
from helpers import close
from helpers import noise as sound
from parakeet_peer import TINY, build, write_folder
from tynda.cli import main
from tynda.compile import native
from tynda.compile.count import count
from tynda.compile.engine import Eager, convert_weights
from tynda.compile.native import Native
from tynda.errors import TyndaError
from tynda.models import parakeet
from tynda.ops.numpy import NumpyOps
from tynda.ops.torch import TorchOps
from tynda.profiling.case import Case
from tynda.profiling.engines import engine
from tynda.profiling.worker import Job, operations
from tynda.quantization.run import quantize
from tynda.sound import audio
from tynda.sound.frontend import NemoLogMel
from tynda.store import huggingface, library
from tynda.store.checkpoint import save_model
from tynda.weights.integers import quantize_rows
from tynda.weights.weight import is_integer

OPS = NumpyOps()
MANIFEST = Path(__file__).parents[1] / "demo" / "manifest.jsonl"
VARIANTS = {
    "plain": {},
    "without biases": {"attention_bias": False, "convolution_bias": False, "scale_input": False},
    "fourfold": {"subsampling_factor": 4, "conv_kernel_size": 9},
}
variants = pytest.mark.parametrize("variant", VARIANTS)


def make(variant="plain", **changes):
    """A random model of transformers, with its weights and settings as tynda reads them."""
    theirs = build(**TINY | VARIANTS[variant] | changes)
    config = parakeet.FAMILY.configure(parakeet.settings(theirs.config.to_dict()))
    return theirs, config, parakeet.convert_tensors(tensors(theirs), config, order(theirs.config))


def order(config):
    """The published outputs, the blank first."""
    blank = config.pad_token_id
    return [blank, *(i for i in range(config.vocab_size) if i != blank)]


def tensors(model):
    return {k: v.numpy() for k, v in model.state_dict().items() if v.ndim}


def noise(batch, frames, bins, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, frames, bins), dtype=np.float32)


def encode(config, weights, x, lengths=None):
    lengths = np.full(len(x), x.shape[1]) if lengths is None else np.array(lengths)
    return parakeet.encode(OPS, weights, config, x, lengths)


def transform(theirs, x, lengths=None):
    """Log-probabilities by transformers, the blank first."""
    lengths = np.full(len(x), x.shape[1]) if lengths is None else np.array(lengths)
    mask = torch.from_numpy(np.arange(x.shape[1]) < lengths[:, None])
    with torch.no_grad():
        y = theirs(torch.from_numpy(x), attention_mask=mask).logits.log_softmax(-1).numpy()
    return y[..., order(theirs.config)]


@variants
@pytest.mark.parametrize("blank", [None, 0, 4])
def test_log_probabilities_are_those_of_transformers(variant, blank):
    theirs, config, weights = make(variant, blank=blank)
    for frames in (1, 7, 8, 9, 64, 101):
        x = noise(2, frames, config.bins)
        y, lengths = encode(config, weights, x)
        close(y, transform(theirs, x))
        assert lengths.tolist() == [y.shape[1]] * 2 == [-(-frames // config.stride)] * 2


@variants
def test_states_are_those_of_transformers(variant):
    theirs, config, weights = make(variant)
    x, seen = noise(1, 50, config.bins), []
    parakeet.encode(OPS, weights, config, x, np.array([50]), lambda _, state: seen.append(state))
    with torch.no_grad():
        states = theirs.encoder(torch.from_numpy(x), output_hidden_states=True).hidden_states
    for ours, their in zip(seen, states[-len(seen) :], strict=True):
        close(ours, their)


@variants
def test_specs_are_the_tensors_of_the_checkpoint(variant):
    theirs, config, weights = make(variant)
    specs = {k: s.shape for k, s in parakeet.specs(config).items()}
    assert specs == {k: v.shape for k, v in weights.items()}
    names = (
        k.replace("running_mean", "mean").replace("running_var", "variance")
        for k in tensors(theirs)
    )
    assert specs.keys() == set(names)


@variants
def test_a_padded_batch_gives_each_item_what_it_gets_alone(variant):
    theirs, config, weights = make(variant)
    lengths = [100, 0, 1, 8, 9, 77, 16]
    x = 5 * noise(len(lengths), 105, config.bins)  # rubbish in the padding
    together, frames = encode(config, weights, x, lengths)
    for i, n in enumerate(lengths):
        alone, (m,) = encode(config, weights, x[i : i + 1, :n], [n])
        assert m == alone.shape[1] == frames[i] == -(-n // config.stride)
        close(together[i, :m], alone[0])
    x[np.arange(105) >= np.array(lengths)[:, None]] = 0  # as their feature extractor leaves it
    theirs = transform(theirs, x, lengths)
    for i, m in enumerate(frames):
        close(together[i, :m], theirs[i, :m])


def test_very_short_input():
    _, config, weights = make()
    for frames, expected in ((0, 0), (1, 1), (8, 1), (9, 2)):
        y, lengths = encode(config, weights, noise(1, frames, config.bins))
        assert y.shape == (1, expected, config.vocab)
        assert lengths.tolist() == [expected]
        assert np.isfinite(y).all()


@variants
def test_torch_gives_the_same(variant):
    _, config, weights = make(variant)
    x, lengths = noise(3, 90, config.bins), np.array([90, 17, 64])
    expected, frames = encode(config, weights, x, lengths)
    ours = {k: torch.from_numpy(v) for k, v in weights.items()}
    inputs = torch.from_numpy(x), torch.from_numpy(lengths)
    y, theirs = parakeet.encode(TorchOps(), ours, config, *inputs)
    assert theirs.tolist() == frames.tolist()
    close(expected, y.numpy())


needs_kernels = pytest.mark.skipif(not native.available(), reason="no kernels were compiled")


@needs_kernels
@variants
@pytest.mark.parametrize("threads", [1, 2])
def test_native_code_gives_the_same(variant, threads):
    _, config, weights = make(variant)
    lengths = np.array([90, 0, 17, 64])
    x = noise(len(lengths), 90, config.bins)
    expected, frames = encode(config, weights, x, lengths)
    for instructions in native.instruction_sets():
        engine = Native(weights, threads, instructions)
        y, found = engine.run(parakeet.encode, config, x, lengths)
        assert found.tolist() == frames.tolist()
        for item, n in enumerate(frames):
            close(y[item, :n], expected[item, :n])


def multiply(ops, weights, name, x):
    return ops.linear(x, weights[name])


def equal_products(path):
    """Whether native products with all matrices of a model in 8 bits are NumPy's, bit for bit."""
    model = library.load(path)
    trainable = model.family.trainable(model.config)
    weights, bits = convert_weights(model.weights, trainable, "native", 8)
    engine, twin = Native(weights, 1, bits=bits), Eager(NumpyOps(bits), weights)
    names = [name for name, w in weights.items() if len(w.shape) == 2 and is_integer(w)]
    assert names
    return all(
        np.array_equal(engine.run(multiply, name, x), twin.run(multiply, name, x))
        for name in names
        for x in [noise(1, 40, weights[name].shape[1])]
    )


@needs_kernels
@pytest.mark.parametrize("method", ["", "clip", "gptq", "awq", "smooth"])
def test_few_bits_are_close_to_all(wide, tmp_path, method):
    """8 bits, and 4 bits found in several ways, by the kernels and by NumPy."""
    path = tmp_path / "few.safetensors"
    samples = sound(3)
    exact = tynda.load(wide, backend="numpy", bits=32).encode(samples)
    source, bits = wide, {"": None, "smooth": 8}.get(method, 4)
    if bits:
        calibration = MANIFEST if method != "clip" else None
        quantize(wide, path, bits=bits, method=method, calibration=calibration, utterances=2)
        source = path
    ours, twin = (
        tynda.load(source, backend=backend, bits=8).encode(samples)
        for backend in ("native", "numpy")
    )
    stored = tynda.load(source, backend="numpy", bits=32).encode(samples)
    size = exact.std()
    # Products are equal to the last bit; what differs is float32 between them, after which a number
    # at the border between two codes may take either, and random layers magnify that.
    assert equal_products(source)
    assert np.abs(ours - twin).mean() < 0.025 * size
    assert np.abs(ours - stored).mean() < 0.06 * size
    # Noise has no structure that 4 bits could keep: each product adds some 8 %.
    assert np.abs(stored - exact).mean() < (0.5 if bits == 4 else 0.06) * size


def test_every_trainable_tensor_gets_a_gradient():
    _, config, weights = make()
    ours = {k: torch.from_numpy(v) for k, v in weights.items()}
    specs = parakeet.specs(config)
    for name, spec in specs.items():
        ours[name].requires_grad_(spec.trainable)
    before = {k: v.clone() for k, v in ours.items()}
    x = torch.from_numpy(noise(2, 90, config.bins))
    ops, plain = TorchOps(training=True), replace(config, dropout=0.0)
    y, _ = parakeet.encode(ops, ours, plain, x, torch.tensor([90, 17]))
    y[..., 0].mean().backward()
    for name, spec in specs.items():
        if spec.trainable:
            assert torch.isfinite(ours[name].grad).all(), name
        else:
            assert not torch.equal(ours[name], before[name]), name


def test_what_a_checkpoint_leaves_out_has_the_default_of_transformers():
    assert parakeet.settings({"model_type": "parakeet_ctc"}) == {}
    for text in (
        ParakeetCTCConfig().to_json_string(use_diff=False),
        ParakeetCTCConfig().to_json_string(),
    ):
        found = parakeet.settings(json.loads(text))
        assert parakeet.FAMILY.configure(found) == parakeet.Config()
    with pytest.raises(KeyError, match="model_type"):
        parakeet.settings({})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "parakeet_tdt"}, "model type 'parakeet_tdt' is not"),
        ({"encoder_config": [1]}, "encoder_config"),
        ({"encoder_config": {"hidden_act": "relu"}}, "hidden_act 'relu' is not silu"),
        ({"encoder_config": {"subsampling_conv_kernel_size": 5}}, "kernel_size 5 is not 3"),
        ({"encoder_config": {"subsampling_conv_stride": 4}}, "conv_stride 4 is not 2"),
        ({"encoder_config": {"num_attention_heads": 7}}, "not an even multiple of 7 heads"),
        (
            {"encoder_config": {"hidden_size": 15, "num_attention_heads": 3}},
            "15 are not an even multiple",
        ),
        ({"encoder_config": {"subsampling_factor": 6}}, "stride 6 is not a power of 2"),
        ({"encoder_config": {"conv_kernel_size": 8}}, "kernel 8 is not odd"),
        ({"encoder_config": {"dropout": 1.0}}, "dropout"),
    ],
)
def test_what_the_definition_does_not_cover_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        parakeet.Config(**parakeet.settings({"model_type": "parakeet_ctc"} | change))


def test_settings_survive_json():
    for variant in VARIANTS:
        _, config, _ = make(variant)
        assert parakeet.FAMILY.configure(json.loads(json.dumps(asdict(config)))) == config


def test_a_checkpoint_on_disk(tmp_path):
    theirs, config, _ = make()
    theirs.save_pretrained(tmp_path)
    read = parakeet.settings(json.loads((tmp_path / "config.json").read_text()))
    assert parakeet.FAMILY.configure(read) == config
    weights = parakeet.convert_tensors(
        load_file(tmp_path / "model.safetensors"), config, order(theirs.config)
    )
    x = noise(1, 77, config.bins)
    close(encode(config, weights, x)[0], transform(theirs, x))


DEMO = sorted((Path(__file__).parents[1] / "demo").glob("*.opus"))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder of the hub, and who wrote it."""
    folder = tmp_path_factory.mktemp("hub") / "parakeet-nano"
    return folder, *write_folder(folder)


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A folder whose products with many inputs are all worth 8 bits or fewer."""
    folder = tmp_path_factory.mktemp("hub") / "parakeet-wide"
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 128}
    write_folder(folder, subsampling_conv_channels=32, **sizes)
    return folder


def greedy(theirs, processor, samples):
    """Return the text that transformers writes."""
    inputs = processor(samples, sampling_rate=16000)
    tokens = theirs.generate(**inputs)
    return processor.batch_decode(tokens, skip_special_tokens=True)[0]


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_folder_is_transcribed_as_transformers_does(published, backend):
    folder, theirs, processor = published
    model = tynda.load(folder, backend=backend)
    for recording in DEMO[:2]:
        samples = audio.load(recording)
        inputs = processor(samples, sampling_rate=16000)
        log_probs = model.encode(samples)
        with torch.no_grad():
            logits = theirs(**inputs).logits[0]
        expected = logits.log_softmax(-1).numpy()[:, order(theirs.config)]
        close(log_probs, expected[: len(log_probs)])
        text = greedy(theirs, processor, samples)
        assert len(text.split()) > 5
        (found,) = model.head.decode(log_probs, model.head.options_type(beam_size=1))
        assert found.text == " ".join(text.split())
        assert [w.text for w in found.words] == text.split()


def test_a_recording_is_transcribed_with_words(published):
    folder, *_ = published
    model = tynda.load(folder, backend="numpy")
    transcript = model.transcribe(DEMO[0])
    for segment in transcript.segments:
        assert [w.text for w in segment.words] == segment.text.split()
        times = [t for w in segment.words for t in (w.start, w.end)]
        assert times == sorted(times)
    words = [w.text for s in transcript.segments for w in s.words]
    longest = max(words, key=len)
    hot = model.transcribe(DEMO[0], hotwords=[longest], beam_size=8)
    assert longest in hot.text.split()


@needs_kernels
def test_from_the_command_line(wide, tmp_path, monkeypatch):
    """One folder described, made small, and transcribed by the kernels."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder, small = str(wide), str(tmp_path / "small.safetensors")

    def run(*words):
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    shown = json.loads(run("models", "show", folder, "--format", "json"))
    assert (shown["family"], shown["config"]["vocab"]) == ("parakeet", 42)
    exact = run("transcribe", str(DEMO[0]), "--model", folder, "--bits", "32")
    assert exact == tynda.load(folder, backend="numpy", bits=32).transcribe(DEMO[0]).text
    run("quantize", folder, "--bits", "4", "-o", small)
    assert len(run("transcribe", str(DEMO[0]), "--model", small).split()) > 5
    assert Path(small).stat().st_size < (Path(folder) / "model.safetensors").stat().st_size / 2


@needs_kernels
def test_operations_are_profiled(wide):
    case = Case("operations", "", "tynda", "8", seconds=2.0, threads=2)
    opened = engine("tynda").open(case, wide)
    found = operations(Job(case, str(wide), str(wide)), opened, sound(2)[None])
    items = found["parts"]["encoder"]
    times = {item["operation"]: item["seconds"] for item in items if item["bits"] == "32"}
    assert {"relative_attention", "relative_encoding", "conv2d", "batch_norm"} <= times.keys()
    assert times["relative_attention"] > 0
    assert any(item["operation"] == "linear" and item["bits"] == "8" for item in items)
    counted = count(parakeet.FAMILY, huggingface.load(wide).config, 200)
    assert sum(item["flops"] for item in items) == counted.total_flops


@pytest.mark.parametrize("seconds", [0, 0.005, 0.01, 0.015, 0.05, 0.2])
def test_next_to_no_sound(published, seconds):
    folder, *_ = published
    model = tynda.load(folder, backend="numpy")
    samples = sound(seconds)
    assert len(model.encode(samples)) == -(-(len(samples) // 160) // 8)
    assert model.transcribe(samples).duration == pytest.approx(seconds)


def stored(weight, bits):
    """A tensor as a model file of that width gives it back."""
    if bits == 8 and weight.ndim > 1:
        codes, scale = quantize_rows(weight.reshape(len(weight), -1), np.float16)
        return (codes * scale[:, None].astype(np.float32)).reshape(weight.shape)
    return weight.astype(np.float32 if bits == 32 else np.float16).astype(np.float32)


@pytest.mark.parametrize("bits", [32, 16, 8])
def test_a_model_file_is_the_folder(published, tmp_path, bits):
    """Blank first, pieces and front end: all of it is in the file."""
    checkpoint = huggingface.load(published[0])
    weights = checkpoint.weights
    path = tmp_path / "parakeet.safetensors"
    header = replace(
        checkpoint.header,
        config=asdict(checkpoint.config),
        tokenizer=checkpoint.tokenizer.to_dict(),
    )
    save_model(path, header, weights, bits=bits)
    model = tynda.load(path, backend="numpy", bits=32)
    assert model.checkpoint.tokenizer == checkpoint.tokenizer
    assert model.checkpoint.frontend == checkpoint.frontend == NemoLogMel(bins=16)
    rounded = {name: stored(w, bits) for name, w in weights.items()}
    samples = sound(3)
    features = checkpoint.frontend(samples)
    expected, _ = encode(checkpoint.config, rounded, features[None])
    close(model.encode(samples), expected[0])


def change(path, edit):
    data = json.loads(path.read_text())
    edit(data)
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("file", "edit", "message"),
    [
        ("tokenizer.json", lambda d: d["model"]["vocab"].pop("▁a"), "number its pieces from 0"),
        ("tokenizer.json", lambda d: d["model"].pop("vocab"), "tokenizer.json is damaged"),
        ("tokenizer.json", lambda d: d["added_tokens"].append(3), "tokenizer.json is damaged"),
        (
            "tokenizer.json",
            lambda d: d["model"]["vocab"].update({"a▁": d["model"]["vocab"].pop("▁a")}),
            "a piece 'a▁', which is not supported",
        ),
        ("config.json", lambda d: d.update(pad_token_id=99), "no piece 99, which is the blank"),
        ("config.json", lambda d: d.update(pad_token_id="x"), "no piece x, which is the blank"),
        ("config.json", lambda d: d.update(vocab_size=7), "7 symbols do not fit"),
        ("config.json", lambda d: d.update(encoder_config=3), "encoder_config 3 is not an object"),
        (
            "processor_config.json",
            lambda d: d["feature_extractor"].update(feature_size=8),
            "16 bins and 42 symbols do not fit its front end",
        ),
        (
            "processor_config.json",
            lambda d: d["feature_extractor"].update(preemphasis=2),
            "preemphasis must be",
        ),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(published, tmp_path, file, edit, message):
    folder = shutil.copytree(published[0], tmp_path / "damaged")
    change(folder / file, edit)
    with pytest.raises(TyndaError, match=message) as error:
        tynda.load(folder)
    assert "\n" not in str(error.value)


def test_pieces_of_a_unigram_and_no_preemphasis(published, tmp_path):
    folder = shutil.copytree(published[0], tmp_path / "unigram")

    def unigram(data):
        vocab = data["model"]["vocab"]
        data["model"] = {
            "type": "Unigram",
            "vocab": [[p, -1.0] for p in sorted(vocab, key=vocab.get)],
        }

    change(folder / "tokenizer.json", unigram)
    change(
        folder / "processor_config.json", lambda d: d["feature_extractor"].update(preemphasis=None)
    )
    read, plain = huggingface.load(folder), huggingface.load(published[0])
    assert read.tokenizer == plain.tokenizer
    assert read.frontend == NemoLogMel(bins=16, preemphasis=0.0)


def test_multiply_adds_of_the_published_size():
    # Ten seconds, 1000 frames: the stem has 500 x 40, 250 x 20 and 125 x 10 places of 256 channels,
    # nine taps each and, but for the first, 256 inputs; then 10 * 256 inputs of 1024 channels.
    stem = 256 * (9 * (500 * 40 + 250 * 20 + 125 * 10) + 256 * (250 * 20 + 125 * 10))
    stem += 125 * 10 * 256 * 1024
    # A block: two feed-forward modules, q, k, v and the output, 249 distances, and the convolution
    # module with 9 taps; attention to 125 keys, 249 distances and 125 values.
    c, frames = 1024, 125
    linear = frames * (4 * 4 * c * c + 4 * c * c + 3 * c * c + 9 * c) + 249 * c * c
    attention = frames * c * (frames + 249 + frames)
    report = count(parakeet.FAMILY, parakeet.Config(), 1000)
    assert report.total_macs == stem + 24 * (linear + attention) + frames * 1025 * c


@pytest.mark.slow
@pytest.mark.parametrize("layers", [24, 42])
def test_full_size(layers):
    """The shapes are those of parakeet-ctc-0.6b and -1.1b."""
    theirs = build(1025, num_hidden_layers=layers)
    config = parakeet.FAMILY.configure(parakeet.settings(theirs.config.to_dict()))
    weights = parakeet.convert_tensors(tensors(theirs), config, order(theirs.config))
    x, seen = noise(1, 500, 80), []
    with torch.no_grad():
        found = theirs(torch.from_numpy(x), output_hidden_states=True)
    states, expected = found.hidden_states, found.logits.log_softmax(-1).numpy()
    expected = expected[..., order(theirs.config)]
    y, _ = parakeet.encode(
        OPS, weights, config, x, np.array([500]), lambda _, state: seen.append(state)
    )
    for ours, their in zip(seen, states[-layers:], strict=True):
        close(ours, their)
    close(y, expected)
    assert (y.argmax(-1) == expected.argmax(-1)).all()
    if native.available():
        engine = Native(weights, threads=2)
        found, lengths = engine.run(parakeet.encode, config, x, np.array([500]))
        assert lengths.tolist() == [63]
        close(found, expected)
        assert (found.argmax(-1) == expected.argmax(-1)).all()
