"""Waveform to features, the input of a model.

A front end is a small frozen dataclass that is called with samples at 16 kHz, float32
`[n]`, and returns features, float32 `[frames, bins]`. Its fields are its configuration; the
header of the model file stores them, so that training and inference use the same features.

The expensive part is in `tynda.sound.spectra`; the rest is NumPy, in float32.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np

from tynda.errors import TyndaError
from tynda.sound.base import SAMPLE_RATE, Floats, FrontEnd
from tynda.sound.bounds import (
    LARGEST_FFT,
    check_fft,
    check_framing,
    check_integer,
    check_mel,
    check_numbers,
    check_rate,
)
from tynda.sound.features import FeatureStream, LogMelStream, WholeStream
from tynda.sound.kaldi import KaldiFbank
from tynda.sound.mel import (
    hann,
    mel_filters,
    mel_powers,
    mel_spectra,
    standard_spectra,
)
from tynda.sound.moments import moments, standardised

__all__ = [
    "SAMPLE_RATE",
    "Frames",
    "FrontEnd",
    "KaldiFbank",
    "LogMel",
    "NemoLogMel",
    "Raw",
    "Spectrogram",
    "from_config",
]


@dataclass(frozen=True)
class Spectrogram(FrontEnd):
    """The square root of the magnitude spectrum, each frame standardised over its bins.

    This is the front end of N2 (Lavrenov 2024) and of the CTC speech recognition example of Keras:
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
        check_framing(self.window, self.hop, self.fft)
        check_rate(self.bins, self.hop)

    @property
    def bins(self) -> int:
        """The number of features in one frame."""
        return self.fft // 2 + 1

    def frames(self, samples: int) -> int:
        """The number of frames for a number of samples."""
        return max(0, 1 + (samples - self.window) // self.hop)

    def exported(self) -> tuple[dict[str, int | str], dict[str, Floats]]:
        """See `FrontEnd.exported`."""
        check_fft(self.fft)
        return _sizes(self) | {"normalize": "none"}, {"curve": hann(self.window)}

    def _features(self, samples: Floats) -> Floats:
        frames = self.frames(len(samples))
        return standard_spectra(self.window, self.fft)(samples, self.hop, frames)


@dataclass(frozen=True)
class LogMel(FrontEnd):
    """Log energies of Slaney's mel filters, normalised.

    The steps are: power spectrum of centred frames (reflected edges, periodic Hann window, as
    `torch.stft`), triangular filters on Slaney's mel scale scaled to equal area (as
    `librosa.filters.mel`), floor 1e-10, logarithm. There are `n // hop` frames: the last
    centred frame is left out, as in Whisper (Radford et al. 2022).

    `window`, `hop` and `fft` are in samples, `fmin` and `fmax` in Hz. `normalize`:
    - `"utterance"`: natural logarithm; each bin gets zero mean and unit variance over the
      frames, (x - mean) / (std + 1e-5).
    - `"whisper"`: log10, clipped from below at the maximum - 8, then (x + 4) / 4. With
      `fft=400` this is Whisper's own front end without its padding to 30 s.
    - `"fixed"`: natural logarithm; (x - `mean`) / `deviation`, with a number for each bin, so that
      a frame does not depend on audio that comes later. Without numbers the logarithm is unchanged;
      `fitted` finds them.
    """

    kind: ClassVar[str] = "log_mel"

    window: int = 400
    hop: int = 160
    fft: int = 512
    bins: int = 80
    fmin: float = 0.0
    fmax: float = 8000.0
    normalize: str = "utterance"
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_framing(self.window, self.hop, self.fft)
        check_mel(self.bins, self.hop, self.fft)
        for name in ("mean", "deviation"):
            # A header and a recipe have lists, which cannot be hashed.
            values = check_numbers(name, getattr(self, name), self.bins)
            object.__setattr__(self, name, values)
        if len(self.mean) != len(self.deviation) or min(self.deviation, default=1) <= 0:
            raise TyndaError("front end: mean and deviation need numbers for the same bins")
        if self.mean and self.normalize != "fixed":
            raise TyndaError("front end: mean and deviation are for normalize 'fixed' only")
        for name in ("fmin", "fmax"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TyndaError(f"front end: {name} must be a frequency in Hz, not {value!r}")
        if not 0 <= self.fmin < self.fmax <= SAMPLE_RATE / 2:
            raise TyndaError(
                "front end: the frequencies must satisfy 0 <= fmin < fmax <= 8000 Hz, "
                f"not fmin {self.fmin}, fmax {self.fmax}"
            )
        if self.normalize not in ("utterance", "whisper", "fixed"):
            raise TyndaError(
                "front end: normalize must be 'utterance', 'whisper' or 'fixed', "
                f"not {self.normalize!r}"
            )

    @property
    def config(self) -> dict[str, Any]:
        """See `FrontEnd.config`; numbers that there are not are left out."""
        return {k: v for k, v in super().config.items() if v != ()}

    def frames(self, samples: int) -> int:
        """The number of frames for a number of samples."""
        return samples // self.hop

    def exported(self) -> tuple[dict[str, int | str], dict[str, Floats]]:
        """See `FrontEnd.exported`."""
        check_fft(self.fft)
        if self.normalize == "fixed":
            raise TyndaError(
                "front end: native code has no normalize 'fixed', so it cannot be exported"
            )
        filters = mel_filters(self.bins, self.fft, self.fmin, self.fmax)
        tables = {"curve": hann(self.window), "filters": filters}
        return _sizes(self) | {"normalize": self.normalize}, tables

    def _features(self, samples: Floats) -> Floats:
        features = self.log_energies(self.with_edges(samples), self.frames(len(samples)))
        if len(features) == 0:
            return features
        if self.normalize != "utterance":
            return self.scaled(features, features.max())
        # Double precision is needed: the rounding error in the mean of a constant bin (digital
        # silence) would be amplified by the division by its tiny deviation.
        mean, variance = moments(features)
        return standardised(features, mean, np.sqrt(variance) + 1e-5)

    def stream(self) -> FeatureStream:
        """See `FrontEnd.stream`: only statistics of the utterance need all of it."""
        return WholeStream(self) if self.normalize == "utterance" else LogMelStream(self)

    def fitted(self, recordings: Iterable[Floats]) -> "LogMel":
        """See `FrontEnd.fitted`: mean and deviation of each bin over all frames."""
        if self.normalize != "fixed" or self.mean:
            return self
        count, total, squares = 0, np.zeros(self.bins), np.zeros(self.bins)
        for samples in recordings:
            energies = self(samples).astype(np.float64)
            count += len(energies)
            total += energies.sum(0)
            squares += np.square(energies).sum(0)
        if not count:
            return self
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - np.square(mean), 0)) + 1e-3
        # Four digits are enough, and readable in a model's header.
        return replace(self, mean=tuple(mean.round(4)), deviation=tuple(deviation.round(4)))

    def with_edges(self, samples: Floats) -> Floats:
        """Return ``samples [n]`` with a reflection of ``fft // 2`` samples at both ends."""
        edge = self.fft // 2
        if len(samples) <= edge:  # a reflection needs one sample more than it adds
            samples = np.pad(samples, (0, edge + 1 - len(samples)))
        return np.pad(samples, edge, mode="reflect")

    def log_energies(self, samples: Floats, frames: int) -> Floats:
        """Return the logarithms ``[frames, bins]`` of the first frames' energies.

        The first frame is centred at sample ``fft // 2``.
        """
        # A window shorter than the FFT is centred in it; the power does not depend on where it is.
        samples = samples[(self.fft - self.window) // 2 :]
        log = "log10" if self.normalize == "whisper" else "log"
        mel = (self.bins, self.fft, self.fmin, self.fmax)
        return mel_spectra(self.window, log, *mel)(samples, self.hop, frames)

    def scaled(self, energies: Floats, loudest: np.float32) -> Floats:
        """Turn log energies ``[frames, bins]`` into features, in place; return them.

        ``loudest`` is the maximum of the recording, for Whisper's features.
        """
        if self.normalize == "fixed":
            if self.mean:
                energies -= np.array(self.mean, np.float32)
                energies /= np.array(self.deviation, np.float32)
            return energies
        np.maximum(energies, loudest - 8, out=energies)
        energies += 4
        energies /= 4
        return energies


@dataclass(frozen=True)
class NemoLogMel(FrontEnd):
    """Log energies of mel filters as NVIDIA's NeMo computes them for Parakeet.

    Pre-emphasis, x[t] - preemphasis x[t - 1]; power spectrum of centred frames (zeros beyond the
    edges, symmetric Hann window in the middle of the FFT, as `torch.stft`); Slaney's filters as in
    `LogMel`; log(energy + 2^-24); each bin is brought to zero mean and unit (unbiased) variance
    over the frames, (x - mean) / (std + 1e-5). There are `n // hop` frames. A single frame is all
    zeros.

    `window`, `hop` and `fft` are in samples.
    """

    kind: ClassVar[str] = "nemo_log_mel"

    window: int = 400
    hop: int = 160
    fft: int = 512
    bins: int = 80
    preemphasis: float = 0.97

    def __post_init__(self) -> None:
        check_framing(self.window, self.hop, self.fft)
        check_mel(self.bins, self.hop, self.fft)
        factor = self.preemphasis
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor < 1:
            raise TyndaError(f"front end: preemphasis must be from 0 to below 1, not {factor!r}")

    def frames(self, samples: int) -> int:
        """Frames of so many samples."""
        return samples // self.hop

    def _features(self, samples: Floats) -> Floats:
        frames = self.frames(len(samples))
        # The window begins as far inside the FFT's frame as its centre demands.
        before = self.fft // 2 - (self.fft - self.window) // 2
        padded = np.pad(samples, (before, self.fft))
        padded[before + 1 : before + len(samples)] -= np.float32(self.preemphasis) * samples[:-1]
        features = mel_powers(self.window, self.bins, self.fft)(padded, self.hop, frames)
        if frames == 0:
            return features
        features += np.float32(2**-24)
        np.log(features, out=features)
        mean, variance = moments(features)
        deviation = np.sqrt(variance * (frames / max(1, frames - 1)))
        return standardised(features, mean, deviation + 1e-5)


@dataclass(frozen=True)
class Raw(FrontEnd):
    """The waveform itself, the input of wav2vec 2.0 (Baevski et al. 2020).

    The values are (x - mean) / sqrt(variance + 1e-7) over the utterance, or unchanged without
    `normalize`. There is one bin, and a frame for each sample.
    """

    kind: ClassVar[str] = "raw"

    normalize: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.normalize, bool):
            raise TyndaError(f"front end: normalize must be true or false, not {self.normalize!r}")

    @property
    def bins(self) -> int:
        """The number of features in one frame."""
        return 1

    @property
    def hop(self) -> int:
        """The number of samples from the start of one frame to the start of the next."""
        return 1

    def frames(self, samples: int) -> int:
        """The number of frames for a number of samples."""
        return samples

    def exported(self) -> tuple[dict[str, int | str], dict[str, Floats]]:
        """See `FrontEnd.exported`."""
        normalize = "utterance" if self.normalize else "none"
        return {"hop": self.hop, "bins": self.bins, "normalize": normalize}, {}

    def _features(self, samples: Floats) -> Floats:
        if len(samples) == 0 or not self.normalize:
            return samples[:, None]
        mean, variance = moments(samples[:, None])
        return standardised(samples[:, None], mean, np.sqrt(variance + 1e-7))


