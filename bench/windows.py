"""The encoder on short recordings: whole windows, merged padding, and windows that end early.

    python bench/windows.py MODEL MANIFEST [--each 8] [--bits 32] [--threads 2]

Each recording is encoded in each kind of window in turn, and the text that the whole window gives
is forced upon all. Printed are the encoder's frames and median time, the mean divergence of the
tokens' distributions from those of the whole window, in nats, and the share of tokens that would
change.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np

import tynda
from tynda import manifest
from tynda.heads.seq2seq import programs, search
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.rules import log_softmax
from tynda.heads.seq2seq.windows import encode_windows
from tynda.sound import audio

KINDS = {
    "exact": Options(window="exact"),
    "merged": Options(window="merged"),
    "fit, 15 s": Options(window="fit"),
    "fit, 1 s": Options(window="fit", window_floor=1.0),
}


def log_probs(network: Any, tokens: list[int], cross: Any) -> Any:
    """Return log-probabilities ``[tokens, vocab]`` after each token."""
    settings = (network.family, network.config, ())
    inputs = np.array([tokens]), np.array([0]), cross, np.array([1])
    logits, _ = network.engine.run(programs.cross_attention, settings, *inputs)
    return log_softmax(network.engine.array(logits)[0].astype(np.float64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("manifest")
    parser.add_argument("--each", type=int, default=1)
    parser.add_argument("--bits", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--language")
    args = parser.parse_args()
    model = tynda.load(args.model, bits=args.bits, threads=args.threads)
    network, config = model.head.network, model.checkpoint.config
    language = args.language or ("en" if network.tokenizer.multilingual else None)
    took: dict[str, list[float]] = {kind: [] for kind in KINDS}
    frames: dict[str, list[int]] = {kind: [] for kind in KINDS}
    divergence: dict[str, list[float]] = {kind: [] for kind in KINDS}
    changed: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    durations = []
    for utterance in manifest.read(args.manifest)[:: args.each]:
        samples = audio.load(utterance.audio)
        features = model.checkpoint.frontend(samples)[: 2 * config.frames]
        durations.append(len(features) / 100)
        start = search.start_tokens(network.tokenizer, language, "transcribe")
        tokens: list[int] = []
        expected: Any = None
        for kind, options in KINDS.items():
            cross = encode_windows(network, [features], options)  # the plan is made here
            began = time.perf_counter()
            cross = encode_windows(network, [features], options)
            took[kind].append(time.perf_counter() - began)
            frames[kind].append(int(network.engine.array(cross.lengths)[0]))
            if expected is None:
                (found,) = search.decode(network, cross, options, [language])
                tokens = [*start, *found.tokens]
                expected = log_probs(network, tokens, cross)[len(start) - 1 :]
            given = log_probs(network, tokens, cross)[len(start) - 1 :]
            divergence[kind] += (np.exp(expected) * (expected - given)).sum(-1).tolist()
            changed[kind] += (expected.argmax(-1) != given.argmax(-1)).tolist()
    print(f"{len(durations)} recordings, median {statistics.median(durations):.1f} s")
    print("| window | frames | encoder, ms | ratio | divergence, nats | tokens changed |")
    print("|---|---|---|---|---|---|")
    for kind in KINDS:
        ratio = statistics.median(a / b for a, b in zip(took[kind], took["exact"], strict=True))
        print(
            f"| {kind} | {statistics.mean(frames[kind]):.0f} "
            f"| {1000 * statistics.median(took[kind]):.0f} | {ratio:.2f} "
            f"| {statistics.mean(divergence[kind]):.4f} | {statistics.mean(changed[kind]):.1%} |"
        )


if __name__ == "__main__":
    main()
