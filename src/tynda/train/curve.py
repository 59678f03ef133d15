"""The loss curve of a run as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

__all__ = ["draw"]


def draw(history: Sequence[dict[str, float]], path: Path) -> None:
    """Loss on the left, dev WER and CER on the right, over epochs, as a PNG."""
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
    figure.savefig(path, dpi=120)
