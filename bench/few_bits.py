"""Time a model with several bit widths of its weights, side by side.

    for bits in 8 4 3 2 1.58; do tynda quantize FOLDER -o $bits.safetensors --bits $bits; done
    python bench/few_bits.py 8.safetensors 4.safetensors 3.safetensors ...

The files take turns, with a pass of the encoder and then of a token, on random features: the times
do not depend on them. The median of each and its ratio to the first are printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tynda.compile.native import Native
from tynda.heads import head_of
from tynda.heads.seq2seq import programs
from tynda.store import library

_ROUNDS = 15
_TOKENS = 20  # tokens in a round
_BEFORE = 20  # tokens in the decoder's cache


def encoder(native: Native, model: Any) -> Callable[[], Any]:
    """Run the encoder over 30 s, or over 10 s of a model other than Whisper."""
    config, family = model.config, model.family
    window = getattr(config, "frames", None)
    frames = config.stride * window if window else 1000 if config.bins > 1 else 160_000
    x = np.random.default_rng(0).standard_normal((1, frames, config.bins), np.float32)
    return lambda: native.run(family.programs["encode"], config, x, np.array([frames]))


def decoder(native: Native, model: Any, encoded: Any) -> Callable[[], Any]:
    """Run the decoder for a token of one text."""
    config, family = model.config, model.family
    cross = native.run(family.programs["cross_kv"], config, *encoded)
    cache = programs.cache(config, 1, _BEFORE + 4, partial(np.zeros, dtype=np.float32))
    token, start = np.array([[100]]), np.array([_BEFORE])
    return lambda: native.run(family.programs["decode"], config, token, start, cross, cache)


def ways(file: Path, threads: int) -> Iterator[tuple[str, int, Callable[[], Any]]]:
    """Return the timed parts of a file: name, number of calls in a round, and the work."""
    model = library.load(file)
    native = Native(model.weights, threads, bits=8)
    encode = encoder(native, model)
    yield "encoder", 1, encode
    if head_of(model.family).has_decoder:
        yield "token", _TOKENS, decoder(native, model, encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    args = parser.parse_args()
    works = {file.stem: list(ways(file, args.threads)) for file in args.files}
    names = [name for name, *_ in works[args.files[0].stem]]
    times: dict[tuple[str, str], list[float]] = {}
    for round_ in range(args.rounds + 1):
        for i, name in enumerate(names):
            for file, timed in works.items():
                _, count, work = timed[i]
                for _ in range(count):
                    started = time.perf_counter()
                    work()
                    if round_:  # the first packs the weights
                        taken = time.perf_counter() - started
                        times.setdefault((file, name), []).append(1e3 * taken)
    print("| weights |" + "".join(f" {name}, ms | x |" for name in names))
    print("|---|" + "---|---|" * len(names))
    for file in works:
        row = f"| {file} |"
        for name in names:
            median = statistics.median(times[file, name])
            ratio = median / statistics.median(times[args.files[0].stem, name])
            row += f" {median:.2f} | {ratio:.2f} |"
        print(row)


if __name__ == "__main__":
    main()
