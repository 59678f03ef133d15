"""The one exception that a user is meant to read."""

from collections.abc import Sequence

__all__ = ["TyndaError", "listed"]


class TyndaError(Exception):
    """Something the user can mend: one line that says what is wrong and what to do.

    The command line prints it without a traceback and exits with 1. Anything else that
    escapes is a bug.
    """


def listed(names: Sequence[str], most: int = 20) -> str:
    """``names`` for a message, not too many of them."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
