"""Windows whose padding is merged: the frames that represent it, and that words stay the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tynda
from tynda import manifest
from tynda.heads.seq2seq.windows import merge_padding
from tynda.sound import audio

DEMO = Path(__file__).parent.parent / "demo"
FRAMES = 1500


@given(st.lists(st.integers(0, FRAMES), min_size=1, max_size=3), st.integers(1, FRAMES))
def test_merged_frames_count_as_all_frames_of_the_window(audio, window):
    audio = [min(frames, window) for frames in audio]
    size, merged = merge_padding(audio, window)
    computed = size // 2
    if merged is None:
        assert computed == window
        return
    frames = merged.positions.shape[1]
    assert frames == merged.lengths.max() <= window
    assert merged.log_counts.shape == merged.positions.shape == (len(audio), frames)
    rows = merged.rows.reshape(len(audio), frames)
    for item, sound in enumerate(audio):
        used = slice(merged.lengths[item])
        positions, counts = merged.positions[item, used], np.exp(merged.log_counts[item, used])
        np.testing.assert_allclose(counts.sum(), window, rtol=1e-5)
        # Frames are in the order of the window; those of the audio, what follows, and the end stay.
        assert (np.diff(positions) > 0).all()
        kept = min(sound + 50, window)
        assert positions[:kept].tolist() == list(range(kept))
        assert positions[-1] == window - 1
        np.testing.assert_allclose(counts[:kept], 1)
        np.testing.assert_allclose(counts[-32:], 1)
        # Each frame equals one that is computed of its own item: itself, or one of the padding.
        own = rows[item, used] - item * computed
        assert own[:kept].tolist() == positions[:kept].tolist()
        assert own[-1] == computed - 1
        elsewhere = own[:-1] != positions[:-1]
        assert (own[:-1][elsewhere] > sound + 2).all()
        assert (own[:-1] < computed - 1).all()
        # The others of a batch change nothing.
        _, alone = merge_padding([sound], window)
        expected = np.arange(window) if alone is None else alone.positions[0]
        assert positions.tolist() == expected.tolist()


def test_plans_of_recordings_of_all_lengths_are_few():
    assert len({merge_padding([sound], FRAMES)[0] for sound in range(FRAMES + 1)}) < 60


@pytest.fixture(scope="module")
def model():
    return tynda.load("whisper-tiny.en", bits=32)


@pytest.fixture(scope="module")
def recordings():
    return [audio.load(row.audio) for row in manifest.read(DEMO / "manifest.jsonl")]


def states(model, features, merged=None, size=2 * FRAMES):
    """Return the encoder's states ``[items, frames, channels]`` of features padded to ``size``."""
    padded = np.zeros((len(features), size, features[0].shape[1]), np.float32)
    for row, each in zip(padded, features, strict=True):
        row[: len(each)] = each
    lengths = np.full(len(padded), size)
    network = model.head.network
    return network.engine.array(network.encode(padded, lengths, *[merged] if merged else [])[0])


def test_states_of_the_audio_are_nearly_those_of_the_whole_window(model, recordings):
    """Without the counts, or without the padding, they are others."""
    errors = []
    for samples in recordings:
        features = [model.checkpoint.frontend(samples)]
        count = len(features[0]) // 2
        size, merged = merge_padding([count], FRAMES)
        uncounted = replace(merged, log_counts=np.zeros_like(merged.log_counts))
        expected = states(model, features)[0, :count]
        shorter = (merged, size), (uncounted, size), (None, size)
        found = [states(model, features, *about)[0, :count] for about in shorter]
        errors.append([((x - expected) ** 2).sum() / (expected**2).sum() for x in found])
    merged, uncounted, short = np.mean(errors, axis=0)
    assert merged < 0.006
    assert uncounted > 4 * merged
    assert short > 6 * merged


def test_one_item_of_a_batch_gets_what_it_gets_alone(model, recordings):
    features = [model.checkpoint.frontend(recordings[i]) for i in (0, 1, 5)]
    audio = [len(each) // 2 for each in features]
    assert len({*audio}) == 3
    size, merged = merge_padding(audio, FRAMES)
    together = states(model, features, merged, size)
    for i, each in enumerate(features):
        size, alone = merge_padding([audio[i]], FRAMES)
        expected = states(model, [each], alone, size)[0]
        np.testing.assert_allclose(together[i, : len(expected)], expected, atol=2e-3)


def test_the_demo_keeps_its_words(model, recordings):
    """Two of six texts, which are unclear in any window, may be others."""
    texts = {
        window: [model.transcribe(samples, window=window).text for samples in recordings]
        for window in ("exact", "merged")
    }
    assert sum(a == b for a, b in zip(texts["exact"], texts["merged"], strict=True)) >= 4


def test_a_full_window_is_encoded_as_it_is(model):
    """Nothing is merged where the audio fills the window."""
    assert merge_padding([FRAMES], FRAMES) == (2 * FRAMES, None)
    assert merge_padding([0, 0], 60) == (120, None)
