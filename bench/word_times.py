"""Errors of word times and words on a recording of real utterances with silence between them.

    python bench/word_times.py MODEL MANIFEST [--minutes 5] [OPTION=VALUE...]

The utterances are trimmed to the part above -25 dB of their loudest 20 ms, and joined with 0.5 s to
2 s of faint noise between them, so that their starts and ends are known. The recording and its
transcripts (srt, vtt, json) are written to --output.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import av
import numpy as np

import tynda
from tynda import manifest
from tynda.score import score
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE

FRAME = SAMPLE_RATE // 50


def trim(samples: np.ndarray) -> np.ndarray:
    """Cut ``samples [n]`` to the span from the first to the last loud frame of 20 ms."""
    frames = samples[: len(samples) // FRAME * FRAME].reshape(-1, FRAME)
    power = (frames.astype(np.float64) ** 2).mean(1)
    loud = np.flatnonzero(power > power.max() * 10**-2.5)
    return samples[loud[0] * FRAME : (loud[-1] + 1) * FRAME]


def build(
    manifest_path: Path, seconds: float
) -> tuple[np.ndarray, list[tuple[float, float]], list[str]]:
    """Return the recording, and start, end (in seconds) and text of each utterance in it."""
    rng = np.random.default_rng(0)
    utterances = [u for u in manifest.read(manifest_path) if u.text]
    parts: list[np.ndarray] = []
    bounds: list[tuple[float, float]] = []
    texts, at = [], 0
    for i in rng.permutation(len(utterances)):
        pause = rng.standard_normal(int(rng.uniform(0.5, 2.0) * SAMPLE_RATE)) * 1e-4
        speech = trim(audio.load(utterances[i].audio))
        parts += [pause.astype(np.float32), speech]
        at += len(pause)
        bounds.append((at / SAMPLE_RATE, (at + len(speech)) / SAMPLE_RATE))
        at += len(speech)
        texts.append(utterances[i].text)
        if at > seconds * SAMPLE_RATE:
            break
    return np.concatenate(parts), bounds, texts


def write_flac(path: Path, samples: np.ndarray) -> None:
    """Write a 16-bit mono WAV."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("flac", rate=SAMPLE_RATE, layout="mono")
        pcm = (samples.clip(-1, 1) * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(pcm, format="s16", layout="mono")
        frame.sample_rate = SAMPLE_RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("options", nargs="*", help="of the decoder: beam_size=1")
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--output", type=Path, default=Path("runs/word-times"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    samples, bounds, texts = build(args.manifest, 60 * args.minutes)
    recording = args.output / "joined.flac"
    write_flac(recording, samples)
    options = {k: json.loads(v) for k, v in (option.split("=", 1) for option in args.options)}
    model = tynda.load(args.model)
    transcript = model.transcribe(recording, **options)
    for kind in ("srt", "vtt", "json"):
        transcript.save(args.output / f"joined.{kind}")
    words = [w for s in transcript.segments for w in s.words]
    early, late, lost = [], [], 0
    for begin, end in bounds:
        mine = [w for w in words if begin - 0.25 < (w.start + w.end) / 2 < end + 0.25]
        lost += not mine
        early += [mine[0].start - begin] if mine else []
        late += [mine[-1].end - end] if mine else []
    wer = score([(model.normalize(" ".join(texts)), model.normalize(transcript.text))]).wer
    print(
        f"{len(samples) / SAMPLE_RATE:.0f} s, {len(bounds)} utterances, {lost} without a word, "
        f"{len(transcript.segments)} segments, WER {wer:.3f}"
    )
    print("| time | within 0.2 s | median error | 90 % within | mean offset |")
    print("|---|---|---|---|---|")
    for name, errors in (("first word begins", early), ("last word ends", late)):
        size = np.abs(errors)
        print(
            f"| {name} | {np.mean(size <= 0.2):.0%} | {np.median(size):.3f} s "
            f"| {np.quantile(size, 0.9):.3f} s | {np.mean(errors):+.3f} s |"
        )


if __name__ == "__main__":
    main()
