"""Forced alignment: by hand-worked paths, by joined recordings, and its files."""

import io
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from praatio import textgrid

import tynda
from helpers import noise, write_wav
from tynda.alignment import edges, writers
from tynda.alignment.run import Alignment, align
from tynda.cli import main
from tynda.errors import TyndaError
from tynda.heads.base import AlignedWord
from tynda.heads.ctc import forced, paths
from tynda.sound import audio
from tynda.text.pieces import PieceTokenizer
from tynda.text.tokenizer import ENGLISH, CharTokenizer

DEMO = Path(__file__).parents[1] / "demo"
JFK = (
    "And so my fellow Americans ask not what your country can do for you ask what you can do for "
    "your country"
)
RATE = 16_000
FRAME = 640


@pytest.fixture(scope="module")
def model():
    return tynda.load("sentences-en")


@given(st.integers(1, 40), st.lists(st.integers(1, 4), max_size=12), st.integers(0, 2**32 - 1))
def test_paths_in_blocks_are_the_same(frames, tokens, seed):
    """The path of a long recording is found block by block."""
    log_probs = np.log(np.random.default_rng(seed).dirichlet(np.ones(5), frames)).astype(np.float32)
    try:
        whole = paths.align(log_probs, tokens)
    except ValueError:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "_MAX_STEPS", 0)
        assert paths.align(log_probs, tokens) == whole


