"""Time tynda and other engines on the same work: full-size models with random weights.

    python bench/peers.py [--threads 2] [--rounds 7] [--only tynda,OpenVINO] [--tasks tiny-encoder]
                          [--kinds int8,int4,int2] [--instructions avx2]

The first run installs the peers in a virtual environment in --work and creates the models there;
tynda is that of the Python that runs this script, with weights of the --kinds (int8, int4, int3,
int2, int1.58, f32). Each engine has a waiting process, and in each round they take turns, so that
a change in the machine's speed affects all equally: read the ratios, which are medians over the
rounds. Other work on the machine still affects some engines more than others: those whose threads
wait for each other.

With --instructions avx2, a processor with AVX-512 computes as one without: tynda, and the peers
that can be told (PyTorch, OpenVINO and CTranslate2; not ONNX Runtime and whisper.cpp). On Linux,
PyPI's PyTorch includes CUDA; ``PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu`` selects a
smaller build.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# NumPy and the engines are imported where they are used: the peak memory of a new process, which
# is measured here, includes that of the process that started it.

REQUIREMENTS = {
    "models": ["torch==2.13.0", "transformers==5.23.0", "safetensors==0.8.0", "numpy==2.4.6"],
    "OpenVINO": ["openvino==2026.4.1", "nncf==3.4.0"],
    "ONNX Runtime": ["onnxruntime==1.31.1", "onnx==1.23.2"],
    "CTranslate2": ["ctranslate2==4.8.5"],
    "faster-whisper": ["faster-whisper==1.2.1", "ctranslate2==4.8.5"],
    "whisper.cpp": ["pywhispercpp==1.5.1"],
}
TASKS = {
    "tiny-encoder": ("whisper-tiny", "encoder", "whisper-tiny encoder, 30 s"),
    "base-encoder": ("whisper-base", "encoder", "whisper-base encoder, 30 s"),
    "tiny-decoder": ("whisper-tiny", "decoder", "whisper-tiny decoder, per token"),
    "wav2vec2": ("wav2vec2-base", "ctc", "wav2vec2-base, 10 s"),
    "clip": ("whisper-tiny", "clip", "whisper-tiny, 5 s clip, from start of process to text"),
}
TOKENS = 100
"""Number of tokens to decode. The time after the encoder, including the prompt and the
cross-attention keys and values, is divided by it."""
CLIP_TOKENS = 20
BITS = {"int8": 8, "f32": 32, "int4": 4, "int3": 3, "int2": 2, "int1.58": 1.58}
"""Formats of tynda's weights; products are in 8 bits or in f32."""
AVX2 = {
    "TYNDA_INSTRUCTIONS": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "CT2_FORCE_CPU_ISA": "AVX2",
}
"""The variables by which engines are told not to use AVX-512."""
DEMO = Path(__file__).parent.parent / "demo" / "jfk.flac"
CUT = """
import sys, wave, tynda.sound.audio
samples = tynda.sound.audio.load(sys.argv[1])[: 5 * 16000]
with wave.open(sys.argv[2], "wb") as file:
    file.setparams((1, 2, 16000, 0, "NONE", ""))
    file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
"""
MACHINE = """
from tynda.compile.native import machine
from tynda.profiling.environment import describe
print(f"{describe()['processor']}, kernels for {machine(1).instructions}\\n", flush=True)
"""
Turns = Generator[tuple[float, float], None, None]
"""The milliseconds of each turn, and the process's peak memory in MB where it is known; the first
values, after the preparation, are zeros."""


@dataclass(frozen=True)
class Job:
    """An engine's job in a task."""

    engine: str
    kind: str
    model: str
    part: str
    threads: int
    work: str
    backend: str
    """The threads of tynda."""

    @property
    def path(self) -> str:
        """The path of the model in the engine's format."""
        own = ENGINES[self.engine].format
        if self.engine == "tynda" and self.kind != "f32":
            return f"{self.work}/{self.model}-tynda-{self.kind}.safetensors"
        return f"{self.work}/{self.model}" + (f"-{own}-{self.kind}" if own else "")

    @property
    def clip(self) -> str:
        return f"{self.work}/clip.wav"

    def input(self) -> Any:
        from peer_models import noise

        return noise(self.part == "ctc")


Run = Callable[[], Any]
"""Runs the work once; for decoding, returns the number of tokens."""


def products(job: Job) -> int:
    return 32 if job.kind == "f32" else 8


