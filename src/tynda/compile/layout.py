"""How a traced program runs in native code: which rows go together, and where tensors lie.

`lower` turns the program's operations into those of ``native/src/plan.h``, `stages` groups them
and `Layout` gives every tensor its place. All of it is settled before anything is computed, from
shapes alone: the memory that a model will take is known without its weights.

Operations whose rows do not depend on each other form a strip, which a thread runs for a block
of rows at a time. A tensor that only lives within a strip has room for that block alone, for
each thread; the others share one arena, in which tensors that do not live at the same time lie
on the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["ALIGN", "Buffer", "Layout", "Machine", "Node", "Stage", "View", "group", "up"]

ALIGN = 64
"""Bytes: where a tensor may begin."""
# Rows that a thread takes at a time: enough to use a weight often once it is in the cache,
_MOST_ROWS = 64
# and few enough that they stay in the second cache.
_BLOCK_BYTES = 2 << 20


@dataclass(frozen=True)
class Machine:
    """What a plan has to know of the processor."""

    panel: int
    """Outputs that a product works on at once."""
    tile: int
    """Rows of it."""
    threads: int
    bits: int = 32
    """Of the numbers in attention's products; of others their weights decide."""


@dataclass(eq=False)
class Buffer:
    """Memory for a tensor, rows one after another."""

    rows: int
    row: int
    """Bytes."""
    argument: int | None = None
    """Which argument of the plan it is, if it is one."""
    constant: Any = None
    """The array that it is, if it never changes."""
    local: bool = False
    """Whether it lives within one strip."""
    offset: int = 0
    """In the arena, or in a thread's part of it."""


@dataclass(frozen=True)
class View:
    """A buffer as a tensor: rows of some bytes, beginning at an offset."""

    buffer: Buffer
    rows: int
    row: int
    offset: int = 0

    def columns(self, start: int) -> View:
        """The same rows from a byte on."""
        return View(self.buffer, self.rows, self.row, self.offset + start)


@dataclass(eq=False)
class Node:
    """One operation of the native engine."""

    emit: Callable[[Any, Callable[[View], Any]], None]
    """Tells a native plan of it; the second argument gives the place of a view."""
    rows: int | None
    """Rows of its result; None: a stage of its own."""
    reads: Sequence[View] = ()
    """Row by row."""
    reads_whole: Sequence[View] = ()
    writes: Sequence[View] = ()
    local: int = 0
    """Bytes that each thread needs meanwhile, of a stage of its own."""
    early: bool = False
    """Whether it only works with lengths and places: it then runs before everything."""
    step: int = 0
    """The place in the traced program of the operation that it belongs to."""
    weights: Sequence[tuple[str, str]] = ()
    """Matrices that it reads, by name and form."""
    integer: bool = False
    """Whether it makes products of codes."""


@dataclass(eq=False)
class Stage:
    """A strip, or a node of its own."""

    nodes: list[Node] = field(default_factory=list)
    rows: int | None = None

    def takes(self, node: Node) -> bool:
        """Whether a node can join the strip."""
        if self.rows is None or node.rows != self.rows:
            return False
        written = {view.buffer: view for n in self.nodes for view in n.writes}
        read_whole = {view.buffer for n in self.nodes for view in n.reads_whole}
        # A block's rows are all that a thread may read of what the strip makes; and what
        # another thread still reads as a whole may not change.
        return (
            not any(view.buffer in written for view in node.reads_whole)
            and all(view.row == written.get(view.buffer, view).row for view in node.reads)
            and not any(view.buffer in read_whole for view in node.writes)
        )


def group(nodes: Iterable[Node]) -> list[Stage]:
    """Stages, in order: strips as long as they can be."""
    nodes = list(nodes)
    result: list[Stage] = []
    for node in sorted(nodes, key=lambda n: not n.early):  # stable
        if node.rows is None or not result or not result[-1].takes(node):
            result.append(Stage(rows=node.rows))
        result[-1].nodes.append(node)
    return result


class Layout:
    """The place of every buffer, and the size of it all."""

    def __init__(self, stages: Sequence[Stage], machine: Machine) -> None:
        self._machine = machine
        spans: dict[Buffer, tuple[int, int]] = {}
        homes: dict[Buffer, set[int]] = {}
        whole: set[Buffer] = set()
        for i, stage in enumerate(stages):
            for node in stage.nodes:
                for view in (*node.reads, *node.reads_whole, *node.writes):
                    buffer = view.buffer
                    if buffer.argument is None and buffer.constant is None:
                        first, _ = spans.get(buffer, (i, i))
                        spans[buffer] = (first, i)
                        homes.setdefault(buffer, set()).add(i)
                        if stage.rows is None or view in node.reads_whole:
                            whole.add(buffer)
        for buffer, found in homes.items():
            buffer.local = len(found) == 1 and buffer not in whole
        self.arena = _place({b: (span, b.rows * b.row) for b, span in spans.items() if not b.local})
        self.blocks: dict[Stage, int] = {}
        """Rows that a thread takes at a time."""
        self.local = max((n.local for stage in stages for n in stage.nodes), default=0)
        for stage in stages:
            if stage.rows is not None:
                self.local = max(self.local, self._place_locals(stage))

    @property
    def bytes(self) -> int:
        """All that a run needs beside weights, inputs and outputs."""
        return up(self.arena, ALIGN) + self._machine.threads * up(self.local, ALIGN)

    def _place_locals(self, stage: Stage) -> int:
        spans: dict[Buffer, tuple[int, int]] = {}
        for i, node in enumerate(stage.nodes):
            for view in (*node.reads, *node.reads_whole, *node.writes):
                if view.buffer.local:
                    spans[view.buffer] = (spans.get(view.buffer, (i, i))[0], i)
        row_bytes = _place({b: (span, b.row) for b, span in spans.items()})
        block = self._block(stage.rows or 0, row_bytes)
        self.blocks[stage] = block
        return _place({b: (span, b.row * block) for b, span in spans.items()})

    def _block(self, rows: int, row_bytes: int) -> int:
        """As many rows for each thread, as far as they come out even."""
        tile, threads = self._machine.tile, self._machine.threads
        if rows < 2 * tile:
            return max(rows, 1)  # the threads then share each product
        most = max(tile, min(_MOST_ROWS, _BLOCK_BYTES // max(row_bytes, 1)) // tile * tile)
        rounds = -(-rows // (most * threads))
        return -(-rows // (rounds * threads))


def _place(buffers: dict[Buffer, tuple[tuple[int, int], int]]) -> int:
    """Give each buffer, with its life and size, an offset; the end of the last.

    The largest come first, each to the lowest place where nothing lies during its life
    (Pisarchyk & Lee 2020, greedy by size).
    """
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    end = 0
    for buffer, ((first, last), size) in sorted(buffers.items(), key=lambda item: -item[1][1]):
        offset = 0
        for start, stop, begins, ends in sorted(placed):
            if begins <= last and first <= ends:
                if start - offset >= size:
                    break
                offset = max(offset, stop)
        buffer.offset = offset
        placed.append((offset, offset + up(size, ALIGN), first, last))
        end = max(end, offset + up(size, ALIGN))
    return end


def up(n: int, step: int) -> int:
    """The least multiple of ``step`` that is not below ``n``."""
    return -(-n // step) * step
