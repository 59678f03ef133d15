"""The grammar whose commands the web app recognises, on the device that shows it."""

from __future__ import annotations

import hashlib
import threading
from importlib.util import find_spec
from pathlib import Path

import tynda
from tynda.commands.export import exported
from tynda.commands.read import read
from tynda.commands.templates import Grammar
from tynda.store import library

__all__ = ["PageGrammar"]

_EXAMPLE = Path(__file__).with_name("home.yaml")


class PageGrammar:
    """A grammar, and the search of each model for it, which is made when it is asked for."""

    def __init__(self, path: str) -> None:
        """``path`` is a grammar; where it is empty, there is an example, or no grammar at all
        where its library is not installed. Raises `TyndaError` for a file that is no grammar."""
        self._grammar: Grammar | None = None
        self._version = ""
        self._lock, self._found = threading.Lock(), dict[str, bytes]()
        file = Path(path) if path else _EXAMPLE
        if path or find_spec("hassil"):
            self._grammar = read(file)
            self._version = hashlib.sha256(file.read_bytes()).hexdigest()[:16]

    @property
    def version(self) -> str | None:
        """A text that is another one for another grammar; None where there is no grammar."""
        return self._version or None

    def find(self, name: str) -> bytes | None:
        """Return what `tynda.commands.export.exported` gives for a bundled model, or None without
        a grammar. Raises `TyndaError` where the model cannot spell the grammar."""
        if self._grammar is None:
            return None
        with self._lock:
            if name not in self._found:
                model = tynda.load(library.bundled()[name], threads=1)
                self._found[name] = exported(model.commands(self._grammar))
            return self._found[name]
