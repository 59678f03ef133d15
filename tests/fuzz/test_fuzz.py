"""Damaged and hostile inputs of every kind: one line, an exit code, bounded time and memory.

Each case runs in a forked process (``fuzz_server``). ``make test`` runs 200 cases of each kind,
always the same ones; ``make test-slow`` runs as many as the environment variable TYNDA_FUZZ_CASES
states, 20000 by default, which are other ones each time. TYNDA_FUZZ_KEEP names a folder that keeps
the inputs of all cases that fail.
"""

import itertools
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import click
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fuzz_bases import ARPA, model_bytes, read_model, recordings, write_folders, write_models
from fuzz_server import Server
from fuzz_values import changed, changes, edited, edits, numbers, picks, spots, texts
from helpers import noise, write_wav
from tynda.cli import main
from tynda.heads.ctc import ngram

if not hasattr(os, "fork") or not hasattr(os, "pidfd_open"):
    pytest.skip("needs fork and pidfd_open", allow_module_level=True)

SHORT, LONG = 200, int(os.environ.get("TYNDA_FUZZ_CASES", "20000"))
KEEP = os.environ.get("TYNDA_FUZZ_KEEP")
FAST = settings(
    max_examples=SHORT, deadline=None, database=None, derandomize=True, phases=[Phase.generate]
)
SLOW = settings(
    FAST,
    max_examples=LONG,
    derandomize=False,
    suppress_health_check=list(HealthCheck),
)


class Cases:
    """Runs cases one after the other, and remembers those that fail."""

    def __init__(self, server, folder):
        self.server, self.folder, self.bases = server, folder, {}
        self.failures, self.codes = [], Counter()
        self.here = folder / "case"

    def fresh(self):
        """Return an empty folder for the next case."""
        shutil.rmtree(self.here, ignore_errors=True)
        self.here.mkdir()
        return self.here

    def run(self, arguments, written=(), **environment):
        """Run a command line in the case's folder; an error may leave no file that it writes."""
        before = {*self.here.iterdir()}
        outcome = self.server.run([*map(str, arguments)], self.here, **environment)
        self.codes[outcome.code] += 1
        complaint = outcome.complaint()
        left = {path.name for path in {*self.here.iterdir()} - before}
        if left - {*written} or (outcome.code and left):
            complaint = complaint or f"left {sorted(left)} behind"
        if not complaint:
            return
        last = (outcome.err.strip().splitlines() or [""])[-1][:300]
        where = re.findall(r'File "\S*/(\w+\.py)", line (\d+)', outcome.err)[-3:]
        self.failures.append(f"{complaint}: tynda {' '.join(map(str, arguments))}: {last} {where}")
        if KEEP:
            kept = Path(KEEP) / f"{os.getpid()}-{len(os.listdir(KEEP)):05}"
            shutil.copytree(self.here, kept)
            about = {"arguments": [*map(str, arguments)], "environment": environment}
            (kept / "case.json").write_text(json.dumps(about | outcome.__dict__, indent=1))

    def report(self):
        """Fail if a case did."""
        shown = "\n".join(sorted({*self.failures})[:20])
        count = self.codes.total()
        print(f"{count} cases, by exit code {dict(self.codes)}")
        assert not self.failures, f"{len(self.failures)} of {count} cases fail:\n{shown}"


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Whole inputs: models as (tensors, header, bytes), folders, recordings."""
    folder = tmp_path_factory.mktemp("bases")
    for name in ("models", "folders", "sounds"):
        (folder / name).mkdir()
    paths = write_models(folder / "models")
    write_wav(folder / "a.wav", noise(0.4))
    write_wav(folder / "b.wav", noise(0.3, 1))
    return {
        "models": {path.stem: (*read_model(path), path.read_bytes()) for path in paths},
        "paths": {path.stem: path for path in paths},
        "folders": write_folders(folder / "folders"),
        "sounds": recordings(folder / "sounds"),
        "a.wav": folder / "a.wav",
        "b.wav": folder / "b.wav",
    }


@pytest.fixture
def cases(server, bases, tmp_path):
    cases = Cases(server, tmp_path)
    cases.bases = bases
    return cases


def both(strategy):
    """Make a test of a function of cases and a drawn value: a short one and a long one."""

    def decorate(function):
        def check(cases, each):
            each(lambda drawn: function(cases, drawn))
            cases.report()

        def short(cases):
            check(cases, lambda run: FAST(given(strategy)(lambda drawn: run(drawn)))())

        def long(cases):
            check(cases, lambda run: SLOW(given(strategy)(lambda drawn: run(drawn)))())

        name = function.__name__
        globals()[f"test_{name}"] = short
        globals()[f"test_{name}_many"] = pytest.mark.slow(long)
        return function

    return decorate


def of(items, pick):
    """Return one of some items."""
    items = list(items)
    return items[pick % len(items)]


# Model files

WHISPER = ["--max-new-tokens", 5, "--speech-threshold", 0, "--best-of", 1, "--temperature", 0]
CTC = (
    ["transcribe", "a.wav"],
    ["transcribe", "a.wav", "--beam-size", 3, "--format", "json"],
    ["transcribe", "a.wav", "--backend", "numpy", "--threads", 1],
    ["transcribe", "a.wav", "--bits", 8, "--hotwords", "ab,c"],
    ["transcribe", "a.wav", "--n-best", 2, "--format", "json", "--beam-size", 2],
)
SEQ2SEQ = (
    ["transcribe", "a.wav", *WHISPER],
    ["transcribe", "a.wav", "--word-timestamps", "--format", "json", *WHISPER],
    ["transcribe", "a.wav", "--beam-size", 2, "--bits", 32, *WHISPER],
    ["transcribe", "a.wav", "--language", "en", "--window", "fit", *WHISPER],
    ["transcribe", "a.wav", "--vad-filter", "--initial-prompt", "a b", *WHISPER],
)
OTHER = (
    ["models", "show"],
    ["quantize", "-o", "out.safetensors", "--bits", 4],
    ["quantize", "-o", "out.safetensors", "--bits", 8],
    ["export", "out.tynda", "--seconds", 1],
    ["models", "plan", "--seconds", 1],
)
WRITTEN = ("out.safetensors", "out.tynda")


def command(cases, model, kinds, pick):
    """Run one of the commands on a model in the case's folder."""
    os.link(cases.bases["a.wav"], cases.here / "a.wav")
    arguments = list(of([*kinds, *kinds, *OTHER], pick))
    if arguments[0] == "transcribe":
        arguments += ["--model", model]
    else:
        arguments.insert(2 if arguments[0] == "models" else 1, model)
    cases.run(arguments, WRITTEN)


