"""Activations on a grid, and the straight-through gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitdial.numerics import fake_quantize, min_max, snap

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
LOW, HIGH = torch.tensor(0.0), torch.tensor(1.0)


def run(x: Tensor, bits: float, clip: bool, upstream: Tensor, ends: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    out = fake_quantize(leaf, *ends, torch.tensor(bits), clip=clip)
    out.backward(upstream)
    assert leaf.grad is not None
    return out.detach(), leaf.grad


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [1.0, 1.58, 4.0, 16.0, 32.0])
def test_with_the_tensors_own_range_the_gradient_is_the_identity(dtype: torch.dtype, bits: float) -> None:
    x = torch.randn(6, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    upstream = torch.randn(6, 7, generator=torch.Generator().manual_seed(1)).to(dtype)
    out, gradient = run(x, bits, False, upstream, min_max(x))
    assert torch.equal(out, snap(x, *min_max(x), torch.tensor(bits)))
    assert torch.equal(gradient, upstream)  # at the ends of the range too


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [1.0, 2.0, 8.0])
def test_clipped_values_get_no_gradient_and_the_ends_do(dtype: torch.dtype, bits: float) -> None:
    x = torch.tensor([-2.0, -0.01, 0.0, 0.5, 1.0, 1.01, 3.0], dtype=dtype)
    upstream = torch.arange(1.0, 8.0, dtype=dtype)
    out, gradient = run(x, bits, True, upstream, (LOW, HIGH))
    assert out[[0, 1]].tolist() == [0, 0]
    assert out[[5, 6]].tolist() == [1, 1]
    assert gradient.tolist() == [0, 0, 3, 4, 5, 0, 0]


def test_the_clipped_gradient_is_the_slope_of_clamp() -> None:
    # DoReFa's activations: the grid of clamp(x, 0, 1); away from its two corners clamp is smooth.
    x = torch.tensor([-1.5, -0.3, 0.2, 0.49, 0.8, 1.2, 4.0], dtype=torch.float64)
    tiny = 1e-6
    slope = ((x + tiny).clamp(0, 1) - (x - tiny).clamp(0, 1)) / (2 * tiny)
    _, gradient = run(x, 4.0, True, torch.ones_like(x), (LOW, HIGH))
    torch.testing.assert_close(gradient, slope, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES)
def test_32_bits_is_the_identity_bit_for_bit_outside_the_range_too(dtype: torch.dtype) -> None:
    x = torch.tensor([-2.0, 0.3, 7.0], dtype=dtype)
    upstream = torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
    out, gradient = run(x, 32.0, True, upstream, (LOW, HIGH))
    assert torch.equal(out, x)
    assert torch.equal(gradient, upstream)


def test_no_gradient_goes_to_the_range_or_the_width() -> None:
    x = torch.rand(5, requires_grad=True)
    low, high = torch.zeros((), requires_grad=True), torch.ones((), requires_grad=True)
    bits = torch.tensor(3.0, requires_grad=True)
    fake_quantize(x, low, high, bits, clip=True).sum().backward()
    assert low.grad is None
    assert high.grad is None
    assert bits.grad is None


def test_the_width_of_the_forward_pass_decides_the_gradient() -> None:
    x, bits = torch.tensor([2.0], requires_grad=True), torch.tensor(3.0)
    out = fake_quantize(x, LOW, HIGH, bits, clip=True)
    bits.fill_(32.0)
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.item() == 0.0


def test_an_input_changed_before_backward_is_an_error_not_a_wrong_gradient() -> None:
    x = torch.rand(4, requires_grad=True) * 2
    out = fake_quantize(x, LOW, HIGH, torch.tensor(3.0), clip=True)
    x.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_the_output_is_not_the_inputs_memory_at_a_low_width() -> None:
    x = torch.rand(4)
    out = fake_quantize(x, *min_max(x), torch.tensor(2.0))
    assert out.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("bits", [4.0, 32.0])
def test_what_comes_back_may_be_changed_in_place_and_leaves_the_input_alone(bits: float) -> None:
    x = torch.linspace(-1, 1, 9).requires_grad_()
    fake_quantize(x, LOW, HIGH, torch.tensor(bits)).relu_().sum().backward()
    assert torch.equal(x.detach(), torch.linspace(-1, 1, 9))
    assert torch.equal(x.grad, (x > 0).float())
