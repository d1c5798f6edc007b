"""Weight quantizers: values by hand, gradients by formula and by finite differences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitdial.numerics import QUANTIZERS, dorefa_weight, snap_symmetric, uniform_weight
from bitdial.numerics.weights import magnitude

QUANTIZE = {name: QUANTIZERS[name].weight for name in ("uniform", "dorefa")}
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def weight(dtype: torch.dtype = torch.float32) -> Tensor:
    return (torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(1)) * 0.4).to(dtype)


def gradient_of(name: str, w: Tensor, bits: float, per_channel: bool, upstream: Tensor) -> Tensor:
    leaf = w.clone().requires_grad_()
    QUANTIZE[name](leaf, torch.tensor(bits), per_channel).backward(upstream)
    assert leaf.grad is not None
    return leaf.grad


def test_magnitude_per_channel_and_per_tensor() -> None:
    w = torch.tensor([[1.0, -3.0], [0.5, 0.25]])
    assert magnitude(w, True).tolist() == [[3.0], [0.5]]
    assert magnitude(w, False).item() == 3.0
    assert magnitude(w[0], True).item() == 3.0  # a vector has no channels
    assert magnitude(w[:0], True).item() == 0.0


def test_uniform_by_hand() -> None:
    w = torch.tensor([[1.0, -0.4, 0.1], [-9.0, 2.0, 4.0]])
    # Two bits: {-1, -1/3, 1/3, 1} times the channel's largest magnitude.
    expected = torch.tensor([[1.0, -1 / 3, 1 / 3], [-9.0, 3.0, 3.0]])
    torch.testing.assert_close(uniform_weight(w, torch.tensor(2.0), True), expected)
    tensor_wide = torch.tensor([[3.0, -3.0, 3.0], [-9.0, 3.0, 3.0]])
    torch.testing.assert_close(uniform_weight(w, torch.tensor(2.0), False), tensor_wide)


def test_dorefa_by_hand() -> None:
    w = torch.tensor([0.5, -1.0, 0.1, -0.05])
    # arXiv 1606.06160, eq. 9: 2 Q_k(tanh(w) / (2 max|tanh(w)|) + 1/2) - 1, Q_k(x) = round(x (2^k - 1)) / (2^k - 1);
    # times E = mean|w|.
    for k in (2, 3, 4):
        last = 2**k - 1
        unit = torch.tanh(w) / (2 * torch.tanh(w).abs().max()) + 0.5
        expected = (2 * torch.round(unit * last) / last - 1) * w.abs().mean()
        torch.testing.assert_close(dorefa_weight(w, torch.tensor(float(k))), expected)


def test_dorefa_at_one_bit_is_the_sign_times_the_mean_magnitude() -> None:
    # Eq. 7 of the same paper.
    w = weight()
    torch.testing.assert_close(dorefa_weight(w, torch.tensor(1.0)), w.sign() * w.abs().mean())


@pytest.mark.parametrize("name", QUANTIZE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_channel", [True, False])
def test_dtype_shape_and_layout_are_kept(name: str, dtype: torch.dtype, per_channel: bool) -> None:
    w = weight(dtype).to(memory_format=torch.channels_last)
    for bits in (1.0, 1.58, 4.0, 32.0):
        out = QUANTIZE[name](w, torch.tensor(bits), per_channel)
        assert out.dtype == dtype
        assert out.shape == w.shape
        assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", QUANTIZE)
@pytest.mark.parametrize("per_channel", [True, False])
def test_layout_does_not_change_values(name: str, per_channel: bool) -> None:
    w = weight()
    spread = torch.empty(5, 6, 3, 3)[:, ::2].copy_(w)
    for bits in (1.0, 2.7, 8.0):
        plain = QUANTIZE[name](w, torch.tensor(bits), per_channel)
        for other in (w.to(memory_format=torch.channels_last), spread, w.permute(0, 3, 1, 2).permute(0, 2, 3, 1)):
            torch.testing.assert_close(QUANTIZE[name](other, torch.tensor(bits), per_channel), plain)


@pytest.mark.parametrize("bits", [1.0, 1.58, 3.0, 8.0, 32.0])
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_uniform_gradient_is_the_identity_everywhere(bits: float, per_channel: bool, dtype: torch.dtype) -> None:
    # The largest weights define the range; they too get their gradient and nothing else.
    upstream = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(2)).to(dtype)
    assert torch.equal(gradient_of("uniform", weight(dtype), bits, per_channel, upstream), upstream)


@pytest.mark.parametrize("bits", [1.0, 1.58, 3.0, 8.0])
@pytest.mark.parametrize("per_channel", [True, False])
def test_dorefa_gradient_is_its_formula(bits: float, per_channel: bool) -> None:
    w = weight()
    dims = (1, 2, 3) if per_channel else (0, 1, 2, 3)
    mean, largest = w.abs().mean(dims, keepdim=True), w.tanh().abs().amax(dims, keepdim=True)
    upstream = torch.randn(w.shape, generator=torch.Generator().manual_seed(2))
    expected = upstream * (1 - w.tanh() ** 2) * mean / largest
    torch.testing.assert_close(gradient_of("dorefa", w, bits, per_channel, upstream), expected)


@pytest.mark.parametrize("per_channel", [True, False])
def test_dorefa_gradient_is_the_slope_of_its_smooth_part(per_channel: bool) -> None:
    # At many levels rounding vanishes: finite differences of E tanh(w) / max|tanh(w)|, E and maximum held.
    w = weight(torch.float64)
    dims = (1, 2, 3) if per_channel else (0, 1, 2, 3)
    mean, largest = w.abs().mean(dims, keepdim=True), w.tanh().abs().amax(dims, keepdim=True)
    tiny = 1e-6
    slope = ((w + tiny).tanh() - (w - tiny).tanh()) / (2 * tiny) * mean / largest
    found = gradient_of("dorefa", w, 8.0, per_channel, torch.ones_like(w))
    torch.testing.assert_close(found, slope, rtol=1e-5, atol=1e-7)
    # And the values do follow that function, to half a step.
    values = dorefa_weight(w, torch.tensor(8.0), per_channel)
    assert ((values - mean * w.tanh() / largest).abs() <= mean / 255 * 1.001).all()


@pytest.mark.parametrize("name", QUANTIZE)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_channel", [True, False])
def test_32_bits_is_the_identity_bit_for_bit_gradient_included(
    name: str, dtype: torch.dtype, per_channel: bool
) -> None:
    w = weight(dtype)
    upstream = torch.randn(w.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    assert torch.equal(QUANTIZE[name](w, torch.tensor(32.0), per_channel), w)
    assert torch.equal(gradient_of(name, w, 32.0, per_channel, upstream), upstream)


@pytest.mark.parametrize("name", QUANTIZE)
def test_turning_the_dial_before_backward_keeps_the_width_of_the_forward_pass(name: str) -> None:
    w, bits = weight().requires_grad_(), torch.tensor(3.0)
    out = QUANTIZE[name](w, bits, True)
    bits.fill_(32.0)
    out.backward(torch.ones_like(out))
    assert w.grad is not None
    assert torch.equal(w.grad, gradient_of(name, w.detach(), 3.0, True, torch.ones_like(out)))


@pytest.mark.parametrize("name", QUANTIZE)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (4, 0), (3, 0, 2)])
def test_empty_weights(name: str, shape: tuple[int, ...]) -> None:
    w = torch.empty(shape, requires_grad=True)
    out = QUANTIZE[name](w, torch.tensor(2.0), False)
    assert out.shape == shape
    out.sum().backward()
    assert w.grad is not None
    assert w.grad.shape == shape


@pytest.mark.parametrize("name", QUANTIZE)
@pytest.mark.parametrize("bits", [1.0, 1.58, 4.0, 16.0])
def test_a_channel_of_zeros_stays_zero_and_harms_no_other(name: str, bits: float) -> None:
    w = weight()
    w[2] = 0.0
    out = QUANTIZE[name](w, torch.tensor(bits), True)
    assert out.isfinite().all()
    assert (out[2] == 0).all()
    alone = QUANTIZE[name](w[:2], torch.tensor(bits), True)
    torch.testing.assert_close(out[:2], alone)


@pytest.mark.parametrize("name", QUANTIZE)
@pytest.mark.parametrize("value", [0.0, 0.3, -7.0])
def test_constant_weights_keep_their_value(name: str, value: float) -> None:
    w = torch.full((3, 4), value)
    for bits in (1.0, 2.0, 5.5):
        torch.testing.assert_close(QUANTIZE[name](w, torch.tensor(bits), False), w)


@pytest.mark.parametrize("name", QUANTIZE)
def test_float16_extremes_stay_finite(name: str) -> None:
    w = torch.tensor([[65504.0, -65504.0, 1.0], [6e-8, -6e-8, 6e-8]], dtype=torch.float16)
    for bits in (1.0, 2.0, 8.0, 16.0):
        out = QUANTIZE[name](w, torch.tensor(bits), True)
        assert out.isfinite().all()
        assert (out != 0).any(dim=1).all()


@pytest.mark.parametrize("name", QUANTIZE)
def test_a_weight_that_is_not_a_number_is_not_hidden(name: str) -> None:
    w = torch.tensor([[0.1, float("nan")], [0.2, 0.3]])
    out = QUANTIZE[name](w, torch.tensor(4.0), True)
    assert out[0].isnan().all()
    assert out[1].isfinite().all()


def test_uniform_per_channel_is_each_channel_by_itself() -> None:
    w = weight()
    out = uniform_weight(w, torch.tensor(3.0), True)
    for channel in range(5):
        one = snap_symmetric(w[channel], w[channel].abs().max(), torch.tensor(3.0))
        torch.testing.assert_close(out[channel], one)
