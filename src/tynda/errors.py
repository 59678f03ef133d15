"""The one exception that a user is meant to read."""

__all__ = ["TyndaError"]


class TyndaError(Exception):
    """Something the user can mend: one line that says what is wrong and what to do.

    The command line prints it without a traceback and exits with 1. Anything else that
    escapes is a bug.
    """
