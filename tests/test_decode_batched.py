"""Recordings split at silences and decoded in a batch."""

import tracemalloc
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import RATE, gather, noise
from tynda.errors import TyndaError
from tynda.heads.seq2seq import batched, sliding
from tynda.heads.seq2seq.head import Seq2SeqHead
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.recording import Recording
from tynda.ops.tree import leaves
from tynda.sound.frontend import LogMel
from whisper_peer import pair

FRONT = LogMel(fft=400, normalize="whisper")
SPEECH = [(0.5, 2.0), (3.0, 9.0), (14.0, 30.0), (36.0, 66.5), (67.0, 68.0)]
OPTIONS = {"max_new_tokens": 16, "no_speech_threshold": None}


@pytest.fixture(scope="module")
def network():
    return pair(0, ends=1.3, frames=1500, layers=1)[1]


class Spoken:
    """A detector of speech that knows the spans, and says so at the end."""

    settled = 0.0

    def __init__(self, spans):
        self.spans = spans

    def add(self, samples):
        return []

    def finish(self):
        return self.spans


def transcribed(network, samples, spans, options, **watched):
    return gather(batched.transcribe, network, FRONT, [samples], Spoken(spans), options, **watched)


def said(pieces):
    return [(p.start, p.end, p.tokens, [(w.word, w.start, w.end) for w in p.words]) for p in pieces]


def test_speech_is_packed_into_windows():
    def pack(speech, wanted=((0, 6800),)):
        return batched.pack_windows(speech, wanted, 3000, 100)

    assert pack(SPEECH) == [(50, 3000), (3600, 6600), (6600, 6800)]
    assert pack([]) == []
    assert pack([(0, 61)]) == [(0, 3000), (3000, 6000), (6000, 6100)]
    assert pack(SPEECH, [(100, 400), (5000, 6700)]) == [(100, 400), (5000, 6650)]
    # Two requested spans are two windows, although both would fit into one.
    assert pack([(0, 20)], [(0, 100), (300, 400)]) == [(0, 100), (300, 400)]
    assert pack(SPEECH, [(6800, 6800)]) == []


def test_clips_and_prompt_hold_beside_the_speech(network):
    samples = noise(20, level=0.1)
    speech, plain = [(0.0, 5.0), (6.0, 20.0)], {"temperature": (0.0,), **OPTIONS}

    def texts(speech, **options):
        options = Options(**plain, **options)
        return said(transcribed(network, samples, speech, options)[0])

    clipped = texts(speech, clip_timestamps=(1.0, 8.0))
    assert clipped == texts([(1.0, 5.0), (6.0, 8.0)]) != texts(speech)
    prompted = texts(speech, initial_prompt="ab")
    assert prompted != texts(speech)
    with pytest.warns(UserWarning, match=r"nothing to transcribe from 30 s on .* lasts 20 s"):
        assert texts(speech, clip_timestamps=(30.0,)) == []


@pytest.mark.parametrize("words", [False, True])
def test_side_by_side_is_one_by_one(network, words):
    samples = noise(70, level=0.1)
    options = {"temperature": (0.0,), "word_timestamps": words, **OPTIONS}
    one, many = (
        transcribed(network, samples, SPEECH, Options(batch_size=n, **options)) for n in (1, 3)
    )
    assert said(one[0]) == said(many[0]) != []
    assert one[1] == many[1]
    assert any(p.words for p in many[0]) == words


def test_a_window_equals_that_of_the_sliding_decoder(network):
    samples = noise(5, level=0.1)
    options = Options(temperature=(0.0,), language="en", **OPTIONS)
    ours, _ = transcribed(network, samples, [(0.0, 5.0)], options)
    recording = Recording([samples], FRONT, 3000)
    features, silent = FRONT(samples), np.zeros((3000, 80), np.float32)
    recording.window = lambda start, stop: np.concatenate([features, silent])[start:stop]
    expected, _ = gather(sliding.transcribe, network, recording, options)
    assert ours[0].tokens == expected[0].tokens


