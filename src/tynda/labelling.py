"""Texts for recordings that have none, by a model that teaches others (self-training).

A teacher writes the text of each recording; what is doubtful is dropped, as in noisy student
training (Park et al. 2020, "Improved Noisy Student Training for Automatic Speech Recognition").
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from numpy.typing import NDArray

from tynda import manifest
from tynda.errors import TyndaError
from tynda.manifest import Utterance
from tynda.model import Model
from tynda.score import errors
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from tynda.text.repetition import is_repetitive
from tynda.transcript import Transcript

__all__ = ["SUFFIXES", "LabelSettings", "Labeller", "Sheet", "recordings"]

Floats = NDArray[np.float32]

SUFFIXES: Final = frozenset(
    f".{name}"
    for name in (
        *("wav", "flac", "mp3", "ogg", "oga", "opus", "m4a", "aac", "wma", "webm"),
        *("mp4", "mkv", "aiff", "aif", "au", "amr"),
    )
)
"""The endings of file names that are recordings in a folder."""
_VERSION = 1


@dataclass(frozen=True)
class LabelSettings:
    """The conditions that a recording and its text must meet."""

    min_confidence: float = 0.5
    max_disagreement: float = 0.4
    """The maximum character errors of the texts of two models, for each character."""
    min_seconds: float = 0.5
    max_seconds: float = 20.0
    min_words: int = 1
    max_rate: float = 25.0
    """The maximum number of characters in a second: nobody speaks faster."""


def recordings(source: Path) -> Iterator[Utterance]:
    """Yield the recordings of a folder, in alphabetical order, or of a manifest.

    Those of a folder have its name as their source. Raises `TyndaError` where neither can be read.
    """
    if not source.is_dir():
        yield from manifest.stream(source, texts=False)
        return

    def refuse(error: OSError) -> None:
        raise TyndaError(f"{error.filename}: cannot read the folder ({error.strerror})") from None

    for folder, folders, names in os.walk(source, onerror=refuse):
        folders.sort()
        for name in sorted(names):
            if os.path.splitext(name)[1].lower() in SUFFIXES:
                path = Path(folder, name)
                yield Utterance(path, "", None, None, None, source.resolve().name or "folder")


class Labeller:
    """Labels recordings by a teacher, and a second model that has to agree with it."""

    def __init__(
        self,
        teacher: Model,
        second: Model | None,
        settings: LabelSettings,
        language: str | None = None,
    ) -> None:
        """``language`` is that of all recordings; by default that which the manifest states, or the
        model finds."""
        self._teacher, self._second, self._settings = teacher, second, settings
        self._language = language

    def label(self, utterance: Utterance) -> tuple[str | None, dict[str, Any]]:
        """Return why a recording is dropped, or None, and what is known of it."""
        settings = self._settings
        try:
            samples = audio.load(utterance.audio)
        except TyndaError as error:
            return "unreadable", {"why": str(error)}
        seconds = len(samples) / SAMPLE_RATE
        about: dict[str, Any] = {"duration": round(seconds, 3)}
        if seconds < settings.min_seconds:
            return "too short", about
        if seconds > settings.max_seconds:
            return "too long", about
        found = self._transcribe(self._teacher, samples, utterance)
        language = found.language or utterance.language
        about |= {"text": found.text, "confidence": round(_confidence(found), 4)}
        about |= {"language": language} if language else {}
        words = self._teacher.normalize(found.text).split()
        if len(words) < settings.min_words:
            return "no text" if not words else "too few words", about
        if about["confidence"] < settings.min_confidence:
            return "low confidence", about
        if is_repetitive(words):
            return "repetition", about
        if len(" ".join(words)) > settings.max_rate * seconds:
            return "too many characters in a second", about
        if self._second is not None:
            other = self._transcribe(self._second, samples, utterance)
            about["disagreement"] = round(self._disagreement(found.text, other.text), 4)
            if about["disagreement"] > settings.max_disagreement:
                return "models disagree", about
        return None, about

    def _transcribe(self, model: Model, samples: Floats, utterance: Utterance) -> Transcript:
        known = model.header.languages
        stated = self._language or utterance.language
        language = stated if stated in known and len(known) > 1 else None
        return model.transcribe(samples, model.options(language=language))

    def _disagreement(self, a: str, b: str) -> float:
        first, second = (" ".join(self._teacher.normalize(text).split()) for text in (a, b))
        return errors(first, second).total / max(len(first), len(second), 1)


def _confidence(found: Transcript) -> float:
    """Return the mean confidence of the segments, weighted by their characters."""
    rated = [(s.confidence, len(s.text)) for s in found.segments if s.confidence is not None]
    total = sum(length for _, length in rated)
    return sum(c * length for c, length in rated) / total if total else 0.0


class Sheet:
    """A manifest of labelled recordings that grows, and its journal of all recordings.

    The journal, ``OUTPUT.journal.jsonl``, has a line for each recording that was labelled or
    dropped; recordings that are in it are not labelled again. The manifest has what was kept.
    """

    def __init__(self, output: Path, identity: dict[str, Any]) -> None:
        """Open the files, or go on with those of a run with the same ``identity``: its models and
        settings.

        Raises `TyndaError` where the files were made in another way, or cannot be written.
        """
        self.counts: Counter[str] = Counter()
        self.kept, self.seconds = 0, 0.0
        self._output, self._done = output, set[str]()
        self._journal_path = output.with_name(f"{output.name}.journal.jsonl")
        identity = {"version": _VERSION, **identity}
        if not self._journal_path.exists() and output.exists():
            raise TyndaError(f"{output} is there already and has no journal: choose another name")
        try:
            self._journal = self._journal_path.open("ab+")
            earlier = self._read_journal(identity)
            self._manifest = output.open("wb")
            for entry in earlier:
                self._manifest.write(manifest.line(entry))
            self._manifest.flush()
        except OSError as error:
            raise TyndaError(
                f"{error.filename or output}: cannot write the manifest ({error.strerror})"
            ) from None

    def _read_journal(self, identity: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Count what the journal has, and return the entries that were kept."""
        file = self._journal
        file.seek(0)
        first = file.readline()
        if not first.endswith(b"\n"):
            file.truncate(0)
            file.write(manifest.line(identity))
            file.flush()
            return iter(())
        if _parsed(first) != identity:
            raise TyndaError(
                f"{self._journal_path} was made with other models or settings: give the same, or "
                "another --output"
            )
        return self._entries(file)

    def _entries(self, file: BinaryIO) -> Iterator[dict[str, Any]]:
        while line := file.readline():
            if not line.endswith(b"\n"):  # The run was killed while it wrote.
                file.truncate(file.tell() - len(line))
                return
            record = _parsed(line)
            if isinstance(record, dict) and isinstance(record.get("file"), str):
                self._count(record)
                if record.get("dropped") is None and isinstance(record.get("entry"), dict):
                    yield record["entry"]

    def _count(self, record: dict[str, Any]) -> None:
        self._done.add(record["file"])
        if (reason := record.get("dropped")) is not None:
            self.counts[str(reason)] += 1
        else:
            self.kept += 1
            self.seconds += record["entry"].get("duration", 0.0)

    def __contains__(self, utterance: Utterance) -> bool:
        return os.path.abspath(utterance.audio) in self._done

    def add(self, utterance: Utterance, dropped: str | None, about: dict[str, Any]) -> None:
        """Write one recording to the journal, and to the manifest unless it is ``dropped``."""
        known = {"speaker": utterance.speaker, "language": utterance.language}
        entry = {
            "audio_filepath": manifest.name_in(self._output.parent, utterance.audio),
            "source": utterance.source,
            **{name: value for name, value in known.items() if value is not None},
            **about,
        }
        record = {"file": os.path.abspath(utterance.audio), "dropped": dropped, "entry": entry}
        try:
            self._journal.write(manifest.line(record))
            self._journal.flush()
            if dropped is None:
                self._manifest.write(manifest.line(entry))
                self._manifest.flush()
        except OSError as error:
            raise TyndaError(
                f"{self._output}: cannot write the manifest ({error.strerror}): free disk space"
            ) from None
        self._count(record)

    def close(self) -> None:
        """Close the files."""
        self._manifest.close()
        self._journal.close()


def identity(teacher: Model, second: Model | None, settings: LabelSettings) -> dict[str, Any]:
    """Return what labels depend on: the models and the settings."""
    names = [None if m is None else [m.header.name, m.bytes] for m in (teacher, second)]
    return {"models": names, "settings": asdict(settings)}


def run(
    labeller: Labeller,
    sheet: Sheet,
    utterances: Iterable[Utterance],
    on_progress: Callable[[int], None],
) -> int:
    """Label recordings that the sheet does not have; return how many there are."""
    seen = 0
    for utterance in utterances:
        seen += 1
        if utterance not in sheet:
            sheet.add(utterance, *labeller.label(utterance))
        on_progress(seen)
    return seen


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
