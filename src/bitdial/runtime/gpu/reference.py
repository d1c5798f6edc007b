"""What the kernels compute, plainly: sums in 64 bits of whole numbers, or in float64."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def reference_matmul(x: Tensor, codes: Tensor, *, zero_point: int = 0) -> Tensor:
    """``(x - zero_point) @ codes.T``, int64 for codes and float64 for floating point.

    Args:
        x: ``(..., in)``.
        codes: int8, ``(out, in)``.
        zero_point: the code of 0.0.
    """
    wide = torch.float64 if x.is_floating_point() else torch.int64
    return (x.to(wide) - zero_point) @ codes.to(wide).T


def reference_conv2d(
    x: Tensor,
    codes: Tensor,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    zero_point: int = 0,
) -> Tensor:
    """``conv2d(x - zero_point, codes)``, with zeros around the images; int64 for codes, float64 for floating point.

    Args:
        x: ``(batch, channels, height, width)``.
        codes: int8, ``(out, channels / groups, rows, columns)``.
        stride, padding, dilation, groups: as PyTorch has them.
        zero_point: the code of 0.0.
    """
    wide = torch.float64 if x.is_floating_point() else torch.int64
    return functional.conv2d(x.to(wide) - zero_point, codes.to(wide), None, stride, padding, dilation, groups)
