"""Whisper in whisper.cpp's file format: the first of ggml's formats, without a container.

The format is that of ``models/convert-h5-to-ggml.py`` and ``examples/quantize`` of whisper.cpp.
Quantised blocks are those of ``ggml-quants.c`` (``quantize_row_*_ref``): 32 weights of a row,
preceded by an f16 scale.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.models.whisper_foreign import ggml_name
from tynda.sound.mel import mel_filters
from tynda.store import huggingface
from tynda.weights.weight import dequantize_all

__all__ = ["BLOCK", "KINDS", "quantize", "write"]

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]

MAGIC = 0x67676D6C
BLOCK = 32
KINDS = {"f32": (0, 0), "f16": (1, 1), "q4_0": (2, 2), "q5_0": (6, 8), "q8_0": (8, 7)}
"""Name -> type number of a tensor, and type number of a file."""
SECOND_VERSION = 2000
"""The offset of quantisation version 2, which is added to the type number of a file."""


def write(folder: Path, path: Path, kind: str) -> None:
    """Write the Whisper model of a Hugging Face folder to a file in one of `KINDS`.

    Raises `TyndaError` where `tynda.store.huggingface.load` does, and for sizes that whisper.cpp
    does not support.
    """
    model = huggingface.load(folder)
    config, pieces = model.config, model.tokenizer.to_dict()
    if {config.hidden, config.decoder_hidden} != {4 * config.channels}:
        raise TyndaError(
            f"{folder}: whisper.cpp supports hidden layers of {4 * config.channels} channels only"
        )
    sizes = (
        *(config.vocab, config.frames, config.channels, config.heads, config.layers),
        *(config.context, config.channels, config.decoder_heads, config.decoder_layers),
        config.bins,
    )
    filters = np.ascontiguousarray(mel_filters(config.bins, 400, 0.0, 8000.0).T)
    file_kind = KINDS[kind][1] + SECOND_VERSION * kind.startswith("q")
    with path.open("wb") as file:
        file.write(struct.pack("<12i", MAGIC, *sizes, file_kind))
        file.write(struct.pack("<2i", *filters.shape) + filters.astype("<f4").tobytes())
        tokens = np.split(pieces["pieces"], pieces["ends"][: model.tokenizer.eot])[:-1]
        file.write(struct.pack("<i", len(tokens)))
        for token in tokens:
            file.write(struct.pack("<i", len(token)) + token.tobytes())
        for name, value in dequantize_all(model.weights).items():
            name = ggml_name(name)
            if name in ("encoder.conv1.bias", "encoder.conv2.bias"):
                value = value[:, None]
            stored, data = _stored(name, value, kind)
            file.write(struct.pack("<3i", value.ndim, len(name), stored))
            file.write(struct.pack(f"<{value.ndim}i", *value.shape[::-1]) + name.encode() + data)


def _stored(name: str, value: Floats, kind: str) -> tuple[int, bytes]:
    """Return the type number of a tensor, and its bytes."""
    if value.ndim == 1 or name.endswith("bias") or "positional" in name:
        return KINDS["f32"][0], value.astype("<f4").tobytes()
    if kind == "f16" or value.ndim == 3 or value.shape[-1] % BLOCK:  # 3 axes: a convolution
        return KINDS["f16"][0], value.astype("<f2").tobytes()
    return KINDS[kind][0], quantize(value, kind).tobytes()


def quantize(value: Floats, kind: str) -> Bytes:
    """Quantise weights to blocks ``[blocks, bytes]``, whose layout is in ``weights.blocks``."""
    blocks = np.asarray(value, np.float32).reshape(-1, BLOCK)
    if kind == "q8_0":
        scale: Floats = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
        codes = np.rint(blocks * _inverse(scale)).astype(np.int8)
        return np.concatenate([_half(scale), codes.view(np.uint8)], 1)
    # The weight with the maximum magnitude becomes the minimum code: the negative range is larger.
    half = {"q4_0": 8, "q5_0": 16}[kind]
    furthest = np.abs(blocks).argmax(1)[:, None]
    scale = np.take_along_axis(blocks, furthest, 1) / np.float32(-half)
    codes = (blocks * _inverse(scale) + (half + 0.5)).clip(0, 2 * half - 1).astype(np.uint8)
    low = codes & 15
    packed = [_half(scale), low[:, : BLOCK // 2] | low[:, BLOCK // 2 :] << 4]
    if kind == "q5_0":
        packed.insert(1, np.packbits(codes >> 4, axis=1, bitorder="little"))
    return np.concatenate(packed, 1)


def _inverse(scale: Floats) -> Floats:
    return np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)


def _half(scale: Floats) -> Bytes:
    return scale.astype("<f2").view(np.uint8)
