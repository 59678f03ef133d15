"""The options of models of voices: none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

__all__ = ["EmbeddingOptions"]


@dataclass(frozen=True)
class EmbeddingOptions:
    """The options of models of voices, which write no text and have no settings."""

    head: ClassVar[str] = "voices"
    about: ClassVar[str] = "models that tell people apart by their voices"
