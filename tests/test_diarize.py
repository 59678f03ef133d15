"""Who speaks when: clusters of hand-made voices, and mixtures of the recordings in demo/."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import tynda
from helpers import noise, write_wav
from tynda.cli import main
from tynda.errors import TyndaError
from tynda.sound import audio
from tynda.speakers import attribution, clusters, diarize
from tynda.speakers.attribution import attribute
from tynda.speakers.clusters import VoiceSpace, assign
from tynda.speakers.diarize import Diarizer, Turn
from tynda.speakers.profiles import ProfileStore
from tynda.speakers.resegment import STAYS, forward_backward, resegment
from tynda.speakers.voices import Speakers
from tynda.speakers.windows import WindowEmbedder, Windows
from tynda.transcript import Segment, Word

DEMO = Path(__file__).parents[1] / "demo"
RATE = 16_000
SIZE = 64


def people(count, seed=0):
    """Return voices that are like nobody else's, ``[count, SIZE]``."""
    x = np.random.default_rng(seed).standard_normal((count, SIZE))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def windows(who, voices=None, seed=1):
    """Return embeddings of windows, of which the model's variance within people is true."""
    voices = people(30) if voices is None else voices
    spread = np.random.default_rng(seed).standard_normal((len(who), SIZE)) / np.sqrt(SIZE)
    x = np.sqrt(0.48) * voices[list(who)] + np.sqrt(0.52) * spread
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


SPACE = VoiceSpace.of(people(200, seed=9))


def labels(x, count=None):
    owned = assign(x, SPACE, count)
    assert np.allclose(owned.sum(1), 1)
    return owned.argmax(1)


def same_groups(found, who):
    """Return whether two lists of labels divide the windows in the same way."""
    return len(set(zip(found, who, strict=True))) == len(set(found)) == len(set(who))


TALK = [0] * 20 + [1] * 15 + [0] * 10 + [2] * 20 + [1] * 12


def test_the_number_of_speakers_is_found():
    assert same_groups(labels(windows(TALK)), TALK)
    assert same_groups(labels(windows([7] * 60)), [7] * 60)
    assert same_groups(labels(windows([7])), [7])


def test_a_given_number_is_kept():
    who = np.array(TALK)
    for count in (1, 2, 3, 4, 6):
        found = labels(windows(TALK), count)
        assert len(set(found)) == count
        if count == 3:
            assert same_groups(found, who)


def test_more_speakers_than_windows_are_as_many_as_windows():
    assert sorted(labels(windows([0, 1, 2]), 9)) == [0, 1, 2]


def test_two_people_with_one_voice_are_one():
    voices = people(3)
    voices[1] = voices[0]
    found = labels(windows(TALK, voices))
    assert same_groups(found, [0 if w == 1 else w for w in TALK])
    # Windows without any difference cannot be divided.
    assert set(labels(np.repeat(windows([0]), 5, 0), 3)) <= {0, 1, 2}


def test_long_recordings_are_grouped_block_by_block(monkeypatch):
    monkeypatch.setattr(clusters, "_BLOCK", 60)
    assert same_groups(labels(windows(TALK * 3)), TALK * 3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=40), st.none() | st.integers(1, 50), st.integers(0, 9))
def test_every_window_has_a_speaker(who, count, seed):
    found = assign(windows(who, seed=seed), SPACE, count)
    assert len(found) == len(who)
    if who:
        assert np.allclose(found.sum(1), 1)
        assert (found >= 0).all()
        assert found.shape[1] <= min(count or 30, len(who))


def test_states_are_those_of_all_paths():
    rng = np.random.default_rng(0)
    likelihood, shares = rng.normal(0, 2, (6, 3)), np.array([0.5, 0.3, 0.2])
    owned = np.zeros_like(likelihood)
    for path in itertools.product(range(3), repeat=6):
        chance = shares[path[0]] * np.exp(likelihood[np.arange(6), path].sum())
        for before, now in itertools.pairwise(path):
            chance *= STAYS * (before == now) + (1 - STAYS) * shares[now]
        owned[np.arange(6), path] += chance
    found, again, evidence = forward_backward(likelihood, shares)
    assert np.allclose(found, owned / owned.sum(1, keepdims=True))
    assert evidence == pytest.approx(np.log(owned[0].sum()))
    assert again.sum() == pytest.approx(1)


