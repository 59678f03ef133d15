"""A loaded model: audio is transcribed to words with their times."""

import multiprocessing
import pickle
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import tynda
from helpers import RATE, header, noise, save_tiny, weights, write_wav
from tynda.errors import TyndaError
from tynda.extras import install
from tynda.heads.ctc import ngram
from tynda.heads.ctc.options import CTCOptions
from tynda.sound import vad
from tynda.store import checkpoint, library

DECODING = {
    "speech_threshold": 0.0,
    "beam_size": 16,
    "alpha": 1.0,
    "beta": 0.0,
    "unknown_penalty": 60.0,
}


@pytest.fixture(scope="module")
def with_lm(tmp_path_factory):
    """The tiny model with an n-gram over the words "ab" and "ba"."""
    lm = ngram.pack(ngram.train(["ab ba", "ba ba ab"], 2))
    path = tmp_path_factory.mktemp("lm") / "lm.safetensors"
    save_tiny(path, lm=lm, decoding=DECODING)
    return tynda.load(path)


def words(transcript):
    return [word for segment in transcript.segments for word in segment.words]


@pytest.mark.parametrize("seconds", [0.01, 0.02, 0.4, 3.0])
def test_numpy_and_torch_hear_the_same(tiny_file, tiny, seconds):
    pytest.importorskip("torch")
    samples = noise(seconds, seed=3)
    expected = tiny.encode(samples)
    np.testing.assert_allclose(
        tynda.load(tiny_file, backend="torch").encode(samples), expected, atol=1e-4
    )
    assert expected.shape[1] == 29
    assert 0 <= len(expected) * 4 - len(samples) // 160 < 8
    np.testing.assert_allclose(np.exp(expected).sum(1), 1, atol=1e-4)


def test_without_torch_its_backend_is_asked_for_in_one_line(tiny_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TyndaError, match=re.escape(install("train"))):
        tynda.load(tiny_file, backend="torch")


def test_the_numpy_backend_needs_no_torch(tiny_file):
    code = f"import sys, tynda; tynda.load({str(tiny_file)!r}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def _in_another_process(model):
    return model.transcribe(noise(1)).text


def test_a_model_goes_to_spawned_processes(tiny_file):
    model = tynda.load(tiny_file, backend="numpy", bits=8, threads=1)
    again = pickle.loads(pickle.dumps(model))
    assert again.transcribe(noise(1)) == model.transcribe(noise(1))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(_in_another_process, [model]) == [model.transcribe(noise(1)).text]


def test_a_model_without_a_file_cannot_be_pickled(tiny):
    model = tynda.Model(replace(tiny.checkpoint, path=None))
    with pytest.raises(TyndaError, match="in no file cannot be pickled"):
        pickle.dumps(model)


