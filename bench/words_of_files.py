"""Words that model files lose against the model that they were made from.

    python bench/words_of_files.py MODEL FILE... --manifests test.jsonl dev.jsonl [--each 8]
        [--noise noise.jsonl [--snr 10]] [--language uk] [--windows exact merged] [--as-used]
        [--output RESULTS.json]

MODEL runs in full precision, each FILE as it is used. Decoding is at temperature 0, and a text of
nobody's speech is not left out, so that only the weights differ; with ``--as-used`` it is that of
``tynda transcribe``. ``--windows`` are those of MODEL
and of the FILEs, by default merged, as in use. ``--each`` selects every n-th recording of the
manifests after the first. With ``--noise``, each recording has a section of one of
the manifest's sounds, the same for all models, at ``--snr`` decibels below the speech's power.
Intervals are of 95 %, by a paired bootstrap. Texts are kept in ``--output``, so that a later call
continues where an earlier one was interrupted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tynda
from tynda import manifest
from tynda.manifest import Utterance
from tynda.score import change, score
from tynda.sound import audio
from tynda.train.augment import add_noise

Pairs = list[tuple[str, str]]


def recordings(
    utterances: list[Utterance], noise: Path | None, snr: float
) -> Iterator[tuple[Utterance, NDArray[np.float32]]]:
    """Yield each recording's samples, with a noise that depends only on its place in the list."""
    # Every second sound is left to training.
    sounds = [audio.load(u.audio) for u in manifest.read(noise)[1::2]] if noise else []
    for i, utterance in enumerate(utterances):
        samples = audio.load(utterance.audio)
        if sounds:
            rng = np.random.default_rng(i)
            samples = add_noise(samples, sounds[rng.integers(len(sounds))], snr, rng)
        yield utterance, samples


def transcribe(
    name: str,
    bits: int | None,
    window: str,
    utterances: list[Utterance],
    args: argparse.Namespace,
) -> Pairs:
    """Return normalised (reference, hypothesis) pairs."""
    model = tynda.load(name, bits=bits, threads=args.threads)
    fixed: dict[str, Any] = {}
    if model.head.has_decoder:
        if not args.as_used:
            fixed |= {"temperature": (0.0,), "speech_threshold": 0}
        if model.checkpoint.config.frames:
            fixed["window"] = window
    if args.language:
        fixed["language"] = args.language
    options = model.options(**fixed)
    pairs = []
    for u, samples in recordings(utterances, args.noise, args.snr):
        text = model.transcribe(samples, options, sample_rate=audio.SAMPLE_RATE).text
        pairs.append((model.normalize(u.text), model.normalize(text)))
    return pairs


def without_loops(pairs: Pairs) -> float:
    """Return the word error rate where no recording has more errors than words.

    A decoder that repeats itself writes a hundred words for five, and a few such texts decide the
    rate of a whole set.
    """
    rates = [score([pair]).wer or 0.0 for pair in pairs]
    counts = [len(reference.split()) for reference, _ in pairs]
    wrong = sum(min(rate, 1) * count for rate, count in zip(rates, counts, strict=True))
    return wrong / sum(counts)


def size(path: Path) -> int:
    """Return the bytes of a file, or of a folder's files."""
    return sum(p.stat().st_size for p in ([path] if path.is_file() else path.iterdir()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("files", nargs="*")
    parser.add_argument("--manifests", nargs="+", required=True)
    parser.add_argument("--each", type=int, default=1)
    parser.add_argument("--noise", type=Path)
    parser.add_argument("--snr", type=float, default=10)
    parser.add_argument("--language")
    parser.add_argument(
        "--windows", nargs=2, metavar=("MODEL", "FILES"), default=["merged", "merged"]
    )
    parser.add_argument("--as-used", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    first, *others = [manifest.read(Path(path)) for path in args.manifests]
    utterances = first + [u for rows in others for u in rows[:: args.each]]
    found: dict[str, Any] = {}
    if args.output and args.output.exists():
        found = json.loads(args.output.read_text())

    def pairs_of(name: str, bits: int | None, window: str) -> Pairs:
        condition = f"{args.snr:g} dB" if args.noise else "clean"
        about = [Path(name).name, *args.manifests, str(args.each), condition, window]
        key = " ".join([*about, "as used"] if args.as_used else about)
        if key not in found:
            found[key] = transcribe(name, bits, window, utterances, args)
            if args.output:
                args.output.write_text(json.dumps(found))
        return [(reference, hypothesis) for reference, hypothesis in found[key]]

    base = pairs_of(args.model, 32, args.windows[0])
    print("| file | MB | WER | CER | first manifest | others | points more | relative | no loops |")
    print("|---|---|---|---|---|---|---|---|---|")
    for i, name in enumerate([args.model, *args.files]):
        pairs = pairs_of(name, None, args.windows[1]) if i else base
        whole, rise = score(pairs), change(base, pairs)
        parts = [score(part).wer for part in (pairs[: len(first)], pairs[len(first) :])]
        rates = [whole.wer, whole.cer, *parts]
        print(
            f"| {Path(name).name} | {size(Path(name)) / 1e6:.1f} | "
            + " | ".join("" if rate is None else f"{rate:.4f}" for rate in rates)
            + f" | {100 * rise.wer:+.2f} ({100 * rise.low:+.2f} to {100 * rise.high:+.2f}) "
            + f"| {rise.wer / score(base).wer:+.1%} | {without_loops(pairs):.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
