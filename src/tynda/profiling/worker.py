"""Measures one case in a process of its own, so that cases cannot affect each other.

    python -m tynda.profiling.worker OUT < JOB

JOB is `Job` as JSON; `Row.values` of the case are written to OUT as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.random  # imported here so that its memory is not counted for the first run
from numpy.typing import NDArray

from tynda import manifest
from tynda.profiling import memory
from tynda.profiling.case import Case
from tynda.profiling.energy import Meter, Source
from tynda.profiling.engines import engine
from tynda.profiling.engines.base import Clock, Session
from tynda.profiling.environment import Watch, noise
from tynda.profiling.operations import limits, summed
from tynda.profiling.statistics import bootstrap, spread
from tynda.score import errors, score
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from tynda.text.normalize import NORMALIZERS

__all__ = ["Job", "main"]

Floats = NDArray[np.float32]
SEED = 0
MIN_RUNS = 3
"""Minimum number of runs, whatever their duration."""
MIN_SECONDS = 0.3
"""Minimum total seconds of runs, whatever their number."""
POSITIONS = (1, 2, 4, 8, 16, 32, 64, 128, 224)
"""Positions of tokens whose time is measured."""


@dataclass(frozen=True)
class Job:
    """The task of a worker."""

    case: Case
    model: str
    """Path of the unconverted model."""
    path: str
    """Path of the model in the engine's format; the task may be to create it."""
    prepare: bool = False
    """Create ``path``, and measure nothing."""
    started: float = 0.0
    """The time at which the process was started, by `time.time`."""
    source: Source = field(default_factory=lambda: Source("estimate"))
    repeats: int = 10
    budget: float = 10.0
    """Seconds after which runs are not repeated."""
    normalizer: str = "basic"

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Job:
        """Return the job that ``asdict`` converted."""
        source, case = Source(**values["source"]), Case(**values["case"])
        return cls(**values | {"case": case, "source": source})


def main() -> None:
    """Run the job given on standard input."""
    out, job = Path(sys.argv[1]), Job.from_dict(json.load(sys.stdin))
    with suppress(OSError):  # if memory runs out, this process is killed first
        Path("/proc/self/oom_score_adj").write_text("1000")
    maker = engine(job.case.engine)
    if job.prepare:
        maker.prepare(job.case, Path(job.model), Path(job.path))
        return
    _end_with_parent()
    began = time.perf_counter()
    samples = sound(job.case)
    memory.forget()
    job = replace(job, started=job.started + time.perf_counter() - began)  # not the engine's time
    maker.load()
    base, started = memory.resident() - samples.nbytes, time.perf_counter()
    session = maker.open(job.case, Path(job.path))
    load = time.perf_counter() - started
    values = WORKS[job.case.work](job, session, samples)
    values |= {"kind": session.kind, "load": load, "batched": session.batched}
    values["memory"] = {"peak": memory.peak(), "base": base} | values.get("memory", {})
    values["memory"] |= session.memory()
    out.write_text(json.dumps(values, allow_nan=False))