def of_tynda(job: Job) -> Run:
    import numpy as np
    from threadpoolctl import threadpool_limits

    import tynda
    from tynda.heads.seq2seq import search as whisper
    from tynda.heads.seq2seq.options import Options

    threadpool_limits(job.threads)  # NumPy's threads
    backend: Any = job.backend
    model: Any = tynda.load(job.path, backend=backend, bits=products(job), threads=job.threads)
    x = job.input()
    if job.part == "ctc":
        return lambda: model.encode(x[0])
    network, lengths = model.head.network, np.array([x.shape[2]])
    mel = np.ascontiguousarray(x.transpose(0, 2, 1))
    if job.part == "encoder":
        return lambda: network.engine.array(network.encode(mel, lengths)[0])
    sound, never = network.encode(mel, lengths), [network.tokenizer.eot]
    options = Options(without_timestamps=True, max_new_tokens=TOKENS, suppress_tokens=never)

    def decode() -> int:
        (window,) = whisper.decode(network, network.cross_kv(*sound), options, ["en"])
        return len(window.tokens)

    return decode


def of_openvino(job: Job) -> Run:
    import openvino as ov

    config: dict[str, Any] = {"INFERENCE_NUM_THREADS": job.threads}
    if job.kind == "f32":  # OpenVINO may use bf16 by default
        config["INFERENCE_PRECISION_HINT"] = "f32"
    model, x = ov.Core().compile_model(f"{job.path}/model.xml", "CPU", config), job.input()
    return lambda: model(x)


def of_onnxruntime(job: Job) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = job.threads
    session = ort.InferenceSession(f"{job.path}/model.onnx", options)
    x = {session.get_inputs()[0].name: job.input()}
    return lambda: session.run(None, x)


def of_pytorch(job: Job) -> Run:
    import torch
    from transformers import WhisperForConditionalGeneration

    import peer_models

    torch.set_num_threads(job.threads)
    torch.set_grad_enabled(False)
    x, module = torch.from_numpy(job.input()), peer_models.module(Path(job.path))
    if job.part != "decoder":
        return lambda: module(x)
    states, whole = module(x), WhisperForConditionalGeneration.from_pretrained(job.path)

    def decode() -> int:
        tokens, past = torch.tensor([peer_models.PROMPT]), None
        for _ in range(TOKENS):
            out = whole(encoder_outputs=(states,), decoder_input_ids=tokens, past_key_values=past)
            tokens, past = out.logits[:, -1:].argmax(-1), out.past_key_values
        return TOKENS

    return decode


def of_ctranslate2(job: Job) -> Run:
    import ctranslate2 as ct
    import numpy as np

    import peer_models

    model = ct.models.Whisper(job.path, device="cpu", intra_threads=job.threads)
    mel = ct.StorageView.from_array(job.input())
    if job.part == "encoder":
        return lambda: np.array(model.encode(mel))
    states, prompt = model.encode(mel), [peer_models.PROMPT]
    never = [-1, peer_models.EOT]

    def decode() -> int:  # half of max_length is available for the text
        found = model.generate(
            states, prompt, beam_size=1, max_length=2 * TOKENS, suppress_tokens=never
        )
        return len(found[0].sequences_ids[0])

    return decode


def of_faster_whisper(job: Job) -> Run:
    from faster_whisper import WhisperModel

    model = WhisperModel(job.path, device="cpu", cpu_threads=job.threads)
    options: dict[str, Any] = {"language": "en", "beam_size": 1, "temperature": 0}
    # The limit is twice the tokens including the prompt: CTranslate2 halves it.
    options |= {"without_timestamps": True, "max_new_tokens": 2 * CLIP_TOKENS - 4}
    return lambda: print(*(x.text for x in model.transcribe(job.clip, **options)[0]))


