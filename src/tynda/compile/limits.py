"""The limit of a run's memory, which is known from shapes before anything is computed."""

from __future__ import annotations

import math
import os

from tynda.errors import TyndaError

__all__ = ["ENVIRONMENT", "MAX_GIGABYTES", "check_memory", "set_limit"]

ENVIRONMENT = "TYNDA_MAX_MEMORY"
"""The environment variable that sets the limit, in gigabytes (10^9 bytes)."""
MAX_GIGABYTES = 1e6

# A model file may come from anywhere, and a few bytes of settings can ask for gigabytes. Runs of
# published models in whole windows, of batches as well, need less than 4 bytes for each of their
# weights, and small models less than 256 MB.
_MIN_BYTES = 256e6
_BYTES_PER_WEIGHT = 16

_chosen: float | None = None
"""The limit that the command line has set, in gigabytes."""


def set_limit(gigabytes: float | None) -> None:
    """Set the limit of all models of this process; None means the environment's, or the default."""
    global _chosen
    _chosen = gigabytes


def check_memory(name: str, needed: int, weights: int) -> None:
    """Raise `TyndaError` where a run of the program ``name`` needs more bytes than the limit.

    By default, this is 256 MB, or 16 bytes for each of the model's ``weights``, whichever is more.
    """
    gigabytes = _environment() if _chosen is None else _chosen
    limit = max(_MIN_BYTES, _BYTES_PER_WEIGHT * weights) if gigabytes is None else gigabytes * 1e9
    if needed > limit:
        raise TyndaError(
            f"the model's {name} needs {needed / 1e9:.2f} GB of memory for this recording, and the "
            f"limit is {limit / 1e9:.2f} GB: if you trust the model, raise it with --max-memory GB "
            f"or {ENVIRONMENT}=GB"
        )


def _environment() -> float | None:
    text = os.environ.get(ENVIRONMENT, "").strip()
    if not text:
        return None
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 < gigabytes <= MAX_GIGABYTES:
        raise TyndaError(f"{ENVIRONMENT} must be a number of gigabytes, such as 4, not {text!r}")
    return gigabytes
