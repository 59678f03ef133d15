"""Who said what: error rates on mixtures of recordings, time and memory.

    python bench/diarize.py --data DATA [--people tuned|new|librispeech] [--mixtures 20]
        [--overlap 0.3] [--words MODEL | --live | --hour | --figure FILE.png]

A mixture is a conversation of 1 to 5 people made of their recordings: turns of one to three
sentences, gaps, or an overlap of 0.3 s to 2 s at three of ten changes of speaker; a room for half
of the mixtures (all people in the same one), other levels for each person, white noise 20 dB to
40 dB below. Nobody in them was heard in training. The constants of ``tynda.speakers`` were chosen
on ``tuned``, every other person of speechocean762's dev; ``new`` are the others, ``librispeech``
the five of test-other. The truth is where a recording has energy, with pauses under 0.3 s filled:
Silero VAD, which tynda uses, has no part in it.

DER is that of pyannote.metrics with a collar of 0.25 s on both sides of a boundary, overlap scored;
cpWER is meeteval's. Both are in the extra ``peers``.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import tynda
from tynda import manifest
from tynda.heads.base import Session
from tynda.live.endpoint import Endpointer
from tynda.live.settings import LiveSettings
from tynda.manifest import Utterance
from tynda.sound import audio
from tynda.sound.silero import CHUNK, Detector
from tynda.speakers.attribution import attribute
from tynda.speakers.diarize import Diarizer, Turn
from tynda.speakers.live import LiveDiarization
from tynda.speakers.profiles import ProfileStore
from tynda.speakers.voices import Speakers
from tynda.speakers.windows import Windows
from tynda.train.augment import reverberate

RATE = 16_000
FRAME = 160
TICK = 4 * CHUNK
COUNTS = (1, 2, 3, 4, 5)
People = dict[str, list[Utterance]]


@dataclass
class Mixture:
    """A conversation, who speaks when in it, and the words of each person."""

    samples: np.ndarray
    turns: list[Turn]
    words: dict[str, str]

    @property
    def seconds(self) -> float:
        return len(self.samples) / RATE


def people(data: Path, which: str) -> People:
    """Return the recordings of the people of a set."""
    name, source = {"librispeech": ("test", "librispeech-test-other")}.get(
        which, ("dev", "speechocean762")
    )
    found: People = defaultdict(list)
    for u in manifest.read(data / f"{name}.jsonl"):
        if u.source == source and u.speaker:
            found[u.speaker].append(u)
    chosen = sorted(found)
    if which != "librispeech":
        chosen = chosen[which == "new" :: 2]
    return {name: found[name] for name in chosen}


def spoken(samples: np.ndarray) -> list[tuple[float, float]]:
    """Return the spans of a clean recording, in seconds, that have energy."""
    count = len(samples) // FRAME
    power = np.square(samples[: count * FRAME].reshape(count, FRAME)).mean(1)
    decibels = np.convolve(10 * np.log10(power + 1e-10), np.ones(3) / 3, "same")
    low, high = np.percentile(decibels, [5, 95])
    loud = decibels > max(low + 0.4 * (high - low), high - 30)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], loud, [0]]))) * FRAME / RATE
    spans: list[tuple[float, float]] = []
    for start, end in edges.reshape(-1, 2).tolist():
        if spans and start - spans[-1][1] < 0.3:
            spans[-1] = spans[-1][0], end
        else:
            spans.append((start, end))
    return [span for span in spans if span[1] - span[0] >= 0.1]


class Mixer:
    """Makes mixtures of the recordings of a set of people."""

    def __init__(self, data: Path, pool: People) -> None:
        self.pool = pool
        # One is the mean of eight microphones, which no microphone hears.
        files = [u.audio for u in manifest.read(data / "rir.jsonl") if "8ch" not in u.audio.name]
        self.rooms = [audio.load(path) for path in files]
        self._read: dict[Path, tuple[np.ndarray, list[tuple[float, float]]]] = {}
        self.counts = [count for count in COUNTS if count <= len(pool)]

    def mixture(self, count: int, seed: int, overlap: float = 0.3) -> Mixture:
        """Return a conversation of ``count`` people."""
        rng = np.random.default_rng([count, seed])
        names = [str(name) for name in rng.choice(sorted(self.pool), count, replace=False)]
        left, gain = {}, {}
        for name in names:
            own = self.pool[name]
            order = rng.permutation(len(own))[: rng.integers(5, min(20, len(own)) + 1)]
            left[name], gain[name] = [own[i] for i in order], 10 ** (rng.uniform(-4, 4) / 20)
        parts: list[tuple[float, np.ndarray]] = []
        turns: list[Turn] = []
        words: dict[str, list[str]] = {name: [] for name in names}
        end, last = 0.5, ""
        while any(left.values()):
            able = [n for n in names if left[n]]
            able = [n for n in able if n != last] or able
            weights = np.array([len(left[n]) for n in able])
            name = able[rng.choice(len(able), p=weights / weights.sum())]
            start = end + rng.exponential(0.5)
            if last not in ("", name) and rng.random() < overlap:
                start = end - rng.uniform(0.3, 2.0)
            for sentence in range(rng.integers(1, 4)):
                if not left[name]:
                    break
                start = end + rng.uniform(0.05, 0.5) if sentence else start
                utterance = left[name].pop()
                samples, spans = self._load(utterance)
                start = max([start, *(t.end for t in turns if t.speaker == name)])
                parts.append((start, samples * gain[name]))
                turns += [Turn(start + a, start + b, name) for a, b in spans]
                words[name].append(utterance.text)
                end = max(end, start + len(samples) / RATE)
            last = name
        sound = np.zeros(int((end + 0.5) * RATE) + 1, np.float32)
        for start, samples in parts:
            sound[int(start * RATE) :][: len(samples)] += samples
        if rng.random() < 0.5:
            sound = reverberate(sound, self.rooms[rng.integers(len(self.rooms))])
        noise = rng.standard_normal(len(sound)) * np.sqrt(np.mean(sound**2))
        sound += (noise * 10 ** (-rng.uniform(20, 40) / 20)).astype(np.float32)
        turns.sort(key=lambda turn: turn.start)
        return Mixture(sound, turns, {name: " ".join(said) for name, said in words.items()})

    def _load(self, utterance: Utterance) -> tuple[np.ndarray, list[tuple[float, float]]]:
        """Return the speech of a recording at one level, and its spans."""
        if utterance.audio not in self._read:
            samples = audio.load(utterance.audio)
            spans = spoken(samples)
            first = max(0.0, spans[0][0] - 0.1)
            samples = samples[int(first * RATE) : int((spans[-1][1] + 0.1) * RATE)]
            samples = samples / np.sqrt(np.mean(samples**2)) * 0.05
            self._read[utterance.audio] = samples, [(a - first, b - first) for a, b in spans]
        return self._read[utterance.audio]


def annotation(turns: list[Turn]) -> Any:
    """Return turns as pyannote has them."""
    from pyannote.core import Annotation, Segment

    found = Annotation()
    for i, turn in enumerate(turns):
        found[Segment(turn.start, turn.end), i] = turn.speaker
    return found


def embedded(diarizer: Diarizer, samples: np.ndarray) -> Windows:
    """Return the windows of a recording, for several numbers of speakers."""
    embedder = diarizer.embedder()
    for i in range(0, len(samples), 30 * RATE):
        embedder.add(samples[i : i + 30 * RATE])
    return embedder.finish()


def live_turns(diarizer: Diarizer, samples: np.ndarray) -> list[Turn]:
    """Return the turns that a live session gives, each utterance's when it ends."""
    voices, endpointer = LiveDiarization(diarizer), Endpointer(LiveSettings())
    detector, found = Detector(), list[Turn]()
    for i in range(0, len(samples), TICK):
        block = samples[i : i + TICK]
        endpointer.add(detector.add(block))
        voices.add(block)
        if endpointer.has_ended(ends_sentence=False):
            endpointer.close()
            found += voices.turns()
    return found + voices.finish()


