"""Exports of the store: all that it has of one user, or what models may learn from."""

from __future__ import annotations

import hashlib
import io
import json
import wave
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tynda.errors import TyndaError
from tynda.files import whole_folder
from tynda.serve.formats import FORMATS
from tynda.serve.store.database import StoreError
from tynda.serve.store.store import Store
from tynda.serve.store.tables import Recording
from tynda.serve.vault import VaultError
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE

__all__ = ["archive", "write_manifest"]

_MANIFEST = "manifest.jsonl"
_PAGE = 100


def archive(store: Store, owner: str) -> Iterator[bytes]:
    """Yield the pieces of a ZIP with all recordings of a user, their texts, and enrolled people.

    Each recording is a folder with the bytes that were sent, ``recording``, and ``job.json``; or
    with ``error.txt`` where they cannot be read. ``people.json`` has names and voices, as they are
    stored, where people are enrolled; ``people-error.txt`` stands for those that cannot be read.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as packed:
        try:
            people, _ = store.people.read(owner)
        except (StoreError, VaultError) as error:
            packed.writestr("people-error.txt", f"{error}\n")
        else:
            if people:
                packed.writestr("people.json", people)
        for row in _all_of(store, owner):
            try:
                about, data = _about(store, row), store.audio(row)
            except (StoreError, VaultError) as error:  # The others are exported all the same.
                packed.writestr(f"{row.id}/error.txt", f"{error}\n")
            else:
                text = json.dumps(about, ensure_ascii=False, indent=2)
                packed.writestr(f"{row.id}/job.json", text)
                packed.writestr(f"{row.id}/recording", data)
            yield sink.taken()
    yield sink.taken()


def write_manifest(store: Store, folder: Path, owner: str | None = None) -> int:
    """Write the corrected recordings from which models may learn, and a manifest that lists them
    for `tynda train`; return their number.

    Recordings are written as WAV (16 bits, 16 kHz), so that whoever reads them later needs no
    decoder for files of strangers. Raises `TyndaError` where there are none, and where ``folder``
    holds something else; one that was written before is replaced.
    """
    count = 0
    with whole_folder(folder, lambda path: (path / _MANIFEST).exists()) as partial:
        partial.chmod(0o700)
        with (partial / _MANIFEST).open("w", encoding="utf-8") as manifest:
            for row in store.consented(owner):
                text = store.correction(row)["text"]
                if text is None:
                    continue
                seconds = _write_wav(partial / f"{row.id}.wav", store.audio(row))
                entry = {
                    "audio_filepath": f"{row.id}.wav",
                    "text": text,
                    "duration": round(seconds, 3),
                    # Recordings of one person must not be on both sides of an evaluation.
                    "speaker": hashlib.sha256(row.owner.encode()).hexdigest()[:12],
                    "language": ((store.result(row) or {}).get("transcript") or {}).get("language"),
                }
                manifest.write(json.dumps(entry, ensure_ascii=False) + "\n")
                count += 1
        if not count:
            raise TyndaError(
                "no recording has a correction and the consent that models learn from it"
            )
    return count


def _write_wav(path: Path, data: bytes) -> float:
    """Write a recording as WAV; return its duration in seconds."""
    count = 0
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        for block in audio.stream(io.BytesIO(data), formats=FORMATS):
            levels = np.clip(np.round(block * 32_768), -32_768, 32_767)
            file.writeframes(levels.astype("<i2").tobytes())
            count += len(block)
    return count / SAMPLE_RATE


def _all_of(store: Store, owner: str) -> Iterator[Recording]:
    after = ""
    while rows := store.list(owner, _PAGE, after):
        yield from rows
        after = rows[-1].id


def _about(store: Store, row: Recording) -> dict[str, Any]:
    return {
        "id": row.id,
        "status": row.state,
        "created_at": row.created,
        "finished_at": row.finished,
        "expires_at": row.expires,
        "request": store.request(row),
        "result": store.result(row),
        "correction": store.correction(row)["text"],
        "consented_at": row.consented,
    }


class _Sink(io.RawIOBase):
    """A file to write to, which is read while it grows."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        """Return what was written since the last call."""
        parts, self._parts = self._parts, []
        return b"".join(parts)
