"""Time the loading of a checkpoint's folder, compared with transformers.

    python bench/load.py FOLDER

FOLDER holds a Whisper in the hub's layout. The imports are done before; the file's pages are in
the page cache after the first round, which is not counted. The two take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import WhisperForConditionalGeneration, WhisperProcessor

import tynda


def theirs(folder: Path) -> Any:
    """Load weights and tokenizer, as `tynda.load` reads both."""
    return WhisperForConditionalGeneration.from_pretrained(
        folder
    ), WhisperProcessor.from_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    ways: dict[str, Callable[[Path], Any]] = {"tynda": tynda.load, "transformers": theirs}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(10):
        for name, load in ways.items():
            started = time.perf_counter()
            load(args.folder)
            times[name].append(time.perf_counter() - started)
    print("| loaded by | median | min |")
    print("|---|---|---|")
    for name, taken in times.items():
        print(f"| {name} | {statistics.median(taken[1:]):.3f} s | {min(taken[1:]):.3f} s |")


if __name__ == "__main__":
    main()
