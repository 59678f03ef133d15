"""Times and tracks of containers, and channels that cancel each other."""

import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
from click.testing import CliRunner

from helpers import RATE, noise, tone
from tynda.cli import main
from tynda.errors import TyndaError
from tynda.sound import audio
from tynda.sound.samples import as_samples
from tynda.sound.timeline import Timeline


def write(path, parts, *, video=False, layout="mono", codec="pcm_s16le"):
    """Write samples ``[n]`` or ``[channels, n]`` that begin at certain seconds."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("mpeg4", rate=10) if video else None
        track = container.add_stream(codec, rate=RATE, layout=layout)
        if picture is not None:
            picture.width = picture.height = 16
            for i in range(60):
                image = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
                image.pts, image.time_base = i, Fraction(1, 10)
                container.mux(picture.encode(image))
            container.mux(picture.encode(None))
        for start, samples in parts:
            whole = np.atleast_2d(samples)
            for at in range(0, whole.shape[1], 1600):
                data = (whole[:, at : at + 1600].T.reshape(1, -1) * 32767).astype("<i2")
                frame = av.AudioFrame.from_ndarray(data, format="s16", layout=layout)
                frame.sample_rate, frame.time_base = RATE, Fraction(1, RATE)
                frame.pts = round(start * RATE) + at
                container.mux(track.encode(frame))
        container.mux(track.encode(None))
    return path


@pytest.mark.parametrize("name", ["a.mkv", "a.mov"])
def test_sound_that_begins_after_the_picture_has_its_times(tmp_path, name):
    beep = tone(440, 1)
    samples = audio.load(write(tmp_path / name, [(3.5, beep)], video=True))
    assert len(samples) == pytest.approx(4.5 * RATE, abs=40)
    assert not samples[: int(3.49 * RATE)].any()
    assert np.abs(samples[int(3.6 * RATE) : int(4.4 * RATE)]).max() > 0.2


def test_sound_alone_begins_with_itself(tmp_path):
    samples = audio.load(write(tmp_path / "a.mkv", [(3.5, tone(440, 1))]))
    assert len(samples) == pytest.approx(RATE, abs=40)


def test_silence_stands_where_packets_are_missing(tmp_path):
    parts = [(0, tone(440, 1)), (5, tone(440, 1)), (6.05, tone(440, 1)), (40, tone(440, 0.5))]
    samples = audio.load(write(tmp_path / "a.mkv", parts))
    assert len(samples) == pytest.approx((40.5 - 0.05) * RATE, abs=100)
    assert not samples[int(1.01 * RATE) : int(4.99 * RATE)].any()
    assert samples[int(5.01 * RATE) : int(6.9 * RATE)].any()
    blocks = list(audio.stream(tmp_path / "a.mkv", 1))
    assert {len(block) for block in blocks[:-1]} == {RATE}
    np.testing.assert_array_equal(np.concatenate(blocks), samples)


def test_the_timeline():
    line = Timeline(5.0)
    assert line.silence(5.1, 1.0) == 0  # a tenth of a second is a recorder's jitter
    assert line.silence(6.1, 1.0) == 0
    assert line.silence(7.5, 1.0) == pytest.approx(0.4)
    assert line.silence(None, 2.0) == 0
    assert line.silence(10.5, 1.0) == 0
    assert line.silence(3.0, 1.0) == 0  # chained files begin again
    assert line.silence(4.0, 1.0) == 0
    assert line.silence(1e9, 1.0) == 0  # damaged
    assert line.silence(1e9 + 1, 1.0) == 0
    assert line.silence(2**62, 1.0) == 0


def test_times_of_a_hostile_file_add_no_more_than_hours():
    line, total, time = Timeline(0.0), 0.0, 0.0
    for _ in range(1000):
        time += 3600
        total += line.silence(time, 0.01)
    assert 3600 < total <= 6 * 3600


@pytest.mark.parametrize("name", ["a.wav", "a.mkv"])
def test_channels_that_cancel_each_other_leave_one(tmp_path, name):
    one = noise(1, level=0.1)
    path = write(tmp_path / name, [(0, np.stack([one, -one]))], layout="stereo")
    with pytest.warns(UserWarning, match=rf"{name} has two channels that cancel .* first") as said:
        samples = audio.load(path)
    assert len(said) == 1
    np.testing.assert_allclose(samples, one, atol=1e-4)
    with pytest.warns(UserWarning, match="the array has two channels"):
        np.testing.assert_array_equal(as_samples(np.stack([one, -one])), one)


def test_other_channels_are_averaged(tmp_path):
    one, other = noise(1, level=0.1), noise(1, seed=1, level=0.1)
    silent = np.zeros_like(one)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for pair in ([one, other], [one, one], [one, -0.9 * one], [silent, silent], [silent, one]):
            path = write(tmp_path / "a.wav", [(0, np.stack(pair))], layout="stereo")
            expected = (pair[0] + pair[1]) / 2
            np.testing.assert_allclose(audio.load(path), expected, atol=1e-4)
            np.testing.assert_allclose(as_samples(np.stack(pair)), expected, atol=1e-6)


def two_tracks(path):
    """Write a low tone as the first track and a high one as the second, which is the default."""
    with av.open(str(path), "w") as container:
        for hz in (440, 3000):
            track = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
            if hz == 3000:
                track.disposition = av.stream.Disposition.default
        for track, hz in zip(container.streams.audio, (440, 3000), strict=True):
            data = (tone(hz, 1)[None] * 32767).astype("<i2")
            frame = av.AudioFrame.from_ndarray(data, format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


def loudest(samples):
    return np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples)


def test_an_audio_track_is_chosen_by_its_number(tmp_path):
    path = two_tracks(tmp_path / "a.mkv")
    assert loudest(audio.load(path, 1)) == pytest.approx(440, abs=2)
    assert loudest(audio.load(path, 2)) == pytest.approx(3000, abs=2)
    best = av.open(str(path)).streams.best("audio").index
    np.testing.assert_array_equal(audio.load(path), audio.load(path, best + 1))


def test_an_absent_audio_track_is_one_line(tmp_path):
    path = two_tracks(tmp_path / "a.mkv")
    with pytest.raises(TyndaError, match=r"a\.mkv has 2 audio tracks: there is no track 3$"):
        audio.load(path, 3)
    plain = write(tmp_path / "a.wav", [(0, tone(440, 1))])
    np.testing.assert_array_equal(audio.load(plain, 1), audio.load(plain))
    with pytest.raises(TyndaError, match="has one audio track: there is no track 2"):
        audio.load(plain, 2)
    for number in (0, -1, 1.5, "1"):
        with pytest.raises(TyndaError, match="audio track must be a whole number"):
            audio.load(plain, number)


def test_tracks_from_python_and_the_command_line(tmp_path, tiny, tiny_file):
    path = two_tracks(tmp_path / "a.mkv")
    texts = [tiny.transcribe(path, audio_track=n).text for n in (1, 2)]
    assert texts[0] != texts[1]
    assert [s.text for s in tiny.segments(path, audio_track=2)] == [texts[1]]
    command = ["transcribe", "--model", str(tiny_file), str(path), "--audio-track"]
    for number, text in enumerate(texts, 1):
        for more in ([], ["--format", "tsv"]):
            assert text in CliRunner().invoke(main, [*command, str(number), *more]).stdout
    result = CliRunner().invoke(main, [*command, "3"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"error: {path} has 2 audio tracks: there is no track 3\n"
    with pytest.raises(TyndaError, match="samples have no tracks"):
        tiny.transcribe(tone(440, 1), audio_track=1)
