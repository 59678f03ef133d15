"""Commands in the engine of web pages, in Node.js, beside those that Python finds.

    python bench/web_commands.py MODEL MANIFEST [--each N]

The grammar are all texts of the manifest, of whose recordings each N-th is recognised: as one
utterance by both, and live by the engine, between 0.7 s of noise at -70 dB. The time after the word
is that from the last 20 ms within 30 dB of the loudest until the answer, computing included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np

import tynda
from commands import end_of_speech
from tynda import manifest
from tynda.commands.export import export_commands
from tynda.serve.web import export_for_page
from tynda.sound import audio
from tynda.store import library
from web_words import ENGINE, ROOT

RATE = audio.SAMPLE_RATE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("manifest")
    parser.add_argument("--each", type=int, default=10)
    args = parser.parse_args()
    utterances = manifest.read(args.manifest)
    compiler = ROOT / "web/node_modules/.bin/tsc"
    subprocess.run([compiler, "-p", ROOT / "web/engine/tsconfig.node.json"], check=True)
    quiet = np.random.default_rng(0).normal(0, 10 ** (-70 / 20), int(0.7 * RATE))
    quiet = quiet.astype(np.float32)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "g.txt").write_text("\n".join(sorted({u.text for u in utterances})))
        chosen = utterances[:: args.each]
        known = tynda.load(args.model, threads=1).commands(folder / "g.txt")
        export_for_page(library.load(args.model), folder / "m.tar.gz")
        export_commands(known, folder / "g.json")
        recordings = [np.concatenate([quiet, audio.load(u.audio), quiet]) for u in chosen]
        files = [folder / f"{i}.f32" for i in range(len(recordings))]
        for file, samples in zip(files, recordings, strict=True):
            samples.astype("<f4").tofile(file)
        script = ROOT / "web/build/test/command.js"
        command = ["node", script, ENGINE, folder / "m.tar.gz", folder / "g.json", *files]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    answers = [known.recognize(samples) for samples in recordings]
    same = sum(
        a.sentence == f["whole"]["sentence"] and abs(a.confidence - f["whole"]["confidence"]) < 0.05
        for a, f in zip(answers, found, strict=True)
    )
    live, delays = 0, []
    for utterance, samples, each in zip(chosen, recordings, found, strict=True):
        wanted = known.graph.meaning(utterance.text)
        for answer in each["heard"]:
            if wanted and answer["sentence"] == wanted.words:
                live += 1
                delays.append(answer["end"] - end_of_speech(samples) / RATE + each["seconds"])
                break
    right = sum(
        a.sentence == known.graph.meaning(u.text).words
        for a, u in zip(answers, chosen, strict=True)
    )
    middle, slowest = np.percentile(delays, [50, 95])
    print(
        f"{args.model}: {len(chosen)} recordings; as one utterance, {same} answers are Python's, "
        f"{right} are right; live, {live} are right, after {middle:.3f} s, 95 % {slowest:.3f} s; "
        f"computing {np.median([f['seconds'] for f in found]):.3f} s"
    )


if __name__ == "__main__":
    main()
