"""Stochastic rounding: within one step, right on average, and silent at 32 bits."""

from __future__ import annotations

import math

import pytest
import torch

from bitdial.numerics import levels, min_max, quantize_gradient, stochastic_round

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
N = 100_000
# The mean of n draws that are 0 or 1 has a standard deviation of at most .5 / sqrt(n); five of them.
BOUND = 5 * 0.5 / math.sqrt(N)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("value", [0.1, 0.25, 0.5, 0.75, 3.9, -0.3, -2.75, 1000.5])
def test_rounding_is_unbiased(value: float, dtype: torch.dtype) -> None:
    x = torch.full((N,), value, dtype=dtype)
    exact = x[0].item()
    rounded = stochastic_round(x, torch.Generator().manual_seed(0))
    assert rounded.dtype == dtype
    assert abs(rounded.double().mean().item() - exact) < BOUND
    assert set(rounded.unique().tolist()) == {math.floor(exact), math.floor(exact) + 1}


def test_the_bound_would_catch_rounding_to_nearest() -> None:
    assert abs(torch.full((N,), 0.3).round().mean().item() - 0.3) > BOUND


@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_numbers_stay(dtype: torch.dtype) -> None:
    x = torch.arange(-200, 201).to(dtype)
    torch.manual_seed(0)
    assert torch.equal(stochastic_round(x), x)


def test_a_generator_makes_it_repeatable_and_leaves_the_global_state_alone() -> None:
    x = torch.rand(1000)
    before = torch.get_rng_state()
    first = stochastic_round(x, torch.Generator().manual_seed(3))
    again = stochastic_round(x, torch.Generator().manual_seed(3))
    other = stochastic_round(x, torch.Generator().manual_seed(4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("bits", [1.0, 1.58, 4.0, 8.0, 16.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_moves_by_less_than_one_step_and_stays_in_its_range(bits: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    gradient = torch.randn(40, 50).to(dtype)
    low, high = min_max(gradient)
    out = quantize_gradient(gradient, torch.tensor(bits))
    step = (high - low).item() / (levels(torch.tensor(bits)).item() - 1)
    ulp = torch.finfo(dtype if dtype != torch.float64 else torch.float32).eps * gradient.abs().max().item()
    assert out.dtype == dtype
    assert (out.float() - gradient.float()).abs().max().item() <= step + ulp
    assert out.min() >= low - ulp
    assert out.max() <= high + ulp
    assert len(out.unique()) <= levels(torch.tensor(bits)).item()


@pytest.mark.parametrize("bits", [1.0, 2.0, 8.0])
def test_a_quantized_gradient_is_unbiased(bits: float) -> None:
    torch.manual_seed(0)
    one = torch.tensor([-1.0, -0.37, 0.0, 0.11, 0.6, 2.0])
    out = quantize_gradient(one.repeat(N, 1), torch.tensor(bits)).double().mean(0)
    step = 3.0 / (2**bits - 1)
    assert (out - one).abs().max().item() < BOUND * step + 1e-6
    assert out[0].item() == pytest.approx(-1.0)  # the ends are on the grid: no noise
    assert out[-1].item() == pytest.approx(2.0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_32_bits_is_the_identity_and_draws_nothing(dtype: torch.dtype) -> None:
    gradient = torch.randn(30).to(dtype)
    before = torch.get_rng_state()
    assert torch.equal(quantize_gradient(gradient, torch.tensor(32.0)), gradient)
    assert torch.equal(torch.get_rng_state(), before)


def test_lower_widths_do_draw() -> None:
    before = torch.get_rng_state()
    quantize_gradient(torch.randn(30), torch.tensor(8.0))
    assert not torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("value", [0.0, 2.5, -1e30, 1e-40])
def test_constant_gradients_stay(value: float) -> None:
    gradient = torch.full((7,), value)
    torch.testing.assert_close(quantize_gradient(gradient, torch.tensor(4.0)), gradient, rtol=0, atol=0)


def test_empty_gradients_stay() -> None:
    assert quantize_gradient(torch.empty(0, 3), torch.tensor(4.0)).shape == (0, 3)


def test_the_gradient_given_is_not_written_to() -> None:
    gradient = torch.randn(50)
    before = gradient.clone()
    quantize_gradient(gradient, torch.tensor(2.0))
    assert torch.equal(gradient, before)


@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_an_overflow_reaches_the_loss_scaler(bad: float) -> None:
    out = quantize_gradient(torch.tensor([0.1, bad, 0.3]), torch.tensor(8.0))
    assert not out.isfinite().all()
