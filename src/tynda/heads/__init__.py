"""Heads: the decoding methods of models, one package for each.

A family names its head (``models.base.Family.head``). A head defines which programs of the family
a recording needs, decodes text from the network's outputs, and opens sessions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tynda.heads.base import Head
    from tynda.models.base import Family

__all__ = ["HEADS", "head_of"]

HEADS = {
    "ctc": "CTCHead",
    "embedding": "EmbeddingHead",
    "hybrid": "HybridHead",
    "overlap": "OverlapHead",
    "seq2seq": "Seq2SeqHead",
}
"""The class in ``head.py`` of each subpackage, by the subpackage's name; it is imported when a
model needs it."""


def head_of(family: Family) -> type[Head[Any]]:
    """Return the class of a family's head."""
    module = import_module(f"tynda.heads.{family.head}.head")
    found: type[Head[Any]] = getattr(module, HEADS[family.head])
    return found
