"""The one exception whose message is meant for users."""

from collections.abc import Sequence

__all__ = ["TyndaError", "listed"]


class TyndaError(Exception):
    """An error that the user can fix: one line that states what is wrong and what to do.

    The command line prints it without a traceback and exits with 1. Any other exception that
    escapes is a bug.
    """


def listed(names: Sequence[str], limit: int = 20) -> str:
    """Return ``names`` as text for a message, limited in number."""
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
