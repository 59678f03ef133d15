"""Transcribe recordings with one, four and sixteen windows decoded at once, and compare.

    python bench/batches.py MODEL MANIFEST [--minutes 6] [--threads 2] [--rounds 5]

The recordings of the manifest follow each other in one, which is cut at silences (``vad_filter``)
into windows of up to 30 s; the sizes of batches take turns. The ratio to the first is the median
over the rounds; the detector and the encoder, whose time a batch does not change, are included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import numpy as np

import tynda
from tynda import manifest
from tynda.sound import audio

_SIZES = 1, 4, 16


def joined(path: Path, minutes: float) -> np.ndarray:
    """Return the recordings of a manifest, one after another, up to a length."""
    parts, wanted = list[np.ndarray](), int(60 * minutes * audio.SAMPLE_RATE)
    for utterance in manifest.read(path):
        if sum(map(len, parts)) >= wanted:
            break
        parts += [audio.load(utterance.audio), np.zeros(audio.SAMPLE_RATE // 2, np.float32)]
    return np.concatenate(parts)[:wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--minutes", type=float, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model = tynda.load(args.model, threads=args.threads)
    samples = joined(args.manifest, args.minutes)
    times: dict[int, list[float]] = {size: [] for size in _SIZES}
    texts: dict[int, str] = {}
    for round_ in range(args.rounds + 1):
        for size in _SIZES:
            started = time.perf_counter()
            options = {"vad_filter": True, "batch_size": size, "temperature": 0.0}
            texts[size] = model.transcribe(samples, **options).text
            if round_:  # the first packs weights
                times[size].append(time.perf_counter() - started)
    minutes = len(samples) / audio.SAMPLE_RATE / 60
    print(f"{minutes:.1f} min, {len(texts[1].split())} words")
    print("| windows at once | seconds | throughput | texts |\n|---|---|---|---|")
    for size in _SIZES:
        ratio = statistics.median(a / b for a, b in zip(times[_SIZES[0]], times[size], strict=True))
        same = "the same" if texts[size] == texts[1] else "others"
        print(f"| {size} | {statistics.median(times[size]):.2f} | {ratio:.2f} | {same} |")


if __name__ == "__main__":
    main()
