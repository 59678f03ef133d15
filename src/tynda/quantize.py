"""Any model as a file of its own, its weights in fewer bits."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path

from tynda import library, models
from tynda.checkpoint import save_model
from tynda.errors import TyndaError
from tynda.quant.weight import dense, quantize_all

__all__ = ["quantize"]


def quantize(name: str | Path, output: Path, bits: int) -> None:
    """Write the model that `library.find` knows by ``name`` as a model file.

    ``bits``: 8, the codes and scales that a model is computed with at ``bits=8``, and all else
    as it is, so that the file hears what the model does; or 16 or 32, of all weights. Of an MMS
    model, the file has the language of its own head.

    Raises `TyndaError` where `library.load` and `save_model` do, and when ``output`` is there.
    """
    if os.path.lexists(output):
        raise TyndaError(f"{output} is there already: choose another name, or remove it first")
    model = library.load(name)
    specs = models.family(model.header.family).specs(model.config)
    trainable = {name: spec.trainable for name, spec in specs.items()}
    header = replace(model.header, config=asdict(model.config), tokenizer=model.tokenizer.to_dict())
    if getattr(model.config, "adapter", None) is not None:
        header.languages = header.languages[:1]
    weights = quantize_all(model.weights, trainable) if bits == 8 else dense(model.weights)
    save_model(output, header, weights, bits=16 if bits == 16 else 32, lm=model.lm)
