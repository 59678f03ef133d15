"""Tensors of PyTorch's files, read without running what is in them.

`torch.save` writes a zip archive with ``data.pkl``, a pickle, and a file of numbers for each
storage. A pickle is a program that may call any function. Here it is interpreted by a machine with
the few instructions that such files have: it calls nothing, a tensor becomes a description, and
whatever else a training program stored beside its tensors becomes `None`.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError
from tynda.files import check_readable

__all__ = ["StoredTensor", "TorchFile", "is_torch_file"]

_MAX_PICKLE = 1 << 26
"""Maximum bytes of ``data.pkl``; those of checkpoints are below a megabyte."""
_MAX_INSTRUCTIONS = 1 << 22
_MAX_AXES = 8
_STORAGES = {
    **{"FloatStorage": "<f4", "HalfStorage": "<f2", "DoubleStorage": "<f8"},
    **{"BFloat16Storage": "<u2", "LongStorage": "<i8", "IntStorage": "<i4"},
}
_DAMAGED = (KeyError, IndexError, ValueError, TypeError, AttributeError, OverflowError)


def is_torch_file(path: Path) -> bool:
    """Return whether a file is a zip archive, as PyTorch writes since version 1.6."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError:
        return False


@dataclass(frozen=True)
class _Name:
    """A class or function that a pickle names."""

    text: str


@dataclass(frozen=True)
class _Storage:
    key: str
    kind: str


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    """The first element in the storage."""
    storage: _Storage


class TorchFile:
    """The tensors of one file, by name; those of a dictionary in a dictionary are ``outer.name``.

    Raises `TyndaError`, naming the file, where it is damaged or no file of PyTorch.
    """

    def __init__(self, path: Path) -> None:
        check_readable(path, "model file")
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
            pickles = [n for n in self._zip.namelist() if n.endswith("/data.pkl")]
            self._root = pickles[0].removesuffix("data.pkl")
            order = f"{self._root}byteorder"
            if order in self._zip.namelist() and self._entry(order, 16) != b"little":
                raise ValueError
            held = _interpret(self._entry(pickles[0], _MAX_PICKLE))
        except (*_DAMAGED, OSError, zipfile.BadZipFile, NotImplementedError):
            raise TyndaError(
                f"{path} is damaged or no file of PyTorch that can be read: get it again"
            ) from None
        self.tensors = _named(held)
        """Name -> tensor."""

    def read(self, name: str) -> NDArray[np.float32]:
        """Return a tensor as float32. Raises `TyndaError` where the file does not hold it."""
        tensor = self.tensors[name]
        try:
            dtype = np.dtype(_STORAGES[tensor.storage.kind])
            last = tensor.offset + sum(
                (size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True)
            )
            entry = f"{self._root}data/{tensor.storage.key}"
            data = np.frombuffer(self._entry(entry, self.path.stat().st_size), dtype)
            # No element may be read twice, so that a small file cannot fill the memory.
            if not 0 <= tensor.offset <= last < len(data) or math.prod(tensor.shape) > len(data):
                raise ValueError
            steps = [dtype.itemsize * step for step in tensor.strides]
            view = np.lib.stride_tricks.as_strided(data[tensor.offset :], tensor.shape, steps)
        except (*_DAMAGED, OSError, zipfile.BadZipFile, NotImplementedError):
            raise TyndaError(f"{self.path}: tensor {name} is damaged: get the file again") from None
        if tensor.storage.kind == "BFloat16Storage":  # the upper half of a float32
            return (view.astype("<u4") << 16).view("<f4")
        return view.astype(np.float32)

    def _entry(self, name: str, limit: int) -> bytes:
        about = self._zip.getinfo(name)
        if about.file_size > limit:
            raise ValueError
        with self._zip.open(about) as file:
            return file.read(limit + 1)


def _named(held: object) -> dict[str, StoredTensor]:
    """Return the tensors of a dictionary, and of the dictionaries in it, by name."""
    found: dict[str, StoredTensor] = {}
    for outer, value in held.items() if isinstance(held, dict) else ():
        # A dictionary that holds itself many times is looked at once.
        inner = value if isinstance(value, dict) and value is not held else {"": value}
        for name, tensor in inner.items():
            if isinstance(tensor, StoredTensor):
                found[f"{outer}.{name}" if name else outer] = tensor
    return found


