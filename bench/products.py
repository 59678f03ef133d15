"""Time the native engine's matrix products with weights of several bit widths.

    python bench/products.py

The shapes are those of whisper-tiny: a thread computes its encoder in blocks of about 60 rows, and
a decoder's step has one row. The bit widths take turns. For each, the multiply-adds per second of
the fastest run are printed, in GMAC/s: a busy machine cannot make a run faster. The time includes
that of rounding the rows to 8 bits.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from tynda.compile.native import Native
from tynda.quantization.fit import clipped_scales
from tynda.weights.grid import Grid
from tynda.weights.rounding import round_to_nearest
from tynda.weights.weight import by_tap, quantize

_SHAPES = [(384, 384), (384, 1536), (1536, 384)]  # inputs and outputs
_BITS = (32, 8, 4, 3, 2, 1.58)


def weight(bits: float, inputs: int, outputs: int) -> Any:
    """Return a random weight ``[outputs, inputs]``, in groups of 32 below 8 bits."""
    values = np.random.default_rng(0).standard_normal((outputs, inputs), np.float32)
    if bits == 32:
        return values
    if bits == 8:
        return quantize(values)
    grid = Grid(bits, 32)
    return round_to_nearest(values, grid, clipped_scales(by_tap(values), grid))


def product(
    bits: float, rows: int, inputs: int, outputs: int, instructions: str | None
) -> Callable[[], float]:
    """Return a function that computes a product on one thread, and returns its seconds."""
    engine = Native({"w": weight(bits, inputs, outputs)}, 1, instructions, 32 if bits == 32 else 8)
    x = np.random.default_rng(1).standard_normal((1, rows, inputs), np.float32)

    def linear(ops: Any, weights: Any, config: Any, x: Any) -> Any:
        return ops.linear(x, weights["w"])

    return lambda: sum(engine.timings(linear, None, x)[1].values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instructions", help="an instruction set; the default is the best one")
    parser.add_argument("--rounds", type=int, default=2000)
    args = parser.parse_args()
    names = [f"{bits:g} bits" for bits in _BITS]
    print(f"| rows | inputs | outputs | {' | '.join(names)} |\n{'|---' * (3 + len(names))}|")
    for rows in (60, 1):
        for shape in _SHAPES:
            runs = [product(bits, rows, *shape, args.instructions) for bits in _BITS]
            least = [min(run() for _ in range(3)) for run in runs]
            for _ in range(args.rounds):
                least = [min(a, run()) for a, run in zip(least, runs, strict=True)]
            macs = rows * shape[0] * shape[1]
            print(
                f"| {rows} | {shape[0]} | {shape[1]} |", *(f"{macs / s / 1e9:.0f} |" for s in least)
            )


if __name__ == "__main__":
    main()
