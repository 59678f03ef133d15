"""Compare the bundled model with pocketsphinx and its en-us model on the same utterances.

    python bench/words.py MANIFEST... [--each N]

The engines take turns for each utterance, so that a change in the machine's speed affects both
equally. The script needs the ``peers`` extra.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pocketsphinx
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

import tynda
from tynda import manifest
from tynda.score import score
from tynda.sound import audio
from tynda.store import library
from tynda.text.normalize import english_letters

Samples = NDArray[np.float32]


def sphinx() -> tuple[Callable[[Samples], str], int]:
    folder = Path(pocketsphinx.get_model_path("en-us"))
    decoder = pocketsphinx.Decoder(samprate=16000, loglevel="FATAL")

    def run(samples: Samples) -> str:
        pcm = np.clip(samples * 32768, -32768, 32767).astype("<i2").tobytes()
        decoder.start_utt()
        decoder.process_raw(pcm, full_utt=True)
        decoder.end_utt()
        hypothesis = decoder.hyp()
        return "" if hypothesis is None else hypothesis.hypstr

    # The phonetic model is not used for recognising words.
    return run, sum(p.stat().st_size for p in folder.rglob("*") if "phone" not in p.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifests", nargs="+")
    parser.add_argument("--each", type=int, default=40, help="utterances of each source")
    parser.add_argument("--model", default=library.DEFAULT)
    args = parser.parse_args()

    model = tynda.load(args.model)
    run_sphinx, sphinx_bytes = sphinx()
    engines = {
        f"tynda {model.header.name}": (lambda x: model.transcribe(x).text, model.bytes),
        "pocketsphinx en-us": (run_sphinx, sphinx_bytes),
    }
    by_source: dict[str, list[manifest.Utterance]] = {}
    for path in args.manifests:
        for u in manifest.read(path):
            by_source.setdefault(u.source, []).append(u)

    print("| source | utterances | engine | WER | CER | model, bytes | real-time factor |")
    print("|---|---|---|---|---|---|---|")
    with threadpool_limits(1):  # pocketsphinx has one thread
        for source, found in by_source.items():
            chosen = found[: args.each]
            pairs: dict[str, list[tuple[str, str]]] = {name: [] for name in engines}
            spent = dict.fromkeys(engines, 0.0)
            seconds = 0.0
            for u in chosen:
                samples = audio.load(u.audio)
                seconds += len(samples) / audio.SAMPLE_RATE
                for name, (run, _) in engines.items():
                    started = time.perf_counter()
                    text = run(samples)
                    spent[name] += time.perf_counter() - started
                    pairs[name].append((english_letters(u.text), english_letters(text)))
            for name, (_, size) in engines.items():
                s = score(pairs[name])
                print(
                    f"| {source} | {len(chosen)} | {name} | {s.wer:.3f} | {s.cer:.3f} "
                    f"| {size:,} | {spent[name] / seconds:.3f} |"
                )


if __name__ == "__main__":
    main()