def of_whisper_cpp(job: Job) -> Run:
    import _pywhispercpp as core
    import numpy as np
    from pywhispercpp.model import Model

    options: dict[str, Any] = {"language": "en", "greedy": {"best_of": 1}, "temperature_inc": 0.0}
    options |= {"no_timestamps": True, "max_tokens": CLIP_TOKENS - 1, "print_progress": False}
    options["redirect_whispercpp_logs_to"] = None  # discarded; one more token is generated
    model, threads = Model(f"{job.path}/model.bin", n_threads=job.threads, **options), job.threads
    if job.part == "clip":
        return lambda: print(*(x.text for x in model.transcribe(job.clip)))
    samples = np.random.default_rng(0).standard_normal(480000).astype(np.float32)
    core.whisper_pcm_to_mel(model._ctx, samples, len(samples), threads)
    if job.part == "encoder":  # including the cross-attention keys and values
        return lambda: core.whisper_encode(model._ctx, 0, threads)
    core.whisper_encode(model._ctx, 0, threads)

    def decode() -> int:  # without the prompt: the binding takes one token at a time
        for at in range(TOKENS):
            core.whisper_decode(model._ctx, at, 1, at, threads)
        return TOKENS

    return decode


@dataclass(frozen=True)
class Engine:
    prepare: Callable[[Job], Run]
    format: str | None
    """The format's name in `peer_models`; None means the Hugging Face folder."""
    kinds: list[str]
    """Precisions of weights and products, or, for f16 and q4_0, of weights only."""
    parts: list[str]


ENGINES = {
    "tynda": Engine(of_tynda, None, ["int8", "f32"], ["encoder", "decoder", "ctc", "clip"]),
    "OpenVINO": Engine(of_openvino, "openvino", ["int8", "f32"], ["encoder", "ctc"]),
    "ONNX Runtime": Engine(of_onnxruntime, "onnx", ["int8", "f32"], ["encoder", "ctc"]),
    "PyTorch": Engine(of_pytorch, None, ["f32"], ["encoder", "decoder", "ctc"]),
    "CTranslate2": Engine(of_ctranslate2, "ctranslate2", ["int8", "f32"], ["encoder", "decoder"]),
    "faster-whisper": Engine(of_faster_whisper, "ctranslate2", ["int8"], ["clip"]),
    "whisper.cpp": Engine(of_whisper_cpp, "ggml", ["q4_0", "f16"], ["encoder", "decoder", "clip"]),
}


