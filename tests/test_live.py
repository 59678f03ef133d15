"""Live sessions: words become final and stay so, whatever the sizes of the blocks."""

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soxr
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import tynda
from helpers import LoudDetector
from tynda import manifest
from tynda.cli import main
from tynda.errors import TyndaError
from tynda.heads.base import LiveDecoder, LiveWord
from tynda.heads.seq2seq.live import count_again
from tynda.live import session as sessions
from tynda.live.endpoint import Endpointer
from tynda.live.session import LiveSession
from tynda.live.settings import LiveSettings
from tynda.profiling.memory import resident
from tynda.sound import audio
from tynda.sound.microphone import microphone

RATE = audio.SAMPLE_RATE
DEMO, DATA = Path(__file__).parents[1] / "demo", Path(__file__).parent / "data"


class Counter(LiveDecoder):
    """Writes a word for each loud half second; its last word is a guess while it is incomplete."""

    max_seconds = 10.0
    uses_context = False
    language = "en"

    def __init__(self, *, uses_context=False):
        self.uses_context, self.calls = uses_context, 0

    def words(self, samples: np.ndarray, final: Sequence[LiveWord]) -> list[LiveWord]:
        self.calls += 1
        assert len(samples) <= self.max_seconds * RATE
        words = list(final)
        start = round(final[-1].end * RATE) if final else 0
        while start < len(samples):
            loud = np.flatnonzero(np.abs(samples[start:]) > 0.01)
            if not len(loud):
                break
            begin = start + loud[0]
            level = round(100 * float(np.abs(samples[begin : begin + 8000]).max()))
            guess = "" if begin + 8000 <= len(samples) else "?"
            end = min(begin + 8000, len(samples))
            words.append(LiveWord(f" w{level}{guess}", begin / RATE, end / RATE, 0.5, [level]))
            start = end
        return words


@pytest.fixture(autouse=True)
def detector(monkeypatch, request):
    if "real" not in request.keywords:
        monkeypatch.setattr(sessions, "Detector", LoudDetector)


def loud(*levels, pause=0.0):
    """Half a second at each level, in hundredths; 0 is half a second of silence."""
    parts = [np.full(8000, level / 100, np.float32) for level in levels]
    return np.concatenate([x for part in parts for x in (part, np.zeros(int(pause * RATE), "f"))])


def run(samples, sizes=(1600,), decoder=None, **given):
    """Feed samples in blocks of these sizes, over and over; return what came out."""
    session = LiveSession(decoder or Counter(), LiveSettings(**given))
    found, at, i = [], 0, 0
    while at < len(samples):
        size = sizes[i % len(sizes)]
        found += session.feed(samples[at : at + size])
        at, i = at + size, i + 1
    return found + session.finish()


def texts(found):
    return [each.segment.text for each in found if each.is_final]


def test_words_are_written_and_become_final():
    found = run(loud(0, 10, 20, 30, 40, 0, 0, 0))
    assert texts(found) == ["w10 w20 w30 w40"]
    assert not found[0].is_final
    times = [(w.start, w.end) for w in found[-1].segment.words]
    np.testing.assert_allclose(times, [(0.5 * i, 0.5 * i + 0.5) for i in (1, 2, 3, 4)], atol=1e-6)
    assert found[-1].segment.start == times[0][0]
    assert found[-1].segment.confidence == 0.5


@pytest.mark.parametrize("context", [False, True])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_the_sizes_of_blocks_change_nothing(context, data):
    levels = data.draw(st.lists(st.integers(2, 90) | st.just(0), min_size=1, max_size=30))
    samples = loud(*levels, pause=data.draw(st.sampled_from([0, 0.1, 0.3])))
    sizes = data.draw(st.lists(st.sampled_from([1, 7, 500, 1600, 40_000, 160_000]), min_size=1))
    if max(sizes) < 500:
        sizes.append(1600)
    expected = run(samples, [len(samples)], Counter(uses_context=context))
    assert run(samples, sizes, Counter(uses_context=context)) == expected


