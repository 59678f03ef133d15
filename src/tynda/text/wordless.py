"""The tokenizer of models that write no text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tynda.errors import TyndaError

__all__ = ["Wordless"]


class Wordless:
    """The place of a tokenizer in a model whose result is not text."""

    def to_dict(self) -> dict[str, Any]:
        """Return the description for a model file: nothing."""
        return {}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> Wordless:
        """Return the tokenizer. Raises `TyndaError` for a description that is not empty."""
        if description:
            raise TyndaError("a model without text has no tokenizer: the file is damaged")
        return cls()
