"""Whole weights in the layout that the kernels of a GPU read.

A byte holds the weights of one input for 4, 2 or 1 outputs (of 2, 4 or 8 bits) that lie a quarter, a half or a whole of
the outputs apart. So a tile of bytes becomes that many tiles of weights by shifts alone, which all meet the same tile
of activations: nothing is loaded twice, and nothing moves between threads. Bytes stand in the order of a row of inputs,
``(groups, outputs / parts, taps, channels)``, so that neighbouring threads load neighbouring bytes, 16 at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bitdial.errors import BitdialError
from bitdial.runtime.weights import INT32, PACKINGS, Packing

BYTE = Packing(8, 1, -128)
"""Any signed byte."""
ALIGNED = 16
"""Bytes that are loaded at once; rows of at least as many channels are filled up to a multiple of them."""


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """The weights of a linear layer or a convolution.

    Attributes:
        data: uint8, ``(groups, outputs / parts, taps, channels filled up)``; with a single group where every channel
            stands alone.
        sums: int32, ``(out,)``: all weights of an output together, for inputs whose zero is not at code 0.
        shape: ``(out, in / groups, rows, columns)`` of the weights.
        groups: of channels.
        packing: how a code stands for a weight: ``stride * code + least``.
        largest: no sum of the absolute weights of an output is larger.
    """

    data: Tensor
    sums: Tensor
    shape: tuple[int, int, int, int]
    groups: int
    packing: Packing
    largest: int

    @property
    def parts(self) -> int:
        """Weights in a byte."""
        return 8 // self.packing.bits

    @property
    def each(self) -> bool:
        """Whether every channel has one output, with weights of its own alone (a depthwise convolution)."""
        return self.groups > 1 and self.groups == self.shape[0] and self.shape[1] == 1

    @property
    def nbytes(self) -> int:
        """Memory of the weights."""
        return self.data.numel() + 4 * self.sums.numel()

    def to(self, device: torch.device | str) -> PackedWeight:
        """The same on a device."""
        return replace(self, data=self.data.to(device), sums=self.sums.to(device))

    def unpacked(self) -> Tensor:
        """The weights, int8, ``(out, in / groups, rows, columns)``: the plain inverse of `pack`."""
        out, channels, rows, columns = self.shape
        bits, stride, least = self.packing
        codes = [(self.data >> (bits * part)) & ((1 << bits) - 1) for part in range(self.parts)]
        filled = torch.cat(codes, 1).int() * stride + least
        groups = len(self.data)
        whole = filled[:, : out // groups, :, :channels].reshape(out, rows, columns, channels)
        return whole.permute(0, 3, 1, 2).to(torch.int8).contiguous()


def pack(codes: Tensor, groups: int = 1, *, bits: int | None = None) -> PackedWeight:
    """Pack whole weights for the kernels.

    Args:
        codes: int8, ``(out, in)`` of a linear layer or ``(out, in / groups, rows, columns)`` of a convolution.
        groups: of channels.
        bits: 2, 4 or 8; None: the fewest that hold the weights.

    Returns:
        The packed weights, where `codes` are.

    Raises:
        BitdialError: the codes are of another kind or shape, or do not fit into so many bits.
    """
    codes = _checked(codes, groups)
    out, channels, rows, columns = codes.shape
    packing = _packing(codes, bits)
    parts = 8 // packing.bits
    alone = groups > 1 and groups == out and channels == 1
    held = 1 if alone else groups
    per = out // held
    lines, filled = -(-per // parts), channels if channels < ALIGNED else -(-channels // ALIGNED) * ALIGNED
    data = torch.zeros(held, lines * parts, rows * columns, filled, dtype=torch.uint8, device=codes.device)
    ordered = codes.permute(0, 2, 3, 1).reshape(held, per, rows * columns, channels).int()
    data[:, :per, :, :channels] = ((ordered - packing.least) // packing.stride).to(torch.uint8)
    pieces = data.reshape(held, parts, lines, rows * columns, filled)
    merged = pieces[:, 0].clone()
    for part in range(1, parts):
        merged |= pieces[:, part] << (packing.bits * part)
    flat = codes.flatten(1).long()
    largest = int(flat.abs().sum(1).amax()) if codes.numel() else 0
    if largest * 256 > INT32:
        raise BitdialError(
            f"sums of products must stay within 32 bits, got weights whose absolute values add up to {largest} in an "
            "output; split the layer"
        )
    return PackedWeight(merged, flat.sum(1).int(), (out, channels, rows, columns), groups, packing, largest)


def _checked(codes: Tensor, groups: int) -> Tensor:
    """The codes as those of a convolution."""
    if not isinstance(codes, Tensor) or codes.dtype != torch.int8 or codes.dim() not in (2, 4):
        got = f"{codes.dtype} of {tuple(codes.shape)}" if isinstance(codes, Tensor) else type(codes).__name__
        raise BitdialError(
            f"weights must be int8 codes of (out, in) or (out, in / groups, rows, columns), got {got}; "
            "bitdial.export.weight_codes reads those of a layer"
        )
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or len(codes) % groups:
        raise BitdialError(f"groups must divide the {len(codes)} outputs, got {groups!r}")
    if groups > 1 and codes.dim() == 2:
        raise BitdialError(f"the weights of a linear layer have one group, got {groups}; leave groups out")
    return codes.detach() if codes.dim() == 4 else codes.detach()[:, :, None, None]


def _packing(codes: Tensor, bits: int | None) -> Packing:
    """The fewest bits that hold the weights, or those that are asked for."""
    if bits not in (None, 2, 4, 8):
        raise BitdialError(f"bits must be 2, 4 or 8, got {bits!r}; leave it out for the fewest that hold the weights")
    values = torch.unique(codes).cpu().int().numpy()
    offered = [each for each in (*PACKINGS, BYTE) if bits in (None, each.bits)]
    found = next((each for each in offered if each.holds(values)), None)
    if found is None:
        ends = f"{int(values.min())} to {int(values.max())}"
        raise BitdialError(f"weights from {ends} do not fit into {bits} bits; leave bits out, and more are taken")
    return found
