"""Evaluation of a model: error rates and speed on manifests."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda import manifest
from tynda.errors import TyndaError
from tynda.manifest import Utterance
from tynda.model import Model, load
from tynda.score import Scores, errors, score
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from tynda.text.normalize import NORMALIZERS, normalizer_of

__all__ = ["Report", "Result", "evaluate"]


_ROUNDED = 0.1
"""Seconds by which a stated duration may be shorter than the recording that it means."""


@dataclass(frozen=True)
class Result:
    """The result for one utterance, with normalised reference and hypothesis."""

    audio: Path
    source: str
    reference: str
    hypothesis: str
    seconds: float
    """Duration of the recording, or of the part of it that the manifest names."""
    processing: float
    """Seconds for front end, model and decoder, without reading the file."""


@dataclass
class Report:
    """The scores of one model over all manifests and for each source."""

    model: str
    bytes: int
    """Size of the model's file."""
    results: list[Result]
    failed: list[tuple[Path, str]] = field(default_factory=list)
    """Recordings that could not be read, with the reasons; they are not scored."""

    @property
    def overall(self) -> Scores:
        """The scores over all utterances."""
        return _score(self.results)

    @property
    def sources(self) -> dict[str, Scores]:
        """The scores by ``source`` of the manifests."""
        names = sorted({r.source for r in self.results})
        return {name: _score(r for r in self.results if r.source == name) for name in names}

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of processing for each second of audio, or None without audio."""
        if not self.audio_seconds:
            return None
        return sum(r.processing for r in self.results) / self.audio_seconds

    @property
    def audio_seconds(self) -> float:
        """The duration of all scored recordings in seconds."""
        return sum(r.seconds for r in self.results)

    def worst(self, count: int) -> list[Result]:
        """Return the utterances with most word errors, worst first."""
        wrong = [(errors(r.reference.split(), r.hypothesis.split()).total, r) for r in self.results]
        wrong.sort(key=lambda item: (-item[0], str(item[1].audio)))
        return [r for total, r in wrong[:count] if total]

    def to_dict(self, worst: int = 10, *, every: bool = False) -> dict[str, Any]:
        """Return JSON-able data; ``every`` adds all utterances in order under ``utterances``."""
        return {
            "model": self.model,
            "bytes": self.bytes,
            "overall": asdict(self.overall),
            "sources": {name: asdict(scores) for name, scores in self.sources.items()},
            "real_time_factor": self.real_time_factor,
            "audio_seconds": self.audio_seconds,
            "worst": [_row(r) for r in self.worst(worst)],
            "failed": [{"audio": str(path), "why": why} for path, why in self.failed],
        } | ({"utterances": [_row(r) for r in self.results]} if every else {})


def evaluate(
    model: Model | str | Path,
    manifests: str | Path | Iterable[str | Path],
    options: Any = None,
    *,
    normalizer: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Transcribe every utterance of the manifests, one by one, and score the texts.

    ``model`` may be a name or path, as for `load`. ``options`` are those of the model's decoder
    (``model.options()``). References and hypotheses are first normalised by ``normalizer``, one
    of `NORMALIZERS`; the default is ``letters`` (letters, apostrophe and space) for English and
    ``basic`` for all others. A model of several languages is given the language of each utterance
    that it knows, unless ``options`` have one. Lines of a manifest may name parts of recordings by
    ``offset`` and ``duration``. ``on_progress`` is called with the numbers of finished
    and of all utterances. Warns of references that are empty after normalisation: they may be in
    another language. Raises `TyndaError` for an unreadable manifest, an unknown normaliser, or
    when no recording could be read.
    """
    if not isinstance(model, Model):
        model = load(model)
    if normalizer is not None and normalizer not in NORMALIZERS:
        raise TyndaError(f"no normalizer {normalizer!r}: choose one of {', '.join(NORMALIZERS)}")
    if isinstance(manifests, str | Path):
        manifests = [manifests]
    utterances = [u for path in manifests for u in manifest.read(path, parts=True)]
    report = Report(model.header.name, model.bytes, [])
    options = model.options() if options is None else options
    model.prepare(options)  # the time to load a language model is not part of the speed
    wiped = 0
    for done, utterance in enumerate(utterances, 1):
        language = options.language or _language(model, utterance)
        normalize = _normalizer(model, normalizer, language)
        wiped += bool(utterance.text.strip()) and not normalize(utterance.text)
        try:
            decoding = replace(options, language=language)
            report.results.append(_transcribe(model, utterance, decoding, normalize))
        except TyndaError as error:
            report.failed.append((utterance.audio, str(error)))
        if on_progress:
            on_progress(done, len(utterances))
    if wiped:
        warnings.warn(
            f"{wiped} of {len(utterances)} references have no words that {report.model} could "
            "write, and count as silence: check their language",
            stacklevel=2,
        )
    if not report.results:
        why = report.failed[0][1] if report.failed else "there are none"
        raise TyndaError(f"none of the {len(utterances)} recordings could be read: {why}")
    return report


def _language(model: Model, utterance: Utterance) -> str | None:
    """Return the language that a manifest states, where the model knows it among others."""
    known = model.header.languages
    stated = (utterance.language or "").lower().replace("_", "-").split("-")[0]
    return stated if stated in known and len(known) > 1 else None


def _normalizer(model: Model, name: str | None, language: str | None) -> Callable[[str], str]:
    if name is not None:
        return NORMALIZERS[name]()
    return model.normalize if language is None else normalizer_of([language])


def _part(utterance: Utterance) -> NDArray[np.float32]:
    """Return the samples of an utterance: its recording, or the part that the manifest names."""
    samples = audio.load(utterance.audio)
    seconds = len(samples) / SAMPLE_RATE
    if utterance.offset > 0 and utterance.offset >= seconds:
        raise TyndaError(
            f"{utterance.audio} lasts {seconds:g} s, and the manifest's offset is "
            f"{utterance.offset:g} s: correct it"
        )
    end = utterance.offset + (utterance.duration or seconds)
    # Durations of whole recordings are often rounded, or those of the file before a conversion.
    last = len(samples) if end > seconds - _ROUNDED else round(end * SAMPLE_RATE)
    return samples[round(utterance.offset * SAMPLE_RATE) : last]


def _transcribe(
    model: Model, utterance: Utterance, options: Any, normalize: Callable[[str], str]
) -> Result:
    samples = _part(utterance)
    started = time.perf_counter()
    # `transcribe` splits long recordings: some utterances of manifests last for minutes.
    text = model.transcribe(samples, options).text
    processing = time.perf_counter() - started
    return Result(
        utterance.audio,
        utterance.source,
        normalize(utterance.text),
        normalize(text),
        len(samples) / SAMPLE_RATE,
        processing,
    )


def _row(result: Result) -> dict[str, Any]:
    return asdict(result) | {"audio": str(result.audio)}


def _score(results: Iterable[Result]) -> Scores:
    return score((r.reference, r.hypothesis) for r in results)
