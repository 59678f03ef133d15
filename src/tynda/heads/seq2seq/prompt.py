"""The prompt of each window: hot words, the initial prompt, and the text of previous windows."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.search import Network

__all__ = ["PromptHistory", "warn_of_cuts"]


def warn_of_cuts(tokenizer: Any, context: int, options: Options) -> None:
    """Warn about an initial prompt or hot words of which only a part is used.

    ``context`` is the decoder's maximum number of tokens; half of it is for the prompt.
    """
    for name, (used, given) in _Expected(tokenizer, context, options).counts().items():
        if used < given:
            part = "last" if name == "initial_prompt" else "first"
            warnings.warn(
                f"{name} has {given} tokens, of which the {part} {used} are used: shorten it",
                stacklevel=2,
            )


class PromptHistory:
    """The previous text, as prompt of the next window."""

    def __init__(self, network: Network, options: Options) -> None:
        context = network.config.context
        self._options, self._half = options, context // 2
        self._expected = _Expected(network.tokenizer, context, options)
        self._prefix = _encode(network.tokenizer, options.prefix)
        self._tokens, self._since = list(self._expected.initial), 0

    def prompt(self) -> list[int]:
        """Return the prompt of the next window."""
        expected = self._expected
        hotwords = [] if self._prefix else expected.hotwords
        capacity = expected.capacity - len(hotwords)
        if self._options.carry_initial_prompt:
            initial = _last(expected.initial, capacity)
            previous = self._tokens[max(len(expected.initial), self._since) :]
            return hotwords + initial + _last(previous, capacity - len(initial))
        return hotwords + _last(self._tokens[self._since :], capacity)

    def prefix(self) -> list[int]:
        """Return the first tokens of the next window's text, which only the first window has."""
        prefix, self._prefix = self._prefix, []
        # With the maximum number of new tokens, it fills half of the context at most.
        room = self._half - (self._options.max_new_tokens or self._half)
        return prefix[-room:] if room > 0 else prefix

    def add(self, tokens: Sequence[int], temperature: float) -> None:
        """Append a window's text, which is only used as prompt if its ``temperature`` is low."""
        self._tokens += tokens
        if not self._options.condition_on_previous_text or temperature > 0.5:
            self._since = len(self._tokens)

    def forget(self) -> None:
        """Drop the text of the previous windows."""
        if len(self._tokens) > len(self._expected.initial):
            self._since = len(self._tokens)


class _Expected:
    """The tokens of hot words and initial prompt, and their maximum numbers."""

    def __init__(self, tokenizer: Any, context: int, options: Options) -> None:
        words = options.hotwords
        self._all = _encode(tokenizer, words if isinstance(words, str) else ", ".join(words))
        self.initial = _encode(tokenizer, options.initial_prompt)
        self.hotwords = self._all[: context // 4]
        self.capacity = context // 2 - 1
        """The maximum number of tokens of a prompt."""

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return how many tokens are used, and how many there are."""
        used = min(len(self.initial), self.capacity - len(self.hotwords))
        return {
            "hotwords": (len(self.hotwords), len(self._all)),
            "initial_prompt": (used, len(self.initial)),
        }


def _encode(tokenizer: Any, text: str) -> list[int]:
    # Bytes of the command line that are no text are half characters here.
    text = text.encode(errors="replace").decode().strip()
    tokens: list[int] = tokenizer.encode(f" {text}") if text else []
    return tokens


def _last(tokens: list[int], count: int) -> list[int]:
    return tokens[-count:] if count > 0 else []