def live_rates(mixer: Mixer, diarizer: Diarizer, mixtures: int, overlap: float) -> None:
    """Print the rates of live sessions beside those of whole recordings."""
    from pyannote.core import Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    for count in mixer.counts:
        live, whole = (DiarizationErrorRate(collar=0.5) for _ in range(2))
        right, seconds, taken = [], 0.0, 0.0
        for seed in range(mixtures):
            mixture = mixer.mixture(count, seed, overlap)
            all_of_it = Timeline([Segment(0, mixture.seconds)])
            truth = annotation(mixture.turns)
            begin = time.process_time()
            turns = live_turns(diarizer, mixture.samples)
            taken += time.process_time() - begin
            seconds += mixture.seconds
            right.append(len({turn.speaker for turn in turns}) == count)
            live(truth, annotation(turns), uem=all_of_it)
            whole(truth, annotation(diarizer.turns(mixture.samples)), uem=all_of_it)
        print(
            f"{count} people: DER {abs(live):.1%} live, {abs(whole):.1%} of whole recordings; "
            f"number right in {np.mean(right):.0%}; {taken / seconds:.1%} of one core"
        )


def rates(
    mixer: Mixer, diarizers: dict[int | None, Diarizer], mixtures: int, overlap: float
) -> None:
    """Print the rates for each number of people, estimated and given."""
    from pyannote.core import Segment, Timeline
    from pyannote.metrics.diarization import DiarizationErrorRate

    for count in mixer.counts:
        estimated, given = (DiarizationErrorRate(collar=0.5) for _ in range(2))
        right, seconds, taken = [], 0.0, 0.0
        for seed in range(mixtures):
            mixture = mixer.mixture(count, seed, overlap)
            all_of_it = Timeline([Segment(0, mixture.seconds)])
            truth = annotation(mixture.turns)
            begin = time.process_time()
            windows = embedded(diarizers[None], mixture.samples)
            turns = diarizers[None].turns_of(windows)
            taken += time.process_time() - begin
            seconds += mixture.seconds
            right.append(len({turn.speaker for turn in turns}) == count)
            estimated(truth, annotation(turns), uem=all_of_it)
            given(truth, annotation(diarizers[count].turns_of(windows)), uem=all_of_it)
        row = {
            "people": count,
            "overlap": overlap,
            "mixtures": mixtures,
            "minutes": round(seconds / 60, 1),
            "DER": round(abs(estimated), 4),
            **{
                kind: round(estimated[kind] / estimated["total"], 4)
                for kind in ("missed detection", "false alarm", "confusion")
            },
            "count right": float(np.mean(right)),
            "DER, count given": round(abs(given), 4),
            "processor seconds for an hour": round(3600 * taken / seconds, 1),
        }
        print(json.dumps(row), flush=True)


