"""A grammar and the search of a model for it as one file, with which web pages know commands.

``web/engine/src/grammar.ts`` reads it; ``docs/web.md`` has the format.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from tynda.commands.graph import WordGraph
from tynda.commands.recognizer import CommandRecognizer
from tynda.files import write_whole

__all__ = ["export_commands", "exported"]

_FORMAT = "tynda-commands 2"
_MAX_EXAMPLES = 20


def exported(recognizer: CommandRecognizer) -> bytes:
    """Return the contents of the file, JSON in UTF-8.

    Raises `TyndaError` where the model has no search that the engine of a web page knows.
    """
    settings = recognizer.settings
    values = {
        "format": _FORMAT,
        "threshold": recognizer.threshold,
        "seconds": recognizer.max_seconds,
        "pause": settings.pause,
        "silence": settings.silence,
        "apart": settings.apart,
        "search": recognizer.exported(),
        "words": _words(recognizer.graph),
        "examples": list(islice(recognizer.graph.examples(), _MAX_EXAMPLES)),
    }
    # Slots are what YAML has for them, such as dates.
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), default=str)
    return text.encode()


def export_commands(recognizer: CommandRecognizer, path: Path) -> None:
    """Write `exported` to a file, whole or not at all. Raises `TyndaError` where that fails."""
    write_whole(path, exported(recognizer))


def _words(graph: WordGraph) -> dict[str, object]:
    """The graph from whose words the meaning of a sentence follows."""
    return {
        "arcs": [[[arc.target, arc.words, arc.tags] for arc in arcs] for arcs in graph.arcs],
        "ends": [[state, number] for state, number in graph.ends.items()],
        "sentences": [[each.intent, each.slots] for each in graph.grammar.sentences],
    }
