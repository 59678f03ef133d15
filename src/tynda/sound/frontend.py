"""Waveform to features: what a model hears.

A front end is a small frozen dataclass that is called with samples at 16 kHz, float32
`[n]`, and gives features, float32 `[frames, bins]`. Its fields are its configuration; they
travel in the header of the model file, so that training and recognition hear the same.

What costs time is in `tynda.sound.spectra`; the rest is NumPy, in float32.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.sound.spectra import Spectra, is_smooth

__all__ = ["FrontEnd", "LogMel", "Raw", "Spectrogram", "from_config", "mel_filters"]

Floats = NDArray[np.float32]

SAMPLE_RATE = 16_000
# A model file may come from anywhere: no field of it may ask for gigabytes.
_LARGEST_FFT = 16_384
# Numbers that are held in double precision at a time.
_AT_ONCE = 1 << 15


@dataclass(frozen=True)
class FrontEnd(ABC):
    """Samples float32 `[n]` at 16 kHz to features float32 `[frames, bins]`; `n` may be 0."""

    kind: ClassVar[str]
    sample_rate: ClassVar[int] = SAMPLE_RATE

    @property
    @abstractmethod
    def bins(self) -> int:
        """Features in one frame."""

    @property
    @abstractmethod
    def hop(self) -> int:
        """Samples from the start of one frame to the start of the next."""

    @property
    def config(self) -> dict[str, Any]:
        """The fields and the kind, ready for JSON; `from_config` takes it back."""
        return {"kind": self.kind} | {f.name: getattr(self, f.name) for f in fields(self)}

    @abstractmethod
    def frames(self, samples: int) -> int:
        """Frames of so many samples."""

    def exported(self) -> tuple[dict[str, int | str], dict[str, Floats]]:
        """Numbers and tables by which native code makes the same features without Python.

        ``docs/native.md`` has their names. Raises `TyndaError` where native code does not know
        this front end, as it knows none unless the kind says so.
        """
        raise TyndaError(f"front end: native code has no {self.kind}, so it cannot be exported")

    def __call__(self, samples: Floats) -> Floats:
        """Features float32 `[frames, bins]` of samples float32 `[n]` (`[0, bins]` of none).

        Raises ValueError when `samples` has more than one axis.
        """
        samples = np.asarray(samples, dtype=np.float32)
        if samples.ndim != 1:
            raise ValueError(f"samples must be one channel, shape [n], not {samples.shape}")
        return self._features(samples)

    @abstractmethod
    def _features(self, samples: Floats) -> Floats: ...


@dataclass(frozen=True)
class Spectrogram(FrontEnd):
    """The square root of the magnitude spectrum, each frame standardised over its bins.

    The front end of N2 (Lavrenov 2024), as in the CTC speech recognition example of Keras:
    `tf.signal.stft` (periodic Hann window, no centring, zeros up to the FFT length),
    magnitude ** 0.5, then (x - mean) / (std + 1e-10) in each frame.

    `window`, `hop` and `fft` are in samples. There are `fft // 2 + 1` bins and
    `1 + (n - window) // hop` frames, none when `n < window`.
    """

    kind: ClassVar[str] = "spectrogram"

    window: int = 256
    hop: int = 160
    fft: int = 384

    def __post_init__(self) -> None:
        _check_framing(self.window, self.hop, self.fft)

    @property
    def bins(self) -> int:
        """Features in one frame."""
        return self.fft // 2 + 1

    def frames(self, samples: int) -> int:
        """Frames of so many samples."""
        return max(0, 1 + (samples - self.window) // self.hop)

    def exported(self) -> tuple[dict[str, int | str], dict[str, Floats]]:
        """See `FrontEnd.exported`."""
        _check_fft(self.fft)
        return _sizes(self) | {"normalize": "none"}, {"curve": _hann(self.window)}

    def _features(self, samples: Floats) -> Floats:
        frames = self.frames(len(samples))
        return _standard_spectra(self.window, self.fft)(samples, self.hop, frames)


@dataclass(frozen=True)
class LogMel(FrontEnd):
    """Log energies of Slaney's mel filters, normalised over the utterance.

    Power spectrum of centred frames (reflected edges, periodic Hann window, as
    `torch.stft`), triangular filters on Slaney's mel scale scaled to equal area (as
    `librosa.filters.mel`), floor 1e-10, logarithm. There are `n // hop` frames: the last
    centred frame is left out, as in Whisper (Radford et al. 2022).

    `window`, `hop` and `fft` are in samples, `fmin` and `fmax` in Hz. `normalize`:
    - `"utterance"`: natural logarithm; each bin gets zero mean and unit variance over the
      frames, (x - mean) / (std + 1e-5).
    - `"whisper"`: log10, no less than the greatest value - 8, then (x + 4) / 4. With
      `fft=400` this is Whisper's own front end without its padding to 30 s.
    """

    kind: ClassVar[str] = "log_mel"

    window: int = 400
    hop: int = 160
    fft: int = 512
    bins: int = 80
    fmin: float = 0.0
    fmax: float = 8000.0
    normalize: str = "utterance"

    def __post_init__(self) -> None:
        _check_framing(self.window, self.hop, self.fft)
        _check_integer("bins", self.bins, 1, self.fft // 2 + 1)
        for name in ("fmin", "fmax"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TyndaError(f"front end: {name} must be a frequency in Hz, not {value!r}")
        if not 0 <= self.fmin < self.fmax <= SAMPLE_RATE / 2:
            raise TyndaError(
                "front end: the frequencies must keep 0 <= fmin < fmax <= 8000 Hz, "
                f"not fmin {self.fmin}, fmax {self.fmax}"
            )
        if self.normalize not in ("utterance", "whisper"):
            raise TyndaError(
                f"front end: normalize must be 'utterance' or 'whisper', not {self.normalize!r}"
            )

    def frames(self, samples: int) -> int:
        """Frames of so many samples."""
        return samples // self.hop

    def exported(self) -> tuple[dict[str, int | str], dict[str, Floats]]:
        """See `FrontEnd.exported`."""
        _check_fft(self.fft)
        filters = mel_filters(self.bins, self.fft, self.fmin, self.fmax)
        tables = {"curve": _hann(self.window), "filters": filters}
        return _sizes(self) | {"normalize": self.normalize}, tables

    def _features(self, samples: Floats) -> Floats:
        frames = self.frames(len(samples))
        edge = self.fft // 2
        if len(samples) <= edge:  # a reflection needs one sample more than it mirrors
            samples = np.pad(samples, (0, edge + 1 - len(samples)))
        samples = np.pad(samples, edge, mode="reflect")
        # A short window sits in the middle of the FFT; the power does not depend on where.
        samples = samples[(self.fft - self.window) // 2 :]
        log = "log" if self.normalize == "utterance" else "log10"
        mel = (self.bins, self.fft, self.fmin, self.fmax)
        features = _mel_spectra(self.window, log, *mel)(samples, self.hop, frames)
        if frames == 0:
            return features
        if self.normalize == "whisper":
            np.maximum(features, features.max() - 8, out=features)
            features += 4
            features /= 4
            return features
        # In double precision, or the rounding of the mean of a constant bin (digital
        # silence) would be blown up by its tiny deviation.
        mean, variance = _moments(features)
        return _standardised(features, mean, np.sqrt(variance) + 1e-5)


@dataclass(frozen=True)
class Raw(FrontEnd):
    """The waveform itself, as wav2vec 2.0 (Baevski et al. 2020) takes it.

    (x - mean) / sqrt(variance + 1e-7) over the utterance, or as it is without `normalize`: one
    bin, a frame for each sample.
    """

    kind: ClassVar[str] = "raw"

    normalize: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.normalize, bool):
            raise TyndaError(f"front end: normalize must be true or false, not {self.normalize!r}")

    @property
    def bins(self) -> int:
        """Features in one frame."""
        return 1

    @property
    def hop(self) -> int:
        """Samples from the start of one frame to the start of the next."""
        return 1

    def frames(self, samples: int) -> int:
        """Frames of so many samples."""
        return samples

    def exported(self) -> tuple[dict[str, int | str], dict[str, Floats]]:
        """See `FrontEnd.exported`."""
        normalize = "utterance" if self.normalize else "none"
        return {"hop": self.hop, "bins": self.bins, "normalize": normalize}, {}

    def _features(self, samples: Floats) -> Floats:
        if len(samples) == 0 or not self.normalize:
            return samples[:, None]
        mean, variance = _moments(samples[:, None])
        return _standardised(samples[:, None], mean, np.sqrt(variance + 1e-7))


_KINDS: dict[str, type[FrontEnd]] = {kind.kind: kind for kind in (LogMel, Spectrogram, Raw)}


def from_config(config: Mapping[str, Any]) -> FrontEnd:
    """The front end that `config` describes: its `"kind"` and any fields that differ.

    Kinds are `"log_mel"`, `"spectrogram"` and `"raw"`. Raises TyndaError for an unknown
    kind, an unknown field, or a value out of its range.
    """
    settings = dict(config)
    name = settings.pop("kind", None)
    front_end = _KINDS.get(name) if isinstance(name, str) else None
    if front_end is None:
        raise TyndaError(f"front end: no kind {name!r}; choose one of {', '.join(_KINDS)}")
    known = [f.name for f in fields(front_end)]
    unknown = [str(field) for field in settings if field not in known]
    if unknown:
        raise TyndaError(
            f"front end: {name} has no field {', '.join(unknown)}; "
            f"it has {', '.join(known) or 'none'}"
        )
    return front_end(**settings)


@lru_cache
def _standard_spectra(window: int, fft: int) -> Spectra:
    return Spectra(_hann(window), fft, ending="standard")


@lru_cache
def _mel_spectra(window: int, log: str, bins: int, fft: int, fmin: float, fmax: float) -> Spectra:
    return Spectra(_hann(window), fft, mel_filters(bins, fft, fmin, fmax), log)


def _moments(x: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of each column of `x` `[n, bins]`, n > 0, in double precision."""
    mean: NDArray[np.float64] = x.mean(axis=0, dtype=np.float64)
    squares = [np.square(part - mean).sum(axis=0) for part in _parts(x)]
    return mean, np.sum(squares, axis=0) / len(x)


