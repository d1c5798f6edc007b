"""Products of packed weights with activations, by kernels in Triton: forward, on a GPU, or interpreted on a CPU."""

from __future__ import annotations

import math
import threading
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from bitdial.errors import BitdialError
from bitdial.export.calibration import ActivationGrid
from bitdial.runtime.gpu.checking import check_count, checked_inputs, checked_sizes, pairs
from bitdial.runtime.gpu.packing import PackedWeight

VECTORS = 4
"""Rows up to which a matrix product is computed row by row, without tensor cores, whose smallest tile has 16."""
ENCODED = 1024
"""Numbers that a program of `encode` takes."""

_LAUNCHING = threading.Lock()
"""Triton's autotuner keeps the arguments of a call, and its interpreter what it replaces, where all threads see it."""


@torch.no_grad()
def packed_matmul(
    x: Tensor,
    weight: PackedWeight,
    *,
    zero_point: int = 0,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``scale * ((x - zero_point) @ weight.T) + bias``.

    Args:
        x: ``(..., in)``: uint8 or int8 codes, whose sums are exact, or float16 or bfloat16, with sums in float32.
        weight: of a linear layer, on the device of `x`.
        zero_point: the code of 0.0; 0 for floating point.
        scale: float32, ``(out,)``; None: 1.
        bias: float32, ``(out,)``.
        dtype: of the output; None: float32, or for codes without scale and bias int32, for floating point that of `x`.

    Returns:
        ``(..., out)``.

    Raises:
        BitdialError: arguments of another kind or shape than said above; Triton is missing, or the device no GPU.
    """
    if isinstance(weight, PackedWeight) and (weight.groups != 1 or weight.shape[2:] != (1, 1)):
        raise BitdialError(
            f"packed_matmul takes the weights of a linear layer, got those of a convolution, {weight.shape}; "
            "use packed_conv2d"
        )
    checked_inputs(x, weight, zero_point, scale, bias, dtype)
    if x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise BitdialError(f"x must be (..., {weight.shape[1]}) for these weights, got {tuple(x.shape)}")
    count = math.prod(x.shape[:-1])
    check_count(count)
    rows = x.reshape(count, x.shape[-1]).contiguous()
    image = rows[:, None, None]
    y = _launched(image, weight, (1, 1), (1, 1), (0, 0), (1, 1), zero_point, scale, bias, dtype)
    return y.reshape(*x.shape[:-1], weight.shape[0])


@torch.no_grad()
def packed_conv2d(
    x: Tensor,
    weight: PackedWeight,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | tuple[int, int, int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    zero_point: int = 0,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """``scale * conv2d(x - zero_point, weight) + bias``, with 0.0 (the code `zero_point`) around the images.

    Args:
        x: ``(batch, channels, height, width)``, of the types that `packed_matmul` takes; best in ``channels_last``,
            another order is copied.
        weight: of a convolution, on the device of `x`.
        stride, dilation: of rows and columns.
        padding: of rows and columns, or (top, left, bottom, right).
        zero_point, scale, bias, dtype: as for `packed_matmul`.

    Returns:
        ``(batch, out, rows, columns)``, in ``channels_last``.

    Raises:
        BitdialError: as `packed_matmul`; the kernel is larger than the padded image.
    """
    checked_inputs(x, weight, zero_point, scale, bias, dtype)
    steps, apart, borders = pairs("stride", stride), pairs("dilation", dilation), pairs("padding", padding)
    out_sizes = checked_sizes(x, weight, steps, borders, apart)
    image = x.permute(0, 2, 3, 1)
    if image.stride(3) != 1:
        image = image.contiguous()
    y = _launched(image, weight, out_sizes, steps, borders, apart, zero_point, scale, bias, dtype)
    return y.reshape(len(x), *out_sizes, weight.shape[0]).permute(0, 3, 1, 2)


@torch.no_grad()
def encoded(x: Tensor, grid: ActivationGrid) -> tuple[Tensor, int]:
    """The codes of floats on a grid that has 0.0, as signed bytes in the order of `x`; and the code of 0.0.

    Args:
        x: float32, float16 or bfloat16, of any shape.
        grid: of at most 256 levels.
    """
    from bitdial.runtime.gpu import kernels

    assert grid.zero_point is not None
    zero = grid.zero_point - 128
    codes = torch.empty_like(x, dtype=torch.int8)
    dense = x if codes.stride() == x.stride() else torch.empty_like(codes, dtype=x.dtype).copy_(x)
    if x.numel():
        with _LAUNCHING, _current(x.device):
            kernels.encode[(-(-x.numel() // ENCODED),)](
                dense, codes, x.numel(), 1.0 / grid.scale, -float(grid.zero_point),
                float(grid.levels - 1 - grid.zero_point), float(zero), SIZE=ENCODED,
            )  # fmt: skip
    return codes, zero


def _current(device: torch.device) -> AbstractContextManager[Any]:
    """Have Triton launch on the device, which takes the current one."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _launched(
    image: Tensor, weight: PackedWeight, out_sizes: tuple[int, int], steps: tuple[int, ...], borders: tuple[int, ...],
    apart: tuple[int, ...], zero_point: int, scale: Tensor | None, bias: Tensor | None, dtype: torch.dtype | None,
) -> Tensor:  # fmt: skip
    """The output, ``(pixels, out)``, for images ``(batch, height, width, channels)`` whose last dimension is dense."""
    from bitdial.runtime.gpu import configurations, kernels

    whole = not image.is_floating_point()
    if dtype is None:
        dtype = image.dtype if not whole else torch.int32 if scale is None and bias is None else torch.float32
    count = len(image) * out_sizes[0] * out_sizes[1]
    out, channels, rows, columns = weight.shape
    y = torch.empty(count, out, dtype=configurations.stored(dtype), device=image.device)
    if not y.numel():
        return y.to(dtype)
    per, lines, filled = out // weight.groups, weight.data.shape[1], weight.data.shape[3]
    zero = zero_point - 128 if image.dtype == torch.uint8 else zero_point
    bits, stride, least = weight.packing
    given = (image, weight.data, y, weight.sums, y if scale is None else scale, y if bias is None else bias, zero)
    known: dict[str, Any] = {
        "BITS": bits,
        "STRIDE": stride,
        "LEAST": least,
        "KIND": configurations.kind_of(image.dtype),
    }
    known |= {"SCALED": scale is not None, "BIASED": bias is not None}
    places = (
        *image.shape[1:3], *out_sizes, *image.stride()[:3], *steps, *borders[:2], *apart,
    )  # fmt: skip
    size = 1 << (count - 1).bit_length()
    with _LAUNCHING, _current(image.device):
        if weight.each:
            kernels.each[lambda made: (-(-count // made["ROWS"]), -(-out // made["CHANNELS"]))](
                *given, size, count, lines, out, rows * columns, columns, *places, **known
            )
        elif rows * columns * weight.groups == 1 and count <= VECTORS and image.shape[1:3] == (1, 1):
            kernels.vector[lambda made: (-(-lines // made["LINES"]), count)](
                *given, count, channels, lines, out, filled, image.stride(0), **known
            )
        else:
            kernels.product[lambda made: (-(-count // made["ROWS"]) * -(-lines // made["LINES"]), weight.groups)](
                *given, size, count, channels, per, lines, out, filled, rows * columns, columns, *places,
                BORDERS=any(borders), **known,
            )  # fmt: skip
    return y.to(dtype)
