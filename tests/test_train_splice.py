"""Splicing: words are replaced by other words of the same speaker."""

from types import SimpleNamespace

import numpy as np
import pytest

from helpers import RATE, noise, tone, write_manifest, write_wav
from tynda import manifest
from tynda.train import splice
from tynda.train.data import Corpus
from tynda.train.splice import Splicer, cut_words, find_words

LEVELS = {"ann": 0.1, "bob": 0.2, "cat": 0.3, "dog": 0.4, "eel": 0.5, "fox": 0.6, "gnu": 0.7}


def say(text):
    """Return audio with a level for each word of half a second, and a quiet start and end."""
    edge = np.zeros(1600, np.float32)
    return np.concatenate(
        [edge, *(np.full(8000, LEVELS[w], np.float32) for w in text.split()), edge]
    )


@pytest.fixture
def corpus(tmp_path):
    rows = []
    for i, (text, speaker) in enumerate(
        [("ann bob cat", "x"), ("dog eel", "x"), ("fox gnu", "y"), ("ann", "x")]
    ):
        write_wav(tmp_path / f"{i}.wav", say(text))
        rows.append((f"{i}.wav", text, {"speaker": speaker}))
    path = write_manifest(tmp_path / "m.jsonl", rows)
    return Corpus(manifest.read(path), tmp_path / "cache")


def cuts(words):
    return [1600 + 8000 * i for i in range(words + 1)]


def heard(samples):
    """Return the words by their levels, in the middle of every half second."""
    names = {round(level, 1): word for word, level in LEVELS.items()}
    return [names[round(float(x), 1)] for x in samples[1600 + 4000 : -1600 : 8000]]


def test_words_come_from_the_same_speaker_and_the_text_follows(corpus):
    splicer = Splicer(corpus, [cuts(3), cuts(2), cuts(2), []])
    texts = set()
    for seed in range(60):
        samples, text = splicer(0, np.random.default_rng(seed))
        assert heard(samples) == text.split()
        assert len(samples) == 3 * 8000 + 2 * 1600
        texts.add(text)
    said = {word for text in texts for word in text.split()}
    assert said == {"ann", "bob", "cat", "dog", "eel"}
    assert len(texts) > 20
    assert "ann bob cat" in texts


def test_an_utterance_whose_words_are_not_known_stays_whole(corpus):
    splicer = Splicer(corpus, [cuts(3), cuts(2), cuts(2), []])
    samples, text = splicer(3, np.random.default_rng(0))
    assert text == "ann"
    np.testing.assert_array_equal(samples, corpus.samples(3))


class Oracle:
    """A model that decodes 25 letters per second, after a tenth of a second."""

    def __init__(self, text):
        from tynda.text.tokenizer import ENGLISH

        self.checkpoint, self._text = SimpleNamespace(tokenizer=ENGLISH), text

    def encode(self, samples):
        tokenizer = self.checkpoint.tokenizer
        rows = np.full((len(samples) // 640, len(tokenizer)), -20.0, np.float32)
        rows[:, 0] = -1
        for i, token in enumerate(tokenizer.encode(self._text)):
            rows[3 + 3 * i, token] = 0
        return rows


def test_words_are_cut_where_it_is_quiet():
    text = "to be or"
    samples = tone(300, 2)
    # Letters at frames 3, 6, 12, 15, 21, 24 of 40 ms; quiet spots of 20 ms.
    for quiet in (0.05, 0.42, 0.76, 1.1):
        samples[int(quiet * RATE) : int((quiet + 0.02) * RATE)] = 0
    found = cut_words(Oracle(text), samples, text)
    np.testing.assert_allclose(np.array(found) / RATE, [0.06, 0.43, 0.77, 1.11], atol=0.011)


@pytest.mark.parametrize("text", ["", "one"])
def test_nothing_to_cut(text):
    assert cut_words(Oracle(text), noise(2), text) == []


def test_a_sound_too_short_for_its_text_is_left_alone():
    assert cut_words(Oracle(""), noise(0.1), "far too much to say") == []


def test_cuts_are_found_once(corpus, tiny, tmp_path, monkeypatch):
    cache = tmp_path / "words.json"
    first = find_words(tiny, corpus, cache)
    assert [len(c) for c in first[3:]] == [0]
    monkeypatch.setattr(splice, "cut_words", None)
    assert find_words(tiny, corpus, cache) == first
