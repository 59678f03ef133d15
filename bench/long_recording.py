"""Transcribe files of some hours of speech and print the peak memory of each process.

    python bench/long_recording.py MANIFEST [--model NAME] [--hours 0.0167 2] [--pause 0.5]

A file is an MP3 of the manifest's recordings, one after another, with pauses.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np

from tynda import manifest
from tynda.sound import audio
from tynda.store import library


def write(path: Path, recordings: list[Path], seconds: float, pause_seconds: float) -> float:
    """Write recordings in turn until ``seconds`` are reached; return the exact length."""
    pause = np.zeros(round(pause_seconds * audio.SAMPLE_RATE), np.float32)
    written = 0
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mp3", rate=audio.SAMPLE_RATE, layout="mono")
        for recording in itertools.cycle(recordings):
            if written >= seconds * audio.SAMPLE_RATE:
                break
            samples = np.concatenate([audio.load(recording), pause])
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate = audio.SAMPLE_RATE
            frame.pts = written
            container.mux(stream.encode(frame))
            written += len(samples)
        container.mux(stream.encode(None))
    return written / audio.SAMPLE_RATE


def transcribe(path: Path, model: str) -> tuple[dict[str, Any], float]:
    """Return the transcript and the peak resident memory of the process in MB."""
    command = [sys.executable, "-m", "tynda", "transcribe", str(path)]
    command += ["--model", model, "--format", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(process.returncode)
    return json.loads(out), usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest")
    parser.add_argument("--model", default=library.DEFAULT)
    parser.add_argument("--hours", type=float, nargs="+", default=[1 / 60, 2.0])
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between recordings")
    args = parser.parse_args()
    recordings = [Path(u.audio) for u in manifest.read(args.manifest)]
    for hours in args.hours:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "long.mp3"
            seconds = write(path, recordings, hours * 3600, args.pause)
            started = time.perf_counter()
            transcript, peak = transcribe(path, args.model)
            spent = time.perf_counter() - started
        words = len(transcript["text"].split())
        print(
            f"{seconds / 3600:.2f} h of sound, {words} words, "
            f"{len(transcript['segments'])} segments: {spent:.0f} s, "
            f"real-time factor {spent / seconds:.4f}; peak memory {peak:.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