@pytest.mark.parametrize("context", [False, True])
@given(
    st.lists(st.integers(2, 90) | st.just(0), min_size=1, max_size=60), st.sampled_from([0, 0.2])
)
@settings(max_examples=25, deadline=None)
def test_no_final_word_is_taken_back(context, levels, pause):
    found = run(loud(*levels, pause=pause), decoder=Counter(uses_context=context))
    before = []
    for each in found:
        words = [w.text for w in each.segment.words]
        assert 0 <= each.final_words <= len(words)
        assert words[: len(before)] == before
        before = [] if each.is_final else words[: each.final_words]
    assert not before  # the last segment is final
    ends = [w for each in found if each.is_final for w in each.segment.words]
    assert all(a.end <= b.start + 1e-6 for a, b in pairwise(ends))


def test_speech_without_a_pause_is_cut_between_words():
    levels = list(range(10, 90))
    found = run(loud(*levels))
    assert len(texts(found)) > 3
    assert " ".join(texts(found)) == " ".join(f"w{level}" for level in levels)


def test_an_utterance_ends_with_a_pause_and_a_context_stays():
    samples = loud(10, 20, 0, 0, 30, 40, 0, 0, 0, 0, 0, 0, 50, 0)
    for context in (False, True):
        assert texts(run(samples, decoder=Counter(uses_context=context))) == [
            *("w10 w20", "w30 w40", "w50")
        ]
    # Without a pause that is long enough, it is one utterance.
    assert texts(run(samples, silence=1.5, sentence_silence=1.5))[0] == "w10 w20 w30 w40"


def test_silence_costs_no_decoding():
    decoder = Counter()
    assert not run(np.zeros(60 * RATE, np.float32), decoder=decoder)
    assert not decoder.calls
    click = np.zeros(3 * RATE, np.float32)
    click[RATE : RATE + 600] = 0.5  # shorter than any word
    assert not run(click, decoder=decoder)
    assert not decoder.calls


def test_a_stop_in_the_middle_gives_what_was_said():
    samples = loud(0, 10, 20, 30)[: 2 * RATE - 3000]
    assert texts(run(samples)) == ["w10 w20 w30?"]
    session = LiveSession(Counter(), LiveSettings())
    assert session.finish() == [] == session.finish()
    with pytest.raises(TyndaError, match="finished: open a new one"):
        session.feed(samples)


def test_hours_are_heard_in_bounded_memory():
    session = LiveSession(Counter(), LiveSettings(step=5))
    minute = loud(*[10, 20, 30, 0, 0, 0] * 20)
    assert len(minute) == 60 * RATE

    def hear(minutes):
        return sum(each.is_final for _ in range(minutes) for each in session.feed(minute))

    hear(2)
    tracemalloc.start()
    hear(2)
    before = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    assert hear(20) == 400
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < before + 1e6
    assert session.seconds == pytest.approx(24 * 60, abs=0.2)


