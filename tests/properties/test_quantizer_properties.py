"""What holds for every quantizer, whatever the tensor and the width."""

from __future__ import annotations

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitdial.numerics import QUANTIZERS, fake_quantize, levels, min_max, snap, snap_symmetric
from bitdial.numerics.reference import snap_reference, snap_symmetric_reference, step_size
from bitdial.numerics.weights import magnitude

# A slow moment of a shared machine is no fault of a quantizer.
QUICK = settings(deadline=None, max_examples=60)

EVERY = [q.weight for q in QUANTIZERS.values()]
WEIGHTS = [QUANTIZERS[name].weight for name in ("uniform", "dorefa")]  # those that reach all levels at any width
WIDTHS = st.one_of(st.sampled_from([1.0, 1.58, 2.0, 2.32, 3.0, 4.0, 8.0]), st.floats(1.0, 10.0, width=32))
SIZES = st.sampled_from([1e-36, 1e-20, 1e-3, 1.0, 1e4, 1e20, 1e37])
ULP = 2.0**-23


@st.composite
def tensors(draw: st.DrawFn, size: st.SearchStrategy[float] = SIZES) -> Tensor:
    """A matrix with up to 5 x 9 values in [-1, 1] times a magnitude: any pattern of zeros, repeats and signs."""
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    entries = st.one_of(st.floats(-1, 1, width=32), st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-6]))
    values = draw(st.lists(entries, min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(values, dtype=torch.float64).mul(draw(size)).float().reshape(rows, columns)


def codes(x: Tensor, low: Tensor, step: Tensor) -> Tensor:
    return ((x.double() - low.double()) / step.double()).round()


def distance_to_tie(x: Tensor, low: Tensor, step: Tensor) -> Tensor:
    """How far a value is from the middle between two codes, in steps."""
    position = (x.double() - low.double()) / step.double()
    return (position - position.floor() - 0.5).abs()


def origin(step: Tensor, bits: Tensor) -> Tensor:
    """A value of the symmetric grid: zero, or half a step where an even number of levels leaves zero out.

    Not the end of the range, which the grid does not hit where its step was kept from becoming too small for a float.
    """
    return step * ((levels(bits) - 1) / 2 % 1)


@QUICK
@given(tensors(), WIDTHS)
@example(torch.full((2, 3), 5.0), 4.0)
def test_at_most_round_two_to_the_bits_levels(x: Tensor, bits: float) -> None:
    width = torch.tensor(bits)
    most = round(2**bits) + (0.4999 < 2**bits % 1 < 0.5001)  # float32 may round the other way at a half
    assert len(snap(x, *min_max(x), width).unique()) <= most
    for quantize in WEIGHTS:
        assert len(quantize(x, width, False).unique()) <= most
        for row in quantize(x, width, True):
            assert len(row.unique()) <= most


@QUICK
@given(WIDTHS)
def test_a_dense_tensor_reaches_every_level(bits: float) -> None:
    dense, width = torch.linspace(-1, 1, 20_001), torch.tensor(bits)
    expected = int(levels(width).item())
    assert len(snap(dense, *min_max(dense), width).unique()) == expected
    for quantize in WEIGHTS:
        assert len(quantize(dense, width, False).unique()) == expected


@QUICK
@given(tensors(), WIDTHS)
def test_snapping_twice_is_snapping_once(x: Tensor, bits: float) -> None:
    width = torch.tensor(bits)
    low, high = min_max(x)
    once = snap(x, low, high, width)
    twice = snap(once, low, high, width)
    step = step_size(low, high, width)
    assert torch.equal(codes(once, low, step), codes(twice, low, step))
    torch.testing.assert_close(twice, once, rtol=4 * ULP, atol=4 * ULP * x.abs().max().item())

    size = x.abs().max()
    symmetric = snap_symmetric(x, size, width)
    again = snap_symmetric(symmetric, size, width)
    torch.testing.assert_close(again, symmetric, rtol=4 * ULP, atol=4 * ULP * size.item())


@QUICK
@given(tensors(), WIDTHS, st.booleans())
def test_quantizing_uniform_weights_twice_is_quantizing_once(w: Tensor, bits: float, per_channel: bool) -> None:
    uniform = QUANTIZERS["uniform"].weight
    if levels(torch.tensor(bits)) % 2 == 1 and not (w != 0).any():
        return
    once = uniform(w, torch.tensor(bits), per_channel)
    twice = uniform(once, torch.tensor(bits), per_channel)
    torch.testing.assert_close(twice, once, rtol=6 * ULP, atol=6 * ULP * w.abs().max().item())


@QUICK
@given(tensors(), WIDTHS, st.booleans())
def test_weights_are_symmetric_away_from_ties(w: Tensor, bits: float, per_channel: bool) -> None:
    width = torch.tensor(bits)
    size = magnitude(w, per_channel)
    step = step_size(-size, size, width)
    uniform = QUANTIZERS["uniform"].weight
    clear = distance_to_tie(w, origin(step, width), step) > 1e-4
    plus, minus = uniform(w, width, per_channel), uniform(-w, width, per_channel)
    assert torch.equal(plus[clear], -minus[clear])

    bent = w.float().tanh()
    reach = magnitude(bent, per_channel)
    step = step_size(-reach, reach, width)
    clear = distance_to_tie(bent, origin(step, width), step) > 1e-4
    dorefa = QUANTIZERS["dorefa"].weight
    plus, minus = dorefa(w, width, per_channel), dorefa(-w, width, per_channel)
    assert torch.equal(plus[clear], -minus[clear])


@QUICK
@given(tensors(), WIDTHS)
def test_order_is_kept(x: Tensor, bits: float) -> None:
    width = torch.tensor(bits)
    ordered = x.flatten().sort().values
    assert (snap(ordered, *min_max(x), width).diff() >= 0).all()
    assert (snap(ordered, *(end / 2 for end in min_max(x)), width, clip=True).diff() >= 0).all()
    for quantize in WEIGHTS:
        assert (quantize(ordered, width, False).diff() >= 0).all()


@QUICK
@given(tensors(), WIDTHS, st.booleans())
def test_the_error_is_at_most_half_a_step(x: Tensor, bits: float, per_channel: bool) -> None:
    width = torch.tensor(bits)
    low, high = min_max(x)
    slack = 4 * ULP * x.abs().max()
    assert ((snap(x, low, high, width) - x).abs() <= step_size(low, high, width) * (0.5 + 1e-3) + slack).all()
    size = magnitude(x, per_channel)
    step = step_size(-size, size, width)
    uniform = QUANTIZERS["uniform"].weight
    assert ((uniform(x, width, per_channel) - x).abs() <= step * (0.5 + 1e-3) + slack).all()


@QUICK
@given(tensors(st.sampled_from([1e-36, 1e-3, 1.0, 50.0])), st.booleans(), st.sampled_from([1.0, 1.3, 2.0, 4.0]))
@example(torch.tensor([[0.0, 1e-30]]), False, 1.0)
@example(torch.tensor([[1e-42, 0.0]]), True, 1.0)
def test_weights_that_are_not_zero_never_become_all_zero(w: Tensor, per_channel: bool, bits: float) -> None:
    width = torch.tensor(bits)
    for quantize in WEIGHTS:
        out = quantize(w, width, per_channel)
        assert out.isfinite().all()
        rows = zip(w, out, strict=True) if per_channel else [(w, out)]
        for before, after in rows:
            # The mean of a row must itself be a number that float32 can hold.
            if before.abs().mean() > 0:
                assert (after != 0).any()
            if bits == 1.0 and before.abs().mean() > 0:
                assert (after != 0).all()


@QUICK
@given(tensors(), st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]))
def test_32_bits_is_the_identity_with_its_gradient(x: Tensor, dtype: torch.dtype) -> None:
    cast = x.to(dtype)
    upstream = torch.arange(x.numel()).reshape(x.shape).to(dtype)
    width = torch.tensor(32.0)
    functions = [lambda t: fake_quantize(t, torch.tensor(0.0), torch.tensor(1.0), width, clip=True)]
    functions += [lambda t, quantize=quantize: quantize(t, width, True) for quantize in EVERY]
    for function in functions:
        leaf = cast.clone().requires_grad_()
        out = function(leaf)
        out.backward(upstream)
        assert torch.equal(out, cast)
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, upstream)


