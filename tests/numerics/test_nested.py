"""Nested grids: the codes of a width are the topmost bits of the 8-bit codes, whatever the weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitdial.numerics import nested_weight
from bitdial.numerics.nested import nested_step


def codes_of(values: Tensor, step: Tensor, width: int) -> Tensor:
    """Codes of values on the grid of a width, from 0 up, in float64: ``(c + 1/2 - 2**(k-1)) * cell``."""
    cell = step.double() * 2.0 ** (8 - width)
    codes = values.double() / torch.where(cell == 0, 1.0, cell) - 0.5 + 2 ** (width - 1)
    torch.testing.assert_close(codes, codes.round(), rtol=0.0, atol=1e-3)
    return codes.round().long()


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([1e-6, 1e-2, 1.0, 300.0]),
    st.sampled_from([torch.float32, torch.float64]),
    st.booleans(),
)
def test_the_codes_of_every_width_are_the_top_bits_of_the_8_bit_codes(
    seed: int, size: float, dtype: torch.dtype, per_channel: bool
) -> None:
    w = (torch.randn(4, 3, 3, generator=torch.Generator().manual_seed(seed)) * size).to(dtype)
    step = nested_step(w, per_channel)
    widest = codes_of(nested_weight(w, torch.tensor(8.0), per_channel), step, 8)
    assert widest.min() >= 0
    assert widest.max() <= 255
    for width in range(1, 8):
        codes = codes_of(nested_weight(w, torch.tensor(float(width)), per_channel), step, width)
        assert torch.equal(codes, widest >> (8 - width)), width


def test_values_by_hand() -> None:
    w = torch.tensor([[4.0, -4.0, 0.1, -0.1, 2.0, -1.9]])
    assert torch.equal(nested_weight(w, torch.tensor(1.0)), torch.tensor([[2.0, -2, 2, -2, 2, -2]]))
    assert torch.equal(nested_weight(w, torch.tensor(2.0)), torch.tensor([[3.0, -3, 1, -1, 3, -1]]))
    assert torch.equal(nested_weight(w, torch.tensor(3.0)), torch.tensor([[3.5, -3.5, 0.5, -0.5, 2.5, -1.5]]))
    assert torch.equal(nested_weight(w, torch.tensor(32.0)), w)


@pytest.mark.parametrize(("bits", "same"), [(1.585, 1), (2.9, 2), (2.9999, 3), (7.5, 7), (3.0004, 3)])
def test_a_width_between_two_is_the_lower_one(bits: float, same: int) -> None:
    w = torch.randn(3, 50)
    assert torch.equal(nested_weight(w, torch.tensor(bits)), nested_weight(w, torch.tensor(float(same))))


def test_wide_grids_come_closer_and_the_gradient_passes() -> None:
    w = torch.randn(3, 50).requires_grad_()
    errors = [(nested_weight(w, torch.tensor(float(b))) - w).abs().max().item() for b in (1, 2, 4, 8, 12, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3
    nested_weight(w, torch.tensor(2.0)).backward(torch.full_like(w, 2.0))
    assert torch.equal(w.grad, torch.full_like(w, 2.0))


def test_zeros_stay_zeros_and_nan_stays_visible() -> None:
    assert torch.equal(nested_weight(torch.zeros(2, 3), torch.tensor(3.0)), torch.zeros(2, 3))
    assert nested_weight(torch.tensor([[1.0, float("nan")]]), torch.tensor(3.0)).isnan().any()
    assert nested_weight(torch.zeros(2, 0), torch.tensor(3.0)).shape == (2, 0)
