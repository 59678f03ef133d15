"""The times at which the frames of a container play: silence fills a gap that they leave.

A video's sound may begin after its picture, and packets may be missing in the middle of a recording
of a call. Without the silence, all later times would be too early.
"""

from __future__ import annotations

__all__ = ["MIN_GAP", "Timeline"]

MIN_GAP = 0.2
"""Seconds from which on a gap counts: recorders' times are some milliseconds off."""
_MAX_SILENCE = 6 * 3600.0
"""Maximum seconds of silence in a recording. Times that ask for more are damaged, and few bytes of
a file must not become days of sound."""


class Timeline:
    """The times of one track's frames."""

    def __init__(self, start: float) -> None:
        """``start`` is the time at which the container begins, in seconds."""
        self.end = start
        """The time at which the last frame ends, in seconds."""
        self._left = _MAX_SILENCE

    def silence(self, time: float | None, seconds: float) -> float:
        """Return how many seconds of silence precede the next frame.

        The frame's ``time`` is in seconds, None where it has none. It lasts ``seconds``.
        """
        if time is None:
            self.end += seconds
            return 0.0
        gap, self.end = time - self.end, time + seconds
        if not MIN_GAP <= gap <= self._left:
            return 0.0
        self._left -= gap
        return gap
