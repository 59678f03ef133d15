"""Grids: the formats that weights are stored in, and the values that they can have there.

A row of a weight has a scale, as in 8 bits, and each group of its inputs a whole-numbered step:
code ``u`` of a group counts ``step * u + offset`` in whole numbers from -127 to 127, which are
those of a weight in 8 bits. So products are computed just as in 8 bits, to the last bit,
whatever a weight is stored in. (Lin et al. 2024, "QServe", section 4.1: progressive group
quantization.) Or a code looks its whole number up in a table that the weight has.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from tynda.checks import Rule, check, is_whole
from tynda.errors import TyndaError

__all__ = ["BITS", "INT8", "MIN_SCALE", "NF4", "Grid", "GroupSize", "Width"]

BITS = (1.58, 2, 3, 4, 5, 6, 8)
"""Widths that weights are stored in; 1.58 is log2(3): three values."""

# The step at which a uniform quantizer of Gaussian numbers errs least, in mean sizes of them
# (Max 1960, table II, over the square root of 2 / pi); that of three values as in BitNet b1.58
# (Ma et al. 2024, equation 3).
_STEPS = {1.58: 1.0, 2: 1.248, 3: 0.734, 4: 0.420, 5: 0.236, 6: 0.130, 8: 0.0386}

MIN_SCALE = 6.2e-5
"""The smallest scale of a row in a file: about the least f16 with all its digits, so that rows of
zeros can be divided by it."""
_MAX_GROUP = 1 << 16

Width = Annotated[float, Rule(f"one of {', '.join(f'{b:g}' for b in BITS)}", BITS.__contains__)]
"""Bits of a weight."""
GroupSize = Annotated[
    int,
    Rule(
        f"a multiple of 32 (32, 64, 96, ... up to {_MAX_GROUP}), or 0 for a whole row",
        lambda size: 0 <= size <= _MAX_GROUP and size % 32 == 0,
    ),
]
"""Inputs of a row that share a step."""

NF4 = (-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127)
"""The table of NormalFloat (Dettmers et al. 2023, "QLoRA", appendix E), in 127ths."""


@dataclass(frozen=True)
class Grid:
    """How many values a weight can have, and how many of its inputs share a step.

    Raises `TyndaError` for values that are none of those below.
    """

    bits: Width
    group: GroupSize = 0
    table: tuple[int, ...] = ()
    """The values, rising whole numbers from -127 to 127, where they are not evenly apart; all
    inputs of a row then share its scale."""

    def __post_init__(self) -> None:
        check(self)
        if self.table and (
            self.group
            or len(self.table) != self.levels
            or not all(is_whole(value, -127, 127) for value in self.table)
            or any(a > b for a, b in pairwise(self.table))
        ):
            raise TyndaError(
                f"a table for {self.bits:g} bits has {self.levels} rising numbers from -127 to "
                "127, and no groups"
            )

    @property
    def levels(self) -> int:
        """How many values a code has."""
        return {1.58: 3, 8: 255}.get(self.bits) or 2 ** int(self.bits)

    @property
    def max_step(self) -> int:
        """The largest step whose values all lie from -127 to 127."""
        return 254 // (self.levels - 1)

    @property
    def row_step(self) -> int:
        """The step of a row whose inputs all share one: the scale is chosen so that it fits."""
        return 1 if self.table else self.max_step

    @property
    def gaussian(self) -> float:
        """The step that suits Gaussian numbers, in their mean sizes."""
        return _STEPS[self.bits]

    def group_size(self, inputs: int) -> int:
        """How many inputs a group has in a row of ``inputs``."""
        return min(self.group or inputs, inputs)

    def groups(self, inputs: int) -> int:
        """How many groups a row of ``inputs`` has; the last may be short."""
        return -(-inputs // self.group) if self.group else 1


INT8 = Grid(8)
"""Rows of int8 codes from -127 to 127, each with a scale; not packed."""
