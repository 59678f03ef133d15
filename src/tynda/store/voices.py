"""Weights of published networks that tell voices apart, as training programs leave them.

WeSpeaker, pyannote and 3D-Speaker store PyTorch's tensors, and describe the network in their own
code. The names and shapes of the tensors tell which it is and how large.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tynda import models
from tynda.errors import TyndaError
from tynda.models.foreign import Voices
from tynda.store.checkpoint import Checkpoint
from tynda.store.torch_files import TorchFile, is_torch_file
from tynda.weights.tensors import is_finite, map_tensors

__all__ = ["is_voices", "load"]

_FILES = ("avg_model.pt", "model.pt", "model.safetensors", "pytorch_model.bin")
"""The file of weights in a folder, in the order of preference; ``configuration.json``, which
3D-Speaker's folders have, may name another."""
_SIGNS = {"layer1.0.conv1.weight": "ResNet", "xvector.tdnn.linear.weight": "CAM++"}
"""A tensor that no other network has -> the format; see `tynda.models.family_of_format`."""
_ABOUT = "configuration.json"
_PREFIXES = ("", "resnet.", "module.", "model.")
"""The beginnings that all names of a file may have; pyannote's have ``resnet.``."""
_MAX_HEADER = 1 << 22


def is_voices(path: Path) -> bool:
    """Return whether a model is such a file, or a folder with one and without ``config.json``."""
    if path.is_dir():
        file = None if (path / "config.json").exists() else _file(path)
        return file is not None and is_voices(file)
    return is_torch_file(path) or _is_safetensors(path)


def load(path: Path, *, weights: bool = True) -> Checkpoint:
    """Read a file or folder; without ``weights``, only the description of the model.

    Raises `TyndaError`, naming the file, where it is damaged or has another network.
    """
    from tynda.store import huggingface  # See `_file`.

    file = (_file(path) or path) if path.is_dir() else path
    shapes, read = _open(file)
    prefix, kind = _kind(file, shapes)
    own = {name.removeprefix(prefix): name for name in shapes if name.startswith(prefix)}
    family = models.family_of_format(kind)
    try:
        found = family.foreign[kind](Voices({name: shapes[at] for name, at in own.items()}))
    except KeyError as missing:
        raise TyndaError(f"{file}: tensor {missing.args[0]} is missing") from None
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise TyndaError(f"{file} has a {kind} that cannot be read: {error}") from None
    config = huggingface.configure(file, family, found.settings)
    if config.layers > len(shapes):
        raise TyndaError(f"{file}: most of its layers are missing")
    assert family.read is not None
    published = family.read(huggingface.json_files(file.parent), found.settings, config)
    held: Mapping[str, NDArray[np.float32]] = {}
    if weights:
        try:
            tensors = {name: read(at) for name, at in own.items() if shapes[at]}
            held = published.tensors(tensors)
        except KeyError as missing:
            raise TyndaError(f"{file}: tensor {missing.args[0]} is missing") from None
        except ValueError as error:
            raise TyndaError(f"{file}: tensors do not fit each other: {error}") from None
        _check(file, held, family.shapes(config))
    size = file.stat().st_size
    name = huggingface.folder_name(path) if path.is_dir() else path.stem
    return huggingface.assemble(path, name, family, config, published, held, size)


def _open(
    file: Path,
) -> tuple[Mapping[str, tuple[int, ...]], Callable[[str], NDArray[np.float32]]]:
    """Return the shapes of all tensors of a file, and a function that reads one."""
    if is_torch_file(file):
        torch_file = TorchFile(file)
        return {name: t.shape for name, t in torch_file.tensors.items()}, torch_file.read
    tensors = map_tensors(file)
    return {name: t.shape for name, t in tensors.items()}, tensors.__getitem__


def _kind(file: Path, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str]:
    """Return what precedes the names of the network's tensors, and its format."""
    for outer in ("", "state_dict."):
        for prefix in _PREFIXES:
            for sign, kind in _SIGNS.items():
                if f"{outer}{prefix}{sign}" in shapes:
                    return f"{outer}{prefix}", kind
    raise TyndaError(
        f"{file} has no network that is known: of PyTorch's files, those of "
        f"{' and '.join(_SIGNS.values())} that tell voices apart are read"
    )


def _check(
    file: Path, held: Mapping[str, NDArray[np.float32]], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    for name, shape in shapes.items():
        if held[name].shape != shape:
            raise TyndaError(
                f"{file}: tensor {name} is {held[name].shape}, and the others require {shape}"
            )
        if not is_finite(held[name]):
            raise TyndaError(f"{file}: tensor {name} has values that are not finite")


def _file(folder: Path) -> Path | None:
    from tynda.store import huggingface  # Every start would pay for it.

    names, about = [*_FILES], huggingface.json_files(folder).json(_ABOUT, optional=True)
    own = about.get("model")
    named = own.get("pretrained_model") if isinstance(own, dict) else None
    if isinstance(named, str) and Path(named).name == named:
        names.insert(0, named)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _is_safetensors(path: Path) -> bool:
    """Return whether a file begins as one of safetensors and names a tensor of such a network."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if not 2 <= size <= _MAX_HEADER:
                return False
            header = file.read(size)
    except OSError:
        return False
    # tynda's own files have their description in the metadata.
    return b'"tynda":' not in header and any(f'{sign}"'.encode() in header for sign in _SIGNS)
