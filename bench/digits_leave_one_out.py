"""Train the digit recogniser five times, each time without one speaker, and score on this speaker.

    python bench/digits_leave_one_out.py DATA --output runs/leave-one-out [RECIPE SETTINGS...]

The script needs the ``train`` extra; an interrupted run is resumed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import tynda
from tynda import manifest
from tynda.score import score
from tynda.train.run import train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--output", type=Path, default=Path("runs/leave-one-out"))
    args = parser.parse_args()
    people = sorted({u.speaker for u in manifest.read(args.data / "digits_dev.jsonl")} - {None})
    pairs, rows = [], {}
    for person in people:
        run = args.output / person
        alone = run / "digits_dev.jsonl"
        # Neither the epoch nor the n-gram's weights are chosen on this speaker: dev is empty.
        settings = [f'data.exclude_speakers=["{person}"]', "data.dev=[]", *args.settings]
        resume = (run / "last.pt").exists()
        model = tynda.load(train("digits-en", args.data, run, settings, resume=resume))
        alone.write_text(
            "".join(
                json.dumps(asdict(u) | {"audio_filepath": str(u.audio.resolve())}, default=str)
                + "\n"
                for u in manifest.read(args.data / "digits_dev.jsonl")
                if u.speaker == person
            )
        )
        report = tynda.evaluate(model, alone)
        pairs += [(r.reference, r.hypothesis) for r in report.results]
        rows[person] = report.overall
    rows["all"] = score(pairs)
    print("| left out | utterances | WER | CER |")
    print("|---|---|---|---|")
    for name, s in rows.items():
        print(f"| {name} | {s.utterances} | {s.wer:.3f} | {s.cer:.3f} |")


if __name__ == "__main__":
    main()
