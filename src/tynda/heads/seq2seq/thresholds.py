"""Thresholds for the text of a window: what makes it doubtful (Radford et al. 2022, section 4.5).

A threshold that is None never makes a text doubtful.
"""

from __future__ import annotations

from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.search import DecodingResult

__all__ = ["is_confident", "is_repetitive", "is_silence", "needs_fallback"]


def is_repetitive(result: DecodingResult, options: Options) -> bool:
    """Return whether the compression ratio shows that the text repeats itself."""
    threshold = options.compression_ratio_threshold
    return threshold is not None and result.compression_ratio > threshold


def is_silence(result: DecodingResult, options: Options) -> bool:
    """Return whether the window probably has no speech, and no probable text."""
    threshold = options.logprob_threshold
    likely = threshold is not None and result.avg_logprob > threshold
    return _has_no_speech(result, options) and not likely


def needs_fallback(result: DecodingResult, options: Options) -> bool:
    """Return whether a window must be decoded again, at a higher temperature."""
    unlikely = _is_unlikely(result, options)
    if unlikely and _has_no_speech(result, options):
        return False
    return unlikely or is_repetitive(result, options)


def is_confident(result: DecodingResult, options: Options) -> bool:
    """Return whether no threshold makes the text of a window doubtful."""
    return not (
        _has_no_speech(result, options)
        or _is_unlikely(result, options)
        or is_repetitive(result, options)
    )


def _has_no_speech(result: DecodingResult, options: Options) -> bool:
    threshold = options.no_speech_threshold
    return threshold is not None and result.no_speech_prob > threshold


def _is_unlikely(result: DecodingResult, options: Options) -> bool:
    threshold = options.logprob_threshold
    return threshold is not None and result.avg_logprob < threshold
