"""Settings of commands, declared once for programs and for the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from tynda.checks import Range, check, setting

__all__ = ["CommandSettings"]

COMMANDS = "Commands"


@dataclass(frozen=True)
class CommandSettings:
    """When an utterance ends, and when it is a command. Raises `TyndaError` for invalid values."""

    threshold: Annotated[float, Range(0, 1)] | None = setting(
        None,
        "Confidence below which an utterance is not a command, by default that of the kind of "
        "model; --calibrate finds it.",
        heading=COMMANDS,
        metavar="CONFIDENCE",
    )
    pause: Annotated[float, Range(0.03, 10)] = setting(
        0.06,
        "Silence after which a certain command is answered, if no longer one begins with it.",
        heading=COMMANDS,
        metavar="SECONDS",
    )
    silence: Annotated[float, Range(0.05, 60)] = setting(
        0.5, "Silence that ends an utterance.", heading=COMMANDS, metavar="SECONDS"
    )
    apart: Annotated[float, Range(0, 60)] = setting(
        0.8,
        "Silence that has to come before a command after an utterance that is not one, so that "
        "speech with pauses is refused as a whole.",
        heading=COMMANDS,
        metavar="SECONDS",
    )
    speech: Annotated[float, Range(0, 1, above=True)] = setting(
        0.4,
        "Probability of speech, of Silero's detector, from which on somebody speaks.",
        heading=COMMANDS,
        metavar="PROBABILITY",
    )

    def __post_init__(self) -> None:
        check(self)