def test_floats_at_the_scale_of_integers(tiny):
    integers = (noise(1) * 20_000).round()
    with pytest.raises(TyndaError, match="these are whole numbers"):
        tiny.transcribe(integers)
    with pytest.warns(UserWarning, match=r"samples reach \d+ times full scale: divide"):
        tiny.transcribe(integers * 0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny.transcribe(noise(1) * 20)


def test_ctc_accepts_word_timestamps(tiny):
    assert tiny.transcribe(noise(1), word_timestamps=True) == tiny.transcribe(noise(1))


def test_word_times_follow_each_other_inside_the_recording(tiny):
    hot = [CTCOptions(hotwords=[c], hotword_boost=50) for c in "abcde"]
    # The last frames of the model may extend beyond the end, or even start there.
    for n, decoding in product(range(RATE, RATE + 2000, 171), [None, *hot]):
        transcript = tiny.transcribe(noise(2)[:n], decoding)
        found = words(transcript)
        assert transcript.duration == n / RATE
        assert " ".join(w.text for w in found) == transcript.text != ""
        times = [t for w in found for t in (w.start, w.end)]
        assert times == sorted(times)
        assert times[0] >= 0
        assert times[-1] <= n / RATE
        assert all(w.start < w.end and 0 <= w.confidence <= 1 for w in found)


def test_a_word_begins_at_the_frame_of_its_first_letter(tiny):
    samples = noise(3, seed=1)
    log_probs = tiny.encode(samples)
    ids = log_probs.argmax(1)
    letters = [t for t, i in enumerate(ids) if i not in (0, tiny.checkpoint.tokenizer.space_id)]
    first = words(tiny.transcribe(samples))[0]
    assert first.start == pytest.approx(letters[0] * 4 * 160 / RATE)


def test_words_of_later_pieces_are_shifted_by_where_the_piece_begins(tiny, tmp_path):
    samples = noise(45, seed=2)
    samples[6 * RATE : 7 * RATE] *= 0.01  # a pause to cut at
    path = write_wav(tmp_path / "long.wav", samples)
    heard = tynda.sound.audio.load(path)
    pieces = list(vad.split([heard]))
    assert len(pieces) >= 3
    assert 6 < pieces[1][0] < 7
    expected = [
        (w.text, start + w.start, start + w.end)
        for start, piece in pieces
        for w in words(tiny.transcribe(piece))
    ]
    progress = []
    transcript = tiny.transcribe(path, on_progress=progress.append)
    found = [(w.text, w.start, w.end) for w in words(transcript)]
    assert [w[0] for w in found] == [w[0] for w in expected]
    np.testing.assert_allclose([w[1:] for w in found], [w[1:] for w in expected], atol=1e-9)
    assert transcript.duration == pytest.approx(45)
    assert progress == sorted(progress)
    assert progress[-1] == pytest.approx(45)
    assert len(progress) == len(pieces)


def test_no_sound_gives_an_empty_transcript(tiny, tmp_path):
    for transcript in (
        tiny.transcribe(write_wav(tmp_path / "empty.wav", np.zeros(0, np.float32))),
        tiny.transcribe(np.zeros(0, np.float32)),
    ):
        assert transcript.text == ""
        assert list(transcript.segments) == []
        assert transcript.duration == 0


@pytest.mark.parametrize("n", [1, 100, 159, 160, 161, 640, 3 * RATE])
@pytest.mark.parametrize("level", [0.0, 1e-9, 1.0, 1e4])
def test_silence_noise_and_scraps_are_no_trouble(with_lm, n, level):
    transcript = with_lm.transcribe(noise(4)[:n] * np.float32(level))
    assert transcript.duration == n / RATE
    assert isinstance(transcript.text, str)


@pytest.mark.parametrize("name", ["digits-en", "sentences-en"])
@pytest.mark.parametrize("seconds", [0.1, 0.3, 0.5, 5])
def test_silence_and_noise_give_no_words(name, seconds):
    model = tynda.load(name)
    for level in (0, 1e-5, 1e-3, 0.1):
        samples = noise(seconds, level=level)
        assert model.transcribe(samples).text == ""
        assert model.transcribe(samples, chunk_length=4).text == ""
    if (name, seconds) == ("sentences-en", 0.3):
        silence = np.zeros(len(samples), np.float32)
        assert model.transcribe(silence, speech_threshold=0).text


@pytest.mark.parametrize("name", ["jfk.flac", "028920012.opus"])
@pytest.mark.parametrize("chunk_length", [None, 6])
def test_speech_has_the_words_that_it_has_without_the_detector(name, chunk_length):
    model, path = tynda.load("sentences-en"), Path(__file__).parents[1] / "demo" / name
    every = model.transcribe(path, speech_threshold=0, chunk_length=chunk_length)
    assert model.transcribe(path, chunk_length=chunk_length) == every
    assert every.text
    # Nothing reaches a certainty of 1.
    assert model.transcribe(path, speech_threshold=1, chunk_length=chunk_length).text == ""


def test_language_is_known_where_the_model_has_just_one(tiny, tmp_path):
    assert tiny.transcribe(noise(0.1)).language == "en"
    both = tynda.load(save_tiny(tmp_path / "m.safetensors", languages=["en", "kk"]))
    assert both.transcribe(noise(0.1)).language is None


def test_n_best_gives_so_many_different_readings_best_first(tiny):
    samples = noise(1.5)
    transcript = tiny.transcribe(samples, CTCOptions(n_best=4))
    texts = [transcript.segments[0].text, *transcript.segments[0].alternatives]
    assert len(texts) == len(set(texts)) == 4
    assert transcript.segments[0].text == transcript.text
    alone = tiny.transcribe(samples, CTCOptions(beam_size=32))
    assert alone.text == transcript.text
    assert list(alone.segments[0].alternatives) == []


@pytest.mark.parametrize("spelling", ["Def", " def ", "DEF!", "Déf"])
def test_hot_words_are_found_in_any_spelling(tiny, spelling):
    samples = noise(1.5, seed=4)
    assert "def" not in tiny.transcribe(samples, CTCOptions(beam_size=32)).text.split()
    hot = tiny.transcribe(samples, CTCOptions(hotwords=[spelling], hotword_boost=50))
    assert "def" in hot.text.split()


def test_hot_words_that_are_no_words_change_nothing(tiny):
    samples = noise(1.5)
    plain = tiny.transcribe(samples)
    assert tiny.transcribe(samples, CTCOptions(hotwords=["", " ", "?!"])) == plain


def test_a_beam_of_one_is_greedy_and_takes_no_language_model(with_lm, tiny):
    samples = noise(2, seed=5)
    searched = with_lm.transcribe(samples).text
    greedy = with_lm.transcribe(samples, CTCOptions(beam_size=1)).text
    assert greedy == tiny.transcribe(samples).text != searched


@pytest.mark.parametrize("asked", [{"hotwords": ["a"]}, {"n_best": 2}, {"lm": "my.arpa"}])
def test_what_greedy_decoding_cannot_do_is_refused(tiny, asked):
    with pytest.raises(TyndaError, match="greedy"):
        tiny.transcribe(noise(1), CTCOptions(beam_size=1, **asked))


def test_a_language_model_of_ones_own_is_used_and_none_is_not(with_lm, tmp_path):
    samples = noise(2, seed=5)
    arpa = tmp_path / "my.arpa"
    arpa.write_text(ngram.train(["ab ba", "ba ba ab"], 2))
    plain = tynda.load(save_tiny(tmp_path / "plain.safetensors", decoding=DECODING))
    own = with_lm.transcribe(samples)
    assert plain.transcribe(samples, CTCOptions(lm=arpa)) == own
    without = with_lm.transcribe(samples, CTCOptions(lm="none"))
    assert plain.transcribe(samples) == without
    assert own.text != without.text


def test_prepare_reports_a_bad_language_model_before_the_first_recording(tiny, tmp_path):
    (tmp_path / "bad.arpa").write_text("nonsense")
    for lm in (tmp_path / "absent.arpa", tmp_path / "bad.arpa"):
        with pytest.raises(TyndaError, match=str(lm)):
            tiny.prepare(CTCOptions(lm=lm))


def test_a_long_stream_is_read_piece_by_piece(tiny, monkeypatch):
    taken = 0

    def blocks(source, track=None):
        nonlocal taken
        for seed in range(10):
            taken += 1
            yield noise(30, seed)

    monkeypatch.setattr("tynda.sound.audio.stream", blocks)
    behind = []
    tiny.transcribe(b"", on_progress=lambda seconds: behind.append(taken * 30 - seconds))
    assert taken == 10
    assert behind[0] >= 10  # the first piece was finished before the second block was read
    assert max(behind) <= 30 + 20


def test_eight_bits_hear_nearly_the_same(tiny, tmp_path):
    path = save_tiny(tmp_path / "m.safetensors", bits=8)
    samples = noise(1)
    difference = np.abs(tynda.load(path).encode(samples) - tiny.encode(samples))
    assert 0 < np.median(difference) < 0.1


def test_a_bundled_or_cached_name_a_path_and_nothing_else(tiny_file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "tynda" / "models"
    folder.mkdir(parents=True)
    checkpoint.save_model(folder / "mine.safetensors", header(name="other"), weights())
    assert tynda.load("mine").header.name == "other"
    assert tynda.load(str(tiny_file)).header.name == "tiny"
    for name in ("nobody's", "x" * 5000, "a\0b"):
        with pytest.raises(TyndaError, match="mine"):
            tynda.load(name)


@pytest.mark.parametrize(
    "settings",
    [
        *({name: value} for name in ("beam_size", "n_best") for value in (-3, 0, "8", 2.5, 1025)),
        {"n_best": True},
        *({name: np.nan} for name in ("alpha", "beta", "hotword_boost")),
        *({name: np.inf} for name in ("alpha", "beta", "hotword_boost")),
        {"alpha": -1},
        {"beta": "1"},
        {"lm": ""},
        {"lm": 3},
        {"hotwords": 3},
        {"hotwords": ["a", 3]},
    ],
)
def test_settings_are_checked(settings):
    (name,) = settings
    with pytest.raises(TyndaError, match=rf"^{name} "):
        CTCOptions(**settings)


def test_numpys_numbers_are_numbers():
    CTCOptions(beam_size=np.int64(4), alpha=np.float32(1), beta=np.float64(-1))


def test_weights_without_an_n_gram_are_refused(with_lm, tiny):
    for model, given in product([with_lm, tiny], [{"alpha": 3.0}, {"beta": 0.0}]):
        with pytest.raises(TyndaError, match="greedy"):
            model.prepare(CTCOptions(beam_size=1, **given))
        with pytest.raises(TyndaError, match="weights of an n-gram"):
            model.prepare(CTCOptions(lm="none", **given))
    with pytest.raises(TyndaError, match="weights of an n-gram"):
        tiny.prepare(CTCOptions(alpha=3.0))
    with_lm.prepare(CTCOptions(alpha=3.0))


@pytest.mark.parametrize(
    ("samples", "complaint"),
    [
        (np.zeros((100, 2, 2), np.float32), "one axis"),
        (np.zeros((100, 90), np.float32), "one axis"),
        (np.zeros(100, np.int64), "convert"),
        (np.zeros(100, bool), "convert"),
        (np.array([100.0, -3e4], np.float32), "divide 16-bit samples by 32768"),
        (np.array([0, np.nan], np.float32), "finite"),
        (np.array([0, 1e300]), "finite"),
    ],
)
def test_samples_are_checked(tiny, samples, complaint):
    with pytest.raises(TyndaError, match=complaint):
        tiny.transcribe(samples)


@pytest.mark.parametrize("rate", [0, -1, 10**7, 16000.5, None])
def test_a_rate_that_cannot_be_is_refused(tiny, rate):
    with pytest.raises(TyndaError, match="sample_rate"):
        tiny.transcribe(np.zeros(100, np.float32), sample_rate=rate)


def test_options_of_another_decoder_are_refused(tiny):
    with pytest.raises(TyndaError, match="accepts options of type CTCOptions, not Options"):
        tiny.transcribe(np.zeros(100, np.float32), tynda.Options())


def test_samples_of_all_kinds(tiny, tmp_path):
    samples = np.round(noise(1) * 32767 / 2).astype(np.int16)
    floats = samples.astype(np.float32) / 32768
    expected = tiny.transcribe(floats)
    assert tiny.transcribe(samples) == expected
    assert tiny.transcribe(samples.astype(np.int32) * 65536) == expected
    assert tiny.transcribe(np.stack([floats, floats], 1)) == expected
    assert tiny.transcribe(np.stack([floats, floats])) == expected
    assert [*tiny.segments(floats)] == expected.segments
    path = write_wav(tmp_path / "a.wav", floats)
    read = tiny.transcribe(path)
    assert read.text == expected.text
    for source in (str(path), path.read_bytes(), path.open("rb")):
        assert tiny.transcribe(source) == read
    torch = pytest.importorskip("torch")
    assert tiny.transcribe(torch.from_numpy(floats).requires_grad_()) == expected
    rated = tiny.transcribe(np.repeat(floats, 2), sample_rate=32000)
    assert rated.duration == pytest.approx(expected.duration, abs=1e-3)


def test_floats_of_any_width(tiny):
    assert tiny.transcribe(noise(1).astype(np.float64)) == tiny.transcribe(noise(1))


def test_a_backend_or_a_model_that_is_none(tiny_file):
    with pytest.raises(TyndaError, match=r"'jax'.*numpy, torch"):
        tynda.load(tiny_file, backend="jax")
    with pytest.raises(TyndaError, match="not None"):
        tynda.load(None)


@pytest.mark.parametrize("error", [PermissionError(13, "no"), RuntimeError("no home")])
def test_a_cache_that_cannot_be_read_is_no_trouble(monkeypatch, tiny_file, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("platformdirs.user_cache_path", fail)
    assert tynda.load(tiny_file)
    assert library.cached() == {}
    assert library.describe()
