"""Codes and weights to multiply, at random and at the ends of what there is."""

from __future__ import annotations

import torch
from torch import Tensor

WEIGHTS = {
    "ternary": (2, (-1, 0, 1)),
    "2 bits": (2, (-2, -1, 0, 1)),
    "2 bits, odd": (2, (-3, -1, 1, 3)),
    "4 bits": (4, tuple(range(-8, 8))),
    "4 bits, odd": (4, tuple(range(-15, 16, 2))),
    "8 bits": (8, tuple(range(-128, 128))),
}
"""Name -> bits and the values of weights."""


def weights(name: str, *shape: int) -> Tensor:
    """Some at random, with all values of them among them if there is room."""
    values = torch.tensor(WEIGHTS[name][1], dtype=torch.int8)
    found = values[torch.randint(len(values), shape)]
    flat = found.view(-1)
    flat[: min(len(values), len(flat))] = values[: len(flat)]
    return found


def codes(dtype: torch.dtype, *shape: int) -> Tensor:
    """Some at random; of floating point normal ones."""
    if dtype.is_floating_point:
        return torch.randn(shape).to(dtype)
    low, high = (0, 256) if dtype == torch.uint8 else (-128, 128)
    return torch.randint(low, high, shape).to(dtype)


def bound(sizes: Tensor, depth: int) -> Tensor:
    """How far sums of so many products in float32 may be from exact ones, `sizes` being the sums of absolute products.

    Products of a float16 or bfloat16 (11 bits) with a whole number of 8 bits are exact in float32; every one of the
    additions rounds by half a unit at most (Higham, Accuracy and Stability, 4.2), or cuts off a whole one in the tensor
    cores of a GPU.
    """
    return sizes * (depth * 2.0**-23) + 1e-30
