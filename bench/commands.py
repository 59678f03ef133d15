"""Commands: what is understood, what is accepted by mistake, and how long an answer takes.

    python bench/commands.py MODEL DATA [--each 3] [--grammars words digits ...] [--threshold 0.5]
        [--figure errors.png]

The grammars are the words of ``commands.jsonl`` (wake phrases among them), the ten digits, the
English words of ``speakers.jsonl``, and forty sentences of ``dev.jsonl``; of a grammar in a file,
such as ``bench/home.txt``, only false accepts are counted. Each recording is one
utterance, quiet and with noise at 10 dB. False accepts are counted by live sessions that are fed
with noise, and with sentences of ``dev.jsonl`` in which nobody says a sentence of the grammar. An
utterance is accepted where its highest confidence reaches the threshold. Half of ``noise.jsonl`` is
mixed in and judged; the other half is for calibration. MODEL may be ``pocketsphinx``, which has a
grammar in JSGF and no confidence.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import tynda
from tynda import manifest
from tynda.commands.calibrate import confidences
from tynda.commands.recognizer import CommandRecognizer
from tynda.commands.session import CommandSession
from tynda.commands.settings import CommandSettings
from tynda.commands.templates import Grammar, Sentence, Text
from tynda.sound import audio
from tynda.text.normalize import english_letters

RATE = audio.SAMPLE_RATE
SNR = 10.0
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
WORDS = 40
Floats = NDArray[np.float64]
Heard = Callable[[Any], tuple[str | None, float]]


def positives(folder: Path, name: str) -> list[manifest.Utterance]:
    """Return the recordings of the sentences of a grammar."""
    if name == "digits":
        return manifest.read(folder / "digits_dev.jsonl")
    if name == "words":
        return manifest.read(folder / "commands.jsonl")
    if name.endswith((".txt", ".yaml")):
        return []
    if name == "unseen":
        found = manifest.read(folder / "speakers.jsonl")
        return [u for u in found if u.language == "en"]
    found = manifest.read(folder / "dev.jsonl")
    chosen = sorted({english_letters(u.text) for u in found})[:: len(found) // WORDS // 2][:WORDS]
    return [u for u in found if english_letters(u.text) in chosen]


def grammar(texts: Sequence[str]) -> Grammar:
    return Grammar(tuple(Sentence(Text(text), text) for text in texts))


def contains(text: str, sentences: Sequence[str]) -> bool:
    """Return whether somebody who says the text says one of the sentences."""
    return any(f" {sentence} " in f" {text} " for sentence in sentences)


def noises(folder: Path) -> list[Any]:
    return [audio.load(u.audio) for u in manifest.read(folder / "noise.jsonl")[1::2]]


def mixed(samples: Any, noise: Any, rng: np.random.Generator) -> Any:
    """Return samples with a part of a noise at `SNR`."""
    noise = np.tile(noise, -(-len(samples) // len(noise)))
    start = int(rng.integers(0, len(noise) - len(samples) + 1))
    part = noise[start : start + len(samples)]
    power = float((samples**2).mean()) / max(float((part**2).mean()), 1e-12)
    return (samples + part * np.sqrt(power / 10 ** (SNR / 10))).astype(np.float32)


def end_of_speech(samples: Any) -> int:
    """Return the sample after the last 20 ms that are within 30 dB of the loudest."""
    frames = samples[: len(samples) // 320 * 320].reshape(-1, 320)
    energy = (frames**2).mean(1)
    return 320 * (int(np.flatnonzero(energy > energy.max() / 1000)[-1]) + 1)


def latencies(obeyed: CommandRecognizer, recordings: Sequence[Any]) -> tuple[list[float], int]:
    """Return the seconds from the end of speech to the answer of each recording that gives one,
    computing included, and the number of recordings without a command."""
    found, missed = list[float](), 0
    for samples in recordings:
        end = end_of_speech(samples) + RATE // 2
        silence = np.zeros(RATE, np.float32)
        padded = np.concatenate([silence[: RATE // 2], samples, silence])
        session = CommandSession(obeyed)
        for at in range(0, len(padded), 512):
            started = time.perf_counter()
            answers = session.feed(padded[at : at + 512])
            if any(a.is_command for a in answers):
                took = time.perf_counter() - started
                found.append((min(at + 512, len(padded)) - end) / RATE + took)
                break
        else:
            missed += 1
    return found, missed


def sphinx(texts: Sequence[str]) -> Heard:
    """Return pocketsphinx with the texts as its grammar."""
    import pocketsphinx

    decoder = pocketsphinx.Decoder(samprate=RATE, loglevel="FATAL", lm=None)
    known = [t for t in texts if all(decoder.lookup_word(word) for word in t.split())]
    if missing := sorted(set(texts) - set(known)):
        print(f"pocketsphinx has no pronunciation for {', '.join(missing)}")
    sentences = " | ".join(known)
    decoder.add_jsgf_string("commands", f"#JSGF V1.0;\ngrammar g;\npublic <s> = {sentences};\n")
    decoder.activate_search("commands")

    def heard(samples: Any) -> tuple[str | None, float]:
        decoder.start_utt()
        data = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
        decoder.process_raw(data, full_utt=True)
        decoder.end_utt()
        best = decoder.hyp()
        return (best.hypstr, 1.0) if best is not None else (None, 0.0)

    return heard


def deaf_to(obeyed: CommandRecognizer, recordings: Iterator[Any]) -> tuple[list[float], float]:
    """Return the confidences of recordings without commands, and their hours."""
    found, seconds = list[float](), 0.0
    for samples in recordings:
        # The pause ends the last utterance, as it does in a room.
        blocks = [samples, np.zeros(RATE, np.float32)]
        heard, duration = confidences(obeyed, blocks)
        found += heard
        seconds += duration - 1
    return found, seconds / 3600


@dataclass
class Curve:
    """Confidences of one grammar; those of sentences that were not understood are -1."""

    quiet: Floats
    noisy: Floats
    speech: Floats
    """The confidences of speech without a command."""
    hours: float

    def points(self, understood: Floats) -> tuple[list[float], list[float]]:
        """Return the false accepts an hour and the missed commands in %, for each threshold."""
        thresholds = np.unique(np.concatenate([self.speech, understood, [0, 1.01]]))
        return (
            [float((self.speech >= t).sum() / self.hours) for t in thresholds],
            [100 * float((understood < t).mean()) for t in thresholds],
        )


def draw(curves: dict[str, Curve], path: Path) -> None:
    """Draw the detection errors of grammars, quiet and in noise."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5))
    for i, (name, curve) in enumerate(curves.items()):
        axes.step(*curve.points(curve.quiet), color=f"C{i}", label=name)
        axes.step(*curve.points(curve.noisy), color=f"C{i}", ls=":", label=f"{name}, {SNR:g} dB")
    axes.set_xlabel("false accepts for each hour of speech without a command")
    axes.set_ylabel("commands missed, %")
    axes.set_ylim(0, 50)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(0, 300)
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("data", type=Path)
    parser.add_argument("--each", type=int, default=1)
    parser.add_argument("--each-negative", type=int, default=1)
    parser.add_argument("--grammars", nargs="+", default=["words", "digits", "unseen", "sentences"])
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--pause", type=float, default=CommandSettings.pause)
    parser.add_argument("--no-negatives", action="store_true")
    parser.add_argument("--figure", type=Path, help="file of a detection-error curve")
    args = parser.parse_args()
    rng, judged = np.random.default_rng(0), noises(args.data)
    is_peer = args.model == "pocketsphinx"
    model = None if is_peer else tynda.load(args.model)
    dev = manifest.read(args.data / "dev.jsonl")
    curves = dict[str, Curve]()
    for name in args.grammars:
        spoken = positives(args.data, name)
        texts = sorted({english_letters(u.text) for u in spoken})
        spoken = spoken[:: args.each]
        written = name if name.endswith((".txt", ".yaml")) else grammar(texts)
        obeyed = model.commands(written, pause=args.pause) if model else None
        if obeyed is not None and args.threshold is not None:
            obeyed = obeyed.with_threshold(args.threshold)
        heard = sphinx(texts) if obeyed is None else _heard(obeyed.with_threshold(0.0))
        rows, took, recordings = [], list[float](), []
        for i, utterance in enumerate(spoken):
            samples = audio.load(utterance.audio)
            recordings.append(samples)
            row = []
            for each in (samples, mixed(samples, judged[i % len(judged)], rng)):
                padded = np.pad(each, RATE // 4)
                started = time.perf_counter()
                text, confidence = heard(padded)
                took.append(time.perf_counter() - started)
                row.append(confidence if text == english_letters(utterance.text) else -1.0)
            rows.append(row)
        right = np.array(rows).reshape(-1, 2)
        print(f"{args.model}, {name}: {len(texts)} sentences, {len(spoken)} recordings")
        if rows:
            quiet, noisy = (right >= 0).mean(0)
            print(
                f"  best sentence right {quiet:.1%} quiet, {noisy:.1%} at 10 dB; "
                f"{statistics.median(took):.3f} s each",
                flush=True,
            )
        if obeyed is None:
            continue
        waits, missed = latencies(obeyed, recordings[:: max(1, len(recordings) // 40)])
        if waits:
            waits.sort()
            print(
                f"  answer after {statistics.median(waits):.3f} s, 95 % "
                f"{waits[int(0.95 * len(waits))]:.3f} s, of {len(waits)}; {missed} without one"
            )
        if args.no_negatives:
            continue
        others = [u for u in dev if not contains(english_letters(u.text), texts)]
        others = others[:: args.each_negative]
        speech, speech_hours = deaf_to(obeyed, (audio.load(u.audio) for u in others))
        sounds, noise_hours = deaf_to(obeyed, iter(judged))
        print(f"  {speech_hours:.2f} h of sentences, {noise_hours:.2f} h of noise")
        for threshold in sorted({*THRESHOLDS, obeyed.threshold}):
            quiet, noisy = (right >= threshold).mean(0) if rows else (1.0, 1.0)
            accepted = [sum(c >= threshold for c in each) for each in (speech, sounds)]
            rates = accepted[0] / speech_hours, accepted[1] / noise_hours
            print(
                f"  | {threshold:.2f} | {1 - quiet:.1%} | {1 - noisy:.1%} | {accepted[0]} "
                f"({rates[0]:.1f}) | {accepted[1]} ({rates[1]:.1f}) |",
                flush=True,
            )
        curves[name] = Curve(right[:, 0], right[:, 1], np.array(speech), speech_hours)
        top = ", ".join(f"{c:.3f}" for c in sorted(speech + sounds, reverse=True)[:5])
        print(f"  highest without a command: {top}", flush=True)
    if args.figure:
        draw(curves, args.figure)


def _heard(obeyed: CommandRecognizer) -> Heard:
    def heard(samples: Any) -> tuple[str | None, float]:
        answer = obeyed.recognize(samples)
        return answer.sentence, answer.confidence

    return heard


if __name__ == "__main__":
    main()