def peaks(tokenizer, labels):
    """Return log-probabilities whose best path has these symbols, one for each frame."""
    log_probs = np.full((len(labels), len(tokenizer)), np.log(0.01), np.float32)
    for t, label in enumerate(labels):
        log_probs[t, 0 if label == "_" else tokenizer.symbols.index(label)] = np.log(0.9)
    return lambda samples: log_probs[: -(-len(samples) // FRAME)]


def test_words_of_letters_by_hand():
    log_probs = peaks(ENGLISH, "_a_ bb__c_")
    words = forced.align(
        np.zeros(10 * FRAME, np.float32), ["a", "bc"], log_probs, FRAME, ENGLISH, str
    )
    assert [(w.text, w.start, w.end) for w in words] == [("a", 0.04, 0.08), ("bc", 0.16, 0.36)]
    assert [(x.text, x.start, round(x.end, 9)) for x in words[1].letters] == [
        ("b", 0.16, 0.24),
        ("c", 0.32, 0.36),
    ]
    # Of all symbols but the blank, the letter has 0.9, and 27 others have 0.01 each.
    assert words[1].confidence == pytest.approx(0.9 / (0.9 + 27 * 0.01))


def test_words_of_pieces_by_hand():
    tokenizer = PieceTokenizer(["<blank>", "▁he", "llo", "▁a"])
    log_probs = peaks(tokenizer, [" he", "_", "llo", "_", " a", "_"])
    words = forced.align(
        np.zeros(6 * FRAME, np.float32), ["hello", "a"], log_probs, FRAME, tokenizer, str
    )
    assert [(w.text, w.start, w.end) for w in words] == [("hello", 0.0, 0.12), ("a", 0.16, 0.2)]
    assert [x.text for x in words[0].letters] == ["he", "llo"]


def test_a_text_that_does_not_fit():
    log_probs = peaks(ENGLISH, "_____")
    samples = np.zeros(5 * FRAME, np.float32)
    with pytest.raises(TyndaError, match=r"too long for the audio: 6 letters in 0.2 s"):
        forced.align(samples, ["abcdef"], log_probs, FRAME, ENGLISH, str)
    with pytest.raises(TyndaError, match="cannot spell 'é'"):
        forced.align(samples, ["é"], log_probs, FRAME, ENGLISH, str)
    with pytest.raises(TyndaError, match="too long for the audio"):
        forced.align(samples[:0], ["a"], log_probs, FRAME, ENGLISH, str)


def tone(seconds):
    t = np.arange(int(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * 220 * t)).astype(np.float32)


def letter(at):
    return AlignedWord("x", at - 0.02, at + 0.02, 1.0)


def word(*times):
    letters = tuple(map(letter, times))
    return AlignedWord("x" * len(letters), letters[0].start, letters[-1].end, 1.0, letters)


def test_edges_are_those_of_pauses():
    """Tones from 0.5 s to 1 s and from 1.4 s to 2 s, whose letters were found inside."""
    silent = np.zeros(int(0.4 * RATE), np.float32)
    samples = np.concatenate(
        [np.zeros(RATE // 2, np.float32), tone(0.5), silent, tone(0.6), silent]
    )
    first, second = edges.refine(samples, [word(0.6, 0.9), word(1.6, 1.7)])
    for found, expected in zip(
        (first.start, first.end, second.start, second.end), (0.5, 1.0, 1.4, 2.0), strict=True
    ):
        assert found == pytest.approx(expected, abs=0.015)
    assert [x.start for x in first.letters] == [first.start, pytest.approx(0.75)]
    assert [x.end for x in first.letters] == [pytest.approx(0.75), first.end]


def test_words_without_a_pause_meet_where_the_energy_is_lowest():
    samples = np.concatenate([tone(0.5), 0.2 * tone(0.02), tone(0.5)])
    first, second = edges.refine(samples, [word(0.2, 0.4), word(0.6, 0.8)])
    assert first.end == second.start == pytest.approx(0.51, abs=0.015)


def test_words_found_by_attention_lose_pauses_only():
    """The second word was found to begin with the pause before it."""
    silent = np.zeros(int(0.4 * RATE), np.float32)
    samples = np.concatenate([tone(0.5), silent, tone(0.6), tone(0.5)])
    found = edges.refine(
        samples,
        [
            AlignedWord("a", 0.0, 0.55, 1.0),
            AlignedWord("b", 0.55, 1.5, 1.0),
            AlignedWord("c", 1.5, 1.98, 1.0),
        ],
    )
    assert [w.end for w in found] == [pytest.approx(0.5, abs=0.02), 1.5, pytest.approx(1.98)]
    assert [w.start for w in found] == [0.0, pytest.approx(0.9, abs=0.02), 1.5]


@given(st.lists(st.floats(0, 3), min_size=1, max_size=10), st.integers(0, 2))
def test_edges_are_in_order(times, loudness):
    """Any times give words in the order of time, within the recording."""
    samples = noise(2, seed=1).astype(np.float32) * loudness
    times = sorted(min(t, 2.0) for t in times)
    found = edges.refine(samples, [word(t) for t in times])
    at = [t for w in found for t in (w.start, w.end)]
    assert all(0 <= t <= 2 for t in at)
    assert all(w.start <= w.end for w in found)


def test_a_recording_with_its_text(model):
    found = align(model, DEMO / "jfk.flac", JFK + ".")
    assert [w.text for w in found.words] == JFK.split()
    assert found.duration == pytest.approx(11.0)
    for a, b in pairwise(found.words):
        assert a.start <= a.end <= b.start


def test_joined_recordings(model):
    """The edges of recordings that are joined with pauses are known."""
    parts, bounds, texts, at = [], [], [], 0.0
    for line in (DEMO / "manifest.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["source"] == "speechocean762":
            samples = audio.load(DEMO / Path(entry["audio_filepath"]).name)
            level = np.abs(samples) > 0.1 * np.abs(samples).max()
            samples = samples[level.argmax() : len(level) - level[::-1].argmax()]
            parts += [np.zeros(RATE // 2, np.float32), samples]
            bounds.append((at + 0.5, at + 0.5 + len(samples) / RATE))
            at, texts = bounds[-1][1], [*texts, entry["text"]]
    joined = np.concatenate([*parts, np.zeros(RATE // 2, np.float32)])
    words = model.head.align(joined, " ".join(texts).split())
    words = edges.refine(joined, words)
    errors, i = [], 0
    for (start, end), text in zip(bounds, texts, strict=True):
        count = len(text.split())
        errors += [abs(words[i].start - start), abs(words[i + count - 1].end - end)]
        i += count
    assert np.median(errors) <= 0.03
    assert max(errors) <= 0.2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("“Hello,” he said -- in 1999!", ["Hello", "he", "said", "in", "1999"]),
        ("St. Louis", ["saint", "louis"]),
        ("it's 5 %", ["it's", "5", "%"]),
    ],
)
def test_words_as_they_are_written(model, text, words):
    found = align(model, DEMO / "jfk.flac", text)
    assert [w.text for w in found.words] == words


def test_what_cannot_be_aligned(model, tmp_path):
    with pytest.raises(TyndaError, match="the text has no words"):
        align(model, DEMO / "jfk.flac", " ... ")
    with pytest.raises(TyndaError, match="no letters for 'мир'"):
        align(model, DEMO / "jfk.flac", "hello мир")
    with pytest.raises(TyndaError, match="tells voices apart"):
        align(tynda.load("speakers"), DEMO / "jfk.flac", "hello")
    write_wav(tmp_path / "short.wav", noise(0.05, seed=1))
    with pytest.raises(TyndaError, match="too long for the audio"):
        align(model, tmp_path / "short.wav", JFK)


def test_words_by_attention(model):
    """Two models find the words of a recording at nearly the same times."""
    whisper = tynda.load("whisper-tiny.en")
    found = align(whisper, DEMO / "jfk.flac", JFK)
    assert [w.text for w in found.words] == JFK.split()
    assert not found.words[0].letters
    other = align(model, DEMO / "jfk.flac", JFK)
    gaps = [abs(a.start - b.start) for a, b in zip(found.words, other.words, strict=True)]
    assert np.median(gaps) <= 0.08
    assert max(gaps) <= 0.6
    assert [w.text for w in align(whisper, DEMO / "jfk.flac", "I don't, sir").words] == [
        *("I", "don't", "sir")
    ]
    with pytest.raises(TyndaError, match=r"longer than the model's window of 30 s"):
        whisper.head.align(np.zeros(31 * RATE, np.float32), ["a"])
    with pytest.raises(TyndaError, match="the model's context"):
        whisper.head.align(np.zeros(RATE, np.float32), ["word"] * 500)


times = st.floats(0, 5).map(lambda t: round(t, 4))
names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=6)


@st.composite
def alignments(draw):
    count = draw(st.integers(1, 6))
    at = sorted(draw(st.lists(times, min_size=2 * count, max_size=2 * count)))
    words = [
        AlignedWord(draw(names), at[2 * i], at[2 * i + 1], 0.5, (letter(at[2 * i]),) * (i % 2))
        for i in range(count)
    ]
    return Alignment(words, at[-1] + draw(st.sampled_from([0.0, 0.5])) + 0.1)


@given(alignments())
def test_textgrids_are_read_by_praatio(tmp_path_factory, alignment):
    path = tmp_path_factory.mktemp("grid") / "a.TextGrid"
    path.write_text(writers.write(alignment, "textgrid", "a"), "utf-8")
    grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=True)
    intervals = grid.getTier("words").entries
    assert intervals[0].start == 0
    assert intervals[-1].end == pytest.approx(alignment.duration, abs=0.001)
    for a, b in pairwise(intervals):
        assert a.end == b.start
    assert all(interval.end > interval.start for interval in intervals)
    labels = [i.label.replace('""', '"') for i in intervals if i.label]
    assert labels == [w.text.strip() for w in alignment.words]


def test_files_by_hand():
    alignment = Alignment(
        [AlignedWord('a"', 0.5, 1.0, 0.25, (AlignedWord("a", 0.5, 1, 0.25),))], 2.0
    )
    assert writers.write(alignment, "ctm", "a b.wav") == 'a_b 1 0.500 0.500 a" 0.250\n'
    assert json.loads(writers.write(alignment, "json", "x")) == {
        "duration": 2.0,
        "confidence": 0.25,
        "words": [
            {
                "text": 'a"',
                "start": 0.5,
                "end": 1.0,
                "confidence": 0.25,
                "letters": [{"text": "a", "start": 0.5, "end": 1, "confidence": 0.25}],
            }
        ],
    }
    grid = io.StringIO(writers.write(alignment, "textgrid", "x")).read()
    assert 'text = "a"""' in grid
    assert grid.count("IntervalTier") == 2


def run(*args, **options):
    return CliRunner().invoke(main, ["align", *map(str, args)], **options)


def test_the_command(tmp_path):
    (tmp_path / "said.txt").write_text("\ufeff" + JFK, "utf-8")
    result = run(DEMO / "jfk.flac", tmp_path / "said.txt", "-o", tmp_path / "a.TextGrid")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'a.TextGrid'}\n"
    grid = textgrid.openTextgrid(str(tmp_path / "a.TextGrid"), includeEmptyIntervals=False)
    assert [e.label for e in grid.getTier("words").entries] == JFK.split()
    assert grid.tierNames == ("words", "letters")
    piped = run(DEMO / "jfk.flac", "-", "--format", "ctm", input=JFK.encode())
    assert piped.stdout.count("\n") == len(JFK.split())


def test_a_wrong_text_is_doubted():
    result = run(
        DEMO / "jfk.flac", "--inline", "zebras quickly jump over xylophones", "--format=ctm"
    )
    assert result.exit_code == 0
    assert "warning: the words are improbable" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([DEMO / "jfk.flac", "none.txt"], "no text at none.txt"),
        (["none.wav", "--inline", "hello"], "none.wav"),
        ([DEMO / "jfk.flac", "--inline", ""], "the text has no words"),
        ([DEMO / "jfk.flac", "--inline", "a", "--language", "kk"], "kk"),
    ],
)
def test_bad_input_is_one_line(arguments, said):
    result = run(*arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert said in result.stderr


def test_letters_of_a_model_in_capitals():
    tokenizer = CharTokenizer(["<blank>", " ", "A", "B"])
    words = forced.align(
        np.zeros(3 * FRAME, np.float32),
        ["ab"],
        peaks(tokenizer, ["A", "_", "B"]),
        FRAME,
        tokenizer,
        str.upper,
    )
    assert [x.text for x in words[0].letters] == ["A", "B"]
    assert words[0].text == "ab"