def test_failing_windows_are_decoded_again(network):
    samples = noise(70, level=0.1)
    plain, _ = transcribed(network, samples, SPEECH, Options(temperature=(0.0,), **OPTIONS))
    middle = float(np.mean(sorted({p.result.compression_ratio for p in plain})[-2:]))
    options = Options(
        temperature=(0.0, 1.0),
        compression_ratio_threshold=middle,
        logprob_threshold=None,
        **OPTIONS,
    )
    pieces, _ = transcribed(network, samples, SPEECH, options)
    assert {p.result.temperature for p in pieces} == {0.0, 1.0}


def test_times_and_progress_are_those_of_the_recording(network):
    seen = []
    options = Options(temperature=(0.0,), batch_size=2, **OPTIONS)
    samples = noise(70, level=0.1)
    pieces, _ = transcribed(network, samples, SPEECH, options, on_progress=seen.append)
    assert seen == [66.0, 68.0]
    assert all(0.5 <= p.start <= p.end <= 68 + 30 for p in pieces)
    assert pieces[-1].start >= 66
    assert [p.start for p in pieces] == sorted(p.start for p in pieces)
    assert len(samples) == 70 * RATE


def test_what_a_text_leaves_out_is_a_window_of_its_own(network, monkeypatch):
    """A text that ends early is followed by another, until the speech is over."""
    zero = network.tokenizer.timestamp_begin
    decode, begun = batched.decode, []

    def early(network, cross, options, languages, **settings):
        windows = decode(network, cross, options, languages, **settings)
        word = network.tokenizer.encode(" so")
        tokens = [zero, *word, zero + 250, zero + 250, *word]  # a whole segment of 5 s, and a part
        return [replace(window, tokens=tokens) for window in windows]

    def encode(network, windows, options):
        begun.append([len(window) for window in windows])
        return hear(network, windows, options)

    hear = batched.encode_windows
    monkeypatch.setattr(batched, "decode", early)
    monkeypatch.setattr(sliding, "decode", early)
    monkeypatch.setattr(batched, "encode_windows", encode)
    options = Options(temperature=(0.0,), language="en", **OPTIONS)
    pieces, _ = transcribed(network, noise(20, level=0.1), [(0.0, 12.0)], options)
    assert begun == [[1200], [700], [200]]
    assert [p.start for p in pieces] == [0.0, 5.0, 10.0]


def test_no_speech(network):
    assert transcribed(network, noise(1), [], Options()) == ([], None)


def test_batches_make_room_for_each_other(network, monkeypatch):
    alive, calls, hear = [], [], batched.encode_windows

    def spy(*arguments):
        """A batch waits until all of it is written, and beside it one window at a time."""
        found = hear(*arguments)
        alive[:] = [batch for batch in alive if any(ref() is not None for ref in batch)]
        alive.append([weakref.ref(tensor) for tensor in leaves(found)])
        assert len(alive) <= 2
        calls.append(len(arguments[1]))
        return found

    monkeypatch.setattr(batched, "encode_windows", spy)
    options = Options(temperature=(0.0,), language="en", batch_size=1, **OPTIONS)
    transcribed(network, noise(70, level=0.1), SPEECH, options)
    assert len(calls) >= 3
    assert set(calls) == {1}


class Revealed(Spoken):
    """A detector that knows each span half a second after its end."""

    def __init__(self, spans):
        super().__init__(list(spans))
        self.seconds = 0.0

    def add(self, samples):
        self.seconds += len(samples) / RATE
        known = [span for span in self.spans if span[1] + 0.5 <= self.seconds]
        self.spans = self.spans[len(known) :]
        self.settled = min([self.seconds, *(start for start, _ in self.spans)])
        return known


