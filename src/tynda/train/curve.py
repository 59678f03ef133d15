"""Draws the loss curve of a training run."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from pathlib import Path

# Matplotlib's warnings about its font cache do not concern the user.
logging.getLogger("matplotlib").setLevel(logging.ERROR)

from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from tynda.files import write_whole  # noqa: E402

__all__ = ["draw"]


def draw(history: Sequence[dict[str, float]], path: Path) -> None:
    """Write a PNG with loss (left) and dev WER and CER (right) over epochs."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for axis, keys in ((left, ("loss", "dev_loss")), (right, ("dev_wer", "dev_cer"))):
        for key in keys:
            points = [(entry["epoch"], entry[key]) for entry in history if key in entry]
            if points:
                axis.plot(*zip(*points, strict=True), label=key.replace("_", " "))
                axis.legend()
        axis.set_xlabel("epoch")
        axis.grid(alpha=0.3)
    left.set_ylabel("CTC loss per letter")
    right.set_ylabel("error rate (greedy)")
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    write_whole(path, picture.getvalue())
