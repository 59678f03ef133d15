"""People enrolled and recognised with the bundled model of voices, from the recordings in demo/."""

import json
import stat
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import tynda
from helpers import noise, save_tiny, write_wav
from tynda.cli import main
from tynda.errors import TyndaError
from tynda.sound import audio
from tynda.speakers.profiles import ProfileStore
from tynda.speakers.voices import Speakers, speech_of
from tynda.train.augment import reverberate, synthetic_room

DEMO = Path(__file__).parents[1] / "demo"
RATE = 16_000
JFK, KATHLEEN = DEMO / "jfk.flac", DEMO / "arctic_a0058_1592747187.opus"
STRANGERS = ("000030012", "014040096", "020070039", "028920012")


@pytest.fixture(scope="module")
def model():
    return tynda.load("speakers")


@pytest.fixture
def speakers(model, tmp_path):
    return Speakers(model, ProfileStore(tmp_path / "speakers.bin", tmp_path / "speakers.key"))


@pytest.fixture(scope="module")
def jfk():
    """Two thirds of a speech, to enrol, and the rest of it, in other words."""
    samples = audio.load(JFK)
    return np.split(samples, [4 * RATE, 8 * RATE])


def tones(seconds):
    t = np.arange(int(seconds * RATE)) / RATE
    chord = sum(np.sin(2 * np.pi * f * t) for f in (262, 330, 392)) * (1 + np.sin(8 * t))
    return (0.1 * chord).astype(np.float32)


def test_a_person_is_known_in_other_words_and_strangers_are_not(speakers, jfk):
    speakers.enrol("Jack", jfk[:2])
    answer = speakers.identify(jfk[2])
    assert (answer.kind, answer.name, str(answer)) == ("known", "Jack", "Jack")
    assert answer.probability > 0.5
    for path in (KATHLEEN, *(DEMO / f"{name}.opus" for name in STRANGERS)):
        stranger = speakers.identify(path)
        assert (stranger.kind, stranger.name, str(stranger)) == ("unknown", None, "unknown"), path
        assert stranger.probability < answer.probability
    assert speakers.verify("Jack", jfk[2]).name == "Jack"
    assert speakers.verify("Jack", KATHLEEN).kind == "unknown"


def test_the_right_one_of_several_is_named(speakers, jfk):
    kathleen = np.array_split(audio.load(KATHLEEN), 2)
    speakers.enrol("Jack", jfk[:2])
    speakers.enrol("Kathleen", [kathleen[0]])
    assert speakers.identify(jfk[2]).name == "Jack"
    assert speakers.identify(kathleen[1]).name in ("Kathleen", None)
    assert [p.name for p in speakers.people()] == ["Jack", "Kathleen"]


@pytest.mark.parametrize("sound", ["silence", "noise", "tones", "nothing"])
def test_what_is_no_speech_is_not_judged(speakers, jfk, sound):
    samples = {
        "silence": np.zeros(3 * RATE, np.float32),
        "noise": noise(3),
        "tones": tones(3),
        "nothing": np.zeros(0, np.float32),
    }[sound]
    speakers.enrol("Jack", jfk[:1])
    answer = speakers.identify(samples)
    assert answer.kind == str(answer) == "too little speech"
    assert (answer.name, answer.probability, answer.score) == (None, None, None)
    with pytest.raises(TyndaError, match="too little speech to enrol Nobody"):
        speakers.enrol("Nobody", [samples])
    assert [p.name for p in speakers.people()] == ["Jack"]


def test_one_word_is_too_little_and_says_how_much_is_needed(speakers, jfk):
    word = jfk[0][int(0.3 * RATE) : int(0.6 * RATE)]
    with pytest.raises(TyndaError, match=r"too little speech to enrol Jack: 0\.\d s, and 0.5 s"):
        speakers.enrol("Jack", [word])
    assert speakers.people() == []
    speakers.enrol("Jack", jfk[:1])
    assert speakers.identify(word).kind == "too little speech"


def test_one_good_and_one_bad_recording_enrol_nobody(speakers, jfk):
    with pytest.raises(TyndaError, match="too little speech"):
        speakers.enrol("Jack", [jfk[0], np.zeros(RATE, np.float32)])
    assert speakers.people() == []