def _interpret(data: bytes) -> Any:
    """Return the value of a pickle; see the module. Raises ValueError or its like for others."""
    stack: list[Any] = []
    marks: list[list[Any]] = []
    memo: dict[Any, Any] = {}
    for count, (code, argument, _) in enumerate(pickletools.genops(data)):
        if count > _MAX_INSTRUCTIONS:
            raise ValueError("too many instructions")
        name = code.name
        if name == "MARK":
            marks.append(stack)
            stack = []
        elif name in _UNTIL_MARK:
            items, stack = stack, marks.pop()
            _UNTIL_MARK[name](stack, items)
        elif name in _PUSH:
            stack.append(_PUSH[name](argument))
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[argument])
        elif name in _POP:
            number = _POP[name][0]
            taken = [stack.pop() for _ in range(number)][::-1]
            stack.append(_POP[name][1](*taken))
        elif name == "POP":
            stack.pop()
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"the instruction {name}")
    raise ValueError("no end")


def _call(function: object, arguments: object) -> Any:
    """Return what a call gives where it is of a tensor or a dictionary, and None for others."""
    name = function.text if isinstance(function, _Name) else ""
    if name == "collections OrderedDict":
        return {}
    if not isinstance(arguments, tuple):
        return None
    if name == "torch._utils _rebuild_tensor_v2":
        storage, offset, shape, strides = arguments[:4]
        numbers = (offset, *shape, *strides)
        if not all(type(n) is int and 0 <= n < 1 << 40 for n in numbers) or len(shape) > _MAX_AXES:
            raise ValueError
        if not isinstance(storage, _Storage):
            raise ValueError
        return StoredTensor(tuple(shape), tuple(strides), offset, storage)
    if name.startswith("torch._utils _rebuild_parameter"):
        return arguments[0]
    return None


def _storage(about: Any) -> _Storage:
    tag, kind, key = about[:3]
    if tag != "storage" or not isinstance(kind, _Name) or not isinstance(key, str):
        raise ValueError
    return _Storage(key, kind.text.rpartition(" ")[2])


def _set(held: Any, *pairs: Any) -> Any:
    """Set items of a dictionary whose names are strings; others are left out."""
    if isinstance(held, dict):
        held.update((k, v) for k, v in zip(pairs[::2], pairs[1::2], strict=True) if type(k) is str)
    return held


def _extend(held: Any, *items: Any) -> Any:
    if isinstance(held, list):
        held.extend(items)
    return held


def _changed(change: Callable[..., Any]) -> Callable[[list[Any], list[Any]], None]:
    return lambda stack, items: stack.append(change(stack.pop(), *items))


_UNTIL_MARK: Mapping[str, Callable[[list[Any], list[Any]], None]] = {
    "TUPLE": lambda stack, items: stack.append(tuple(items)),
    "LIST": lambda stack, items: stack.append(items),
    "DICT": lambda stack, items: stack.append(_set({}, *items)),
    "SETITEMS": _changed(_set),
    "APPENDS": _changed(_extend),
    "ADDITEMS": _changed(lambda held, *items: held),
    "FROZENSET": lambda stack, items: stack.append(None),
    "POP_MARK": lambda stack, items: None,
}
"""Instructions that take all values since the last mark."""
_VALUES = (
    *("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1", "LONG4", "BINFLOAT", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "BINSTRING", "STRING"),
    *("SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
)
_PUSH: Mapping[str, Callable[[Any], Any]] = {
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    **dict.fromkeys(("EMPTY_SET", "NONE"), lambda _: None),
    "EMPTY_TUPLE": lambda _: (),
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "GLOBAL": _Name,
    **dict.fromkeys(_VALUES, lambda argument: argument),
}
"""Instructions that add a value."""
_POP: Mapping[str, tuple[int, Callable[..., Any]]] = {
    "TUPLE1": (1, lambda *x: x),
    "TUPLE2": (2, lambda *x: x),
    "TUPLE3": (3, lambda *x: x),
    "SETITEM": (3, _set),
    "APPEND": (2, _extend),
    "REDUCE": (2, _call),
    "NEWOBJ": (2, lambda *_: None),
    "NEWOBJ_EX": (3, lambda *_: None),
    "BUILD": (2, lambda held, _: held),
    "BINPERSID": (1, _storage),
    "STACK_GLOBAL": (2, lambda module, name: _Name(f"{module} {name}")),
}
"""Instructions that replace some values by one."""