def _end_with_parent() -> None:
    """Exit when the parent process ends, for whatever reason."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def speed(job: Job, session: Session, samples: Floats) -> dict[str, Any]:
    """Measure times, energy, memory and load of the machine."""
    case = job.case
    clock = _run(session, samples, case.tokens)
    found: dict[str, Any] = {"cold": time.time() - job.started, "tokens": clock.tokens}
    meter, watch = Meter(job.source, case.device == "cuda"), Watch()
    stages: dict[str, list[float]] = {}
    began = time.perf_counter()
    meter.start()
    runs = 0
    while _more(job, runs, time.perf_counter() - began):
        for name, seconds in _run(session, samples, case.tokens).stages.items():
            stages.setdefault(name, []).append(seconds)
        runs += 1
    energy, busy = meter.stop(), watch.busy()
    stages["first"] = stages["whole"]
    if clock.tokens:  # time the first token of the first window
        size = round((session.window or case.seconds) * SAMPLE_RATE)
        first = [_run(session, samples[:, :size], 0.0) for _ in range(MIN_RUNS)]
        stages["first"] = [clock.stages["whole"] for clock in first]
    found["memory"] = {"peak": memory.peak()}  # read before the statistics use memory
    spreads = {name: spread(times) for name, times in stages.items()}
    whole, audio_seconds = spreads["whole"].p50, case.seconds * case.batch
    if clock.tokens and "decoder" in spreads:
        found["token"] = spreads["decoder"].p50 / clock.tokens
    each = energy.joules / (runs * case.batch)
    why = noise(busy, spreads["whole"].relative, runs)
    return found | {
        "stages": {name: asdict(times) for name, times in spreads.items()},
        "real_time_factor": whole / audio_seconds,
        "throughput": audio_seconds / whole,
        "energy": {
            "joules": each,
            "joules_per_second": each / case.seconds,
            "watts": energy.joules / energy.seconds,
            "source": energy.source,
            "estimate": energy.estimate,
            "idle_watts": energy.idle_watts,
        },
        "machine": {"busy": busy, "noisy": bool(why), "why_noisy": why},
    }


def words(job: Job, session: Session, _: Floats) -> dict[str, Any]:
    """Measure error rates on the manifest."""
    normalize = NORMALIZERS[job.normalizer]()
    pairs, seconds, spent = [], 0.0, 0.0
    for utterance in manifest.read(job.case.manifest):
        samples = audio.load(utterance.audio)
        started = time.perf_counter()
        text = session.transcribe(samples)
        spent += time.perf_counter() - started
        seconds += len(samples) / SAMPLE_RATE
        pairs.append((normalize(utterance.text), normalize(text)))
    total = score(pairs)
    found: dict[str, Any] = {"real_time_factor": spent / seconds, "seconds": seconds}
    for name, rate, split in (("wer", total.wer, str.split), ("cer", total.cer, _letters)):
        counts = [(errors(split(a), split(b)).total, len(split(a))) for a, b in pairs]
        low, high = bootstrap(
            np.array(counts, np.float64),
            lambda drawn: drawn[:, 0].sum(-1) / np.maximum(drawn[:, 1].sum(-1), 1),
        )
        known = rate is not None  # the manifest has words
        found |= {name: rate, f"{name}_low": low if known else None}
        found[f"{name}_high"] = high if known else None
    return found | {"utterances": len(pairs), "words": total.words}


def operations(job: Job, session: Session, samples: Floats) -> dict[str, Any]:
    """Measure the operations and their times, and the limits of the machine."""
    found = session.operations(samples, job.case.tokens)
    return {
        "limits": limits(job.case.threads),
        "parts": {part: summed(each) for part, each in found.items()},
        "layers": {part: summed(each, layers=True) for part, each in found.items()},
    }


def cache(job: Job, session: Session, samples: Floats) -> dict[str, Any]:
    """Measure a decoder's time for a token, by its position, with and without the KV cache."""
    positions = [position for position in POSITIONS if position <= session.max_tokens]
    return {
        "positions": positions,
        "with_cache": session.steps(samples, positions, True),
        "without_cache": session.steps(samples, positions, False),
    }


def sound(case: Case) -> Floats:
    """Return samples ``[batch, n]``: concatenated recordings of the manifest, or else noise."""
    count = round(case.seconds * SAMPLE_RATE)
    rng = np.random.default_rng(SEED)
    if not case.manifest or not count:
        noise = rng.standard_normal((case.batch, count), np.float32)
        noise *= np.float32(0.1)
        return noise
    pieces: list[Floats] = []
    for utterance in manifest.read(case.manifest):
        if sum(map(len, pieces)) >= count * case.batch:
            break
        pieces.append(audio.load(utterance.audio))
    joined = np.concatenate(pieces)
    return np.resize(joined, (case.batch, count))  # repeated where it is too short


def _more(job: Job, runs: int, spent: float) -> bool:
    """Return whether to run again. Processor times of other processes have a resolution of 10 ms:
    short runs are repeated until these times are meaningful."""
    if runs < job.repeats:
        return runs < MIN_RUNS or spent < job.budget
    return spent < min(MIN_SECONDS, job.budget)


def _run(session: Session, samples: Floats, tokens: float) -> Clock:
    clock = Clock(session.wait)
    with clock.stage("whole"):
        session.run(samples, tokens, clock)
    return clock


def _letters(text: str) -> str:
    return " ".join(text.split())


WORKS: dict[str, Callable[[Job, Session, Floats], dict[str, Any]]] = {
    **{"speed": speed, "words": words, "operations": operations, "cache": cache}
}

if __name__ == "__main__":
    main()
