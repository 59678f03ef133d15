"""A loaded model: sound in, transcript out. One file for each way of decoding."""

from __future__ import annotations

from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tynda.compile.engine import Backend
from tynda.errors import TyndaError
from tynda.heads.base import Recognizer
from tynda.store import library
from tynda.store.checkpoint import Checkpoint

if TYPE_CHECKING:
    from tynda.heads.ctc.recognizer import CTCRecognizer, Decoding
    from tynda.heads.seq2seq.recognizer import WhisperRecognizer

__all__ = ["CTCRecognizer", "Decoding", "Recognizer", "WhisperRecognizer", "load", "of"]

_HOMES = {"CTCRecognizer": "ctc", "Decoding": "ctc", "WhisperRecognizer": "seq2seq"}


def __getattr__(name: str) -> Any:
    """Import a kind of recogniser when it is asked for: a model is of one."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tynda.heads' has no attribute {name!r}")
    return getattr(import_module(f"tynda.heads.{_HOMES[name]}.recognizer"), name)


def load(
    name: str | Path = library.DEFAULT,
    *,
    backend: Backend | None = None,
    bits: int | None = None,
    threads: int | None = None,
) -> Recognizer[Any]:
    """Load a model: a bundled or cached name, a ``.safetensors`` file, or a checkpoint's folder.

    ``backend``: the native one by default, or NumPy where it is not there. ``bits``: 8 or 32,
    in which products are computed; by default 32, or 8 for a model that is stored so.
    ``threads``: of the native backend; one for each processor by default.

    Raises `TyndaError` when there is no such model or backend, or its files are damaged.
    """
    if not isinstance(name, str | PathLike):
        raise TyndaError(f"a model is named by a string or a path, not {name!r}")
    return of(library.load(name), backend=backend, bits=bits, threads=threads)


def of(model: Checkpoint, **compute: Any) -> Recognizer[Any]:
    """The recogniser of a model that has been read; ``compute``: as `load` takes it."""
    kind = "WhisperRecognizer" if model.header.family == "whisper" else "CTCRecognizer"
    recognizer: type[Recognizer[Any]] = __getattr__(kind)
    return recognizer(model, **compute)
