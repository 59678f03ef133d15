"""Words that model files lose against the model that they were made from.

    python bench/words_of_files.py MODEL FILE... --manifests test.jsonl dev.jsonl [--each 8]

MODEL runs in full precision, each FILE as it is used. Decoding is at temperature 0, and a text of
nobody's speech is not left out, so that only the weights differ. ``--each`` selects every n-th
recording of the manifests after the first. Intervals are of 95 %, by a paired bootstrap.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import tynda
from tynda import manifest
from tynda.manifest import Utterance
from tynda.score import change, score

Pairs = list[tuple[str, str]]


def transcribe(name: str, utterances: list[Utterance], bits: int | None) -> Pairs:
    model = tynda.load(name, bits=bits)
    fixed = {"temperature": (0.0,), "speech_threshold": 0} if model.head.has_decoder else {}
    options = model.options(**fixed)
    return [
        (model.normalize(u.text), model.normalize(model.transcribe(u.audio, options).text))
        for u in utterances
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("files", nargs="+")
    parser.add_argument("--manifests", nargs="+", required=True)
    parser.add_argument("--each", type=int, default=1)
    args = parser.parse_args()
    first, *others = [manifest.read(Path(path)) for path in args.manifests]
    utterances = first + [u for rows in others for u in rows[:: args.each]]
    base = transcribe(args.model, utterances, 32)
    print(f"{args.model}: WER {score(base).wer:.4f}, first {score(base[: len(first)]).wer:.4f}")
    for name in args.files:
        pairs = transcribe(name, utterances, None)
        rise = change(base, pairs)
        print(
            f"{Path(name).name} {Path(name).stat().st_size / 1e6:.1f} MB: "
            f"WER {score(pairs).wer:.4f}, first {score(pairs[: len(first)]).wer:.4f}, "
            f"{100 * rise.wer:+.2f} points ({100 * rise.low:+.2f} to {100 * rise.high:+.2f})"
        )


if __name__ == "__main__":
    main()
