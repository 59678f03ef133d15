"""The people whom a key's user has enrolled, and those who come with a request."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

import tynda
from tynda.serve.errors import ServeError, invalid_value
from tynda.serve.store.people import PeopleStore
from tynda.sound.audio import SAMPLE_RATE
from tynda.speakers.diarize import Diarizer
from tynda.speakers.profiles import Profile, from_bytes, to_bytes
from tynda.speakers.voices import DEFAULT, Speakers

__all__ = ["StoredProfiles", "diarizer_of", "known_speakers", "samples_of", "speakers_of"]

Floats = NDArray[np.float32]
Decoding = Callable[[bytes], Iterable[Floats]]

_MAX_SECONDS = 60
"""Maximum duration of a recording of one voice: an embedding needs no more."""
_MAX_BYTES = 10_000_000
"""Maximum size of one user's enrolled people, some 10,000 of them."""
_MAX_KNOWN = 16
_NAMES, _REFERENCES = "known_speaker_names[]", "known_speaker_references[]"


class StoredProfiles:
    """The `Profiles` of one user in the store."""

    def __init__(self, store: PeopleStore, owner: str) -> None:
        self._store, self._owner, self._version = store, owner, 0

    def read(self, model: str) -> dict[str, Profile]:
        """Return the people by name."""
        content, self._version = self._store.read(self._owner)
        return from_bytes(content, model, "the list of enrolled people") if content else {}

    def write(self, model: str, people: Mapping[str, Profile]) -> None:
        """Replace all people. Raises `ServeError` where they were changed since `read`."""
        content = to_bytes(model, people)
        if len(content) > _MAX_BYTES:
            raise ServeError(400, "too many people are enrolled: remove some", code="too_many")
        if not self._store.write(self._owner, content, self._version):
            raise ServeError(
                409,
                "other people were enrolled or removed meanwhile: send it again",
                code="changed",
            )


class _PassingProfiles:
    """`Profiles` that nothing keeps."""

    def __init__(self, people: Iterable[Profile]) -> None:
        self._people: Mapping[str, Profile] = {each.name: each for each in people}

    def read(self, model: str) -> dict[str, Profile]:
        return dict(self._people)

    def write(self, model: str, people: Mapping[str, Profile]) -> None:
        self._people = people


def speakers_of(store: PeopleStore, owner: str, threads: int | None) -> Speakers:
    """Return the enrolled people of a user, with the bundled model of voices.

    The model is loaded each time, which takes some hundredths of a second and little memory.
    """
    return Speakers(tynda.load(DEFAULT, threads=threads), StoredProfiles(store, owner))


def diarizer_of(
    store: PeopleStore,
    owner: str,
    threads: int | None,
    count: int | None,
    known: Sequence[tuple[str, bytes]] = (),
    decode: Decoding = lambda data: (),
) -> Diarizer:
    """Return what tells the speakers of a user's recording apart; see `speakers_of`.

    ``count`` is their number, where it is known. ``known`` are names with the bytes of a recording
    of each, which ``decode`` decodes; they are known beside those who are enrolled, for this
    recording only. Raises `TyndaError` for a reference with too little speech.
    """
    speakers = speakers_of(store, owner, threads)
    if not known:
        return Diarizer(speakers, count)
    names = [name for name, _ in known]
    people = [person for person in speakers.people() if person.name not in names]
    passing = Speakers(speakers.model, _PassingProfiles(people))
    for name, data in known:
        passing.add(name, [samples_of(decode(data), _REFERENCES)])
    return Diarizer(passing, count)


def known_speakers(
    names: Sequence[str] | None, references: Sequence[str] | None
) -> list[tuple[str, bytes]]:
    """Return the names with the bytes of their references, which are data URLs (RFC 2397).

    Raises `ServeError` for names without references, names that are given twice, too many, and
    what is no data URL in base64.
    """
    names, references = names or [], references or []
    if len(names) != len(references):
        raise invalid_value(f"each of {_NAMES} needs one of {_REFERENCES}", _REFERENCES)
    if len(set(names)) < len(names):
        raise invalid_value("each name of a known speaker may be given once", _NAMES)
    if len(names) > _MAX_KNOWN:
        raise invalid_value(f"at most {_MAX_KNOWN} known speakers come with a request", _NAMES)
    return [(name, _bytes_of(url)) for name, url in zip(names, references, strict=True)]


def samples_of(blocks: Iterable[Floats], param: str) -> Floats:
    """Return the samples of a recording of one voice. Raises `ServeError` for too long ones."""
    parts, count = list[Floats](), 0
    for block in blocks:
        parts.append(block)
        count += len(block)
        if count > _MAX_SECONDS * SAMPLE_RATE:
            raise invalid_value(f"a recording of one voice has at most {_MAX_SECONDS} s", param)
    return np.concatenate(parts) if parts else np.zeros(0, np.float32)


def _bytes_of(url: str) -> bytes:
    head, _, data = url.partition(",")
    if head[:5].lower() != "data:" or not head.lower().endswith(";base64"):
        raise invalid_value("a reference must be a data URL in base64", _REFERENCES)
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise invalid_value("a reference is no valid base64", _REFERENCES) from None
