"""Reading of n-grams in the ARPA format.

A file may come from anywhere, so that nothing in it is believed: its counts only end sections, no
memory is allocated by them, and an n-gram whose context is missing, that is there twice, or whose
numbers are not finite is an error. N-grams are stored as sorted arrays, 16 bytes for each.
"""

from __future__ import annotations

import ctypes
import re
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tynda.errors import TyndaError

__all__ = ["MAX_WORD", "Level", "Table", "read"]

MAX_WORD = 256
"""The maximum number of bytes of a word."""
_MAX_ORDER = 8
_MAX_LINE = 1 << 12
"""The maximum number of bytes of a line: more than `_MAX_ORDER` words, and two numbers."""
_LINES_AT_ONCE = 1 << 8
_LOWEST = -1e4
"""The lowest log10 of a probability or a back-off weight; -99 is common for zero."""
_COUNT = re.compile(rb"ngram\s+([0-9])\s*=\s*([0-9]{1,12})\s*")


@dataclass(frozen=True)
class Level:
    """The n-grams of one length n, in the order of their contexts and then of their last words.

    An n-gram is identified by its index. For n = 1, the index is the word's number.
    """

    words: array[int]
    """The number of each n-gram's last word."""
    log_probs: array[float]
    """Log10 probabilities."""
    backoffs: array[float]
    """Log10 back-off weights, 0 where there is none."""
    starts: array[int]
    """The index in the next level of the first n-gram with each one as context, and the end of the
    last one's; empty for the longest n-grams."""


@dataclass(frozen=True)
class Table:
    """The words of an n-gram model, by name, and its levels, shortest n-grams first."""

    numbers: dict[str, int]
    levels: list[Level]


class _DamagedError(Exception):
    """The reason why a file cannot be read."""


def read(file: BinaryIO, name: str) -> Table:
    """Read an ARPA file, which is open in binary mode; ``name`` is for messages.

    Raises `TyndaError`, naming the file, where it is not as the format demands: anything but
    UTF-8, counts that its lines do not match, numbers that are no log-probabilities, words beyond
    `MAX_WORD` bytes, n-grams that are there twice or whose context is missing, no ``<s>`` or
    ``</s>``, or an order that is not from 2 to 8.
    """
    lines = iter(partial(file.readline, _MAX_LINE), b"")
    try:
        table = _read(lines)
        _return_freed_memory()
        return table
    except _DamagedError as error:
        raise TyndaError(f"{name} is not an n-gram in the ARPA format: {error}") from None


