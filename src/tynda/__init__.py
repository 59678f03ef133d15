"""tynda: speech recognition made small, fast and private.

>>> import tynda
>>> model = tynda.load()                            # the bundled whisper-tiny.en
>>> model.transcribe("meeting.m4a").save("meeting.srt")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tynda.errors import TyndaError
    from tynda.evaluation import evaluate
    from tynda.heads.ctc.options import CTCOptions
    from tynda.heads.seq2seq.options import Options
    from tynda.model import Model, load
    from tynda.profiling import profile
    from tynda.quantization.run import quantize
    from tynda.transcript import Segment, Transcript, Word

__version__ = "0.1.0"

__all__ = [
    "CTCOptions",
    "Model",
    "Options",
    "Segment",
    "Transcript",
    "TyndaError",
    "Word",
    "evaluate",
    "load",
    "profile",
    "quantize",
]

_HOMES = {
    "errors": ("TyndaError",),
    "evaluation": ("evaluate",),
    "profiling": ("profile",),
    "quantization.run": ("quantize",),
    "heads.ctc.options": ("CTCOptions",),
    "heads.seq2seq.options": ("Options",),
    "model": ("Model", "load"),
    "transcript": ("Segment", "Transcript", "Word"),
}


def __getattr__(name: str) -> Any:
    """Import a name when it is used (PEP 562), so that the command starts fast."""
    for home, names in _HOMES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"tynda.{home}"), name)
            return value
    raise AttributeError(f"module 'tynda' has no attribute {name!r}")
