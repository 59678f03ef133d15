"""Make the bundled ``whisper-tiny.en`` from OpenAI's weights.

    python bench/bundled.py FOLDER CALIBRATION OUTPUT --scores DEV TEST

FOLDER is a Hugging Face folder of openai/whisper-tiny.en; CALIBRATION is a manifest of speech,
whose texts are not used. The file is scored on the other manifests, and its header states the
command, the data and the scores.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import tynda
from tynda.evaluation import evaluate
from tynda.manifest import read
from tynda.store import checkpoint

UTTERANCES = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--scores", type=Path, nargs="+", required=True)
    parser.add_argument("--method", default="learnt")
    parser.add_argument("--embedding", type=float, default=3)
    args = parser.parse_args()
    made = args.output.with_suffix(".made")
    if not made.exists():
        tynda.quantize(
            args.folder,
            made,
            4,
            method=args.method,
            calibration=args.calibration,
            utterances=UTTERANCES,
            overrides=[("*embed_tokens*", args.embedding)],
        )
    sources = sorted({u.source for u in read(args.calibration)})
    found = evaluate(tynda.load(made), args.scores).sources
    model = checkpoint.load(made)
    header = replace(
        model.header,
        name="whisper-tiny.en",
        licence="MIT",
        training=model.header.training
        | {
            "weights": "OpenAI Whisper tiny.en (Radford et al. 2022)",
            "command": shlex.join(["python", *sys.argv]),
            "calibration": {"sources": sources, "utterances": UTTERANCES},
        },
        scores={name: {"wer": rates.wer, "cer": rates.cer} for name, rates in found.items()},
    )
    checkpoint.save_model(args.output, header, dict(model.weights), bits=16)
    made.unlink()


if __name__ == "__main__":
    main()