@QUICK
@given(tensors(), WIDTHS, st.sampled_from(["contiguous", "transposed", "strided"]), st.booleans())
def test_the_fast_path_is_the_reference(x: Tensor, bits: float, layout: str, clip: bool) -> None:
    width = torch.tensor(bits)
    if layout == "transposed":
        x = x.t()
    elif layout == "strided":
        x = x.repeat_interleave(2, dim=1)[:, ::2]
    low, high = min_max(x)
    if clip:
        low, high = low / 2, high / 2
    fast, plain = snap(x, low, high, width, clip=clip), snap_reference(x, low, high, width, clip=clip)
    same_but_for_ties(fast, plain, x.clamp(low, high) if clip else x, low, step_size(low, high, width))
    for per_channel in (True, False):
        size = magnitude(x, per_channel)
        step = step_size(-size, size, width)
        fast, plain = snap_symmetric(x, size, width), snap_symmetric_reference(x, size, width)
        same_but_for_ties(fast, plain, x, origin(step, width), step)


def same_but_for_ties(fast: Tensor, plain: Tensor, x: Tensor, start: Tensor, step: Tensor) -> None:
    slack = 4 * ULP * x.abs().max().item()
    clear = distance_to_tie(x, start, step) > 1e-3
    torch.testing.assert_close(fast[clear], plain[clear], rtol=4 * ULP, atol=slack)
    assert ((fast - plain).abs() <= step * 1.001 + slack).all()


@QUICK
@given(tensors(st.just(1.0)), WIDTHS, st.booleans())
def test_half_precision_is_float32_rounded_once(w: Tensor, bits: float, per_channel: bool) -> None:
    width, uniform = torch.tensor(bits), QUANTIZERS["uniform"].weight
    for dtype in (torch.float16, torch.bfloat16):
        half = w.to(dtype)
        wide = half.float()
        size = magnitude(wide, per_channel)
        step = step_size(-size, size, width)
        clear = distance_to_tie(wide, origin(step, width), step) > 1e-3
        out = uniform(half, width, per_channel)
        assert out.dtype == dtype
        expected = uniform(wide, width, per_channel).to(dtype)
        # The two may differ in the last bit of float32, and so in the last of the half where that one rounds.
        torch.testing.assert_close(out[clear], expected[clear], rtol=torch.finfo(dtype).eps, atol=1e-7)