tensor_changes = st.lists(
    st.tuples(
        picks,
        st.sampled_from(
            (
                *("drop", "nan", "inf", "huge", "negative", "zero", "flat", "turned", "type"),
                *("empty", "longer", "rename", "noise", "one"),
            )
        ),
        picks,
    ),
    max_size=3,
)
TYPES = ("f2", "f4", "f8", "i1", "u1", "i2", "i4", "i8", "?")


def changed_tensors(tensors, steps):
    """Return tensors after some changes."""
    tensors = {**tensors}
    for pick, kind, more in steps:
        if not tensors:
            break
        name = of(tensors, pick)
        value = np.array(tensors[name])
        place = more % max(value.size, 1)
        if kind == "drop":
            del tensors[name]
        elif kind in ("nan", "inf", "huge", "one") and value.size and value.dtype.kind == "f":
            number = {"nan": np.nan, "inf": np.inf, "huge": np.finfo(value.dtype).max, "one": 1e5}
            value.flat[place] = min(number[kind], 6e4) if kind == "one" else number[kind]
            tensors[name] = value
        elif kind == "negative":
            tensors[name] = -value if value.dtype != bool else ~value
        elif kind == "zero":
            tensors[name] = np.zeros_like(value)
        elif kind == "noise":
            data = np.random.default_rng(more).bytes(value.nbytes)
            tensors[name] = np.frombuffer(data, value.dtype).reshape(value.shape)
        elif kind == "flat":
            tensors[name] = value.reshape(-1)
        elif kind == "turned":
            tensors[name] = np.ascontiguousarray(value.T)
        elif kind == "type":
            with np.errstate(all="ignore"):
                tensors[name] = value.astype(of(TYPES, more))
        elif kind == "empty":
            tensors[name] = value[:0] if value.ndim else value
        elif kind == "longer":
            tensors[name] = np.concatenate([value, value]) if value.ndim else value
        elif kind == "rename":
            tensors[of(["lm", "x", name + ".scale", "tokenizer.ends"], more)] = tensors.pop(name)
    return tensors


@both(st.tuples(picks, tensor_changes, changes | st.just([]), picks))
def headers_and_tensors_of_model_files(cases, drawn):
    pick, steps, of_header, how = drawn
    name = of(cases.bases["models"], pick)
    tensors, header, _ = cases.bases["models"][name]
    data = model_bytes(changed_tensors(tensors, steps), changed(header, of_header))
    (cases.fresh() / "m.safetensors").write_bytes(data)
    command(cases, "m.safetensors", SEQ2SEQ if "whisper" in name else CTC, how)


