"""The time of a decoder's token, and the share of it that is not spent in kernels.

    python bench/tokens.py MODEL... [--recording demo/jfk.flac] [--repeats 15]

A whole recording is transcribed as by ``tynda transcribe``, on one thread. Measured is processor
time: that of decoding the windows, and that of the native programs therein, each over the number of
tokens. Medians of the repetitions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any
from unittest.mock import patch

import tynda
from tynda.compile.native import Compiled
from tynda.heads.seq2seq import search, sliding

_clock = time.thread_time


class _Timed:
    """A native program that adds the time of its runs to ``spent``."""

    def __init__(self, program: Any, spent: list[float]) -> None:
        self._program, self._spent = program, spent

    def run(self, *arguments: Any) -> Any:
        started = _clock()
        result = self._program.run(*arguments)
        self._spent.append(_clock() - started)
        return result


@contextmanager
def _measured() -> Iterator[list[tuple[float, float, int]]]:
    """Collect the seconds of each decoded window, those of kernels among them, and its tokens."""
    kernels, found = list[float](), list[tuple[float, float, int]]()
    make, decode = Compiled.__init__, search.decode

    def made(self: Compiled, *arguments: Any) -> None:
        make(self, *arguments)
        self._program = _Timed(self._program, kernels)

    def decoded(*arguments: Any, **options: Any) -> Any:
        kernels.clear()
        started = _clock()
        windows = decode(*arguments, **options)
        tokens = 1 + max(len(window.tokens) for window in windows)  # and the end token
        found.append((_clock() - started, sum(kernels), tokens))
        return windows

    with patch.object(Compiled, "__init__", made), patch.object(sliding, "decode", decoded):
        yield found


def main() -> None:
    """Print a row for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--recording", default="demo/jfk.flac")
    parser.add_argument("--bits", type=int, help="the matmul precision")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    print("| model | ms a token | kernels | the rest | share |\n|---|---|---|---|---|")
    for name in args.models:
        with _measured() as windows:
            model = tynda.load(name, threads=1, bits=args.bits)
            model.transcribe(args.recording)
            found = []
            for _ in range(args.repeats):
                windows.clear()
                model.transcribe(args.recording)
                spent, kernels, count = map(sum, zip(*windows, strict=True))
                found.append((spent / count, kernels / count))
        whole, kernels = (1e3 * median(column) for column in zip(*found, strict=True))
        rest = whole - kernels
        print(f"| {name} | {whole:.2f} | {kernels:.2f} | {rest:.2f} | {rest / whole:.0%} |")


if __name__ == "__main__":
    main()
