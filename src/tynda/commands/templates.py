"""Templates of sentences: the parts of a grammar, whichever format it was written in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Choice", "Grammar", "Sentence", "Series", "Slot", "Template", "Text"]


@dataclass(frozen=True)
class Text:
    """Characters as they are written; spaces separate words, also at the ends."""

    text: str


@dataclass(frozen=True)
class Series:
    """Templates that follow each other, without a space between them."""

    items: tuple[Template, ...]


@dataclass(frozen=True)
class Choice:
    """Templates of which one is spoken; an empty series makes the others optional."""

    items: tuple[Template, ...]


@dataclass(frozen=True)
class Slot:
    """A template that gives the slot ``name`` a JSON-able ``value`` where it is spoken."""

    name: str
    value: Any
    item: Template


Template = Text | Series | Choice | Slot


@dataclass(frozen=True)
class Sentence:
    """One template of a grammar and its meaning."""

    template: Template
    source: str
    """The template as it was written."""
    intent: str | None = None
    slots: Mapping[str, Any] = field(default_factory=dict)
    """Slots that the sentence has in addition to those that are spoken."""


@dataclass(frozen=True)
class Grammar:
    """All sentences that may be spoken. An earlier sentence has precedence over a later one with
    the same words."""

    sentences: tuple[Sentence, ...]
    language: str | None = None
    """Code of the language; None where the file does not state it."""
