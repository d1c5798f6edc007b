"""The arithmetic's derivatives are those of its product."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from bitdial.layers.arithmetic import ConvArithmetic, LinearArithmetic, TransposedArithmetic

CASES: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...]]] = {
    "linear": (LinearArithmetic(), (4, 6), (5, 6)),
    "linear, vector": (LinearArithmetic(), (6,), (5, 6)),
    "linear, sequence": (LinearArithmetic(), (2, 3, 6), (5, 6)),
    "conv1d": (ConvArithmetic((2,), (1,), (1,), 1), (2, 4, 9), (6, 4, 3)),
    "conv1d, unbatched": (ConvArithmetic((1,), (1,), (2,), 2), (4, 9), (6, 2, 3)),
    "conv2d": (ConvArithmetic((2, 1), (1, 0), (1, 2), 1), (2, 4, 7, 8), (6, 4, 3, 2)),
    "transposed 1d": (TransposedArithmetic((2,), (1,), (1,), 1, (1,)), (2, 4, 9), (4, 6, 3)),
    "transposed 2d": (TransposedArithmetic((2, 1), (1, 0), (1, 2), 2, (0, 0)), (2, 4, 5, 6), (4, 3, 3, 2)),
    "transposed 2d, unbatched": (TransposedArithmetic((2, 2), (0, 0), (1, 1), 1, (0, 0)), (4, 5, 6), (4, 3, 2, 2)),
    "conv2d, unbatched, grouped": (ConvArithmetic((1, 1), (1, 1), (1, 1), 4), (4, 5, 5), (8, 1, 3, 3)),
}


def draw(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def outputs(arithmetic: Any, w_shape: tuple[int, ...]) -> tuple[int, ...]:
    transposed = isinstance(arithmetic, TransposedArithmetic)
    return (w_shape[1] * arithmetic.groups,) if transposed else w_shape[:1]


@pytest.mark.parametrize("case", CASES)
def test_derivatives_are_autograds(case: str) -> None:
    arithmetic, x_shape, w_shape = CASES[case]
    x, w, b = draw(x_shape, 0), draw(w_shape, 1), draw(outputs(arithmetic, w_shape), 2)
    y = arithmetic.product(x, w, b)
    gradient = draw(tuple(y.shape), 3).detach()
    expected = torch.autograd.grad(y, (x, w, b), gradient)
    with torch.no_grad():
        found = arithmetic.derivatives(gradient, x, w, (True, True, True))
    for ours, theirs in zip(found, expected, strict=True):
        assert ours is not None
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)])
def test_only_what_is_needed_is_computed(case: str, needs: tuple[bool, bool, bool]) -> None:
    arithmetic, x_shape, w_shape = CASES[case]
    x, w = draw(x_shape, 0).detach(), draw(w_shape, 1).detach()
    gradient = torch.ones_like(arithmetic.product(x, w, None))
    found = arithmetic.derivatives(gradient, x, w, needs)
    assert tuple(value is not None for value in found) == needs