def test_a_person_enrolled_twice_has_both_recordings(speakers, jfk):
    speakers.enrol("Jack", jfk[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        speakers.enrol("Jack", jfk[1:2])
    twice = speakers.people()
    speakers.remove("Jack")
    speakers.enrol("Jack", jfk[:2])
    (once,) = speakers.people()
    assert [p.recordings for p in twice] == [once.recordings] == [2]
    assert twice[0].voice == pytest.approx(once.voice, abs=1e-5)
    assert twice[0].seconds == pytest.approx(once.seconds, abs=0.02)


def test_a_second_name_for_one_person_is_warned_of(speakers, jfk):
    speakers.enrol("Jack", jfk[:2])
    with pytest.warns(UserWarning, match="John has the voice of Jack"):
        speakers.enrol("John", jfk[2:])
    assert speakers.identify(jfk[2]).name in ("Jack", "John")


def test_another_room_changes_no_name(speakers, jfk):
    speakers.enrol("Jack", jfk[:2])
    speakers.enrol("Third", [DEMO / "020070039.opus"])
    names = []
    for seed in range(5):
        room = synthetic_room(np.random.default_rng(seed))
        names.append(speakers.identify(reverberate(jfk[2], room)).name)
        assert speakers.identify(reverberate(audio.load(KATHLEEN), room)).kind == "unknown"
    assert set(names) <= {"Jack", None}
    assert names.count("Jack") >= 3, names


def test_two_people_at_once_are_nobody_else(speakers, jfk):
    other = audio.load(KATHLEEN)[: len(jfk[2])]
    speakers.enrol("Jack", jfk[:2])
    speakers.enrol("Third", [DEMO / "020070039.opus"])
    mixed = np.pad(jfk[2], (0, max(0, len(other) - len(jfk[2]))))[: len(other)] + other
    assert speakers.identify(mixed).name in ("Jack", None)


def test_a_lower_rate_of_false_acceptance_and_more_people_raise_the_threshold(model, tmp_path):
    store = ProfileStore(tmp_path / "s.bin", tmp_path / "s.key")
    rates = (0.1, 0.05, 0.01, 0.001, 0.0001)
    thresholds = [Speakers(model, store, false_acceptance=r).threshold(1) for r in rates]
    assert thresholds == sorted(thresholds)
    speakers = Speakers(model, store)
    by_people = [speakers.threshold(n) for n in (1, 2, 10, 1000, 10**9)]
    assert by_people == sorted(by_people)
    assert np.isfinite(by_people).all()


def test_mistakes_are_one_line(speakers, model, jfk, tmp_path):
    with pytest.raises(TyndaError, match="nobody is enrolled"):
        speakers.identify(jfk[0])
    for call in (lambda: speakers.verify("X", jfk[0]), lambda: speakers.remove("X")):
        with pytest.raises(TyndaError, match="'X' is not enrolled; enrolled: nobody"):
            call()
    with pytest.raises(TyndaError, match="no recording"):
        speakers.enrol("Jack", [])
    for name in ("", "  ", "a\nb", "x" * 201):
        with pytest.raises(TyndaError, match="name"):
            speakers.enrol(name, jfk[:1])
    for rate in (0, 1, -1, float("nan")):
        with pytest.raises(TyndaError, match="false_acceptance"):
            Speakers(model, speakers.store, false_acceptance=rate)
    for seconds in (-1, float("nan"), float("inf")):
        with pytest.raises(TyndaError, match="min_seconds"):
            Speakers(model, speakers.store, min_seconds=seconds)
    save_tiny(tmp_path / "words.safetensors")
    with pytest.raises(TyndaError, match="no model of voices"):
        Speakers(tmp_path / "words.safetensors")


def test_speech_is_measured_without_the_silence_around_it(jfk):
    silence = np.zeros(2 * RATE, np.float32)
    spoken, seconds = speech_of(np.concatenate([silence, jfk[0], silence]))
    assert 1 < seconds < 4.1
    assert len(spoken) / RATE < 4.5


@pytest.fixture
def run(tmp_path):
    """Run the command line with profiles of its own."""
    own = ["--profiles", str(tmp_path / "p.bin"), "--key-file", str(tmp_path / "p.key")]

    def run(command, *args):
        return CliRunner().invoke(main, ["speakers", command, *map(str, args), *own])

    return run


def test_the_command_line_from_enrolment_to_removal(run, jfk, tmp_path):
    for i, part in enumerate(jfk):
        write_wav(tmp_path / f"{i}.wav", part)
    write_wav(tmp_path / "silence.wav", np.zeros(RATE, np.float32))
    a, b, c, silence = (tmp_path / f"{x}.wav" for x in (0, 1, 2, "silence"))
    done = run("enrol", "Jack", a, b)
    assert (done.exit_code, done.stdout.count("\n")) == (0, 1)
    assert done.stdout.startswith("Jack: 2 recordings, ")
    assert stat.S_IMODE((tmp_path / "p.bin").stat().st_mode) == 0o600

    done = run("identify", c, KATHLEEN, silence)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"{c}: Jack  ")
    assert lines[1].startswith(f"{KATHLEEN}: unknown  ")
    assert lines[2] == f"{silence}: too little speech"
    about = json.loads(run("identify", c, "--format", "json").stdout)
    assert about.keys() == {"file", "answer", "name", "probability", "score", "seconds"}
    assert about["name"] == "Jack"

    assert run("verify", "Jack", c).exit_code == 0
    assert run("verify", "Jack", KATHLEEN).exit_code == 1
    assert run("verify", "Jill", c).exit_code == 1
    assert "Jack" in run("list").stdout
    (row,) = json.loads(run("list", "--format", "json").stdout)
    assert (row["name"], row["recordings"]) == ("Jack", 2)
    assert run("remove", "Jack").exit_code == 0
    done = run("identify", c)
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "nobody is enrolled" in done.stderr


def test_the_command_line_goes_on_after_a_bad_file(run, tmp_path):
    assert run("enrol", "Jack", JFK).exit_code == 0
    done = run("identify", tmp_path / "none.wav", KATHLEEN)
    assert (done.exit_code, done.stderr.count("\n"), done.stdout.count("\n")) == (1, 1, 1)
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    done = run("enrol", "Jill", tmp_path / "bad.wav")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert run("identify", JFK, "--false-acceptance", "0").exit_code == 2
    assert run("enrol", "Jill").exit_code == 2


def test_a_model_of_voices_transcribes_nothing():
    done = CliRunner().invoke(main, ["transcribe", "--model", "speakers", str(JFK)])
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "writes no text" in done.stderr
