"""Make the bundled ``whisper-tiny.en`` from OpenAI's weights.

    python bench/bundled.py FOLDER DATA OUTPUT

FOLDER is a Hugging Face folder of openai/whisper-tiny.en. DATA has manifests of speech: the file is
calibrated on ``unlabelled.jsonl`` and ``train.jsonl``, whose texts are not used, and scored on
``dev.jsonl`` and ``test.jsonl``. Its header states the command, the data and the scores.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import tynda
from tynda.evaluation import evaluate
from tynda.manifest import read
from tynda.quantization.steps import StepPlanner
from tynda.store import checkpoint

SIZE = 20_000_000
UTTERANCES = 64
_MIN_SECONDS = 1.5


def calibration_set(data: Path) -> list[dict[str, object]]:
    """Return rows of a manifest: two LibriSpeech utterances for each one of ``train.jsonl``."""
    clean = read(data / "unlabelled.jsonl")
    learners = [u for u in read(data / "train.jsonl") if u.duration > _MIN_SECONDS]
    count = len(clean) // 2
    learners = learners[:: len(learners) // count][:count]
    rows = [u for i in range(count) for u in (*clean[2 * i : 2 * i + 2], learners[i])]
    return [
        {"audio_filepath": str(u.audio.resolve()), "text": "", "duration": u.duration} for u in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    rounded = args.output.with_suffix(".rounded")
    if not rounded.exists():
        with TemporaryDirectory() as folder:
            manifest = Path(folder) / "calibration.jsonl"
            manifest.write_text(
                "".join(json.dumps(row) + "\n" for row in calibration_set(args.data))
            )
            planner = StepPlanner(args.folder, manifest, utterances=UTTERANCES)
            plan = planner.for_size(SIZE)
            tynda.quantize(args.folder, rounded, plan, calibration=planner.calibration)
    manifests = [args.data / "dev.jsonl", args.data / "test.jsonl"]
    scores = evaluate(tynda.load(rounded), manifests).sources
    model = checkpoint.load(rounded)
    header = replace(
        model.header,
        tokenizer=model.tokenizer.to_dict(),
        name="whisper-tiny.en",
        licence="MIT",
        training=model.header.training
        | {
            "weights": "OpenAI Whisper tiny.en (Radford et al. 2022)",
            "command": "python bench/bundled.py whisper-tiny.en DATA OUTPUT",
            "calibration": f"{UTTERANCES} utterances of LibriSpeech train-clean, speechocean762 "
            "and kathleen, without their texts",
        },
        scores={name: {"wer": rates.wer, "cer": rates.cer} for name, rates in scores.items()},
    )
    checkpoint.save_model(args.output, header, dict(model.weights), bits=16)
    rounded.unlink()


if __name__ == "__main__":
    main()
