"""Time the front ends on 30 s of audio: the kernel and NumPy, its reference.

    python bench/front_end.py [--threads N] [--rounds R]

The two take turns; the median and the minimum of each are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np

from tynda.sound import frontend, spectra
from tynda.sound.frontend import LogMel, Spectrogram


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=40)
    args = parser.parse_args()
    kernels = spectra._native
    kernels.set_threads(args.threads)
    samples = np.random.default_rng(0).standard_normal(30 * 16_000).astype(np.float32)
    print("| front end | by | median, ms | min, ms |")
    print("|---|---|---|---|")
    for front in (LogMel(fft=400, normalize="whisper"), LogMel(), Spectrogram()):
        times: dict[str, list[float]] = {"NumPy": [], "kernel": []}
        for turn in range(2 * args.rounds + 2):
            name, spectra._native = [("NumPy", None), ("kernel", kernels)][turn % 2]
            frontend._mel_spectra.cache_clear()
            frontend._standard_spectra.cache_clear()
            front(samples[:1600])  # tables
            started = time.perf_counter()
            front(samples)
            times[name].append(1e3 * (time.perf_counter() - started))
        for name, taken in times.items():
            minimum = min(taken[1:])
            print(f"| {front} | {name} | {statistics.median(taken[1:]):.2f} | {minimum:.2f} |")


if __name__ == "__main__":
    main()
