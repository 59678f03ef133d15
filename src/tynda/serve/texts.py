"""Texts on their way from a worker to the event loop."""

from __future__ import annotations

import asyncio

__all__ = ["Texts"]


class Texts:
    """Texts that a worker writes and the event loop reads."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[str | None] = asyncio.Queue()

    def put(self, text: str | None) -> None:
        """Add a text, or None as the end; a loop that has ended takes nothing."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, text)

    async def get(self) -> str | None:
        """Wait for the next text."""
        return await self._queue.get()