def test_groups_without_evidence_lose_their_windows():
    x = SPACE(windows(TALK))
    groups = np.arange(len(TALK)) % 2 + 2 * np.array(TALK)  # two groups for each speaker
    found = resegment(x, SPACE.between, groups, 4.0).argmax(1)
    assert same_groups(found, TALK)


@pytest.fixture(scope="module")
def voices():
    return Speakers().model


@pytest.fixture
def nobody(tmp_path, voices):
    return Speakers(voices, ProfileStore(tmp_path / "p.bin", tmp_path / "p.key"))


def level(samples):
    return samples * (0.1 / np.sqrt(np.mean(samples**2)))


@pytest.fixture(scope="module")
def talk():
    """Two people in turn, and who speaks in which seconds."""
    jfk = audio.load(DEMO / "jfk.flac")
    kathleen = audio.load(DEMO / "arctic_a0058_1592747187.opus")
    parts, turns, at = [], [], 0
    for name, samples in (("Jack", jfk), ("Kathleen", kathleen), ("Jack", jfk)):
        parts += [level(samples), np.zeros(RATE // 2, np.float32)]
        turns.append((at / RATE, (at + len(samples)) / RATE, name))
        at += len(samples) + RATE // 2
    return np.concatenate(parts), turns


def by_truth(found, truth):
    """Return the speakers found in the middle of each true turn's speech."""
    return [
        {t.speaker for t in found if t.end > start + 0.5 and t.start < end - 0.5}
        for start, end, _ in truth
    ]


def test_people_are_numbered_by_first_appearance(nobody, talk):
    samples, truth = talk
    found = Diarizer(nobody, 2).turns(samples)
    assert by_truth(found, truth) == [{"speaker 1"}, {"speaker 2"}, {"speaker 1"}]
    assert all(a.end <= b.start and a.start < a.end for a, b in itertools.pairwise(found))


def test_enrolled_people_have_names(nobody, talk):
    samples, truth = talk
    nobody.enrol("Jack", [DEMO / "jfk.flac"])
    found = Diarizer(nobody, 2).turns(samples)
    assert by_truth(found, truth) == [{"Jack"}, {"speaker 1"}, {"Jack"}]


def test_one_person_is_one_speaker(nobody):
    turns = Diarizer(nobody).turns(DEMO / "arctic_a0058_1592747187.opus")
    assert {turn.speaker for turn in turns} == {"speaker 1"}
    assert {turn.speaker for turn in Diarizer(nobody, 1).turns(DEMO / "jfk.flac")} == {"speaker 1"}


@pytest.mark.parametrize("sound", [np.zeros(3 * RATE, np.float32), noise(3), noise(0)])
def test_nobody_speaks_in_silence_and_noise(nobody, sound):
    assert Diarizer(nobody).turns(sound) == []
    assert Diarizer(nobody, 3).turns(sound) == []


def test_one_word_is_one_turn(nobody):
    word = audio.load(DEMO / "jfk.flac")[int(0.3 * RATE) : int(0.8 * RATE)]
    sound = np.pad(level(word), RATE)
    for count in (None, 2):
        turns = Diarizer(nobody, count).turns(sound)
        assert {turn.speaker for turn in turns} <= {"speaker 1"}
        assert len(turns) <= 1


def test_blocks_of_any_size_give_the_same_windows(talk):
    samples, _ = talk

    def of(size):
        embedder = WindowEmbedder(lambda x: np.array([len(x), x[0], x[-1]], np.float32), 3)
        for i in range(0, len(samples), size):
            embedder.add(samples[i : i + size])
        return embedder.finish()

    whole = of(len(samples))
    assert (whole.voices[:, 0] <= 1.5 * RATE + 1).all()
    for size in (777, 16_384, 5 * RATE):
        found = of(size)
        assert np.array_equal(found.parts, whole.parts)
        assert np.array_equal(found.voices, whole.voices)


def test_parts_have_the_mean_probability_of_overlap():
    """The probability of a frame of 0.08 s is its number, by a made-up model."""

    def overlap(samples):
        return np.arange(-(-len(samples) // 1280), dtype=np.float32)

    embedder = WindowEmbedder(lambda x: np.zeros(2, np.float32), 2, overlap)
    embedder.add(audio.load(DEMO / "jfk.flac"))
    found = embedder.finish()
    assert len(found.overlaps) == len(found.parts) == len(found.voices)
    starts = found.parts[0, 0]
    middles = (found.parts.mean(1) - starts) / 0.08
    first = np.flatnonzero(np.diff(found.overlaps) < 0)[0]  # the end of the first span
    assert np.abs(found.overlaps[:first] - middles[:first] + 0.5).max() < 1.5
    silent = WindowEmbedder(lambda x: np.zeros(2, np.float32), 2, lambda x: np.zeros(0, np.float32))
    silent.add(audio.load(DEMO / "jfk.flac"))
    assert not silent.finish().overlaps.any()


def second_speakers(speakers, overlaps):
    """Return the second speaker of windows of a second each."""
    starts = np.arange(len(speakers), dtype=float)
    parts = np.stack([starts, starts + 1], 1)
    windows = Windows(parts, np.zeros((len(parts), 1)), np.array(overlaps))
    return diarize._seconds(np.array(speakers), windows).tolist()


def test_the_second_speaker_has_the_nearest_other_turn():
    speakers = [0, 0, 0, 1, 1, 2, 2, 2]
    assert second_speakers(speakers, [0.0] * 8) == [-1] * 8
    assert second_speakers(speakers, [1.0] * 8) == [1, 1, 1, 0, 2, 1, 1, 1]
    some = [0, 0, 0.9, 0, 0, 0.8, 0.1, 0]
    assert second_speakers(speakers, some) == [-1, -1, 1, -1, -1, 1, -1, -1]
    assert second_speakers([4, 4], [1.0, 1.0]) == [-1, -1]  # Nobody else speaks.
    assert second_speakers([], []) == []


def test_where_two_people_speak_at_once_both_have_turns(nobody):
    jfk = level(audio.load(DEMO / "jfk.flac"))
    kathleen = level(audio.load(DEMO / "arctic_a0058_1592747187.opus"))
    at = len(jfk) - RATE
    samples = np.zeros(at + len(kathleen), np.float32)
    samples[: len(jfk)] += jfk
    samples[at:] += kathleen
    turns = Diarizer(nobody, 2).turns(samples)
    second = [turn for turn in turns if turn.is_second]
    assert second
    for turn in second:
        (other,) = {t.speaker for t in turns if not t.is_second and t.start <= turn.start < t.end}
        assert turn.speaker != other
        assert at / RATE - 1 < turn.start < turn.end < len(jfk) / RATE + 1
    session = Diarizer(nobody, 1).session()
    session.add(samples)
    assert not any(turn.is_second for turn in session.finish())


def test_a_wrong_number_is_one_line(nobody):
    for count in (0, -1, True, 2.5, "2"):
        with pytest.raises(TyndaError, match="number of speakers"):
            Diarizer(nobody, count)


def test_without_scipy_there_is_one_line_before_anything_is_read(nobody, monkeypatch):
    monkeypatch.setattr(diarize, "find_spec", lambda name: None)
    with pytest.raises(TyndaError, match="needs scipy"):
        tynda.load("sentences-en").transcribe("no such file", speakers=True)


TURNS = [Turn(0, 2, "speaker 1"), Turn(2, 4, "speaker 2"), Turn(6, 8, "speaker 1")]


def segment(text, *times, **more):
    words = [Word(w, *t) for w, t in zip(text.split(), times, strict=True)]
    return Segment(words[0].start, words[-1].end, text, words, **more)


def test_segments_are_split_where_the_speaker_changes():
    said = segment(
        "Yes, no. Who?", (0.1, 1), (2.2, 3), (3.2, 5), alternatives=["yes no"], confidence=0.5
    )
    first, second = attribute([said], TURNS)
    assert (first.speaker, first.text, first.start, first.end) == ("speaker 1", "Yes,", 0.1, 1)
    assert (second.speaker, second.text, second.start, second.end) == (
        "speaker 2", "no. Who?", 2.2, 5,
    )  # fmt: skip
    assert [word.speaker for word in second.words] == ["speaker 2"] * 2
    assert (first.confidence, first.alternatives) == (0.5, ())
    (whole,) = attribute([segment("a b", (6.1, 7), (7, 7.9), alternatives=["c"])], TURNS)
    assert (whole.speaker, whole.alternatives) == ("speaker 1", ["c"])


def test_words_are_of_whoever_has_the_turn():
    also = [*TURNS, Turn(0.5, 1.9, "speaker 3", is_second=True)]
    said = segment("a b", (0.1, 0.6), (0.8, 1.8))
    assert attribute([said], also) == attribute([said], TURNS)


def test_words_beside_all_turns_have_the_nearest():
    words = [(-1, -0.5), (4.1, 4.9), (5.5, 5.6), (99, 99)]
    found = attribute([segment("a b c d", *words)], TURNS)
    assert [(s.text, s.speaker) for s in found] == [
        ("a", "speaker 1"), ("b", "speaker 2"), ("c d", "speaker 1"),
    ]  # fmt: skip


def test_segments_without_words_have_who_speaks_most():
    (found,) = attribute([Segment(1.5, 4.5, "no times")], TURNS)
    assert found.speaker == "speaker 2"
    (point,) = attribute([Segment(3, 3, "")], TURNS)
    assert point.speaker == "speaker 2"
    assert attribute([found], []) == [found]


def test_scripts_without_spaces_are_split_too():
    words = [Word("今日", 0, 1), Word("は", 1, 1.5), Word("良い", 2.5, 3)]
    found = attribute([Segment(0, 3, "「今日は、良い」", words)], TURNS)
    assert [s.text for s in found] == ["「今日は、", "良い」"]


def test_a_transcript_has_speakers(talk, nobody):
    samples, _ = talk
    model = tynda.load()
    found = model.transcribe(samples, speakers=Diarizer(nobody, 2))
    plain = model.transcribe(samples, word_timestamps=True)
    assert found.text == plain.text
    assert re.sub(r"\s", "", "".join(s.text for s in found.segments)) == re.sub(
        r"\s", "", found.text
    )
    assert {w.speaker for s in found.segments for w in s.words} == {"speaker 1", "speaker 2"}
    assert all(s.speaker == w.speaker for s in found.segments for w in s.words)
    about = found.to_dict()["segments"][0]
    assert about["speaker"] == about["words"][0]["speaker"] == "speaker 1"
    assert "speaker" not in plain.to_dict()["segments"][0]
    assert [*model.transcribe(samples, speakers=Diarizer(nobody, 2), stream=True)] == [
        *found.segments
    ]


def test_the_recording_is_read_once_and_block_by_block(talk, nobody, monkeypatch):
    samples, _ = talk
    order = []

    class Voices:
        def add(self, block):
            order.append(("voices", len(block)))

        def finish(self):
            return []

    class Reader:
        def transcribe(self, blocks, on_progress):
            order.extend(("text", len(block)) for block in blocks)
            return tynda.Transcript("")

    diarizer = Diarizer(nobody)
    monkeypatch.setattr(diarizer, "session", Voices)
    attribution.transcribe(Reader(), iter([samples[:9], samples[9:13]]), diarizer)
    assert order == [("voices", 9), ("text", 9), ("voices", 4), ("text", 4)]


@pytest.fixture
def run(tmp_path, talk):
    write_wav(tmp_path / "talk.wav", talk[0])
    own = ["--profiles", str(tmp_path / "p.bin"), "--key-file", str(tmp_path / "p.key")]

    def run(*args):
        return CliRunner().invoke(main, ["transcribe", *map(str, args), *own])

    return run


def test_the_command_line(run, tmp_path, nobody):
    file = tmp_path / "talk.wav"
    nobody.enrol("Jack", [DEMO / "jfk.flac"])
    done = run("--speakers", "2", file)
    assert done.exit_code == 0, done.stderr
    assert {line.split(":")[0] for line in done.stdout.splitlines()} == {"Jack", "speaker 1"}
    done = run(file, "--model", "sentences-en", "--speakers", file, "--format", "json")
    about = json.loads(done.stdout)
    assert {s["speaker"] for s in about["segments"]} >= {"Jack"}
    assert all(w["speaker"] for s in about["segments"] for w in s["words"])
    vtt = run("--speakers=2", file, "--format", "vtt").stdout
    assert "<v Jack>" in vtt
    done = run("--speakers", file, DEMO / "jfk.flac", "--model", "sentences-en")
    assert all(re.match(r"\S+: (Jack|speaker \d): ", line) for line in done.stdout.splitlines())


def test_mistakes_on_the_command_line_are_one_line(run, tmp_path):
    file = tmp_path / "talk.wav"
    for wrong in ("0", "-1", "many", "1.5"):
        done = run(f"--speakers={wrong}", file)
        assert done.exit_code == 2, wrong
        assert "--speakers" in done.stderr
    done = run(file)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--speakers" in done.stderr
    (tmp_path / "p.bin").write_bytes(b"damaged")
    done = run("--speakers", file)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
