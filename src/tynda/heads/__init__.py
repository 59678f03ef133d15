"""Heads: what a recogniser does with its network's outputs, one package for each kind.

A family names its head (``models.base.Family.head``). A head says which programs of the family a
recording needs, turns log-probabilities or decoder steps into text, and opens sessions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tynda.heads.base import Head
    from tynda.models.base import Family

__all__ = ["HEADS", "head_of"]

HEADS = {"ctc": "CTCHead", "seq2seq": "Seq2SeqHead"}
"""Package beside this file -> the class in its ``head.py``, imported when a model needs it."""


def head_of(family: Family) -> type[Head[Any]]:
    """The class of a family's head."""
    module = import_module(f"tynda.heads.{family.head}.head")
    found: type[Head[Any]] = getattr(module, HEADS[family.head])
    return found
