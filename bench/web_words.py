"""The texts of the engine in WebAssembly: how sure it is, and what cutting long recordings costs.

    python bench/web_words.py MANIFEST [MODEL ...] [--each N]

It needs Node.js and ``make web``. For thresholds of the confidence, it prints the WER of the
recordings below and above. Then the recordings are joined with pauses of 0.3 s to recordings of
two minutes or a little more, which are recognised again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from tynda import manifest
from tynda.score import score
from tynda.serve.web import export_for_page
from tynda.sound import audio
from tynda.store import library
from tynda.text.normalize import english_letters

ROOT = Path(__file__).parents[1]
ENGINE = ROOT / "src" / "tynda" / "serve" / "web" / "assets" / "engine.wasm"
PAUSE = np.zeros(4800, np.float32)
LONG = 120 * audio.SAMPLE_RATE


def heard(archive, recordings):
    """What Node.js prints for recordings, one after the other."""
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{i}.f32" for i in range(len(recordings))]
        for file, samples in zip(files, recordings, strict=True):
            samples.astype("<f4").tofile(file)
        script = ROOT / "web" / "build" / "test" / "recognise.js"
        done = subprocess.run(
            ["node", script, ENGINE, archive, *files], capture_output=True, text=True, check=True
        )
    return [json.loads(line) for line in done.stdout.splitlines()]


def wer(texts, found):
    pairs = zip(texts, found, strict=True)
    return score([(english_letters(t), english_letters(f["text"])) for t, f in pairs]).wer


def joined(texts, recordings):
    """The recordings as longer ones, with their texts."""
    parts, words = [[]], [[]]
    for text, samples in zip(texts, recordings, strict=True):
        if sum(map(len, parts[-1])) >= LONG:
            parts.append([])
            words.append([])
        parts[-1] += [samples, PAUSE]
        words[-1].append(text)
    return [" ".join(each) for each in words], [np.concatenate(each) for each in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest")
    parser.add_argument("models", nargs="*", default=["sentences-en", "whisper-tiny.en"])
    parser.add_argument("--each", type=int, default=6)
    args = parser.parse_args()
    subprocess.run(
        [ROOT / "web/node_modules/.bin/tsc", "-p", ROOT / "web/engine/tsconfig.node.json"],
        check=True,
    )
    utterances = manifest.read(args.manifest)[:: args.each][:200]
    texts = [utterance.text for utterance in utterances]
    recordings = [audio.load(utterance.audio) for utterance in utterances]
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder) / "model.tar.gz"
            export_for_page(library.load(name), archive)
            alone = heard(archive, recordings)
            long_texts, long = joined(texts, recordings)
            together = heard(archive, long)
        print(f"{name}: WER {wer(texts, alone):.3f} of {len(texts)} recordings")
        for threshold in (0.5, 0.6, 0.7, 0.8, 0.9):
            below = [found["confidence"] < threshold for found in alone]
            if 0 < sum(below) < len(below):
                parts = [
                    wer(
                        [t for t, b in zip(texts, below, strict=True) if b == is_below],
                        [f for f, b in zip(alone, below, strict=True) if b == is_below],
                    )
                    for is_below in (True, False)
                ]
                share = sum(below) / len(below)
                print(f"  below {threshold}: {share:.0%}, WER {parts[0]:.3f}; above {parts[1]:.3f}")
        seconds = sum(map(len, long)) / audio.SAMPLE_RATE
        print(
            f"  {len(long)} recordings of {seconds / len(long):.0f} s: WER "
            f"{wer(long_texts, together):.3f}, real-time factor "
            f"{sum(found['seconds'] for found in together) / seconds:.3f}"
        )


if __name__ == "__main__":
    main()
