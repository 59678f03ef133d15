"""Time a Whisper's encoder and token with each instruction set of this processor, one thread.

    python bench/instructions.py MODEL [--sets avx512,avxvnni,avx2] [--bits 8] [--repeats 15]

The sets take turns. Printed are the medians of the repetitions and of the ratios to the last set of
the same turn, which other work on the machine changes less. A token is the one at position 30.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

import tynda
from tynda.compile.native import INSTRUCTIONS, instruction_sets
from tynda.sound import audio

_POSITION = 30


def stages(model: Any, recording: str) -> dict[str, Callable[[], object]]:
    """Return functions that run the encoder and a token once."""
    network, start = model.head.network, model.head.network.tokenizer.sot
    samples = np.resize(audio.load(recording), 30 * audio.SAMPLE_RATE)
    features = model.checkpoint.frontend(samples)[None]
    inputs = features, np.array([features.shape[1]])
    cross = network.cross_kv(*network.encode(*inputs))
    tokens, starts = np.array([[start]]), np.array([_POSITION - 1])
    step = network.stepper(tokens, starts, cross, network.cache(1, 2 * _POSITION))
    return {"encoder": lambda: network.encode(*inputs), "token": lambda: step(tokens, starts)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--sets", default=",".join(instruction_sets()))
    parser.add_argument("--bits", type=int, default=8)
    parser.add_argument("--recording", default="demo/jfk.flac")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    sets = args.sets.split(",")
    found = {}
    for name in sets:
        os.environ[INSTRUCTIONS] = name
        model = tynda.load(args.model, bits=args.bits, threads=1)
        found[name] = stages(model, args.recording)
    print(f"| stage | {' | '.join(sets)} | to {sets[-1]} |\n{'|---' * (2 + len(sets))}|")
    for stage, calls in (("encoder", 1), ("token", 20)):
        turns = []
        for _ in range(args.repeats):
            turn = []
            for name in sets:
                started = time.thread_time()
                for _ in range(calls):
                    found[name][stage]()
                turn.append(1000 * (time.thread_time() - started) / calls)
            turns.append(turn)
        times = [f"{median(column):.2f} ms" for column in zip(*turns, strict=True)]
        ratios = [f"{median(t[i] / t[-1] for t in turns):.2f}" for i in range(len(sets))]
        print(f"| {stage} | {' | '.join(times)} | {', '.join(ratios)} |", flush=True)


if __name__ == "__main__":
    main()
