"""Strategies that damage bytes, texts and JSON, and values that nobody expects."""

import json
import math
import struct
import zlib

from hypothesis import strategies as st

WHOLE = (
    *(0, 1, -1, 2, 3, 7, 16, 127, 128, 255, 256, 1000, 32767, 65535, 65536, 2**24, 2**31 - 1),
    *(2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, -(2**31), -(2**63), 10**20),
)
REAL = (math.nan, math.inf, -math.inf, 1e308, -1e308, 3e38, 1e20, 1e-45, -0.0, 0.5, 1e-300)
TEXTS = (
    *("", " ", "\0", "\n", "\\", "é", "\ud800", "<s>", "<|endoftext|>", "%s%n", "../../x", "|"),
    *(
        "nan",
        "-1",
        "1e999",
        "none",
        "true",
        "/",
        "٣",
        "\u202e",
        "a" * 300,
        "x" * 20_000,
        "9" * 5000,
    ),
)
numbers = st.sampled_from(WHOLE) | st.sampled_from(REAL) | st.integers(-10, 5000)
texts = st.sampled_from(TEXTS) | st.text(max_size=12)
plain = st.none() | st.booleans() | numbers | texts


def _deep(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


values = (
    plain
    | st.lists(plain, max_size=5)
    | st.dictionaries(texts, plain, max_size=4)
    | st.sampled_from([_deep(20), _deep(500), [0] * 5000, [""] * 3000, {"a": {"b": {"c": 0}}}])
)

# Hypothesis prefers small numbers, but all places of an input are to be damaged as often.
picks = st.binary(min_size=4, max_size=4).map(zlib.crc32)
spots = picks.map(lambda pick: pick / 2**32)


def _patches():
    packed = st.sampled_from([
        struct.pack(kind, value)
        for kind, low, high in (
            *(("<B", 0, 2**8), ("<H", 0, 2**16), ("<I", 0, 2**32), ("<Q", 0, 2**64)),
            ("<i", -(2**31), 2**31),
        )
        for value in WHOLE
        if low <= value < high
    ])  # fmt: skip
    real = st.sampled_from([struct.pack("<f", x) for x in REAL if not abs(x) > 3.4e38 or x != x])
    return packed | real | st.binary(min_size=1, max_size=16)


edits = st.lists(
    st.one_of(
        st.tuples(st.just("write"), spots, _patches()),
        st.tuples(st.just("write"), spots.map(lambda x: x / 50), _patches()),  # near the beginning
        st.tuples(st.just("insert"), spots, st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("flip"), spots, st.integers(1, 255)),
        st.tuples(st.just("delete"), spots, spots.map(lambda x: x**4)),
        st.tuples(st.just("repeat"), spots, spots.map(lambda x: x**4)),
        st.tuples(st.just("cut"), spots, st.none()),
    ),
    min_size=1,
    max_size=6,
)
"""Lists of edits of bytes, for `edited`."""


def edited(data, steps):
    """Return bytes after some `edits`."""
    data = bytearray(data)
    for kind, spot, what in steps:
        at = int(spot * len(data))
        if kind == "write":
            data[at : at + len(what)] = what
        elif kind == "insert":
            data[at:at] = what
        elif kind == "flip" and data:
            data[at] ^= what
        elif kind == "delete":
            del data[at : at + int(what * len(data)) + 1]
        elif kind == "repeat":
            data[at:at] = data[at : at + int(what * len(data)) + 1]
        elif kind == "cut":
            del data[at:]
    return bytes(data)


factors = st.sampled_from([0, -1, 0.5, 2, 3, 10, 100, 1000, 1e6, 1e12]) | st.floats(-2, 2)
changes = st.lists(
    st.tuples(
        spots, st.sampled_from(["set", *["near"] * 4, "drop", "name", "double"]), values, factors
    ),
    min_size=1,
    max_size=4,
)
"""Lists of changes of a JSON value, for `changed`."""


def changed(value, steps):
    """Return a JSON value after some `changes` at any of its places."""
    value = json.loads(json.dumps(value))
    for spot, kind, new, factor in steps:
        new = json.loads(json.dumps(new))  # a copy: no value may get into itself
        places = list(_places(value))
        if not places:
            return new
        where, key = places[int(spot * len(places))]
        old = where[key]
        if kind == "near" and isinstance(old, int | float) and not isinstance(old, bool):
            where[key] = int(old * factor) if isinstance(old, int) else old * factor
        elif kind == "near" and isinstance(old, bool):
            where[key] = not old
        elif kind in ("set", "near"):
            where[key] = new
        elif kind == "drop":
            del where[key]
        elif kind == "double":
            where[key] = [where[key], where[key]]
        elif isinstance(where, dict):
            where[str(new)[:50]] = where.pop(key)
        else:
            where.insert(key, new)
    return value


def _places(value, depth=0):
    """Yield each container in a JSON value with a key; of long ones, the first ten keys."""
    if isinstance(value, dict):
        keys = list(value)
    else:
        keys = range(len(value)) if isinstance(value, list) else ()
    for key in keys[:10] if isinstance(value, list) or len(keys) > 100 else keys:
        yield value, key
        if depth < 6:
            yield from _places(value[key], depth + 1)
