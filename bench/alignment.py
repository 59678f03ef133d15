"""Errors of the edges of words on joined utterances, by forced alignment with their texts.

    python bench/alignment.py MANIFEST... [--model NAME] [--recordings 100]

Each recording has three utterances, trimmed to the part above -25 dB of their loudest 20 ms, and
faint noise. They are joined with pauses of 0.3 s to 1 s, or without any. The first word of each
utterance begins, and its last word ends, where the utterance does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import tynda
from tynda import manifest
from tynda.alignment import edges
from tynda.errors import TyndaError
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from word_times import trim

JOINED = 3


def joined(utterances, rng, has_pauses):
    """Return samples, and start, end and text of each utterance in them."""
    parts, bounds, at = [], [], 0

    def pause():
        length = int(rng.uniform(0.3, 1) * SAMPLE_RATE) if has_pauses else 0
        parts.append(np.zeros(length, np.float32))
        return length

    for utterance in utterances:
        speech = trim(audio.load(utterance.audio))
        at += pause()
        bounds.append((at / SAMPLE_RATE, (at + len(speech)) / SAMPLE_RATE, utterance.text))
        parts.append(speech)
        at += len(speech)
    pause()
    samples = np.concatenate(parts)
    noise = rng.standard_normal(len(samples)) * 1e-4
    return (samples + noise).astype(np.float32), bounds


def errors(model, samples, bounds):
    texts = [model.normalize(text).split() for *_, text in bounds]
    found = model.head.align(samples, [word for text in texts for word in text])
    for words in (found, edges.refine(samples, found)):
        out, i = [], 0
        for (start, end, _), text in zip(bounds, texts, strict=True):
            out += [words[i].start - start, words[i + len(text) - 1].end - end]
            i += len(text)
        yield out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifests", type=Path, nargs="+")
    parser.add_argument("--model", default="sentences-en")
    parser.add_argument("--recordings", type=int, default=100)
    args = parser.parse_args()
    model = tynda.load(args.model)
    print("| speech | joined | edges | median, ms | 95 %, ms | within 30 ms | within 100 ms |")
    print("|---|---|---|---|---|---|---|")
    for path in args.manifests:
        utterances = [u for u in manifest.read(path) if model.normalize(u.text)]
        for source in sorted({u.source for u in utterances}):
            own = [u for u in utterances if u.source == source]
            for has_pauses in (True, False):
                rng = np.random.default_rng(0)
                order = rng.permutation(len(own))
                count = min(args.recordings, len(own) // JOINED)
                found, failed = [], 0
                for i in range(count):
                    chosen = [own[k] for k in order[JOINED * i : JOINED * (i + 1)]]
                    try:
                        found.append(list(errors(model, *joined(chosen, rng, has_pauses))))
                    except TyndaError as error:
                        failed += 1
                        print(error)
                if not found:
                    continue
                for name, values in zip(
                    ("model's", "refined"), zip(*found, strict=True), strict=True
                ):
                    ms = 1000 * np.abs(np.concatenate(values))
                    print(
                        f"| {source} | {'with pauses' if has_pauses else 'directly'} | {name} "
                        f"({len(ms)}) | {np.median(ms):.0f} | {np.percentile(ms, 95):.0f} "
                        f"| {(ms <= 30).mean():.3f} | {(ms <= 100).mean():.3f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
