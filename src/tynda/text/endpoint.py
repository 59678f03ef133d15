"""Sentences from a language model behind an API like OpenAI's."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from tynda.errors import TyndaError
from tynda.extras import install

__all__ = ["KEY", "Endpoint", "listed_lines", "prompt"]

KEY = "OPENAI_API_KEY"
"""The environment variable with the key of an endpoint."""
_NO_KEY = "none"
"""The key that is sent where there is none: servers on one's own machine need no key."""
_SECONDS = 120.0
_RETRIES = 3
_MAX_ANSWER = 100_000
"""Characters of an answer that are read."""
_NUMBERED = re.compile(r"\s*(?:\d+[.):]|[-*•])\s*(.*)")


class Endpoint:
    """A model that answers prompts, at a URL of an OpenAI-compatible API.

    Requests that fail for a moment are repeated, with growing pauses, by the package ``openai``.
    """

    def __init__(self, url: str, model: str, temperature: float = 0.9) -> None:
        try:
            import openai
        except ImportError:
            raise TyndaError(f"an endpoint needs openai: {install('text')}") from None
        if not re.match(r"https?://[^/\s]+", url):
            raise TyndaError(
                f"{url[:200]!r} is not a URL: give one such as http://127.0.0.1:8000/v1"
            )
        self.url, self._model, self._temperature = url, model, temperature
        self._error = openai.OpenAIError
        key = os.environ.get(KEY) or _NO_KEY
        self._client = openai.OpenAI(
            base_url=url, api_key=key, timeout=_SECONDS, max_retries=_RETRIES
        )

    def answer(self, text: str) -> str:
        """Return the model's answer to a prompt.

        Raises `TyndaError` where the endpoint cannot be reached, refuses, or answers with something
        else than OpenAI's API.
        """
        try:
            answer = self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": text}],
                temperature=self._temperature,
            )
            content = answer.choices[0].message.content
        except self._error as error:
            reason = " ".join(str(error).split())[:200]
            raise TyndaError(f"the endpoint {self.url} failed ({reason})") from None
        except (AttributeError, IndexError, TypeError, ValueError):
            raise TyndaError(
                f"the endpoint {self.url} does not answer as OpenAI's API does: check the URL, "
                "which often ends in /v1"
            ) from None
        return (content or "")[:_MAX_ANSWER]


def prompt(examples: Sequence[str], count: int, language: str, about: str) -> str:
    """Return the request for ``count`` sentences like these examples (Wang et al. 2022)."""
    numbered = "\n".join(f"{i}. {text}" for i, text in enumerate(examples, 1))
    return (
        f"Write {count} new sentences in {language}: {about}. They have to differ from each other "
        "in topic, verb and length, and from these examples. Write one sentence on each line, with "
        "its number, and nothing else. Write numbers in words.\n\n"
        f"{numbered}\n"
    )


def listed_lines(answer: str) -> list[str]:
    """Return the entries of a list in an answer, without numbers, bullets and quotation marks.

    Lines that are no entries, such as an introduction, are left out.
    """
    found = [match[1] for line in answer.splitlines() if (match := _NUMBERED.fullmatch(line))]
    stripped = (re.sub(r'^[*_"“«\s]+|[*_"”»\s]+$', "", text) for text in found)
    return [text for text in stripped if text]