def _standardised(x: Floats, mean: NDArray[np.float64], scale: NDArray[np.float64]) -> Floats:
    """(x - mean) / scale in double precision, as float32."""
    result = np.empty_like(x)
    for part, to in zip(_parts(x), _parts(result), strict=True):
        to[:] = (part - mean) / scale
    return result


def _parts(x: Floats) -> list[Floats]:
    """Some rows each, so that doubles of them all never take memory at once."""
    rows = max(1, _AT_ONCE // x.shape[1])
    return [x[start : start + rows] for start in range(0, len(x), rows)]


def _hann(length: int) -> Floats:
    """Periodic Hann window `[length]`."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    return window.astype(np.float32)


def mel_filters(bins: int, fft: int, fmin: float, fmax: float) -> Floats:
    """Slaney's triangular filters `[fft // 2 + 1, bins]`, each of area 1 over Hz.

    Slaney, Auditory Toolbox, Technical Report 1998-010: linear to 1 kHz (200/3 Hz for a
    mel), then 27 steps for a factor of 6.4.
    """
    knee, step = 15.0, np.log(6.4) / 27

    def mel(hz: float) -> float:
        return float(3 * hz / 200 if hz < 1000 else knee + np.log(hz / 1000) / step)

    mels = np.linspace(mel(fmin), mel(fmax), bins + 2)
    corners = np.where(mels < knee, 200 * mels / 3, 1000 * np.exp(step * (mels - knee)))
    lower, centre, upper = corners[:-2], corners[1:-1], corners[2:]
    hz = np.linspace(0, SAMPLE_RATE / 2, fft // 2 + 1)[:, None]
    rising = (hz - lower) / (centre - lower)
    falling = (upper - hz) / (upper - centre)
    triangles = np.maximum(0, np.minimum(rising, falling))
    filters: Floats = (triangles * (2 / (upper - lower))).astype(np.float32)
    return filters


def _sizes(front: LogMel | Spectrogram) -> dict[str, int | str]:
    return {name: getattr(front, name) for name in ("hop", "bins", "fft", "window")}


def _check_fft(fft: int) -> None:
    if not is_smooth(fft):
        raise TyndaError(
            f"front end: native code has no transform of {fft} samples, which has factors other "
            "than 2, 3 and 5, so it cannot be exported"
        )


def _check_integer(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise TyndaError(
            f"front end: {name} must be a whole number from {least} to {most}, not {value!r}"
        )


def _check_framing(window: int, hop: int, fft: int) -> None:
    _check_integer("fft", fft, 2, _LARGEST_FFT)
    _check_integer("window", window, 1, fft)
    _check_integer("hop", hop, 1, _LARGEST_FFT)