def word_rates(mixer: Mixer, diarizer: Diarizer, model: tynda.Model, mixtures: int) -> None:
    """Print cpWER with the speakers found, and with those of the truth."""
    from meeteval.wer import combine_error_rates, cp_word_error_rate

    options = model.head.with_word_times(model.options())
    for count in mixer.counts:
        found, true = [], []
        for seed in range(mixtures):
            mixture = mixer.mixture(count, seed)
            session: Session = model.session(options)
            segments = session.transcribe([mixture.samples]).segments
            reference = {name: model.normalize(text) for name, text in mixture.words.items()}
            for turns, results in ((diarizer.turns(mixture.samples), found), (mixture.turns, true)):
                said: dict[str, list[str]] = defaultdict(list)
                for segment in attribute(segments, turns):
                    said[segment.speaker or ""].append(segment.text)
                hypothesis = {name: model.normalize(" ".join(own)) for name, own in said.items()}
                results.append(cp_word_error_rate(reference, hypothesis))
        row = {
            "people": count,
            "model": model.header.name,
            "mixtures": mixtures,
            "cpWER": round(combine_error_rates(*found).error_rate, 4),
            "cpWER, true turns": round(combine_error_rates(*true).error_rate, 4),
        }
        print(json.dumps(row), flush=True)


def hour(mixer: Mixer, diarizer: Diarizer) -> None:
    """Print time and memory for an hour of four people."""
    minutes = [mixer.mixture(4, 0).samples]
    sound = np.resize(np.concatenate(minutes), 3600 * RATE)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin, processor = time.perf_counter(), time.process_time()
    turns = diarizer.turns(sound)
    row = {
        "seconds": round(time.perf_counter() - begin, 1),
        "processor seconds": round(time.process_time() - processor, 1),
        "more MB": round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024),
    }
    print(json.dumps(row | {"speakers": len({t.speaker for t in turns})}), flush=True)


def draw(mixture: Mixture, turns: list[Turn], path: Path) -> None:
    """Draw the truth above what was found."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3), layout="constrained")
    for axis, shown, title in zip(
        figure.subplots(2, 1, sharex=True), (mixture.turns, turns), ("truth", "found"), strict=True
    ):
        names = list(dict.fromkeys(turn.speaker for turn in shown))
        for i, name in enumerate(names):
            spans = [(t.start, t.end - t.start) for t in shown if t.speaker == name]
            axis.broken_barh(spans, (i - 0.4, 0.8), color=f"C{i}")
        labels = names if title == "found" else [f"person {i + 1}" for i in range(len(names))]
        axis.set_yticks(range(len(names)), labels)
        axis.invert_yaxis()
        axis.set_title(title, fontsize="medium")
        axis.set_xlim(0, mixture.seconds)
    axis.set_xlabel("seconds")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Print each row as JSON when it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--people", choices=["tuned", "new", "librispeech"], default="new")
    parser.add_argument("--mixtures", type=int, default=20, help="for each number of people")
    parser.add_argument("--overlap", type=float, default=0.3, help="share of changes with overlap")
    parser.add_argument("--words", metavar="MODEL", help="cpWER with this model, instead of DER")
    parser.add_argument("--live", action="store_true", help="DER of live sessions")
    parser.add_argument("--hour", action="store_true", help="time and memory, instead of DER")
    parser.add_argument("--figure", type=Path, help="draw one mixture, instead of DER")
    options = parser.parse_args()
    nobody = Path(__file__).with_name("nobody.bin")  # no such file: nobody is enrolled
    known = Speakers(store=ProfileStore(nobody, nobody))
    diarizers = {count: Diarizer(known, count) for count in (None, *COUNTS)}
    mixer = Mixer(options.data, people(options.data, options.people))
    if options.words:
        word_rates(mixer, diarizers[None], tynda.load(options.words), options.mixtures)
    elif options.live:
        live_rates(mixer, diarizers[None], options.mixtures, options.overlap)
    elif options.hour:
        hour(mixer, diarizers[None])
    elif options.figure:
        mixture = mixer.mixture(3, 0)
        draw(mixture, diarizers[None].turns(mixture.samples), options.figure)
    else:
        rates(mixer, diarizers, options.mixtures, options.overlap)


if __name__ == "__main__":
    main()
