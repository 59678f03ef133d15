"""tynda: speech recognition made small, fast and private.

>>> import tynda
>>> model = tynda.load()                            # the bundled English model
>>> model.transcribe("meeting.m4a").save("meeting.srt")
"""

from tynda.errors import TyndaError
from tynda.evaluation import evaluate
from tynda.recognizers import Decoding, Recognizer, load
from tynda.transcript import Segment, Transcript, Word

__version__ = "0.1.0"

__all__ = [
    "Decoding",
    "Recognizer",
    "Segment",
    "Transcript",
    "TyndaError",
    "Word",
    "evaluate",
    "load",
]