@pytest.mark.slow
@pytest.mark.real
def test_three_hours_of_speech_and_silence_need_no_more_memory():
    """A real model hears its recordings and pauses; the process's memory does not grow."""
    session = tynda.load("digits-en").live()
    recordings = [audio.load(row.audio) for row in manifest.read(DEMO / "manifest.jsonl")]
    rng, seconds, count, used = np.random.default_rng(0), 0.0, 0, list[int]()
    while seconds < 3 * 3600:
        pause = np.zeros(int(RATE * rng.uniform(0.2, 20)), np.float32)
        for samples in (recordings[rng.integers(len(recordings))], pause):
            seconds += len(samples) / RATE
            count += sum(each.is_final for each in session.feed(samples))
        used.append(resident())
    assert count > 500
    assert max(used[len(used) // 6 :]) < used[len(used) // 6] + 5e6


def test_samples_of_another_rate_are_resampled_block_by_block():
    import soxr

    samples = loud(0, 10, 20, 0, 0, 0)
    upsampled = soxr.resample(samples, RATE, 48_000).astype(np.float32)
    for sizes in ([4800], [1, 4799, 333]):
        session = LiveSession(Counter(), LiveSettings(), 48_000)
        found, at, i = [], 0, 0
        while at < len(upsampled):
            found += session.feed(upsampled[at : at + sizes[i % len(sizes)]])
            at, i = at + sizes[i % len(sizes)], i + 1
        (text,) = texts(found + session.finish())
        assert len(text.split()) == 2
    with pytest.raises(TyndaError, match="sample_rate"):
        LiveSession(Counter(), LiveSettings(), 0)


def test_samples_are_checked():
    session = LiveSession(Counter(), LiveSettings())
    with pytest.raises(TyndaError, match="finite"):
        session.feed(np.array([np.nan], np.float32))
    assert session.feed((loud(0, 10, 20, 0, 0) * 32767).astype(np.int16))


@pytest.mark.parametrize(("name", "value"), [("step", 0), ("hold", -1), ("speech", 1.5)])
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(TyndaError, match=f"{name} must be a number"):
        LiveSettings(**{name: value})


def test_the_endpoint_waits_for_the_silence():
    endpointer = Endpointer(LiveSettings(silence=0.32, sentence_silence=0.16))
    endpointer.add(np.array([0.1, 0.39, 0.4], np.float32))
    assert endpointer.is_open
    assert not endpointer.is_speech
    endpointer.add(np.array([0.9] * 3 + [0.1] * 3 + [0.3] + [0.1] * 5, np.float32))
    assert endpointer.is_speech  # 0.3 is not below the threshold by enough to be silence
    assert endpointer.silence == pytest.approx(0.16)
    assert endpointer.has_ended(ends_sentence=True)
    assert not endpointer.has_ended(ends_sentence=False)
    endpointer.add(np.zeros(5, np.float32))
    assert endpointer.has_ended(ends_sentence=False)
    endpointer.close()
    assert not endpointer.is_open


def live_words(text, start=0.0):
    """Words of 0.4 s each, one after the other."""
    return [
        LiveWord(f" {word}", start + 0.4 * i, start + 0.4 * (i + 1), None)
        for i, word in enumerate(text.split())
    ]


@pytest.mark.parametrize(
    ("final", "again", "new"),
    [
        ("", "so it is", "so it is"),
        ("so it", "So it, is", "is"),
        ("so it", "so it", ""),
        ("so it", "so", ""),
        ("mister hal", "Mister Hale. as he", "as he"),
        ("so mister hal", "So mister Hale as he", "as he"),
        ("the the", "the the the man", "the man"),
        ("a b c the", "a b c the cat and the dog", "cat and the dog"),
        ("a b the", "a b a cat and the dog", "cat and the dog"),
    ],
)
def test_final_words_are_left_out_where_they_are_written_again(final, again, new):
    found = live_words(again)
    assert found[count_again(found, live_words(final)) :] == found[len(found) - len(new.split()) :]


@pytest.mark.real
@pytest.mark.parametrize("model", ["digits-en", DATA / "witness-whisper.safetensors"])
def test_a_model_writes_live_text_of_real_speech(model):
    model = tynda.load(model, threads=1)
    samples = np.concatenate([audio.load(DEMO / "020070039.opus"), np.zeros(RATE, "f")])
    results = []
    for size in (len(samples), 1111):
        session = model.live()
        found = [
            each
            for i in range(0, len(samples), size)
            for each in session.feed(samples[i : i + size])
        ]
        results.append(found + session.finish())
    assert results[0] == results[1]
    assert texts(results[0])
    if model.header.name == "digits-en":
        assert " ".join(texts(results[0])) == "six eight zero two"
    words = [w for each in results[0] if each.is_final for w in each.segment.words]
    assert all(0 <= w.start <= w.end <= 5.1 for w in words)
    json.dumps([each.to_dict() for each in results[0]])


def test_listen_writes_a_line_for_each_utterance_or_each_change(tmp_path):
    samples = np.concatenate([audio.load(DEMO / "020070039.opus"), np.zeros(RATE, "f")])
    data = (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes() + b"\0"  # an odd byte
    command = [sys.executable, "-m", "tynda", "listen", "-", "--model", "digits-en"]

    def output(*options):
        done = subprocess.run([*command, *options], input=data, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    assert output() == "six eight zero two\n"
    rows = [json.loads(line) for line in output("--format", "jsonl").splitlines()]
    assert rows[-1]["final"]
    assert rows[-1]["final_words"] == 4
    assert [w["text"] for w in rows[-1]["words"]] == ["six", "eight", "zero", "two"]
    assert not rows[0]["final"]


def test_transcribe_reads_raw_audio_at_any_rate(tmp_path):
    samples = audio.load(DEMO / "020070039.opus")
    command = [sys.executable, "-m", "tynda", "transcribe", "-", "--model", "digits-en", "--raw"]
    for rate in (RATE, 24_000):
        data = soxr.resample(samples, RATE, rate)
        data = (np.clip(data, -1, 1) * 32767).astype("<i2").tobytes() + b"\0"
        for options in ([], ["--format", "json"]):
            done = subprocess.run([*command, str(rate), *options], input=data, capture_output=True)
            assert (done.returncode, done.stderr) == (0, b"")
            text = json.loads(done.stdout)["text"] if options else done.stdout.decode().rstrip()
            assert text == "six eight zero two"
    assert json.loads(done.stdout)["duration"] == pytest.approx(len(samples) / RATE, abs=0.001)


@pytest.mark.parametrize("command", [["listen", "-"], ["transcribe", "-", "--raw", "16000"]])
@pytest.mark.parametrize("data", [b"", b"x"])
def test_raw_audio_without_a_sample_is_one_line(command, data):
    whole = [sys.executable, "-m", "tynda", *command, "--model", "digits-en"]
    done = subprocess.run(whole, input=data, capture_output=True)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == (b"error: standard input has no audio: nothing was recorded or copied\n")


@pytest.mark.parametrize("command", [["listen", "-"], ["transcribe", "-", "--raw", "16000"]])
def test_raw_audio_of_a_closed_standard_input_is_one_line(monkeypatch, command):
    monkeypatch.setattr("tynda.sound.sources.sys", SimpleNamespace(stdin=None))
    result = CliRunner().invoke(main, [*command, "--model", "digits-en"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: standard input is closed: give a file, or a pipe\n"


def test_what_listen_cannot_do_is_one_line(monkeypatch):
    result = CliRunner().invoke(main, ["listen", "a.wav"])
    assert result.exit_code == 2
    assert "use tynda transcribe" in result.output
    monkeypatch.setitem(sys.modules, "sounddevice", None)  # as if it were not installed
    result = CliRunner().invoke(main, ["listen", "--model", "digits-en"])
    assert result.exit_code == 1
    assert "the microphone needs sounddevice" in result.output
    assert result.output.count("\n") == 1


def test_blocks_of_the_microphone_are_decoded(monkeypatch):
    samples = np.concatenate([audio.load(DEMO / "020070039.opus"), np.zeros(RATE, "f")])

    class InputStream:
        def __init__(self, *, samplerate, blocksize, callback, **_):
            assert samplerate == RATE
            for i in range(0, len(samples), blocksize):
                callback(samples[i : i + blocksize, None], blocksize, None, None)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    module = SimpleNamespace(InputStream=InputStream, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    blocks = microphone()
    session, found, left = tynda.load("digits-en").live(), [], len(samples)
    while left > 0:
        block = next(blocks)
        left -= len(block)
        found += session.feed(block)
    assert texts(found + session.finish()) == ["six eight zero two"]
