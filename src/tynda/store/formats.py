"""Tells the formats of models apart by their content, and reads those of other programs."""

from __future__ import annotations

from pathlib import Path

from tynda.errors import TyndaError
from tynda.files import read_json
from tynda.store.checkpoint import Checkpoint
from tynda.store.voices import is_voices

__all__ = ["is_hub_folder", "is_published", "load"]

_GGML = b"lmgg"
_CTRANSLATE2 = "model.bin"


def is_published(path: Path) -> bool:
    """Return whether a model is in another program's format: any folder, and some files."""
    return path.is_dir() or _is_ggml(path) or _is_ctranslate2(path) or is_voices(path)


def is_hub_folder(path: Path) -> bool:
    """Return whether a model is a folder of the Hugging Face hub, and of no other program."""
    if not (path / _CTRANSLATE2).is_file():
        return path.is_dir() and not is_voices(path)
    try:
        return "model_type" in read_json(path / "config.json")
    except (FileNotFoundError, TyndaError):
        return False


def load(path: Path, *, weights: bool = True) -> Checkpoint:
    """Read a model in another program's format; without ``weights``, only its description.

    Raises `TyndaError`, naming the file, where one is missing, damaged or of another kind.
    """
    # Each reader is imported where it is used: most models need none or one of them.
    if is_hub_folder(path):
        from tynda.store import huggingface

        return huggingface.load(path, weights=weights)
    if is_voices(path):
        from tynda.store import voices

        return voices.load(path, weights=weights)
    if path.is_dir():
        from tynda.store import ctranslate2

        return ctranslate2.load(path, weights=weights)
    if _is_ctranslate2(path):
        raise TyndaError(f"{path} is a part of a CTranslate2 model: give its folder")
    from tynda.store import ggml

    return ggml.load(path, weights=weights)


def _is_ggml(path: Path) -> bool:
    return _first_bytes(path, len(_GGML)) == _GGML


def _is_ctranslate2(path: Path) -> bool:
    """Return whether a file begins as CTranslate2's: with a version and the name of a class."""
    start = _first_bytes(path, 64)
    version, length = (int.from_bytes(start[a:b], "little") for a, b in ((0, 4), (4, 6)))
    return 0 < version < 256 and start[6 : 6 + length].endswith(b"Spec\0")


def _first_bytes(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError:
        return b""
