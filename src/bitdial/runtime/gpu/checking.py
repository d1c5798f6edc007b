"""What products of packed weights are asked for, checked before a kernel sees it: a kernel would read other memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitdial.errors import BitdialError
from bitdial.runtime.gpu.packing import PackedWeight
from bitdial.runtime.gpu.trial import why_no_launch

CODES = {torch.uint8: (0, 255), torch.int8: (-128, 127)}
HALVES = (torch.float16, torch.bfloat16)
OUTPUTS = (torch.float32, *HALVES)
MOST = 2**31 - 2**12
"""Kernels count pixels in 32 bits, those of a last tile that are beyond the end too."""


def checked_inputs(
    x: Tensor, weight: PackedWeight, zero_point: int, scale: Tensor | None, bias: Tensor | None, dtype: Any
) -> None:
    """Refuse what products cannot take.

    Raises:
        BitdialError: what that is.
    """
    if not isinstance(weight, PackedWeight):
        raise BitdialError(f"weight must be packed, got {type(weight).__name__}; use bitdial.runtime.gpu.pack")
    if not isinstance(x, Tensor) or x.dtype not in (*CODES, *HALVES):
        got = str(x.dtype) if isinstance(x, Tensor) else type(x).__name__
        raise BitdialError(
            f"x must be a tensor of uint8 or int8 codes, float16 or bfloat16, got {got}; convert it to one of them"
        )
    if x.device != weight.data.device:
        raise BitdialError(
            f"x and the weights must be on one device, got {x.device} and {weight.data.device}; move them with "
            "weight.to(device)"
        )
    low, high = CODES.get(x.dtype, (0, 0))
    if isinstance(zero_point, bool) or not isinstance(zero_point, int) or not low <= zero_point <= high:
        raise BitdialError(f"zero_point must be a whole number from {low} to {high} for {x.dtype}, got {zero_point!r}")
    for name, value in (("scale", scale), ("bias", bias)):
        if value is not None:
            _check_vector(name, value, weight)
    whole = x.dtype in CODES and scale is None and bias is None
    if dtype is not None and dtype not in ((torch.int32, *OUTPUTS) if whole else OUTPUTS):
        offered = ", ".join(str(each) for each in OUTPUTS)
        raise BitdialError(
            f"dtype must be one of {offered} (for codes without scale and bias torch.int32 too), got {dtype!r}"
        )
    reason = why_no_launch(x.device)
    if reason:
        raise BitdialError(f"products of packed weights need a GPU and Triton: {reason}")


def _check_vector(name: str, value: Any, weight: PackedWeight) -> None:
    ready = isinstance(value, Tensor) and value.dtype == torch.float32 and value.shape == weight.sums.shape
    if not ready or value.device != weight.data.device or not value.is_contiguous():
        got = f"{value.dtype} of {tuple(value.shape)} on {value.device}" if isinstance(value, Tensor) else repr(value)
        raise BitdialError(
            f"{name} must be dense float32 of ({len(weight.sums)},), the outputs, on {weight.data.device}, got {got}"
        )


def pairs(name: str, value: Any) -> tuple[int, ...]:
    """A number for rows and one for columns; of padding also four, for the sides.

    Raises:
        BitdialError: it is something else.
    """
    least, lengths = (0, (2, 4)) if name == "padding" else (1, (2,))
    found = tuple(value) if isinstance(value, tuple | list) else (value, value)
    whole = all(isinstance(each, int) and not isinstance(each, bool) and least <= each <= MOST for each in found)
    if not whole or len(found) not in lengths:
        four = ", or (top, left, bottom, right)" if name == "padding" else ""
        raise BitdialError(
            f"{name} must be a whole number from {least} on, or one for rows and one for columns{four}, got {value!r}"
        )
    return found * 2 if name == "padding" and len(found) == 2 else found


def checked_sizes(
    x: Tensor, weight: PackedWeight, steps: tuple[int, ...], borders: tuple[int, ...], apart: tuple[int, ...]
) -> tuple[int, int]:
    """Rows and columns of the output of a convolution.

    Raises:
        BitdialError: the images do not fit the weights, or are too large.
    """
    wanted = weight.shape[1] * weight.groups
    if x.dim() != 4 or x.shape[1] != wanted:
        raise BitdialError(
            f"x must be (batch, {wanted}, height, width) for these weights of {weight.groups} groups, got "
            f"{tuple(x.shape)}"
        )
    sizes = [
        (size + borders[axis] + borders[axis + 2] - apart[axis] * (weight.shape[2 + axis] - 1) - 1) // steps[axis] + 1
        for axis, size in enumerate(x.shape[2:])
    ]
    if min(sizes) < 1:
        raise BitdialError(
            f"the kernel of {weight.shape[2]} x {weight.shape[3]} at dilation {apart} must fit into the padded image, "
            f"got images of {x.shape[2]} x {x.shape[3]}"
        )
    check_count(len(x) * sizes[0] * sizes[1])
    check_count(x.shape[2] + x.shape[3] + sum(borders))
    return sizes[0], sizes[1]


def check_count(count: int) -> None:
    """Refuse more rows, or pixels, than kernels can count.

    Raises:
        BitdialError: there are more.
    """
    if count > MOST:
        raise BitdialError(f"rows or pixels of the output must be fewer than {MOST}, got {count}; give fewer at a time")