def _return_freed_memory() -> None:
    """Let glibc return freed memory to the system: lines and numbers took more than the table."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _read(lines: Iterator[bytes]) -> Table:
    counts = _counts(lines)
    names: dict[bytes, int] = {}
    levels: list[Level] = []
    keys: list[NDArray[np.uint64]] = []  # Context and last word of each n-gram, in order.
    for n, count in enumerate(counts, start=1):
        words, log_probs, backoffs = _section(lines, n, count, names)
        if n == 1:
            order = np.arange(count)
            keys.append(order.astype(np.uint64))
        else:
            contexts = _contexts(words, keys)
            key = contexts << np.uint64(32) | words[:, -1]
            order = np.argsort(key, kind="stable")
            keys.append(key[order])
            if (keys[-1][1:] == keys[-1][:-1]).any():
                raise _DamagedError(f"a {n}-gram is there twice")
            before = levels.pop()
            ends = np.arange(len(before.words) + 1, dtype=np.uint64) << np.uint64(32)
            starts = array("I", np.searchsorted(keys[-1], ends).astype(np.uint32).tobytes())
            levels.append(Level(before.words, before.log_probs, before.backoffs, starts))
        last = array("I", words[order, -1].astype(np.uint32).tobytes())
        probs, weights = (_floats(values[order]) for values in (log_probs, backoffs))
        levels.append(Level(last, probs, weights, array("I")))
    if next(lines, b"").strip() != b"\\end\\":
        raise _DamagedError(f"it has no \\end\\ after its {len(counts)}-grams")
    return Table({word.decode(): number for word, number in names.items()}, levels)


def _counts(lines: Iterator[bytes]) -> list[int]:
    """Read the header: the number of n-grams of each length, shortest first."""
    first = next((line for line in lines if line.strip()), b"")
    if first.strip() != b"\\data\\":
        raise _DamagedError("it does not begin with \\data\\")
    counts: list[int] = []
    for line in lines:
        if not line.strip():
            break
        found = _COUNT.fullmatch(line)
        if found is None or int(found[1]) != len(counts) + 1:
            raise _DamagedError("its header is not a list of counts (ngram 1=...)")
        counts.append(int(found[2]))
    if not 2 <= len(counts) <= _MAX_ORDER:
        raise _DamagedError(f"its order is {len(counts)}, not from 2 to {_MAX_ORDER}")
    return counts


def _section(
    lines: Iterator[bytes], n: int, count: int, names: dict[bytes, int]
) -> tuple[NDArray[np.uint64], NDArray[np.float64], NDArray[np.float64]]:
    """Read the n-grams of one length: numbers of words ``[count, n]``, log-probabilities and
    back-off weights ``[count]``. Unigrams are added to ``names``."""
    if next(lines, b"").strip() != b"\\%d-grams:" % n:
        raise _DamagedError(f"it has no section \\{n}-grams: where its counts need one")
    numbers, floats = [array("I") for _ in range(n)], (array("d"), array("d"))
    done = 0
    while rows := [text.split() for text in islice(lines, min(count - done, _LINES_AT_ONCE))]:
        for row in rows:
            if len(row) == n + 1:  # There is no back-off weight.
                row.append(b"0")
            elif len(row) != n + 2:
                line = done + rows.index(row) + 1
                raise _DamagedError(f"line {line} of its {n}-grams is not one")
        log_probs, *words, backoffs = zip(*rows, strict=True)
        if n == 1:
            _add(words[0], names)
        try:
            for column, of in zip((log_probs, backoffs), floats, strict=True):
                of.extend(map(float, column))
            for column, to in zip(words, numbers, strict=True):
                to.extend(map(names.__getitem__, column))
        except KeyError:
            raise _DamagedError(f"a {n}-gram has a word that is no unigram") from None
        except ValueError:
            raise _DamagedError(f"a {n}-gram has something else than a number beside it") from None
        done += len(rows)
    if done != count or next(lines, b"").strip():
        raise _DamagedError(f"it states {count} {n}-grams, and has another number of them")
    if n == 1 and not {b"<s>", b"</s>"} <= names.keys():
        raise _DamagedError("it lacks <s> or </s>")
    probs, weights = map(np.array, floats)
    if not ((probs >= _LOWEST) & (probs <= 0)).all():
        raise _DamagedError(f"a log-probability of its {n}-grams is not from {_LOWEST:g} to 0")
    if not (np.abs(weights) <= -_LOWEST).all():
        raise _DamagedError(
            f"a back-off weight of its {n}-grams is not from {_LOWEST:g} to {-_LOWEST:g}"
        )
    return np.array(numbers, np.uint64).T, probs, weights


def _add(words: Sequence[bytes], names: dict[bytes, int]) -> None:
    """Give unigrams the next numbers."""
    if max(map(len, words)) > MAX_WORD:
        raise _DamagedError(f"it has a word of more than {MAX_WORD} bytes")
    try:
        b" ".join(words).decode()
    except UnicodeDecodeError:
        raise _DamagedError("it is not in UTF-8: convert it") from None
    numbers = range(len(names), len(names) + len(words))
    names.update(zip(words, numbers, strict=True))
    if len(names) < numbers.stop:
        raise _DamagedError("a word is there twice")


def _floats(values: NDArray[np.float64]) -> array[float]:
    return array("f", values.astype(np.float32).tobytes())


def _contexts(words: NDArray[np.uint64], keys: list[Any]) -> NDArray[np.uint64]:
    """Return the index of each n-gram's context, its first words, in the level before."""
    found = words[:, 0]
    for level, column in zip(keys[1:], words.T[1:-1], strict=True):
        key = found << np.uint64(32) | column
        found = np.searchsorted(level, key).astype(np.uint64)
        if not len(level) or (level[np.minimum(found, len(level) - 1)] != key).any():
            if not len(key):
                continue
            raise _DamagedError(f"a {words.shape[1]}-gram's context is missing")
    return found
