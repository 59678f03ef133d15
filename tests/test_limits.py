"""Hostile sizes and numbers: each ends with one line, before anything is allocated or computed."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

import tynda
from foreign_files import write_small_folder
from helpers import CONFIG, header, noise, read_raw, save_tiny, weights, write_raw, write_wav
from tynda.cli import main
from tynda.compile import limits
from tynda.errors import TyndaError
from tynda.heads.ctc import head
from tynda.heads.ctc.hotwords import HotWords
from tynda.heads.ctc.ngram import Prefixes
from tynda.heads.ctc.options import CTCOptions
from tynda.heads.seq2seq.options import Options
from tynda.manifest import MAX_TEXT, read
from tynda.score import errors
from tynda.sound.frontend import from_config
from tynda.store import checkpoint, library
from tynda.text.normalize import english_letters
from tynda.weights.tensors import is_finite

HOSTILE = Path(__file__).parents[2] / "shared" / "cases" / "hostile"
needs_hostile = pytest.mark.skipif(
    not HOSTILE.is_dir(), reason="needs the files in ../shared/cases/hostile"
)


def refused(*arguments):
    """Run a command line that must fail with one line, and return the line."""
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    return line


# Memory


@pytest.fixture
def large(tmp_path):
    """A model whose encoder needs more than 256 MB for a few seconds: it has 60,000 symbols."""
    config = CONFIG | {"vocab": 60_000, "channels": 2, "heads": 1}
    model = tynda.models.family("conformer")
    rng = np.random.default_rng(0)
    values = {
        name: rng.standard_normal(spec.shape).astype(np.float32)
        for name, spec in model.specs(model.configure(config)).items()
    }
    names = ["<blank>", " ", *(chr(0x4E00 + i) for i in range(20_000))]
    names += [chr(0x20000 + i) for i in range(60_000 - len(names))]
    described = header(config=config, tokenizer={"type": "char", "symbols": names})
    checkpoint.save_model(tmp_path / "large.safetensors", described, values, bits=8)
    return tmp_path / "large.safetensors"


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return write_wav(tmp_path_factory.mktemp("sound") / "a.wav", noise(45))


def test_a_run_that_needs_too_much_memory_is_refused_before_it_starts(large, recording):
    line = refused("transcribe", recording, "--model", large, "--chunk-length", 45)
    assert "encode needs" in line
    assert "--max-memory" in line
    assert limits.ENVIRONMENT in line


@pytest.mark.parametrize("raised", [{"option": 2}, {"environment": "2"}])
def test_the_limit_can_be_raised(large, recording, monkeypatch, raised):
    extra = ["--max-memory", str(raised["option"])] if "option" in raised else []
    if "environment" in raised:
        monkeypatch.setenv(limits.ENVIRONMENT, raised["environment"])
    command = ["transcribe", str(recording), "--model", str(large), "--chunk-length", "45", *extra]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert limits._chosen is None


def test_the_limit_grows_with_the_model():
    limits.check_memory("encode", 250_000_000, 1)
    limits.check_memory("encode", 1_500_000_000, 100_000_000)
    for needed, count in ((260_000_000, 1), (1_700_000_000, 100_000_000)):
        with pytest.raises(TyndaError, match="--max-memory"):
            limits.check_memory("encode", needed, count)


@pytest.mark.parametrize("text", ["x", "nan", "inf", "-1", "0", "1e99", "4 GB"])
def test_the_environment_is_checked(monkeypatch, text):
    monkeypatch.setenv(limits.ENVIRONMENT, text)
    with pytest.raises(TyndaError, match="must be a number of gigabytes"):
        limits.check_memory("encode", 1, 1)


# Front ends


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "spectrogram", "window": 16384, "fft": 16384, "hop": 1},
        {"kind": "spectrogram", "hop": 4},
        {"kind": "log_mel", "hop": 1},
        {"kind": "log_mel", "fft": 16384, "bins": 8193},
        {"kind": "log_mel", "fft": 16384, "bins": 300},
        {"kind": "nemo_log_mel", "hop": 2},
        {"kind": "nemo_log_mel", "fft": 16384, "bins": 4000},
    ],
)
def test_front_ends_that_fill_the_memory_are_refused(settings):
    with pytest.raises(TyndaError, match="front end: "):
        from_config(settings)


def test_too_many_outputs_for_each_second_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(head, "_MAX_RATE", 10_000)
    path = save_tiny(tmp_path / "m.safetensors", frontend={"kind": "log_mel", "hop": 3, "bins": 8})
    with pytest.raises(TyndaError, match="more than 10000 log-probabilities for each second"):
        tynda.load(path)


@needs_hostile
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lm_neg", "n-gram is damaged"),
        ("lm_longword", "n-gram is damaged"),
        ("hop1_spec", "front end: "),
    ],
)
def test_hostile_models_are_refused(recording, name, words):
    model = HOSTILE / f"{name}.safetensors"
    assert words in refused("transcribe", recording, "--model", model)


# Numbers


@needs_hostile
def test_hostile_samples_are_refused(tiny_file):
    assert "full scale" in refused("transcribe", HOSTILE / "w_big.wav", "--model", tiny_file)


@pytest.mark.parametrize("value", [1e20, 3e38, -1e11, np.inf, -np.inf, np.nan])
def test_samples_that_are_no_sound_are_refused(tiny, value):
    samples = noise(1)
    samples[100] = value
    with pytest.raises(TyndaError, match="finite"):
        tiny.transcribe(samples)


def test_samples_up_to_the_limit_are_transcribed(tiny):
    assert np.isfinite(tiny.encode(noise(1) * np.float32(1e10))).all()


@pytest.mark.parametrize("backend", ["native", "numpy"])
def test_weights_that_overflow_are_named_as_the_reason(tmp_path, backend):
    values = weights()
    values["head.weight"] = np.full_like(values["head.weight"], 3e38)
    checkpoint.save_model(tmp_path / "m.safetensors", header(), values)
    with pytest.raises(TyndaError, match=r"m\.safetensors: the model computes no numbers"):
        tynda.load(tmp_path / "m.safetensors", backend=backend).transcribe(noise(1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    tensors, values = read_raw(save_tiny(tmp_path / "m.safetensors"))
    for name in ("head.bias", "head.weight"):
        damaged = tensors[name].copy()
        damaged.flat[-1] = value
        path = write_raw(tmp_path / "d.safetensors", tensors | {name: damaged}, values)
        with pytest.raises(TyndaError, match=rf"d\.safetensors: tensor {name} has values that"):
            checkpoint.load(path)
    tensors, values = read_raw(save_tiny(tmp_path / "m.safetensors", bits=8))
    damaged = tensors["head.weight.scale"].copy()
    damaged[0] = value
    path = write_raw(tmp_path / "d.safetensors", tensors | {"head.weight.scale": damaged}, values)
    with pytest.raises(TyndaError, match=r"tensor head.weight has scales"):
        checkpoint.load(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_small_folder(tmp_path_factory.mktemp("hub") / "small")


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_folders_with_values_that_are_not_finite_are_refused(folder, tmp_path, kind):
    copy = tmp_path / "small"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    tensors = {k: v.astype(kind) for k, v in load_file(folder / "model.safetensors").items()}
    name = "model.decoder.embed_tokens.weight"
    tensors[name][3, 4] = np.nan
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(TyndaError, match=rf"tensor {name} has values that are not finite"):
        library.load(copy)


def test_sums_that_overflow_are_no_proof():
    assert is_finite(np.full(9, 3e38, np.float32))
    assert is_finite(np.zeros((0, 3), np.float32))
    for value in (np.nan, np.inf, -np.inf):
        assert not is_finite(np.array([3e38, value, 3e38], np.float32))
    assert not is_finite(np.array([np.inf, -np.inf], np.float32))


@pytest.mark.parametrize("padding", [1, 2, 3])
def test_a_header_that_is_not_padded_leaves_tensors_unaligned_and_changes_nothing(
    folder, tmp_path, padding
):
    """Kernels copy such weights: a load of a float from an odd address is undefined in C++."""
    copy = tmp_path / "small"
    copy.mkdir()
    tensors = load_file(folder / "model.safetensors")
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    save_file({k: v.astype(np.float32) for k, v in tensors.items()}, copy / "model.safetensors")
    samples = noise(0.2)
    expected = tynda.load(copy, threads=1).encode(samples)
    data = (copy / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    stated = data[8 : 8 + size].rstrip() + b" " * padding
    while len(stated) % 4 != padding:
        stated += b" "
    (copy / "model.safetensors").write_bytes(
        len(stated).to_bytes(8, "little") + stated + data[8 + size :]
    )
    for bits in (32, 8):
        found = tynda.load(copy, threads=1, bits=bits).encode(samples)
        close = {32: 0.0, 8: 0.1 * np.abs(expected).max()}[bits]
        np.testing.assert_allclose(found, expected, rtol=0, atol=close)


# Texts and words


@pytest.mark.parametrize(
    "words",
    ["a" * 120_000, ["a" * 257], ["ab"] * 100_000, "ab," * 100_000, [""] * 1_000_000],
    ids=["letters", "long", "many", "text", "empty"],
)
@pytest.mark.parametrize("kind", [CTCOptions, Options])
def test_hot_words_have_limits(kind, words):
    with pytest.raises(TyndaError, match=r"^hotwords must be words of up to 256 char") as error:
        kind(hotwords=words)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("name", ["prefix", "initial_prompt", "append_punctuations"])
def test_prompts_have_limits(name):
    with pytest.raises(TyndaError, match=f"^{name} must be"):
        Options(**{name: "a" * 100_001})


def test_as_many_hot_words_as_allowed_are_fast():
    words = [f"word{i} " * 40 for i in range(390)]
    start = time.process_time()
    CTCOptions(hotwords=[word[:256].strip() for word in words])
    automaton = HotWords([word[:250].strip() for word in words], " ")
    assert time.process_time() - start < 5
    assert len(automaton.pending) > 90_000


def test_prefixes_of_long_words_need_no_memory_of_their_own():
    words = {"a" * 100_000, "b" + "a" * 100_000, "ab"}
    prefixes = Prefixes(words)
    assert all(text in prefixes for text in ("", "a", "aa" * 50_000, "b", "ab", "ba"))
    assert not any(text in prefixes for text in ("abc", "c", "a" * 100_001))
    assert "" not in Prefixes([])


@pytest.mark.parametrize(
    "text", ["1" * 100_000, "1" + ",111" * 25_000, "$" + "1" * 100_000, "1" * 100_000 + "th"]
)
def test_long_figures_are_spelled_in_linear_time(text):
    start = time.process_time()
    spoken = english_letters(text)
    assert time.process_time() - start < 5
    assert spoken.split()[:3] in (["one"] * 3, ["dollar", "one", "one"])
    assert spoken.count("one") == text.count("1")


def test_a_long_reference_costs_no_more_than_the_other_way_round():
    assert errors("abcd" * 3, "xbc") == errors("abcd" * 3, "xbc")
    one, two = errors(["a"] * 200_000, ["a", "b"]), errors(["a", "b"], ["a"] * 200_000)
    assert (one.substitutions, one.deletions, one.insertions) == (1, 199_998, 0)
    assert (two.substitutions, two.deletions, two.insertions) == (1, 0, 199_998)


def test_texts_of_manifests_have_a_limit(tmp_path):
    line = {"audio_filepath": "a.wav", "text": "1" * (MAX_TEXT + 1)}
    (tmp_path / "m.jsonl").write_text(json.dumps(line))
    with pytest.raises(TyndaError, match=r'm.jsonl:1: "text" has more than 200,000 characters'):
        read(tmp_path / "m.jsonl")


# Options and settings


@pytest.mark.parametrize("threads", ["2147483648", "1025", "0", "-1", "x", "1e3"])
@pytest.mark.parametrize("command", ["transcribe", "evaluate", "profile"])
def test_threads_have_bounds(command, threads):
    result = CliRunner().invoke(main, [command, "x", "y", "--threads", threads])
    assert result.exit_code == 2
    assert "--threads" in result.stderr


@pytest.mark.parametrize("threads", [2**31, 1025, 0, -1, True, 1.5, "2"])
def test_threads_of_the_api_have_bounds(tiny_file, threads):
    with pytest.raises(TyndaError, match="threads must be a whole number from 1 to 1024"):
        tynda.load(tiny_file, threads=threads)


@pytest.mark.parametrize(
    "address",
    ["", "x", "ftp://a", "http://", "http://a\x04", "http://a b", "http://a:b", "http://[a"],
)
def test_a_hub_of_no_address_is_refused(monkeypatch, address):
    monkeypatch.setenv("HF_ENDPOINT", address)
    message = refused("models", "pull", "nobody/nothing")
    assert "HF_ENDPOINT must be an address, https://HOST, not" in message


@pytest.mark.parametrize("name", ["HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"])
@pytest.mark.parametrize("value", ["x", "", "-1", "1e3", "9" * 30])
def test_environment_variables_of_the_hub_are_checked(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert f"{name} must be" in refused("models", "pull", "nobody/nothing")


@pytest.mark.parametrize(
    "heads",
    [
        *("[[Infinity, 0]]", "[[NaN, 0]]", "[[1e400, 1]]", "[[-1, 0]]", "[[0.5, 0]]"),
        *('[["0", 0]]', "[[0]]", "[0]", "[[0, 0, 0]]", "{}", "3", '"x"', "[[99, 0]]"),
        *("[[0, 99]]", "[null]", "[[1" + "0" * 400 + ", 0]]", "[[true, 0]]"),
    ],
)
def test_alignment_heads_of_published_files_are_within_the_decoder(folder, tmp_path, heads):
    copy = tmp_path / "small"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "generation_config.json").write_text(f'{{"alignment_heads": {heads}}}')
    found = library.load(copy)
    assert all(
        0 <= layer < found.config.decoder_layers and 0 <= head < found.config.decoder_heads
        for layer, head in found.header.decoding["alignment_heads"]
    )


def test_long_values_are_cut_in_messages(tiny_file):
    line = refused("transcribe", "x" * 5000, "--model", tiny_file)
    assert len(line) < 2100


@pytest.mark.parametrize("options", [{}, {"speech_threshold": 0.0}, {"word_timestamps": True}])
def test_windows_always_advance(folder, options):
    """The windows of this model are shorter than the margin by which they overlap in silence."""
    model = tynda.load(folder, threads=1)
    for samples in (np.zeros(16_000, np.float32), noise(1)):
        start = time.process_time()
        transcript = model.transcribe(samples, temperature=0.0, max_new_tokens=5, **options)
        assert time.process_time() - start < 5
        assert transcript.duration == 1
