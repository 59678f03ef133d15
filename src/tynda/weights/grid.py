"""Grids: the formats of stored weights, and the values that weights can have in them.

Quantisation is progressive (Lin et al. 2024, "QServe", section 4.1). A row of a weight has a scale,
as in 8 bits, and each group of its inputs an integer scale and offset: code ``u`` of a group is the
integer ``scale * u + offset`` from -127 to 127, which is a code in 8 bits. Products are therefore
bit for bit those of 8 bits, with any grid. Instead of group scales, a weight may have a table that
maps codes to these integers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from tynda.checks import Range, Rule, check, is_whole
from tynda.errors import TyndaError

__all__ = ["BITS", "INT8", "MIN_SCALE", "NF4", "Grid", "GroupSize", "Width"]

BITS = (1.58, 2, 3, 4, 5, 6, 8)
"""Bit widths of stored weights; 1.58 is log2(3), for three values."""

# The scale of a uniform quantizer with the minimum error for Gaussian numbers, relative to their
# mean absolute value (Max 1960, table II, divided by the square root of 2 / pi). The one for three
# values is that of BitNet b1.58 (Ma et al. 2024, equation 3).
_GAUSSIAN_SCALES = {1.58: 1.0, 2: 1.248, 3: 0.734, 4: 0.420, 5: 0.236, 6: 0.130, 8: 0.0386}

MIN_SCALE = 6.2e-5
"""Minimum scale of a row in a file, so that rows of zeros can be divided by it: about the smallest
normal number of f16."""
_MAX_GROUP = 1 << 16

Width = Annotated[float, Rule(f"one of {', '.join(f'{b:g}' for b in BITS)}", BITS.__contains__)]
"""A bit width of a weight."""
GroupSize = Annotated[
    int,
    Rule(
        f"a multiple of 32 (32, 64, 96, ... up to {_MAX_GROUP}), or 0 for a whole row",
        lambda size: 0 <= size <= _MAX_GROUP and size % 32 == 0,
    ),
]
"""Number of inputs of a row that share a scale."""
RelativeStep = Annotated[float, Range(0, 4)]
"""The distance between adjacent values of a row, relative to the root mean square of the row."""

NF4 = (-127, -88, -67, -50, -36, -23, -12, 0, 10, 20, 31, 43, 56, 71, 92, 127)
"""The table of 4-bit NormalFloat (Dettmers et al. 2023, "QLoRA", appendix E), times 127."""


@dataclass(frozen=True)
class Grid:
    """The number of values that a weight can have, and of inputs that share a scale.

    Raises `TyndaError` for invalid fields.
    """

    bits: Width
    group: GroupSize = 0
    table: tuple[int, ...] = ()
    """The values of a grid that is not uniform: increasing integers from -127 to 127. All inputs of
    a row then share its scale."""
    relative_step: RelativeStep = 0
    """In 8 bits, steps that are larger than the largest value of a row requires: most codes are
    then small, and a file has them entropy-coded. 0: the largest value has the code 127."""

    def __post_init__(self) -> None:
        check(self)
        if self.table and (
            self.group
            or len(self.table) != self.levels
            or not all(is_whole(value, -127, 127) for value in self.table)
            or any(a > b for a, b in pairwise(self.table))
        ):
            raise TyndaError(
                f"a table for {self.bits:g} bits has {self.levels} increasing numbers from -127 to "
                "127, and no groups"
            )
        if self.relative_step and (self.bits != 8 or self.group):
            raise TyndaError("codes with a relative step have 8 bits, and no groups")

    @property
    def levels(self) -> int:
        """Number of values of a code."""
        return {1.58: 3, 8: 255}.get(self.bits) or 2 ** int(self.bits)

    @property
    def max_group_scale(self) -> int:
        """The maximum integer scale of a group, with which all values are from -127 to 127."""
        return 254 // (self.levels - 1)

    @property
    def default_group_scale(self) -> int:
        """The integer scale of a group that is a whole row: the row's scale is chosen for it."""
        return 1 if self.table else self.max_group_scale

    @property
    def gaussian_scale(self) -> float:
        """The scale with the minimum error for Gaussian numbers, relative to their mean absolute
        value."""
        return _GAUSSIAN_SCALES[self.bits]

    def group_size(self, inputs: int) -> int:
        """Return the number of inputs of a group in a row of ``inputs``."""
        return min(self.group or inputs, inputs)

    def groups(self, inputs: int) -> int:
        """Return the number of groups in a row of ``inputs``; the last one may be shorter."""
        return -(-inputs // self.group) if self.group else 1


INT8 = Grid(8)
"""The grid of int8 codes from -127 to 127, with a scale for each row, which are not packed."""
