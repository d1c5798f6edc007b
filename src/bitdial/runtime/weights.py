"""Whole weights in the order and the bits in which the kernels read them.

A block is 16 output channels of a group; a step is 4 input channels of one tap of it, 64 weights. Input channels that
do not fill a step get weights of zero, output channels that do not fill a block as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

BLOCK = 16
STEP = 4
LINE = 32
"""Bytes that the kernels unpack at once."""

GROUP, CHUNK, POSITIONS = 32, 32, 36
"""As in winograd.c."""

INT16 = 2**15 - 1
INT32 = 2**31 - 1
FEWEST = 4
"""With fewer steps in 16 bits, and a widening after them, multiplying numbers of 16 bits is quicker."""

Codes = NDArray[np.int32]


class Packing(NamedTuple):
    """How a weight is stored: ``stride * code + least`` with a code of so many bits."""

    bits: int
    stride: int
    least: int

    def holds(self, weights: Codes) -> bool:
        """Whether it can stand for all of them."""
        code, rest = np.divmod(weights - self.least, self.stride)
        return bool(((rest == 0) & (code >= 0) & (code < 1 << self.bits)).all())


PACKINGS = (Packing(2, 1, -1), Packing(2, 1, -2), Packing(2, 2, -3), Packing(4, 1, -8), Packing(4, 2, -15))
WIDE = Packing(8, 1, 0)


def aligned(values: NDArray[Any]) -> NDArray[Any]:
    """A copy that begins at a multiple of 64 bytes, with 64 bytes to spare behind it."""
    memory = np.zeros(values.nbytes + 128, np.uint8)
    start = -memory.ctypes.data % 64
    out = memory[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
    out[...] = values
    return out


@dataclass(frozen=True, eq=False)
class Weights:
    """The whole weights of a convolution.

    Attributes:
        codes: ``(out, in / groups, rows, columns)``, int32, from -128 to 127.
        groups: of channels.
        last: the largest code of an input.
    """

    codes: Codes
    groups: int
    last: int

    @cached_property
    def most_steps(self) -> int:
        """How many steps can be added up in 16 bits."""
        largest = int(np.abs(self.codes).max(initial=0))
        return INT16 // max(2 * self.last * largest, 1) if largest and self.last else 1 << 20

    @property
    def wide(self) -> bool:
        """Whether they are multiplied as numbers of 16 bits."""
        return self.most_steps < FEWEST

    @property
    def largest_sum(self) -> int:
        """No sum of products is larger."""
        return int(np.abs(self.codes.astype(np.int64)).sum((1, 2, 3)).max(initial=0)) * self.last

    @property
    def each(self) -> bool:
        """Whether every channel has weights of its own alone, for which there is another kernel."""
        return self.groups > 1 and self.groups == len(self.codes) and self.codes.shape[1] == 1

    @property
    def steps_of_tap(self) -> int:
        """Steps of the input channels of a group."""
        return -(-int(self.codes.shape[1]) // STEP)

    @property
    def steps(self) -> int:
        """Of a block."""
        return self.steps_of_tap * int(self.codes.shape[2] * self.codes.shape[3])

    @cached_property
    def ordered(self) -> NDArray[np.int32]:
        """``(blocks, steps, 64)``: 16 output channels by 4 input channels a step."""
        out, channels, rows, columns = self.codes.shape
        per = out // self.groups
        blocks, steps = -(-per // BLOCK), self.steps_of_tap
        full = np.zeros((self.groups, blocks * BLOCK, steps * STEP, rows, columns), np.int32)
        full[:, :per, :channels] = self.codes.reshape(self.groups, per, channels, rows, columns)
        split = full.reshape(self.groups, blocks, BLOCK, steps, STEP, rows, columns)
        return split.transpose(0, 1, 5, 6, 3, 2, 4).reshape(self.groups * blocks, self.steps, BLOCK * STEP)

    @cached_property
    def packing(self) -> Packing:
        """The fewest bits that hold the weights, and the zeros that fill them up."""
        if self.wide:
            return WIDE
        return next((each for each in PACKINGS if each.holds(self.ordered)), WIDE)

    @cached_property
    def packed(self) -> NDArray[np.uint8]:
        """The bytes that the kernel reads."""
        bits, stride, least = self.packing
        if bits == 8:
            return aligned(self.ordered.astype(np.int8).view(np.uint8))
        codes = ((self.ordered - least) // stride).astype(np.uint8)
        if bits == 2 and self.steps % 2:
            codes = np.pad(codes, ((0, 0), (0, 1), (0, 0)))
        parts = codes.reshape(len(codes), -1, 8 // bits, LINE)  # a byte takes one of each quarter, or of each half
        out = parts[:, :, 0].copy()
        for i in range(1, 8 // bits):
            out |= parts[:, :, i] << (bits * i)
        return aligned(out)

    @cached_property
    def paired(self) -> NDArray[np.int16]:
        """For the kernel of channels that stand alone: ``(blocks, pairs of taps, 32)`` in the order of unpacking."""
        count, taps = len(self.codes), self.codes[0].size
        full = np.zeros((-(-count // BLOCK) * BLOCK, -(-taps // 2) * 2), np.int16)
        full[:count, :taps] = self.codes.reshape(count, taps)
        pairs = full.reshape(-1, BLOCK, full.shape[1] // 2, 2).transpose(0, 2, 1, 3)
        order = [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15]
        return aligned(np.ascontiguousarray(pairs[:, :, order]).reshape(len(pairs), -1, 32))

    @property
    def tiles(self) -> bool:
        """Whether winograd.c gives the very sums, if the convolution has no stride and no dilation."""
        return self.groups == 1 and self.codes.shape[2:] == (3, 3) and self.last < 256 and self.largest_sum < 2**25

    def scratch(self, tiled: bool) -> int:
        """Bytes that the kernels work in: a block's weights as they are multiplied, and what winograd.c spreads."""
        own = (128 if self.wide else 64) * (self.steps + 1)
        if not tiled:
            return own
        inputs = POSITIONS * (2 * GROUP * -(-self.steps_of_tap // 4) * 16 + 64)
        return own + inputs + 15 * (128 * CHUNK + 64) + POSITIONS * (64 * GROUP + 64) + 1024 * GROUP

    @property
    def nbytes(self) -> int:
        """Memory of the weights."""
        return self.paired.nbytes if self.each else self.packed.nbytes

    def segments(self, row: int, pixel: int, dilation: tuple[int, int]) -> list[tuple[int, int]]:
        """Where the taps of a block begin relative to a pixel's first one, in bytes, and for how many steps.

        Args:
            row, pixel: bytes from an input's row to the next, and from a pixel to the next.
            dilation: between rows and columns of the kernel.
        """
        rows, columns = self.codes.shape[2:]
        whole = self.groups == 1 and dilation[1] == 1 and pixel == STEP * self.steps_of_tap
        across = range(1 if whole else columns)
        runs = [
            (y * dilation[0] * row + x * dilation[1] * pixel, self.steps_of_tap * (columns if whole else 1))
            for y in range(rows)
            for x in across
        ]
        if self.wide:
            return runs
        most, cut = self.most_steps, []
        for start, steps in runs:
            parts = -(-steps // most)
            size = -(-steps // parts)
            size = min(-(-size // 4) * 4, most)  # the kernel takes four steps at once
            cut += [(start + STEP * at, min(size, steps - at)) for at in range(0, steps, size)]
        return cut
