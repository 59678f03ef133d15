"""Long recordings in overlapping chunks: no frame is lost or repeated, no word is cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tynda
from helpers import RATE, noise, write_wav
from tynda.errors import TyndaError
from tynda.heads.ctc.chunks import MAX_SECONDS, overlapping_chunks

FRAME = 640


def read(samples):
    """Each frame is its first sample; as in wav2vec 2.0, an incomplete frame is left out."""
    frames = max(0, (len(samples) - 400) // FRAME + 1)
    return samples[: frames * FRAME : FRAME, None]


@given(st.integers(1, 45 * RATE), st.integers(1000, 200_000), st.data())
def test_frames_lie_on_one_grid_each_once(n, block, data):
    chunk = data.draw(st.floats(1, 30))
    stride = data.draw(st.floats(0, chunk / 2, exclude_max=True))
    gaps = data.draw(st.integers(1, 500))  # some silent frames
    samples = np.arange(n, dtype=np.float32)
    blocks = [samples[i : i + block] for i in range(0, n, block)]
    pieces = list(
        overlapping_chunks(
            blocks, read, FRAME, lambda x: x[:, 0] // FRAME % gaps == 0, chunk, stride
        )
    )
    joined = np.concatenate([p.log_probs for p in pieces])
    np.testing.assert_array_equal(joined, read(samples))
    assert [p.start for p in pieces] == [0, *(p.end for p in pieces[:-1])]
    assert pieces[-1].end == n
    for p in pieces:
        assert p.end - p.start < MAX_SECONDS * RATE + 2 * FRAME
        assert all(p.log_probs[:1, 0] == p.start)


def test_a_cut_lies_amid_the_longest_pause():
    second = RATE // FRAME
    speech = np.ones(20 * second, bool)
    for begin, end in ((1, 2), (3.5, 3.8), (5, 6), (7, 7.5)):
        speech[int(begin * second) : int(end * second)] = False
    blocks = [np.repeat(speech, FRAME).astype(np.float32)]
    pieces = overlapping_chunks(blocks, read, FRAME, lambda x: x[:, 0] == 0, 10, 1)
    # The longest pause after 3 s is from 5 s to 6 s; there is none later, so a cut follows at 8 s.
    assert [p.start / RATE for p in pieces] == pytest.approx([0, 5.5, 13.5], abs=0.05)


def test_the_middle_of_a_chunk_is_what_the_model_makes_of_the_chunk(tiny):
    samples = noise(9, seed=4)
    pieces = list(overlapping_chunks([samples], tiny.encode, FRAME, lambda x: x[:, 0] > 0, 4, 0.4))
    joined = np.concatenate([p.log_probs for p in pieces])
    chunk, step = 4 * RATE, int(3.2 * RATE)
    first, second, third = (tiny.encode(samples[i : i + chunk]) for i in (0, step, 2 * step))
    np.testing.assert_array_equal(joined, np.r_[first[:90], second[10:90], third[10:]])


def test_chunks_are_asked_for_by_name(tiny, tmp_path):
    path = write_wav(tmp_path / "a.wav", noise(21, seed=5))
    progress = []
    cut = tiny.transcribe(path, chunk_length=6, stride_length=1, on_progress=progress.append)
    words = [w for s in cut.segments for w in s.words]
    assert len(cut.segments) > 2
    assert [w.start for w in words] == sorted(w.start for w in words)
    assert all(w.start < w.end <= 21 for w in words)
    assert cut.duration == progress[-1] == pytest.approx(21)
    assert (
        tiny.transcribe(path, chunk_length=6).text
        == tiny.transcribe(path, chunk_length=6, stride_length=1.0).text
    )
    short = write_wav(tmp_path / "b.wav", noise(2))
    assert tiny.transcribe(short, chunk_length=6) == tiny.transcribe(short)
    empty = write_wav(tmp_path / "c.wav", noise(0))
    assert tiny.transcribe(empty, chunk_length=6).text == ""


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({"chunk_length": 0.5}, "chunk_length must be a number from 1"),
        ({"chunk_length": 4, "stride_length": 2}, r"chunk_length \(4\) must be more than twice"),
        ({"stride_length": 2}, "stride_length needs chunk_length: set it as well"),
        ({"chunk_length": 4, "stride_length": -1}, "stride_length must be a number from 0"),
    ],
)
def test_chunks_that_cannot_be_are_refused(given_, told):
    with pytest.raises(TyndaError, match=told):
        tynda.CTCOptions(**given_)