@both(st.tuples(picks, edits, st.booleans(), picks))
def bytes_of_model_files(cases, drawn):
    pick, steps, in_header, how = drawn
    name = of(cases.bases["models"], pick)
    data = cases.bases["models"][name][-1]
    end = 8 + int.from_bytes(data[:8], "little")
    data = edited(data[:end], steps) + data[end:] if in_header else edited(data, steps)
    (cases.fresh() / "m.safetensors").write_bytes(data)
    command(cases, "m.safetensors", SEQ2SEQ if "whisper" in name else CTC, how)


# N-grams

WORDS = st.sampled_from(["nan", "-inf", "1e400", "-99", "0", "3", "<s>", "</s>", "<unk>", "ab", ""])
line_changes = st.lists(
    st.tuples(
        spots,
        st.sampled_from(["drop", "double", "swap", "word", "number", "join", "blank"]),
        spots,
        WORDS | texts,
        st.one_of(st.integers(-3, 40), numbers),
    ),
    min_size=1,
    max_size=4,
)


def changed_lines(text, steps):
    """Return a text after some changes of its lines."""
    lines = text.split("\n")
    for spot, kind, other, word, number in steps:
        if not lines:
            break
        at, to = int(spot * len(lines)), int(other * len(lines))
        fields = lines[at].split()
        if kind == "drop":
            del lines[at]
        elif kind == "double":
            lines.insert(to, lines[at])
        elif kind == "swap":
            lines[at], lines[to] = lines[to], lines[at]
        elif kind == "word" and fields:
            fields[to % len(fields)] = word
            lines[at] = " ".join(fields)
        elif kind == "number":
            found = [i for i, line in enumerate(lines) if line.startswith("ngram ")]
            if found:
                lines[found[at % len(found)]] = f"ngram {of([1, 2, 3, number], to)}={number}"
        elif kind == "join" and at + 1 < len(lines):
            lines[at : at + 2] = ["\t".join(lines[at : at + 2])]
        elif kind == "blank":
            lines.insert(at, "")
    return "\n".join(lines)


@both(st.tuples(line_changes | st.just([]), edits | st.just([]), st.booleans()))
def n_grams(cases, drawn):
    by_line, by_byte, inside = drawn
    arpa = edited(changed_lines(ARPA, by_line).encode(errors="surrogatepass"), by_byte)
    here, model = cases.fresh(), cases.bases["paths"]["tiny"]
    os.link(cases.bases["a.wav"], here / "a.wav")
    options = ["--beam-size", 3, "--lm", "x.arpa"]
    if inside:
        tensors, header, _ = cases.bases["models"]["lm"]
        packed = np.frombuffer(ngram.pack(arpa.decode("latin-1")), np.uint8)
        (here / "m.safetensors").write_bytes(model_bytes({**tensors, "lm": packed}, header))
        model, options = "m.safetensors", []
    else:
        (here / "x.arpa").write_bytes(arpa)
    cases.run(["transcribe", "a.wav", "--model", model, *options])


# Folders


@both(st.tuples(picks, picks, changes, edits, st.booleans(), picks))
def folders_and_files_of_other_programs(cases, drawn):
    pick, which, of_json, of_bytes, whole, how = drawn
    folder = of(cases.bases["folders"], pick)
    here = cases.fresh() / "model"
    shutil.copytree(folder, here, copy_function=os.link)
    files = sorted(here.iterdir())
    path = of(files, which)
    data = path.read_bytes()
    path.unlink()
    if whole and path.suffix == ".json":
        path.write_text(json.dumps(changed(json.loads(data), of_json)))
    elif whole:
        path.write_bytes(edited(data[:4000], of_bytes) + data[4000:])
    elif len(files) == 1 or how % 10:
        path.write_bytes(edited(data, of_bytes))
    model = "model/ggml.bin" if len(files) == 1 else "model"
    command(cases, model, CTC if folder.name == "wav2vec2" else SEQ2SEQ, how)


# Manifests


@both(st.tuples(st.lists(st.tuples(changes | st.just([]), edits | st.just([]))), picks))
def manifests(cases, drawn):
    lines, how = drawn
    here = cases.fresh()
    for name in ("a.wav", "b.wav"):
        os.link(cases.bases[name], here / name)
    data = b""
    for i, (of_json, of_bytes) in enumerate(lines):
        entry = {"audio_filepath": of(["a.wav", "b.wav"], i), "text": "ab 12 $3.50 the 3rd"}
        entry |= {"duration": 0.4, "speaker": "a", "language": "en", "source": "s"}
        data += edited(json.dumps(changed(entry, of_json)).encode(), of_bytes) + b"\n"
    (here / "m.jsonl").write_bytes(data)
    model = cases.bases["paths"]["tiny"]
    extra = of([["--show"], ["--format", "json"], ["--normalizer", "basic"]], how)
    cases.run(["evaluate", model, "m.jsonl", *extra])


