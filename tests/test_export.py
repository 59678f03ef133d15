"""Exported models, which native code runs without Python: texts, files and damaged folders."""

import os
import re
import shutil
import subprocess
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import tynda
from building import build, program, sanitized
from helpers import RATE, header, noise, write_wav
from tynda import manifest
from tynda.cli import main
from tynda.compile import native
from tynda.errors import TyndaError
from tynda.export import export_model
from tynda.files import whole_folder
from tynda.heads.ctc import paths
from tynda.heads.seq2seq.head import first_language
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.recording import padded_features
from tynda.heads.seq2seq.search import decode
from tynda.heads.seq2seq.sliding import WindowDecoder
from tynda.heads.seq2seq.windows import encode_windows, short_windows
from tynda.models import n2
from tynda.quantization.run import quantize
from tynda.sound import audio
from tynda.sound.frontend import LogMel, Raw, Spectrogram
from tynda.store import checkpoint, library
from tynda.text.tokenizer import ENGLISH
from tynda.weights.weight import Weight

DATA = Path(__file__).parent / "data"
DEMO = Path(__file__).parents[1] / "demo" / "manifest.jsonl"

pytestmark = pytest.mark.skipif(not native.available(), reason="the kernels are not compiled")


@pytest.fixture(scope="session")
def recognise(tmp_path_factory):
    """The program that runs an exported model, compiled with little optimisation to be quick."""
    program(os.environ.get("CXX", "c++"))
    folder = tmp_path_factory.mktemp("recognise")
    return build(folder, ["-O1"], "-DCMAKE_BUILD_TYPE=None", target="tynda_recognise")


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """The bundled recordings as WAV files."""
    folder = tmp_path_factory.mktemp("recordings")
    return [
        write_wav(folder / f"{u.audio.stem}.wav", audio.load(u.audio)) for u in manifest.read(DEMO)
    ]


def found_at(name):
    """A bundled model's name, or the path of one that the tests have."""
    path = DATA / f"{name}.safetensors"
    return path if path.exists() else name


def heard(recognise, folder, wav, timeout=120):
    """Return what the program printed; it must have ended with 0."""
    command = [recognise, folder, wav]
    done = subprocess.run(command, capture_output=True, timeout=timeout)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    text = done.stdout.decode()  # UTF-8 whatever the tokens are
    assert text.endswith("\n")
    return text[:-1]


def greedy(model, wav):
    """The greedy text of a recording as Python finds it."""
    if model.head.has_decoder:
        return "".join(text for *_, text in timed(model, audio.load(wav))).strip()
    return paths.greedy(model.encode(audio.load(wav)), model.checkpoint.tokenizer).text


