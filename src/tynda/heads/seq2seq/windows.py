"""Encoding of windows that are longer than their audio.

A model with a window was trained on audio that silence pads to the window's full length, and
encoding the padding takes most of the time of a short recording. Padded frames differ only in their
positions, so that a few of them can represent all: each counts in attention as many times as there
are frames that it stands for ("proportional attention": Bolya et al. 2022, "Token Merging",
section 3.2). The model needs no training for it. ``docs/models/whisper.md`` has
measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.heads.base import ShortWindow
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.search import Network
from tynda.models.base import CrossKV, MergedFrames
from tynda.sound.audio import SAMPLE_RATE

__all__ = ["FRAMES_PER_SECOND", "encode_windows", "merge_padding", "short_windows"]

Floats = NDArray[np.float32]

FRAMES_PER_SECOND = 100
"""Number of front end frames in a second; the encoder has half this number."""

# Numbers of frames of the encoder. The frames next to the audio are not merged.
_MARGIN = 50
# The number of frames that are not merged is a multiple of this, so that there are few plans.
_STEP = 25
# The last frames of a window are not merged: models keep numbers there that all frames read, which
# have far larger states than others ("attention sinks").
_END = 32
# A run of adjacent frames represents each part of the padding, since some heads attend to
# neighbours.
_PART, _RUN = 256, 32
# Seconds of audio in the windows of exports, each of which needs plans of its own.
_SHORT_SECONDS = (3, 6, 12, 20)


def encode_windows(network: Network, windows: Sequence[Floats], options: Options) -> CrossKV[Any]:
    """Pad windows ``[frames, bins]`` with zeros, encode them and compute keys and values."""
    sizes, size, merged = list(map(len, windows)), 2 * network.config.frames, None
    if options.window == "fit":
        seconds = max(sizes) / FRAMES_PER_SECOND + options.window_margin
        fitting = math.ceil(max(seconds, options.window_floor) * FRAMES_PER_SECOND)
        size = min(size, fitting)
    elif options.window == "merged":
        size, merged = merge_padding([math.ceil(n / 2) for n in sizes], network.config.frames)
    padded = np.zeros((len(windows), size, windows[0].shape[1]), np.float32)
    for row, window in zip(padded, windows, strict=True):
        row[: len(window)] = window
    lengths = np.full(len(windows), size)
    if merged is None:
        return network.cross_kv(*network.encode(padded, lengths))
    return network.cross_kv(*network.encode(padded, lengths, merged), merged.log_counts)


def merge_padding(
    audio: Sequence[int], window: int
) -> tuple[int, MergedFrames[NDArray[Any]] | None]:
    """Return the number of front end frames to compute, and the merged frames.

    ``audio``: the number of frames of the encoder of each item, which is padded to ``window``. The
    second result is None where no item has anything to merge; the first one is then that of the
    whole window. The frames of an item do not depend on the other items.
    """
    layouts = [_Layout.of(frames, window) for frames in audio]
    computed = max(layout.computed for layout in layouts)
    if all(len(layout.positions) == window for layout in layouts):
        return 2 * window, None
    frames = max(len(layout.positions) for layout in layouts)
    rows, positions = np.zeros((2, len(audio), frames), np.int64)
    log_counts = np.zeros((len(audio), frames), np.float32)
    for item, layout in enumerate(layouts):
        used = slice(len(layout.positions))
        # Frames of the padding equal each other before positions are added, except the last one,
        # next to which there is none.
        rows[item, used] = np.minimum(layout.positions, layout.computed - 2)
        rows[item, used.stop - 1] = computed - 1
        rows[item] += item * computed
        positions[item, used] = layout.positions
        log_counts[item, used] = np.log(layout.counts)
    lengths = np.array([len(layout.positions) for layout in layouts])
    return 2 * computed, MergedFrames(rows.ravel(), positions, log_counts, lengths)


def short_windows(config: Any, hop: int) -> list[ShortWindow]:
    """Return windows for recordings of some lengths, which an export has beside the whole one.

    A model that has nothing to merge for a length has no such window. ``hop``: the samples between
    two frames of the front end.
    """
    found = []
    for seconds in _SHORT_SECONDS:
        samples = seconds * SAMPLE_RATE
        frames, merged = merge_padding([samples // hop // config.stride], config.frames)
        if merged is not None:
            found.append(ShortWindow(samples, frames, merged))
    return found


@dataclass(frozen=True)
class _Layout:
    """The frames that represent the window of one item."""

    positions: NDArray[np.int64]
    """The position of each frame in the window."""
    counts: NDArray[np.float64]
    """The number of frames that each one stands for."""
    computed: int
    """The number of frames that the convolutions compute: those of the audio, at least one whose
    neighbours are padding, and the last one of the window."""

    @classmethod
    def of(cls, audio: int, window: int) -> _Layout:
        """Return the layout of a window with ``audio`` frames of audio."""
        whole, end = math.ceil((audio + _MARGIN) / _STEP) * _STEP, window - _END
        parts = [np.arange(at, min(at + _PART, end)) for at in range(whole, end, _PART)]
        runs = [part[max(0, len(part) - _RUN) // 2 :][:_RUN] for part in parts]
        merged = np.concatenate([*runs, np.arange(0)])
        if whole + len(merged) + _END >= window:
            return cls(np.arange(window), np.ones(window), window)
        counts = [
            np.full(len(run), len(part) / len(run)) for part, run in zip(parts, runs, strict=True)
        ]
        return cls(
            np.concatenate([np.arange(whole), merged, np.arange(end, window)]),
            np.concatenate([np.ones(whole), *counts, np.ones(_END)]),
            whole + 2,
        )