# Options

VERBS = {
    "transcribe": ["transcribe", "a.wav"],
    "evaluate": ["evaluate", "tiny", "m.jsonl"],
    "quantize": ["quantize", "tiny", "-o", "out.safetensors"],
    "export": ["export", "tiny", "out.tynda", "--seconds", "1"],
    "models show": ["models", "show", "tiny"],
    "models plan": ["models", "plan", "tiny"],
    "models pull": ["models", "pull", "nobody/nothing"],
    "models remove": ["models", "remove", "nobody/nothing"],
}
VARIABLES = (
    *("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT", "HF_ENDPOINT", "HF_HOME", "HF_TOKEN"),
    *("TYNDA_MAX_MEMORY", "XDG_CACHE_HOME", "HOME", "COLUMNS", "LINES", "TERM", "LC_ALL", "LANG"),
    *("TMPDIR", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NO_COLOR", "HF_HUB_OFFLINE"),
)


def _options(verb):
    """Return the options of a command: names, and whether they have a value."""
    found, context = main, click.Context(main)
    for name in verb.split():
        found = found.get_command(context, name)
    return [
        (name, not option.is_flag)
        for option in found.params
        if isinstance(option, click.Option)
        for name in (*option.opts, *option.secondary_opts)
    ]


OPTIONS = {verb: _options(verb) or [("--no-such", True)] for verb in VERBS}
option_values = (
    numbers.map(str)
    | texts
    | st.sampled_from(
        [
            "native",
            "numpy",
            "8",
            "32",
            "json",
            "srt",
            "1,2",
            "0,0,0",
            "1" * 400,
            "a,b,c",
            "x=8",
            "3=x",
        ]
    )
)


@both(
    st.tuples(
        st.sampled_from(list(VERBS)),
        st.lists(st.tuples(picks, option_values), max_size=4),
        st.dictionaries(st.sampled_from(VARIABLES), option_values, max_size=1),
        st.sampled_from(["tiny", "lm", "whisper8"]),
    )
)
def options_and_environment(cases, drawn):
    verb, given_options, environment, model = drawn
    here = cases.fresh()
    os.link(cases.bases["a.wav"], here / "a.wav")
    os.link(cases.bases["paths"][model], here / "tiny")
    (here / "m.jsonl").write_text('{"audio_filepath": "a.wav", "text": "ab"}\n')
    arguments = list(VERBS[verb])
    if verb == "transcribe":
        arguments += ["--model", "tiny"]
    for pick, value in given_options:
        name, has_value = of(OPTIONS[verb], pick)
        if name in ("--help", "-h", "--output-dir", "--output", "-o", "--save-plan"):
            continue
        arguments += [name, value.replace("\0", "")] if has_value else [name]
    environment = {
        name: value.replace("\0", "").encode(errors="surrogatepass").decode(errors="replace")
        for name, value in environment.items()
    }
    arguments = [
        a.encode(errors="surrogatepass").decode(errors="replace") for a in map(str, arguments)
    ]
    cases.run(arguments, (*WRITTEN, "profile"), **environment)


# Sound


@both(st.tuples(picks, edits, st.booleans(), st.sampled_from(["tiny", "wav2vec2"])))
def recordings_of_all_formats(cases, drawn):
    pick, steps, at_the_beginning, model = drawn
    data = of(cases.bases["sounds"].values(), pick)
    end = 300 if at_the_beginning else len(data)
    data = edited(data[:end], steps) + data[end:]
    (cases.fresh() / "a").write_bytes(data)
    cases.run(["transcribe", "a", "--model", cases.bases["paths"][model]])


floats = st.lists(
    st.sampled_from([0.0, 1.0, -1.0, 1e9, -1e10, 1e20, 3.4e38, np.nan, np.inf, 1e-40, 5e4]),
    min_size=1,
    max_size=6,
)


@both(st.tuples(floats, picks, st.sampled_from(["tiny", "n2", "parakeet", "wav2vec2", "whisper8"])))
def samples_of_any_size(cases, drawn):
    values, pick, model = drawn
    sound = cases.bases["sounds"]["wav <f4"]
    samples = np.frombuffer(sound[44:], "<f4").copy()
    for i, value in zip(itertools.count(), values):
        samples[(pick * (i + 1)) % len(samples) :: 1 + i * 1000] = value
    (cases.fresh() / "a.wav").write_bytes(sound[:44] + samples.tobytes())
    extra = WHISPER if model == "whisper8" else []
    cases.run(["transcribe", "a.wav", "--model", cases.bases["paths"][model], *extra])
