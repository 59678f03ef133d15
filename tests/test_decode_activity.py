"""No words where nobody speaks: what is skipped, dropped and cut, and what stays."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import tynda
from helpers import gather, noise
from tynda.heads.seq2seq import activity, sliding
from tynda.heads.seq2seq.activity import Activity, Evidence, cut_repetitions
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.thresholds import is_confident
from tynda.heads.seq2seq.words import TimedSegment
from tynda.sound import audio
from whisper_peer import features, pair

RATE = 16_000
DEMO = Path(__file__).parents[1] / "demo"
WITNESS = Path(__file__).parent / "data" / "witness-whisper.safetensors"
OPTIONS = {"temperature": (0.0,), "max_new_tokens": 8, "no_speech_threshold": None}


class Script:
    """A detector that finds speech in samples of 1, and half as much in samples of 0.5."""

    def __init__(self):
        self.asked = 0

    def add(self, samples):
        self.asked += len(samples)
        whole = samples[: len(samples) // 512 * 512]
        return whole.reshape(-1, 512).mean(axis=1, dtype=np.float32)

    def finish(self):
        return np.zeros(1, np.float32)


@pytest.fixture
def scripted(monkeypatch):
    monkeypatch.setattr(activity, "Detector", Script)


def level(*parts):
    """Return samples of levels for so many seconds each."""
    return np.concatenate([np.full(round(s * RATE), x, np.float32) for x, s in parts])


def listen(samples, threshold):
    return Activity(lambda start, stop: samples[start:stop], threshold)


@pytest.mark.usefixtures("scripted")
def test_evidence():
    found = listen(level((0, 3.2), (1, 0.128), (0, 1.6), (0.9, 0.096), (0, 1), (0.3, 1)), 0.6)
    assert found.evidence(0, 3.2) is Evidence.NONE
    assert found.evidence(0, 3.36) is Evidence.SPEECH  # four chunks
    assert found.evidence(3.4, 6) is Evidence.DOUBTFUL  # three
    assert found.evidence(5.1, 5.9) is Evidence.NONE
    assert found.evidence(5.9, 9) is Evidence.DOUBTFUL  # half of the threshold
    assert found.evidence(-1, 0) is Evidence.NONE
    assert found.evidence(100, 130) is Evidence.NONE
    assert listen(np.zeros(0, np.float32), 0.5).evidence(0, 30) is Evidence.NONE


@pytest.mark.usefixtures("scripted")
def test_a_long_silence_does_not_belong_to_a_segment():
    found = listen(level((0, 4.8), (1, 2), (0, 1), (1, 1)), 0.6)
    assert found.begin(0, 7) == 4.3  # half a second before the speech
    assert found.begin(3, 7) == 3
    assert found.begin(5, 7) == 5
    assert found.begin(0, 3) == 0
    assert found.begin(7, 7) == 7


def test_it_looks_no_further_than_it_is_asked(monkeypatch):
    made = []
    monkeypatch.setattr(activity, "Detector", lambda: made.append(Script()) or made[-1])
    found = listen(np.zeros(3600 * RATE, np.float32), 0.5)
    found.evidence(0, 30)
    assert made[0].asked <= 30.1 * RATE
    found.evidence(5, 10)
    assert made[0].asked <= 30.1 * RATE


def test_probabilities_do_not_depend_on_what_was_asked():
    samples = audio.load(DEMO / "jfk.flac")
    one, many = listen(samples, 0.5), listen(samples, 0.5)
    one.evidence(0, 60)
    for end in np.arange(0.1, 12, 0.37):
        many.evidence(0, end)
    np.testing.assert_allclose(one._probabilities, many._probabilities, atol=1e-6)


@pytest.fixture(scope="module")
def network():
    return pair(0, True, ends=1.3, frames=1500, layers=1)[1]


def decoded(network, samples, monkeypatch, **changes):
    """Return the segments, and the frames at which windows were encoded."""
    windows = []
    encode = sliding.encode_windows

    def spy(network, given, options):
        windows.append(len(given[0]))
        return encode(network, given, options)

    monkeypatch.setattr(sliding, "encode_windows", spy)
    transcribe = partial(sliding.transcribe, activity=listen(samples, 0.5))
    found, language = gather(transcribe, network, features(samples), Options(**OPTIONS | changes))
    return found, language, windows


@pytest.mark.usefixtures("scripted")
def test_a_window_without_speech_is_not_encoded(network, monkeypatch):
    found, language, windows = decoded(network, level((0, 100)), monkeypatch)
    assert (found, language, windows) == ([], None, [])


@pytest.mark.usefixtures("scripted")
def test_the_language_is_that_of_the_first_window_with_speech(network, monkeypatch):
    samples = level((0, 40), (1, 20))
    found, language, windows = decoded(network, samples, monkeypatch, without_timestamps=True)
    # The first window is skipped but for its last half second; the second one begins there.
    assert windows == [3000, 3000, 50]
    assert language in network.tokenizer.languages
    assert [p.start for p in found][:1] == [29.5]


@pytest.mark.usefixtures("scripted")
def test_a_segment_without_speech_is_dropped(network, monkeypatch):
    def segments(samples, **changes):
        return decoded(network, samples, monkeypatch, language="en", **changes)[0]

    def split(decoder, result):
        times = [(0, 3), (4, 8), (9, 12)]
        return [TimedSegment(*t, [1], " word", result) for t in times], decoder.seek + 3000

    monkeypatch.setattr(sliding.WindowDecoder, "split", split)
    times = [(p.start, p.end) for p in segments(level((0, 3.6), (1, 4), (0, 15)))]
    assert times == [(4, 8)]
    times = [(p.start, p.end) for p in segments(level((0, 3.4), (1, 5.2), (0, 15)))]
    assert times == [(0, 3), (4, 8), (9, 12)]  # half a second around each counts


@pytest.mark.usefixtures("scripted")
def test_doubtful_speech_needs_a_text_without_doubt(network, monkeypatch):
    samples = level((0, 3), (0.4, 3), (0, 3))

    def texts(**changes):
        return decoded(network, samples, monkeypatch, language="en", **changes)[0]

    plain = {"logprob_threshold": None, "compression_ratio_threshold": None}
    assert texts(**plain)
    assert not texts(**plain | {"logprob_threshold": 0.0})
    assert not texts(**plain | {"no_speech_threshold": 0.0})
    assert not texts(**plain | {"compression_ratio_threshold": 0.0})


def test_confidence():
    result = SimpleNamespace(no_speech_prob=0.5, avg_logprob=-0.9, compression_ratio=2.3)
    assert is_confident(result, Options())
    for doubt in ({"no_speech_prob": 0.7}, {"avg_logprob": -1.1}, {"compression_ratio": 2.5}):
        assert not is_confident(SimpleNamespace(**vars(result) | doubt), Options())
    none = dict.fromkeys(
        ("no_speech_threshold", "logprob_threshold", "compression_ratio_threshold")
    )
    result = SimpleNamespace(no_speech_prob=1, avg_logprob=-9, compression_ratio=99)
    assert is_confident(result, Options(**none))


class Letters:
    """A tokenizer of letters; tokens from 200 on are timestamps."""

    eot = 200

    def decode(self, tokens):
        return "".join(chr(t) for t in tokens if t < self.eot)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["abcabcabc"], ["abc"]),
        (["xabababab."], ["xab."]),
        (["hello"], ["hello"]),
        (["abab"], ["abab"]),  # twice is none
        (["ooooh no no no no"], ["oh no"]),
        (["a", "b", "b", "b", "b", "c"], ["a", "b", "c"]),
        (["a", "b", "b", "c"], ["a", "b", "b", "c"]),
        ([], []),
    ],
)
def test_repetitions_are_cut(texts, expected):
    found = [
        TimedSegment(i, i + 1, [200 + i, *map(ord, text), 201 + i], text, None)
        for i, text in enumerate(texts)
    ]
    cut = cut_repetitions(found, Letters())
    assert [segment.text for segment in cut] == expected
    for segment in cut:
        assert segment.tokens[0] == 200 + segment.start
        assert segment.tokens[-1] == 201 + segment.start


@pytest.mark.usefixtures("scripted")
def test_a_loop_is_cut_only_where_all_temperatures_loop(network, monkeypatch):
    def split(decoder, result):
        tokens = [*[ord("a") % network.tokenizer.eot] * 9]
        return [TimedSegment(0, 3, tokens, "?", result)], decoder.seek + 3000

    monkeypatch.setattr(sliding.WindowDecoder, "split", split)
    samples = level((1, 3))
    for ratio, count in ((0.0, 1), (99.0, 9)):
        (segment,), *_ = decoded(
            network, samples, monkeypatch, language="en", compression_ratio_threshold=ratio
        )
        assert len(segment.tokens) == count


def test_speech_has_the_words_that_it_has_without_the_detector():
    model = tynda.load(WITNESS)
    for name in ("jfk.flac", "028920012.opus"):
        text = model.transcribe(DEMO / name).text
        assert text == model.transcribe(DEMO / name, speech_threshold=0).text != ""


def test_silence_noise_and_tones_give_no_text():
    model = tynda.load(WITNESS)
    time = np.arange(20 * RATE, dtype=np.float32) / RATE
    tone = 0.2 * np.sin(2 * np.pi * 220 * time, dtype=np.float32)
    for samples in (np.zeros(20 * RATE, np.float32), noise(20, level=0.1), tone):
        transcript = model.transcribe(samples)
        assert transcript.segments == []
        assert transcript.duration == pytest.approx(20)
