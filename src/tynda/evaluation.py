"""Evaluation of a model: error rates and speed on manifests."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tynda import manifest
from tynda.errors import TyndaError
from tynda.manifest import Utterance
from tynda.model import Model, load
from tynda.score import Scores, errors, score
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from tynda.text.normalize import NORMALIZERS

__all__ = ["Report", "Result", "evaluate"]


@dataclass(frozen=True)
class Result:
    """The result for one utterance, with normalised reference and hypothesis."""

    audio: Path
    source: str
    reference: str
    hypothesis: str
    seconds: float
    """Duration of the recording."""
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
    of `NORMALIZERS`; the default is ``letters`` (letters, apostrophe and space) for an English
    model and ``basic`` for all others. ``on_progress`` is called with the numbers of finished
    and of all utterances. Warns of references that are empty after normalisation: they may be in
    another language. Raises `TyndaError` for an unreadable manifest, an unknown normaliser, or
    when no recording could be read.
    """
    if not isinstance(model, Model):
        model = load(model)
    normalize = _normalizer(model, normalizer)
    if isinstance(manifests, str | Path):
        manifests = [manifests]
    utterances: list[Utterance] = [u for path in manifests for u in manifest.read(path)]
    report = Report(model.header.name, model.bytes, [])
    model.prepare(options)  # the time to load a language model is not part of the speed
    for done, utterance in enumerate(utterances, 1):
        try:
            report.results.append(_transcribe(model, utterance, options, normalize))
        except TyndaError as error:
            report.failed.append((utterance.audio, str(error)))
        if on_progress:
            on_progress(done, len(utterances))
    spoken = {u.text for u in utterances if u.text.strip()}
    wiped = {text for text in spoken if not normalize(text)}
    if count := sum(u.text in wiped for u in utterances):
        warnings.warn(
            f"{count} of {len(utterances)} references have no words that {report.model} could "
            "write, and count as silence: check their language",
            stacklevel=2,
        )
    if not report.results:
        why = report.failed[0][1] if report.failed else "there are none"
        raise TyndaError(f"none of the {len(utterances)} recordings could be read: {why}")
    return report


def _normalizer(model: Model, name: str | None) -> Callable[[str], str]:
    if name is None:
        return model.normalize
    if name not in NORMALIZERS:
        raise TyndaError(f"no normalizer {name!r}: choose one of {', '.join(NORMALIZERS)}")
    return NORMALIZERS[name]()


def _transcribe(
    model: Model, utterance: Utterance, options: Any, normalize: Callable[[str], str]
) -> Result:
    samples = audio.load(utterance.audio)
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