def timed(model, samples):
    """The segments that Python finds greedily: start and end in seconds, text.

    The windows begin where Whisper's do, have no previous text, and their features are those of the
    window alone. They are as long as those of an export.
    """
    network, front, config = model.head.network, model.checkpoint.frontend, model.checkpoint.config
    longest, hop = config.stride * config.frames, front.hop
    sizes = [window.samples // hop for window in short_windows(config, hop)]
    language, options = first_language(network.tokenizer), Options()
    found, at = [], 0
    while len(part := samples[at : at + longest * hop]) >= hop:
        count = len(part) // hop
        size = next((size for size in sizes if len(part) <= size * hop), longest)
        features = padded_features(front, part, longest)[:count]
        features = np.pad(features, ((0, size - count), (0, 0)))
        cross = encode_windows(network, [features], options)
        decoder = WindowDecoder(network, options, language, cross, 0, count, count)
        segments, taken = decoder.split(decode(network, cross, options, [language])[0])
        start, end = at / RATE, (at + len(part)) / RATE
        for each in segments:
            if each.start != each.end and each.text.strip():
                found.append((*(min(start + t, end) for t in (each.start, each.end)), each.text))
        at += taken * hop if 0 < taken < count else len(part)
    return found


def agree(recognise, folder, model, wavs):
    """The texts of some recordings, which are those of Python."""
    texts = [greedy(model, wav) for wav in wavs]
    assert [heard(recognise, folder, wav) for wav in wavs] == texts
    return texts


@pytest.mark.parametrize("bits", [None, 8, 32])
@pytest.mark.parametrize(
    "name", ["digits-en", "sentences-en", "witness-wav2vec2", "witness-whisper"]
)
def test_text_is_that_of_python(recognise, recordings, tmp_path, name, bits):
    model = tynda.load(found_at(name), bits=bits, threads=1)
    window = 10 if model.head.has_decoder else 12
    export_model(model.checkpoint, tmp_path / "m", None if model.head.has_decoder else window, bits)
    fitting = [wav for wav in recordings if len(audio.load(wav)) <= window * RATE]
    texts = agree(recognise, tmp_path / "m", model, fitting)
    assert len(texts) > 4
    assert all(texts)


def test_a_recording_longer_than_the_export_is_refused(recognise, recordings, tmp_path):
    export_model(library.load("digits-en"), tmp_path / "m", 2)
    line = refused(recognise, tmp_path / "m", recordings[0])
    assert "the maximum is 32000" in line


def test_sound_without_a_frame_has_no_text(recognise, tmp_path):
    wav = write_wav(tmp_path / "a.wav", noise(0.001))
    for name in ("digits-en", "witness-whisper"):
        export_model(library.load(found_at(name)), tmp_path / "m", 1)
        assert heard(recognise, tmp_path / "m", wav) == ""


@pytest.mark.parametrize("bits", [8, 4, 3, 2, 1.58])
def test_weights_of_every_width(recognise, tiny_file, tmp_path, bits):
    quantize(tiny_file, tmp_path / "few.safetensors", bits)
    model = tynda.load(tmp_path / "few.safetensors", threads=1)
    export_model(model.checkpoint, tmp_path / "m", 4)
    kind = {8: "int8", 1.58: "ternary"}.get(bits, "packed")
    assert re.search(f"^matrix [^ ]+ {kind} ", read(tmp_path / "m"), re.M)
    wavs = [write_wav(tmp_path / f"{i}.wav", noise(1.4 + i, seed=i)) for i in range(3)]
    assert all(agree(recognise, tmp_path / "m", model, wavs))


@pytest.mark.parametrize(
    "front",
    [
        Spectrogram(window=24, fft=30),
        LogMel(bins=8, window=399, fft=405, hop=150, fmin=30, normalize="whisper"),
        LogMel(bins=8, hop=128, fmax=6000),
        Raw(normalize=False),
        Raw(),
    ],
    ids=repr,
)
def test_front_ends(recognise, tmp_path, front):
    """N2 has an LSTM, and convolutions along two axes."""
    config = n2.Config(bins=front.bins, vocab=len(ENGLISH), filters=4, hidden=8, layers=1)
    rng = np.random.default_rng(0)
    weights = {
        name: (rng.standard_normal(s.shape) + 2 * (s.init == "ones")).astype(np.float32)
        for name, s in n2.specs(config).items()
    }
    for name, value in weights.items():
        if name.endswith("variance"):
            np.abs(value, out=value)
    about = {"family": "n2", "config": asdict(config)}
    path = tmp_path / "m.safetensors"
    checkpoint.save_model(path, header(frontend=front.config, **about), weights, bits=32)
    model = tynda.load(path, threads=1)
    export_model(model.checkpoint, tmp_path / "m", 1)
    # Short ones as well, which reflections are longer than.
    lengths = [0.9, 0.02, 0.005] if front.hop > 1 else [0.1, 0.005]
    wavs = [write_wav(tmp_path / f"{x}.wav", noise(x, level=0.02)) for x in lengths]
    assert any(agree(recognise, tmp_path / "m", model, wavs))


def test_bytes_that_are_no_characters(recognise, tmp_path):
    """A random Whisper of 99 languages writes characters that are cut in two."""
    from whisper_peer import write_folder

    folder = tmp_path / "random"
    folder.mkdir()
    write_folder(folder, seed=2)
    model = tynda.load(folder, threads=1)
    export_model(model.checkpoint, tmp_path / "m")
    wavs = [write_wav(tmp_path / f"{i}.wav", noise(0.7, seed=i)) for i in range(6)]
    texts = agree(recognise, tmp_path / "m", model, wavs)
    assert any("\ufffd" in text for text in texts)


# ---- what is written


def read(folder, name="manifest.txt"):
    return (folder / name).read_text("ascii")


def blob(folder, offset, dtype, *shape):
    data = (folder / "weights.bin").read_bytes()
    count = int(np.prod(shape))
    return np.frombuffer(data, dtype, count, int(offset)).reshape(shape)


def test_weights_that_are_rounded_when_they_are_read_are_rounded(tmp_path):
    model = library.load(found_at("witness-wav2vec2"))
    export_model(model, tmp_path / "m", 1, bits=8)
    plan = read(tmp_path / "m", "encode.plan")
    seen = 0
    for name, codes, scale in re.findall(
        r"^matrix (\S+) int8 (\d+) (\d+)$", read(tmp_path / "m"), re.M
    ):
        weight, first, count, inputs = re.search(
            rf"^matrix {re.escape(name)} (\S+) (\d+) (\d+) (\d+) 8 0$", plan, re.M
        ).groups()
        rows = slice(int(first), int(first) + int(count))
        expected = Weight.lazy_int8(model.weights[weight])[rows].by_tap().integers()
        found = blob(tmp_path / "m", codes, np.int8, int(count), int(inputs))
        np.testing.assert_array_equal(found, expected[0])
        np.testing.assert_array_equal(blob(tmp_path / "m", scale, "<f4", int(count)), expected[1])
        seen += 1
    assert seen > 5


def test_a_weight_is_stored_once(tmp_path):
    """The prompt and the steps after it read the same blobs, the output layer is the embedding."""
    model = library.load(found_at("witness-whisper"))
    export_model(model, tmp_path / "m")
    parts = read(tmp_path / "m").split("\nprogram ")
    prompt, step = (set(part.splitlines()[1:]) for part in parts[-2:])
    assert prompt == step
    fields = "curve|filters|rows|positions|log_counts"
    offsets = [int(x) for x in re.findall(rf"(?:{fields})=(\d+)", parts[0])]
    for line in "\n".join(parts[1:]).splitlines():
        if line.startswith(("matrix", "constant")):
            offsets += [int(word) for word in line.split(" ")[2:] if word.isdigit()]
    assert all(offset % 64 == 0 for offset in offsets)
    floats = 4 * sum(int(np.prod(w.shape)) for w in model.weights.values())
    front = model.frontend
    tables = 4 * (front.window + (front.fft // 2 + 1) * front.bins)
    # A row, a position and a logarithm for each frame that a short window keeps.
    tables += sum(20 * int(kept) for kept in re.findall(r"^window .*kept=(\d+)", parts[0], re.M))
    gaps = 64 * len(set(offsets))
    assert (
        floats + tables <= (tmp_path / "m" / "weights.bin").stat().st_size < floats + tables + gaps
    )


def test_a_table_is_stored_once(windows):
    """It is a constant of the plan for the whole window, and a matrix of those for short ones."""
    name = r"model\.encoder\.embed_positions\.weight"
    constant = re.search(rf"^constant {name} (\d+)$", read(windows), re.M)
    matrices = re.findall(rf"^matrix {name} float32 (\d+)$", read(windows), re.M)
    assert set(matrices) == {constant[1]}


def test_tokens_are_escaped(tmp_path):
    model = library.load(found_at("witness-whisper"))
    export_model(model, tmp_path / "m")
    lines = read(tmp_path / "m", "tokens.txt").split("\n")
    assert len(lines) == model.config.vocab + 1
    assert lines[-1] == ""
    texts = [line.encode().decode("unicode_escape").encode("latin-1") for line in lines[:-1]]
    for token in range(model.tokenizer.eot):
        assert texts[token].decode("utf-8", "replace") == model.tokenizer.decode([token])
    assert not any(texts[model.tokenizer.eot :])


class Unknown(Raw):
    kind = "unknown"

    def exported(self):
        return super(Raw, self).exported()


@pytest.mark.parametrize("front", [Unknown(), LogMel(bins=8, fft=406), Spectrogram(fft=259)])
def test_a_front_end_that_native_code_does_not_know_is_refused(tiny_file, tmp_path, front):
    model = library.load(tiny_file)
    model.frontend = front
    with pytest.raises(TyndaError, match="cannot be exported"):
        export_model(model, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


# ---- where it is written


def run(*arguments):
    result = CliRunner().invoke(main, ["export", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_the_command_replaces_an_older_export_and_nothing_else(tiny_file, tmp_path):
    target = tmp_path / "m"
    result = run(tiny_file, target, "--seconds", "2")
    assert (result.exit_code, result.stdout) == (0, f"{target}\n")
    names = {"manifest.txt", "weights.bin", "tokens.txt", "encode.plan"}
    assert {path.name for path in target.iterdir()} == names
    before = read(target)
    assert run(tiny_file, target, "--seconds", "1", "--bits", "8").exit_code == 0
    assert read(target) != before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]

    before = read(target)
    (target / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for place in (target, tmp_path / "file", tmp_path, tmp_path / "none" / "m"):
        result = run(tiny_file, place)
        assert result.exit_code == 1, place
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: ")
    assert read(target) == before
    assert (target / "notes.txt").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"m", "file"}


def test_an_empty_folder_is_filled(tiny_file, tmp_path):
    (tmp_path / "m").mkdir()
    assert run(tiny_file, tmp_path / "m").exit_code == 0


@pytest.mark.parametrize("seconds", ["0.5", "nan", "3601"])
def test_lengths_out_of_range_are_wrong_usage(tiny_file, tmp_path, seconds):
    assert run(tiny_file, tmp_path / "m", "--seconds", seconds).exit_code == 2
    with pytest.raises(TyndaError, match="seconds"):
        export_model(library.load(tiny_file), tmp_path / "m", float(seconds))


def test_a_folder_that_fails_leaves_the_older_one(tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "old").write_text("old")

    def fill(error):
        with whole_folder(tmp_path / "m", lambda _: True) as part:
            (part / "new").write_text("new")
            raise error

    with pytest.raises(KeyboardInterrupt):
        fill(KeyboardInterrupt())
    with pytest.raises(TyndaError, match="make room"):
        fill(OSError(28, "No space left on device"))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["old"]


# ---- damaged folders


def refused(recognise, folder, wav):
    """The only line of the program, which ended with 1."""
    done = subprocess.run([recognise, folder, wav], capture_output=True, timeout=120)
    assert done.returncode == 1, (done.returncode, done.stderr[-2000:])
    assert done.stdout == b""
    (line,) = done.stderr.decode("ascii", "replace").splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture(scope="session")
def short(tmp_path_factory):
    """A second of sound."""
    return write_wav(tmp_path_factory.mktemp("short") / "a.wav", noise(1, level=0.02))


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "m"
    export_model(library.load("digits-en"), folder, 1)
    return folder


@pytest.fixture(scope="session")
def witness(tmp_path_factory):
    folder = tmp_path_factory.mktemp("witness") / "m"
    export_model(library.load(found_at("witness-whisper")), folder, 1)
    return folder


@pytest.fixture(scope="session")
def windows(tmp_path_factory):
    """The same model with its windows for short recordings."""
    folder = tmp_path_factory.mktemp("windows") / "m"
    export_model(library.load(found_at("witness-whisper")), folder)
    return folder


def damaged(folder, tmp_path, name, change):
    """A copy of a folder, with one file changed."""
    copy = tmp_path / "damaged"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(folder, copy)
    if (data := change((copy / name).read_bytes())) is None:
        (copy / name).unlink()
    else:
        (copy / name).write_bytes(data)
    return copy


@pytest.mark.parametrize("name", ["manifest.txt", "weights.bin", "tokens.txt", "encode.plan"])
def test_files_that_are_missing_empty_or_cut_off(recognise, digits, short, tmp_path, name):
    for change in (lambda _: None, lambda _: b"", lambda data: data[: len(data) * 2 // 3]):
        refused(recognise, damaged(digits, tmp_path, name, change), short)


def test_a_folder_that_is_none(recognise, digits, short, tmp_path):
    assert "cannot read" in refused(recognise, tmp_path / "none", short)
    copy = damaged(digits, tmp_path, "weights.bin", lambda _: None)
    (copy / "weights.bin").mkdir()
    assert "cannot read" in refused(recognise, copy, short)


CHANGES = {
    r"^tynda-export 1": b"tynda-export 2",
    r"(?<=bins=)\d+": b"81",
    r"(?<=hop=)\d+": b"0",
    r"(?<=fft=)\d+": b"511",
    r"(?<=window=)\d+": b"4000000000000",
    r"(?<=curve=)\d+": b"3",
    r"(?<=filters=)\d+": b"999999936",
    r"(?<=samples=)\d+": b"4000000000000",
    r"(?<=silence=)\d+": b"4000000000000",
    r"(?<=frames=)\d+": b"99",
    r"(?<=whole=)\d": b"2",
    r"(?<=blank=)\d+": b"29",
    r"^head ctc": b"head seq2seq",
    r"^head .*\n": b"",
    r"^head ": b"head ctc blank=0\nhead ",
    r"normalize=whisper": b"normalize=none",
    r"frontend log_mel": b"frontend raw",
    r"program encode": b"program ../encode",
    r"^constant \S+": b"constant other",
    r"^constant .*\n": b"",
    r"(?<= int8 )\d+": b"64064064",
    r" int8 ": b" float32 ",
    r"^matrix (\S+) int8": b"matrix x int8",
    r"^matrix .*\n": b"",
}


@pytest.mark.parametrize("pattern", CHANGES)
def test_numbers_of_the_manifest_that_cannot_be(recognise, digits, short, tmp_path, pattern):
    change = changed(pattern, CHANGES[pattern])
    refused(recognise, damaged(digits, tmp_path, "manifest.txt", change), short)


def changed(pattern, new):
    """The function that replaces the only match of a pattern."""

    def change(data):
        result, count = re.subn(pattern.encode(), new, data, count=1, flags=re.M)
        assert count == 1
        return result

    return change


WINDOWS = {
    r"(?<=begin=)\d+": b"0",
    r"(?<=none=)\d+": b"999999",
    r"(?<=last_first=)\d+": b"999999",
    r"^timestamps begin": b"timestamps end",
    r"(?<=^window samples=)\d+": b"4000000000000",
    r"(?<=^window samples=)48000( frames=)\d+": rb"48000\g<1>299",
    r"(?<=kept=)\d+": b"4000000000000",
    r"(?<=rows=)\d+": b"3",
    r"(?<=positions=)\d+": b"999999936",
    r"^window .*\n": b"",
    r"^(window .*\n)(window .*\n)": rb"\2\1",
    r"^program encode\.1": b"program encode.9",
}


@pytest.mark.parametrize("pattern", WINDOWS)
def test_numbers_of_windows_that_cannot_be(recognise, windows, short, tmp_path, pattern):
    change = changed(pattern, WINDOWS[pattern])
    refused(recognise, damaged(windows, tmp_path, "manifest.txt", change), short)


def test_frames_that_a_window_does_not_have_are_refused(recognise, windows, short, tmp_path):
    line = re.search(r"^window .* rows=(\d+)", read(windows), re.M)

    def change(data):
        at = int(line[1])
        return data[:at] + b"\xff" * 8 + data[at + 8 :]

    refused(recognise, damaged(windows, tmp_path, "weights.bin", change), short)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"RIFF",
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\xff" + bytes(20),
        b"RIFF\0\0\0\0WAVEdata\x04\0\0\0" + bytes(4),
    ],
)
def test_sound_that_is_none(recognise, digits, tmp_path, data):
    (tmp_path / "a.wav").write_bytes(data)
    refused(recognise, digits, tmp_path / "a.wav")
    refused(recognise, digits, write_wav(tmp_path / "b.wav", noise(1), rate=8000))


def test_a_mistake_in_the_command_line(recognise):
    done = subprocess.run([recognise], capture_output=True)
    assert done.returncode == 2
    assert done.stderr.startswith(b"usage: ")


NUMBERS = ["0", "-1", "1", "63", "64", "4097", "99999999", "4398046511104", str(1 << 63), "1e9"]


def broken(rng, data):
    """A file with a few bits, numbers or lines changed."""
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(data)))
        match rng.integers(5):
            case 0:
                data = data[:at] + bytes([data[at] ^ 1 << rng.integers(8)]) + data[at + 1 :]
            case 1:
                data = data[:at] + data[at + 1 :]
            case 2:
                other = rng.choice(NUMBERS).encode()
                data = data[:at] + re.sub(rb"-?\d+", other, data[at:], count=1)
            case 3:
                lines = data.split(b"\n")
                line = lines.pop(rng.integers(len(lines)))
                lines.insert(rng.integers(len(lines) + 1), line)
                data = b"\n".join(lines)
            case _:
                lines = data.split(b"\n")
                at = rng.integers(len(lines))
                lines[at : at + 1] = [lines[at]] * (2 * int(rng.integers(2)))
                data = b"\n".join(lines)
        if not data:
            break
    return data


def survives(recognise, folder, wav, tmp_path, rounds, seed):
    """Whatever is changed, the program prints one line and ends with 0 or 1."""
    rng = np.random.default_rng(seed)
    names = sorted(path.name for path in folder.iterdir())
    ends = {0: 0, 1: 0}
    # Memory that is asked for, and not used, may be more than a machine has.
    options = os.environ | {"ASAN_OPTIONS": "allocator_may_return_null=1"}
    for i in range(rounds):
        name = names[i % len(names)]
        copy = damaged(folder, tmp_path, name, lambda data: broken(rng, data))
        command = [recognise, copy, wav]
        done = subprocess.run(command, capture_output=True, timeout=300, env=options)
        assert done.returncode in ends, (i, name, done.returncode, done.stderr[-3000:])
        output = done.stderr if done.returncode else done.stdout
        assert len(output.splitlines()) == 1, (i, name, output)
        ends[done.returncode] += 1
    return ends


def test_damage_is_survived(recognise, digits, witness, short, tmp_path):
    ends = survives(recognise, digits, short, tmp_path, 90, 0)
    assert min(ends.values()) > 5, ends
    survives(recognise, witness, short, tmp_path, 60, 1)


@pytest.mark.slow
def test_damage_is_survived_under_sanitizers(digits, witness, short, tmp_path):
    flags, *settings = sanitized(tmp_path, "address,undefined,float-cast-overflow")
    checked = build(tmp_path / "build", flags, *settings, target="tynda_recognise")
    survives(checked, digits, short, tmp_path, 400, 2)
    survives(checked, witness, short, tmp_path, 300, 3)
