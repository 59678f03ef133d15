"""A file of feature vectors, one for each recording, to which an interrupted run adds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.manifest import Utterance

__all__ = ["FeatureFile", "key_of"]

Floats = NDArray[np.float32]

_KEY, _REASON = 16, 48
"""Bytes of a key, and of the reason why a recording has no features."""
_BLOCK = 1024
"""Number of vectors that are read at a time."""


def key_of(utterance: Utterance) -> bytes:
    """Return the key of a recording: a digest of its file's name and state, and of its text."""
    try:
        stat = utterance.audio.stat()
        state = f"{stat.st_size}|{stat.st_mtime_ns}"
    except (OSError, ValueError):
        state = "none"
    known = (os.path.abspath(utterance.audio), state, utterance.text, utterance.language)
    return hashlib.sha256(repr(known).encode(errors="backslashreplace")).digest()[:_KEY]


class FeatureFile:
    """Vectors of ``size`` numbers with a norm of 1, in float16, by the keys of their recordings.

    The file begins with a line of JSON, the ``identity`` of all that the vectors depend on. Records
    follow as they are computed: a key; the reason where there are no features, or else zeros; and
    the vector.
    """

    def __init__(self, path: Path, identity: dict[str, Any], size: int) -> None:
        """Open the file, or go on with it.

        Raises `TyndaError` where it has another identity or cannot be written.
        """
        self.path = path
        fields = [("key", f"V{_KEY}"), ("reason", f"S{_REASON}"), ("vector", "<f2", size)]
        self._record = np.dtype(fields)
        first = (json.dumps(identity, sort_keys=True) + "\n").encode()
        self._begin = len(first)
        try:
            self._file = path.open("ab+")
            self._file.seek(0)
            found = self._file.read(len(first))
            if not first.startswith(found):
                raise TyndaError(f"{path} has features of other recordings or models: remove it")
            if found != first:
                self._file.truncate(0)
                self._file.write(first)
                self._file.flush()
            self._read_keys()
        except OSError as error:
            raise TyndaError(f"{path}: cannot write the features ({error.strerror})") from None

    def _read_keys(self) -> None:
        """Read the keys of all records; the end of one that was interrupted is cut off."""
        size = self._record.itemsize
        self._count = (os.fstat(self._file.fileno()).st_size - self._begin) // size
        self._file.truncate(self._begin + self._count * size)
        self._positions: dict[bytes, int] = {}
        self._reasons: dict[bytes, str] = {}
        for i in range(self._count):
            self._file.seek(self._begin + i * size)
            self._note(self._file.read(_KEY), self._file.read(_REASON), i)

    def _note(self, key: bytes, reason: bytes, position: int) -> None:
        self._positions[key] = position
        if text := reason.rstrip(b"\0").decode(errors="replace"):
            self._reasons[key] = text

    def __contains__(self, key: bytes) -> bool:
        return key in self._positions

    def reason(self, key: bytes) -> str | None:
        """Return why a recording has no features, or None where it has some."""
        return self._reasons.get(key)

    def add(self, key: bytes, vector: Floats | str) -> None:
        """Write a vector, whose norm becomes 1, or the reason why there is none.

        Raises `TyndaError` where it cannot be written, or another run writes to the file.
        """
        record = np.zeros((), self._record)
        if isinstance(vector, str):
            record["reason"] = vector.encode()[:_REASON]
        else:
            record["vector"] = vector / max(float(np.linalg.norm(vector)), 1e-30)
        data = key + record.tobytes()[_KEY:]
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            raise TyndaError(
                f"{self.path}: cannot write the features ({error.strerror}): free disk space"
            ) from None
        self._note(key, data[_KEY : _KEY + _REASON], self._count)
        self._count += 1
        if self._file.tell() != self._begin + self._count * len(data):
            raise TyndaError(f"{self.path}: another run writes to it: wait for its end")

    def blocks(self, keys: Sequence[bytes]) -> Iterator[Floats]:
        """Yield the vectors of these keys, in order, as float32 ``[n, size]`` of bounded ``n``."""
        if not keys:
            return
        stored = np.memmap(self.path, self._record, "r", self._begin, (self._count,))
        for at in range(0, len(keys), _BLOCK):
            rows = [self._positions[key] for key in keys[at : at + _BLOCK]]
            yield stored["vector"][rows].astype(np.float32)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