def serve(job: Job) -> None:
    """Prepare and print 0; then run the work for every line of input, and print its ms."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # engines print to stdout
    run = ENGINES[job.engine].prepare(job)
    print(0, file=answers)
    for _ in sys.stdin:
        started = time.perf_counter()
        count = run()
        spent = 1e3 * (time.perf_counter() - started)
        print(spent / (count if job.part == "decoder" else 1), file=answers)


def turns(job: Job, log: Any) -> Turns:
    """Create the model if it is missing, then start a process that waits for its turns."""
    peers = f"{job.work}/venv/bin/python"
    make(job, peers, log)
    pipe, python = subprocess.PIPE, sys.executable if job.engine == "tynda" else peers
    command = [python, __file__, "serve", json.dumps(asdict(job))]
    process: Any = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, bufsize=0)
    with process:
        while line := process.stdout.readline():
            yield float(line), 0.0
            process.stdin.write(b"run\n")


def cold_turns(job: Job, log: Any) -> Turns:
    """Time a new process in each turn."""
    peers = f"{job.work}/venv/bin/python"
    make(job, peers, log)
    command = [peers, __file__, "once", json.dumps(asdict(job))]
    if job.engine == "tynda":
        options = f"--model {job.path} --backend {job.backend} --bits {products(job)}"
        options += f" --threads {job.threads} --max-new-tokens {CLIP_TOKENS} --temperature 0"
        options += " --language en --without-timestamps"
        command = [sys.executable, "-m", "tynda", "transcribe", *options.split(), job.clip]
    yield 0.0, 0.0
    while True:
        started = time.perf_counter()
        process: Any = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        text = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        spent = 1e3 * (time.perf_counter() - started)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode or not text.strip():
            return
        yield spent, usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def make(job: Job, python: str, log: Any) -> None:
    """Write missing files by `peer_models`: the model, and its other format."""
    source, own = f"{job.work}/{job.model}", ENGINES[job.engine].format
    wanted = {source: ["huggingface", job.model, f"{source}.part"]}
    wanted |= {job.path: [own, job.kind, f"{job.path}.part", source]} if own else {}
    for path, arguments in wanted.items():
        if not os.path.exists(path):
            maker = sys.executable if arguments[0] == "ggml" else python  # tynda writes this format
            command: list[Any] = [maker, Path(__file__).with_name("peer_models.py"), *arguments]
            subprocess.run(command, check=True, stdout=log, stderr=log)
            os.rename(f"{path}.part", path)
    if not os.path.exists(job.path):  # a tynda file in few bits
        command = [sys.executable, "-m", "tynda", "quantize", source, "-o", f"{job.path}.part"]
        command += ["--bits", f"{BITS[job.kind]:g}"]
        subprocess.run(command, check=True, stdout=log, stderr=log)
        os.rename(f"{job.path}.part", job.path)


def set_up(work: Path, engines: list[str]) -> None:
    """Install the packages pinned above, and cut 5 s out of a recording."""
    python, done = work / "venv" / "bin" / "python", work / "installed.txt"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", work / "venv"], check=True)
    for name in ["models", *engines]:
        there = done.read_text().split() if done.exists() else []
        wanted = [x for x in REQUIREMENTS.get(name, []) if x not in there]
        install: list[Any] = [python, "-m", "pip", "install", "--quiet", *wanted]
        if wanted and subprocess.run(install).returncode == 0:
            done.write_text("\n".join([*there, *wanted]))
    subprocess.run([sys.executable, "-c", CUT, DEMO, work / "clip.wav"], check=True)


def compare(task: str, args: argparse.Namespace) -> None:
    """Let the engines take turns, and print the rows of a task."""
    model, part, title = TASKS[task]
    log = (args.work / f"{task}.log").open("w")
    crew: dict[str, Turns] = {}
    for engine in args.only:
        kinds = args.kinds if engine == "tynda" else ENGINES[engine].kinds
        for kind in kinds if part in ENGINES[engine].parts else []:
            job = Job(engine, kind, model, part, args.threads, str(args.work), args.backend)
            crew[f"{engine} {kind}"] = (cold_turns if part == "clip" else turns)(job, log)
    done: dict[str, list[tuple[float, float]]] = {name: [] for name in crew}
    for _ in range(args.rounds + 2):  # the first prepares, the second warms up
        for name in list(crew):
            time.sleep(0.3)  # threads of the previous engine may still spin
            try:
                done[name].append(next(crew[name]))
            except (subprocess.CalledProcessError, OSError, StopIteration):
                last = Path(log.name).read_text(errors="replace").strip().rpartition("\n")[2]
                print(f"{title}: no {name}, see {log.name}: {last}", file=sys.stderr)
                del crew[name]
    times = {name: [ms for ms, _ in done[name][2:]] for name in crew}
    for name, mine in times.items():
        crew[name].close()
        row = [title, name, f"{statistics.median(mine):.1f}", f"{min(mine):.1f} to {max(mine):.1f}"]
        for kind in args.kinds:
            ratios = [a / b for a, b in zip(times.get(f"tynda {kind}", []), mine, strict=False)]
            row.append(f"{statistics.median(ratios):.2f}" if ratios else "")
        peak = max(mb for _, mb in done[name])
        print(f"| {' | '.join(row)} | {f'{peak:.0f}' if peak else ''} |", flush=True)
    log.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--work", type=lambda x: Path(x).resolve(), default="runs/peers")
    parser.add_argument("--only", type=lambda x: x.split(","), default=list(ENGINES))
    parser.add_argument("--tasks", type=lambda x: x.split(","), default=list(TASKS))
    parser.add_argument("--kinds", type=lambda x: x.split(","), default=ENGINES["tynda"].kinds)
    parser.add_argument("--backend", default="native", help="of tynda")
    parser.add_argument("--instructions", choices=["avx2"], help="the best set that is used")
    args = parser.parse_args()
    os.environ.update(AVX2 if args.instructions else {})
    # Installed packages have bytecode; tynda in a working tree would be compiled at every start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for names, known in ((args.only, ENGINES), (args.tasks, TASKS), (args.kinds, BITS)):
        if unknown := [x for x in names if x not in known]:
            parser.error(f"no {unknown[0]}: there are {', '.join(known)}")
    args.work.mkdir(parents=True, exist_ok=True)
    set_up(args.work, args.only)
    subprocess.run([sys.executable, "-c", MACHINE], check=True)
    columns = ["work", "engine", "median, ms", "min to max"]
    columns += [*(f"tynda {kind} / it" for kind in args.kinds), "peak, MB"]
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for task in args.tasks:
        compare(task, args)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(Job(**json.loads(sys.argv[2])))
    elif sys.argv[1:2] == ["once"]:
        job = Job(**json.loads(sys.argv[2]))
        ENGINES[job.engine].prepare(job)()
    else:
        main()