@dataclass(frozen=True)
class Frames(FrontEnd):
    """The waveform in frames of ``size`` samples, side by side, as Moonshine v2 takes it.

    A last frame that is not full is there, and silent.
    """

    kind: ClassVar[str] = "frames"

    size: int = 80

    def __post_init__(self) -> None:
        check_integer("size", self.size, 1, LARGEST_FFT)

    @property
    def bins(self) -> int:
        """Features in one frame."""
        return self.size

    @property
    def hop(self) -> int:
        """Samples from the start of one frame to the start of the next."""
        return self.size

    def frames(self, samples: int) -> int:
        """Frames of so many samples."""
        return -(-samples // self.size)

    def _features(self, samples: Floats) -> Floats:
        features = np.zeros((self.frames(len(samples)), self.size), np.float32)
        full = len(samples) // self.size
        features[:full] = samples[: full * self.size].reshape(full, self.size)
        return features


_KINDS: dict[str, type[FrontEnd]] = {
    kind.kind: kind for kind in (LogMel, NemoLogMel, KaldiFbank, Spectrogram, Raw, Frames)
}


def from_config(config: Mapping[str, Any]) -> FrontEnd:
    """Return the front end that `config` describes: its `"kind"`, and fields unlike the defaults.

    Kinds are `"log_mel"`, `"nemo_log_mel"`, `"kaldi_fbank"`, `"spectrogram"`, `"raw"` and
    `"frames"`. Raises TyndaError for an unknown kind, an unknown field, or a value out of range.
    """
    settings = dict(config)
    name = settings.pop("kind", None)
    front_end = _KINDS.get(name) if isinstance(name, str) else None
    if front_end is None:
        raise TyndaError(f"front end: unknown kind {name!r}; choose one of {', '.join(_KINDS)}")
    known = [f.name for f in fields(front_end)]
    unknown = [str(field) for field in settings if field not in known]
    if unknown:
        raise TyndaError(
            f"front end: {name} has no field {', '.join(unknown)}; "
            f"it has {', '.join(known) or 'none'}"
        )
    return front_end(**settings)


def _sizes(front: LogMel | Spectrogram) -> dict[str, int | str]:
    return {name: getattr(front, name) for name in ("hop", "bins", "fft", "window")}