@pytest.mark.parametrize("clips", [((0, 10**12),), ((300, 4000), (4000, 9000), (20_000, 10**12))])
@pytest.mark.parametrize("size", [800, 16_000, 700_000])
def test_windows_of_a_stream_are_those_of_the_whole(clips, size):
    rng = np.random.default_rng(0)
    times = np.cumsum(rng.exponential(4.0, 160)).round(2)
    spans = [(float(a), float(b)) for a, b in zip(times[::2], times[1::2], strict=True)]
    samples = np.arange(int((times[-1] + 3) * RATE), dtype=np.float32)
    blocks = [samples[i : i + size] for i in range(0, len(samples), size)]
    found = list(batched.speech_windows(blocks, Revealed(spans), clips, 3000, 160))
    content = len(samples) // 160
    ends = [(begin, min(end, content)) for begin, end in clips]
    expected = batched.pack_windows(spans, ends, 3000, 100)
    assert [(begin, begin + len(part) // 160) for begin, part in found] == expected
    for begin, part in found:
        np.testing.assert_array_equal(part, samples[begin * 160 : begin * 160 + len(part)])
    assert len(expected) > 5


def test_clips_out_of_order_are_windows_in_their_order():
    samples = np.arange(60 * RATE, dtype=np.float32)
    spans, clips = [(1.0, 9.0), (20.0, 29.0)], [(2000, 3000), (0, 500)]
    found = batched.speech_windows([samples], Revealed(spans), clips, 3000, 160)
    assert [(begin, len(part) // 160) for begin, part in found] == [(2000, 900), (100, 400)]


def test_a_window_does_not_wait_for_hours_and_they_are_not_held():
    samples, read = np.zeros(RATE, np.float32), []

    def blocks():
        for i in range(7200):
            read.append(i)
            yield samples

    spans = [(1.0, 3.0), (7000.0, 7001.0)]
    tracemalloc.start()
    try:
        windows = batched.speech_windows(blocks(), Revealed(spans), [(0, 10**12)], 3000, 160)
        assert next(windows)[0] == 100
        assert len(read) < 40
        assert [begin for begin, _ in windows] == [700_000]
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_every_window_may_have_its_language(network, monkeypatch):
    monkeypatch.setattr(
        batched, "likeliest_languages", lambda *_: [("kk", 0.9), ("en", 0.8), ("kk", 0.7)]
    )
    samples = noise(68, level=0.1)
    options = Options(multilingual=True, temperature=(0.0,), without_timestamps=True, **OPTIONS)
    found, language = transcribed(network, samples, SPEECH, options)
    assert (language, [piece.language for piece in found]) == ("kk", ["kk", "en", "kk"])
    for code in ("kk", "en"):
        options = Options(language=code, temperature=(0.0,), without_timestamps=True, **OPTIONS)
        alone, _ = transcribed(network, samples, SPEECH, options)
        for one, other in zip(found, alone, strict=True):
            assert one.language != code or one.tokens == other.tokens


def a_head(network):
    """Return a head without weights of its own."""
    head = Seq2SeqHead.__new__(Seq2SeqHead)
    header = SimpleNamespace(name="nano", decoding={}, training={})
    head.network = network
    head.model = SimpleNamespace(
        frontend=FRONT, config=network.config, header=header, check_language=lambda code: None
    )
    return head


def test_segments_state_their_languages_where_there_are_several(network, monkeypatch):
    monkeypatch.setattr(sliding, "likeliest_languages", lambda *_: [("kk", 0.9)])
    plain = {"temperature": (0.0,), "speech_threshold": 0.0, **OPTIONS}
    for several in (True, False):
        session = a_head(network).session(Options(multilingual=several, **plain))
        segments = list(session.segments([noise(3, level=0.1)]))
        assert session.language == "kk"
        codes = {segment.to_dict().get("language") for segment in segments}
        assert codes == {"kk" if several else None}


def test_several_languages_need_a_model_of_several_and_a_recording(network):
    options = Options(multilingual=True)
    with pytest.raises(TyndaError, match="a live session has one language"):
        a_head(network).live(options)
    english = SimpleNamespace(config=network.config, tokenizer=SimpleNamespace(multilingual=False))
    with pytest.raises(TyndaError, match="nano has one language: multilingual needs a model of"):
        a_head(english).session(options)
