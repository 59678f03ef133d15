"""Damaged and hostile inputs of every kind: one line, an exit code, bounded time and memory.

Each case runs in a forked process (``fuzz_server``). ``make test`` runs 200 cases of each kind,
always the same ones; ``make test-slow`` runs as many as the environment variable TYNDA_FUZZ_CASES
states, 20000 by default, which are other ones each time. TYNDA_FUZZ_KEEP names a folder that keeps
the inputs of all cases that fail.
"""

import itertools
import json
import os
import shutil

import click
import numpy as np
import pytest
from hypothesis import strategies as st

from fuzz_bases import ARPA, model_bytes
from fuzz_cases import both, of
from fuzz_values import changed, changes, edited, edits, numbers, picks, spots, texts
from tynda.cli import main
from tynda.heads.ctc import ngram

if not hasattr(os, "fork") or not hasattr(os, "pidfd_open"):
    pytest.skip("needs fork and pidfd_open", allow_module_level=True)

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
    "commands": ["commands", "g.txt", "a.wav", "--model", "tiny"],
    "profile run": ["profile", "run", "absent.safetensors"],  # nothing is to be measured
    "listen": ["listen", "-", "--model", "tiny"],
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
    (here / "g.txt").write_text("ab\nba [ab]\n")
    arguments = list(VERBS[verb])
    if verb == "transcribe":
        arguments += ["--model", "tiny"]
    for pick, value in given_options:
        name, has_value = of(OPTIONS[verb], pick)
        if name in ("--help", "-h", "--output-dir", "--output", "-o", "--save-plan", "--report"):
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
