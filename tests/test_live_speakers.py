"""Who speaks in a live recording: names that stay, utterance by utterance."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

import tynda
from tynda.cli.listen import _text_of
from tynda.live.session import LiveSegment
from tynda.sound import audio
from tynda.speakers import live
from tynda.speakers.diarize import Diarizer
from tynda.speakers.live import LiveDiarization
from tynda.speakers.profiles import ProfileStore
from tynda.speakers.voices import Speakers
from tynda.speakers.windows import Windows
from tynda.transcript import Segment, Word

DEMO = Path(__file__).parents[1] / "demo"
ROOMS = 4


class Grouping:
    """A diarizer of voices that are unit vectors; groups are numbered as they first come."""

    def __init__(self, count=None, known=None):
        self.count, self.known, self.waiting = count, known or {}, []

    def live_embedder(self, min_silence):
        return self

    def hear(self, *voices):
        """Let these voices be the windows of the next utterance, a second each."""
        self.waiting += voices

    def take(self):
        voices, self.waiting = np.eye(ROOMS, dtype=np.float32)[self.waiting], []
        starts = np.arange(len(voices), dtype=float)
        return Windows(np.stack([starts, starts + 1], 1), voices, np.zeros(len(voices)))

    finish = take

    def groups(self, voices):
        seen = {}
        return np.array([seen.setdefault(int(v.argmax()), len(seen)) for v in voices])

    def known_as(self, total):
        return self.known.get(int(total.argmax()))

    def most_alike(self, totals, total, *, is_any=False):
        if not totals:
            return None
        scores = [float(each @ total) for each in totals]
        best = int(np.argmax(scores))
        return best if is_any or scores[best] > 0 else None


def heard(diarizer, *utterances):
    """Return the speakers of the turns of each utterance."""
    voices, found = LiveDiarization(diarizer), []
    for utterance in utterances:
        diarizer.hear(*utterance)
        found.append([turn.speaker for turn in voices.turns()])
    return found


def test_speakers_keep_their_names():
    found = heard(Grouping(), [2, 2], [0, 2], [], [2, 0, 1])
    assert found == [
        ["speaker 1"],
        ["speaker 2", "speaker 1"],
        [],
        ["speaker 1", "speaker 2", "speaker 3"],
    ]


def test_a_speaker_comes_back_after_a_long_time(monkeypatch):
    monkeypatch.setattr(live, "_VIEW", 3)
    found = heard(Grouping(), [0], [1, 1], [1, 1], [1, 0])
    assert found == [["speaker 1"], ["speaker 2"], ["speaker 2"], ["speaker 2", "speaker 1"]]


def test_there_are_not_more_speakers_than_are_known_to_be(monkeypatch):
    monkeypatch.setattr(live, "_VIEW", 2)
    found = heard(Grouping(count=2), [0], [1, 1], [2, 2])
    assert found[-1] == ["speaker 1"]


def test_enrolled_people_have_their_names():
    found = heard(Grouping(known={1: "Aliya"}), [0, 1], [1])
    assert found == [["speaker 1", "Aliya"], ["Aliya"]]


def test_a_voice_that_was_taken_for_another_becomes_a_speaker():
    """Windows that were grouped with another speaker's show to be of a new one."""

    class Late(Grouping):
        def groups(self, voices):
            own = super().groups(voices)
            return own if len(voices) > 4 else np.zeros(len(voices), int)

    found = heard(Late(), [0, 0, 0, 1], [1, 1, 1])
    assert found == [["speaker 1"], ["speaker 2"]]


def nobody(tmp_path):
    return Speakers(store=ProfileStore(tmp_path / "speakers.bin", tmp_path / "speakers.key"))


@pytest.fixture
def conversation():
    jack = audio.load(DEMO / "jfk.flac")[: 4 * 16_000]
    learner = audio.load(DEMO / "020070039.opus")
    pause = np.zeros(16_000, np.float32)
    return np.concatenate([jack, pause, learner, pause, jack, pause])


@pytest.mark.parametrize("sizes", [(1_600,), (1, 7_000, 100_000)])
def test_words_of_ended_utterances_have_speakers(tmp_path, conversation, sizes):
    people = nobody(tmp_path)
    people.enrol("Jack", [DEMO / "jfk.flac"])
    model = tynda.load("sentences-en", threads=1)
    session = model.live(speakers=Diarizer(people))
    found, at, i = [], 0, 0
    while at < len(conversation):
        size = sizes[i % len(sizes)]
        found += session.feed(conversation[at : at + size])
        at, i = at + size, i + 1
    found += session.finish()
    partial = [each.segment for each in found if not each.is_final]
    assert all(word.speaker is None for each in partial for word in each.words)
    ended = [each.segment for each in found if each.is_final]
    middle = len(conversation) / 16_000 / 2
    for segment in ended:
        for word in segment.words:
            is_jack = abs(word.start - middle) > 2.5
            assert word.speaker == ("Jack" if is_jack else "speaker 1"), segment
    assert {word.speaker for each in ended for word in each.words} == {"Jack", "speaker 1"}


def test_a_line_for_each_turn():
    words = [
        Word(text, i, i + 1, speaker=name)
        for i, (text, name) in enumerate(
            [("yes", "Aliya"), ("no", "speaker 1"), ("no", "speaker 1")]
        )
    ]
    segment = Segment(0, 3, "yes no no", words)
    assert _text_of(LiveSegment(segment, 3, True)) == "Aliya: yes\nspeaker 1: no no"
    plain = Segment(0, 3, "yes no", [Word("yes", 0, 1), Word("no", 1, 2)])
    assert _text_of(LiveSegment(plain, 2, True)) == "yes no"


def test_the_command_names_enrolled_people(tmp_path):
    people = nobody(tmp_path)
    people.enrol("Jack", [DEMO / "jfk.flac"])
    pcm = (audio.load(DEMO / "jfk.flac")[: 5 * 16_000] * 32767).astype("<i2").tobytes()
    options = ["--profiles", tmp_path / "speakers.bin", "--key-file", tmp_path / "speakers.key"]
    line = [sys.executable, "-m", "tynda", "listen", "-", "--speakers", *map(str, options)]
    done = subprocess.run(line, input=pcm, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"Jack: And so my fellow Americans")
    wrong = subprocess.run([*line[:5], *map(str, options)], input=pcm, capture_output=True)
    assert wrong.returncode == 2
    assert b"--speakers: add it" in wrong.stderr
