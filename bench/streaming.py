"""Words, latency and processor of live recognition, beside the same model's text of whole files.

    python bench/streaming.py MODEL MANIFEST [--each 4] [--step 0.6] [--hold 0.6] [--window exact]
        [--look-ahead 0.5] [--figure latency.png] [--peer FOLDER]

Each recording is fed in blocks of 0.1 s, with a second of silence after it, as fast as it goes; the
time that a block takes is added to the audio's own. A word's latency is the time from its end in
the whole recording's text (by cross-attention, or by CTC) until it is final. A final word is
unchanged if the first partial text with a word at its place had this word. ``--peer`` is a Whisper
in CTranslate2's format, with which faster-whisper and local agreement write the same recordings in
the same run; its latencies are to the same ends of words. LongYAAL is the mean lag of words behind
a speaker who speaks evenly (Polák et al. 2025, "Better Late Than Never"), by the authors' package
``omnisteval``, without and with the time of computing; each recording is a segment.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
from omnisteval.data import Instance
from omnisteval.scoring import YAALScorer

import tynda
from local_agreement import LocalAgreement, open_whisper, whole_text
from tynda import manifest
from tynda.live.settings import LiveSettings
from tynda.score import change, score
from tynda.sound import audio

BLOCK = audio.SAMPLE_RATE // 10


@dataclass
class Live:
    """The words of one recording, and when they came."""

    words: list[str] = field(default_factory=list)
    final_at: list[float] = field(default_factory=list)
    """The second of audio at which each word was final."""
    took: list[float] = field(default_factory=list)
    """Seconds of computing until it was."""
    first_seen: list[str] = field(default_factory=list)
    """The word that was first shown at the place of each final one."""
    seen_at: list[float] = field(default_factory=list)
    """The second at which each word was first shown as it is, with the time of computing."""


def blocks(samples: Any) -> Iterator[Any]:
    silent = np.zeros(audio.SAMPLE_RATE, np.float32)
    padded = np.concatenate([samples, silent])
    for i in range(0, len(padded), BLOCK):
        yield padded[i : i + BLOCK]


def listen(session: Any, samples: Any) -> Live:
    live, seen, shown = Live(), dict[int, str](), dict[int, tuple[str, float]]()
    done = 0  # words of utterances that have ended
    for number, block in enumerate([*blocks(samples), None]):
        started = time.perf_counter()
        found = session.finish() if block is None else session.feed(block)
        took = time.perf_counter() - started
        now = min(number + 1, len(samples) / BLOCK + 10) * BLOCK / audio.SAMPLE_RATE
        for each in found:
            words = [word.text for word in each.segment.words]
            for i, word in enumerate(words):
                seen.setdefault(done + i, word)
                if shown.get(done + i, ("", 0.0))[0] != word:
                    shown[done + i] = word, now + took
            for word in words[len(live.words) - done : each.final_words]:
                live.words.append(word)
                live.final_at.append(now)
                live.took.append(took)
            if each.is_final:
                done = len(live.words)
    live.first_seen = [seen[i] for i in range(len(live.words))]
    live.seen_at = [shown[i][1] for i in range(len(live.words))]
    return live


@dataclass
class Contender:
    """A way to write live text, and what it has written."""

    name: str
    open: Callable[[], Any]
    """Returns a session for one recording."""
    transcribe: Callable[[Any], str]
    """Returns the text of a whole recording."""
    whole: list[tuple[str, str]] = field(default_factory=list)
    live: list[tuple[str, str]] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    shown: list[float] = field(default_factory=list)
    segments: list[Instance] = field(default_factory=list)
    same: int = 0
    spent: float = 0.0

    def write(
        self, samples: Any, reference: str, ends: list[tuple[str, float]], normalize: Any
    ) -> None:
        """Write one recording; ``ends`` are its normalised words and the seconds of their ends."""
        self.whole.append((reference, normalize(self.transcribe(samples))))
        started = time.process_time()
        live = listen(self.open(), samples)
        self.spent += time.process_time() - started
        self.live.append((reference, normalize(" ".join(live.words))))
        seconds = len(samples) / audio.SAMPLE_RATE
        self.segments.append(
            Instance(
                reference=reference,
                source_length=seconds,
                emission_cu=live.final_at,
                emission_ca=[sum(pair) for pair in zip(live.final_at, live.took, strict=True)],
                time_to_recording_end=seconds + 1,
                longform=True,
            )
        )
        self.same += sum(a == b for a, b in zip(live.words, live.first_seen, strict=True))
        ours, theirs = [normalize(word) for word in live.words], [word for word, _ in ends]
        for i, j, count in SequenceMatcher(a=ours, b=theirs, autojunk=False).get_matching_blocks():
            for k in range(count):
                self.waits.append(live.final_at[i + k] - ends[j + k][1])
                self.latencies.append(self.waits[-1] + live.took[i + k])
                self.shown.append(live.seen_at[i + k] - ends[j + k][1])

    def report(self, seconds: float) -> None:
        rise = change(self.whole, self.live)
        count = sum(len(hypothesis.split()) for _, hypothesis in self.live)
        print(
            f"{self.name}: WER {score(self.whole).wer:.4f} of whole files, "
            f"{score(self.live).wer:.4f} live ({100 * rise.wer:+.2f} points, {100 * rise.low:+.2f} "
            f"to {100 * rise.high:+.2f}); {self.same / max(count, 1):.1%} of {count} final words "
            f"as first shown; {self.spent / seconds:.1%} of one core"
        )
        for name, times in (
            ("final, with computing", self.latencies),
            ("final, without", self.waits),
            ("shown, with computing", self.shown),
        ):
            times.sort()
            print(
                f"latency of {len(times)} words until {name}: "
                f"median {statistics.median(times):.2f} s, "
                f"95 % {times[int(0.95 * len(times))]:.2f} s"
            )
        lags = [YAALScorer(computation_aware=aware)(self.segments) for aware in (False, True)]
        print(f"LongYAAL {lags[0]:.2f} s, with computing {lags[1]:.2f} s")


def draw(contenders: list[Contender], path: Path) -> None:
    """Draw the latencies with computing, each contender's as a share of its words."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3))
    for each in contenders:
        weights = np.full(len(each.latencies), 100 / len(each.latencies))
        edges = np.arange(0, 4.01, 0.1)
        times = np.clip(each.latencies, edges[0], edges[-1])
        axes.hist(times, edges, weights=weights, alpha=0.6, label=each.name)
    axes.set_xlabel("seconds from the end of a word until it is final")
    axes.set_ylabel("% of words")
    axes.legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("manifest")
    parser.add_argument("--each", type=int, default=1)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--window", choices=["exact", "merged"], help="of a Whisper model")
    parser.add_argument("--look-ahead", type=float, help="of a model for live text")
    parser.add_argument("--figure", type=Path, help="file of a histogram of the latencies")
    parser.add_argument("--peer", help="folder of a Whisper for faster-whisper")
    for each in fields(LiveSettings):
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=float, default=each.default)
    args = parser.parse_args()
    settings = LiveSettings(**{f.name: getattr(args, f.name) for f in fields(LiveSettings)})
    model = tynda.load(args.model, threads=args.threads)
    given = {"window": args.window, "look_ahead": args.look_ahead}
    fixed = {name: value for name, value in given.items() if value is not None}
    with_times = {"word_timestamps": True} if model.head.has_decoder else {}
    contenders = [
        Contender(
            args.model,
            lambda: model.live(model.options(**fixed), settings=settings),
            lambda samples: model.transcribe(samples, model.options(**fixed)).text,
        )
    ]
    if args.peer:
        peer = open_whisper(args.peer, args.threads or 2)
        contenders.append(
            Contender(
                f"local agreement, {args.peer}",
                lambda: LocalAgreement(peer),
                lambda samples: whole_text(peer, samples),
            )
        )
    seconds = 0.0
    for utterance in manifest.read(args.manifest)[:: args.each]:
        samples = audio.load(utterance.audio)
        offline = model.transcribe(samples, model.options(**with_times, **fixed))
        words = [word for segment in offline.segments for word in segment.words]
        ends = [(model.normalize(word.text), word.end) for word in words]
        seconds += len(samples) / audio.SAMPLE_RATE + 1
        for each in contenders:
            each.write(samples, model.normalize(utterance.text), ends, model.normalize)
    for each in contenders:
        each.report(seconds)
    if args.figure:
        draw(contenders, args.figure)


if __name__ == "__main__":
    main()
