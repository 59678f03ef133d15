"""Transcribe hours of speech in one file and print the process's peak memory.

    python bench/long_recording.py MANIFEST [--hours 2]

The file is an MP3 of the manifest's recordings, one after another, with pauses.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from tynda import manifest
from tynda.sound import audio


def write(path: Path, recordings: list[Path], seconds: float) -> float:
    """Write recordings in turn until ``seconds`` are reached; return the exact length."""
    pause = np.zeros(audio.SAMPLE_RATE // 2, np.float32)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest")
    parser.add_argument("--hours", type=float, default=2.0)
    args = parser.parse_args()
    recordings = [u.audio for u in manifest.read(args.manifest)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.mp3"
        seconds = write(path, recordings, args.hours * 3600)
        started = time.perf_counter()
        command = [sys.executable, "-m", "tynda", "transcribe", str(path), "--format", "json"]
        out = subprocess.run(command, check=True, capture_output=True).stdout
        spent = time.perf_counter() - started
    transcript = json.loads(out)
    words = sum(len(s["words"]) for s in transcript["segments"])
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{seconds / 3600:.2f} h of sound, {words} words, {len(transcript['segments'])} segments")
    print(f"{spent:.0f} s, real-time factor {spent / seconds:.4f}; peak memory {peak:.0f} MB")


if __name__ == "__main__":
    main()
