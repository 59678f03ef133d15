"""Settings of live recognition, declared once for programs and for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tynda.checks import Range, check, setting

__all__ = ["LiveSettings"]

LIVE = "Live recognition"

Seconds = Annotated[float, Range(0.05, 60)]


@dataclass(frozen=True)
class LiveSettings:
    """When audio is decoded, and when words are shown and final.

    Raises `TyndaError` for invalid values.
    """

    step: Seconds | None = setting(
        None,
        "Time between two decodings while somebody speaks, by default 0.38, and 0.1 for a model "
        "that encodes audio only once. A smaller step shows words sooner and needs more of the "
        "processor.",
        heading=LIVE,
        metavar="SECONDS",
    )
    hold: Annotated[float, Range(0, 10)] | None = setting(
        None,
        "A word that two decodings agree on is final when this much audio follows it, by default "
        "0.4 for Whisper, 0.2 for a model that encodes audio only once, and 0.6 for others.",
        heading=LIVE,
        metavar="SECONDS",
    )
    max_hold: Annotated[float, Range(0, 60)] | None = setting(
        None,
        "Any word but the last is final when this much audio follows it, by default 1 for "
        "Whisper, 0.4 for a model that encodes audio only once, and 1.2 for others.",
        heading=LIVE,
        metavar="SECONDS",
    )
    show: Annotated[float, Range(0, 10)] | None = setting(
        None,
        "A word is shown when this much audio follows it, by default 0.3 for Whisper, 0.2 for a "
        "model that encodes audio only once, and 0.6 for others. It may still change until it is "
        "final.",
        heading=LIVE,
        metavar="SECONDS",
    )
    silence: Seconds = setting(
        0.6, "Silence that ends an utterance.", heading=LIVE, metavar="SECONDS"
    )
    sentence_silence: Seconds = setting(
        0.35,
        "Silence that ends an utterance whose text ends a sentence.",
        heading=LIVE,
        metavar="SECONDS",
    )
    speech: Annotated[float, Range(0, 1, above=True)] = setting(
        0.4,
        "Probability of speech, of Silero's detector, from which on somebody speaks.",
        heading=LIVE,
        metavar="PROBABILITY",
    )

    def __post_init__(self) -> None:
        check(self)
