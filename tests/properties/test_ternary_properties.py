"""What holds for every ternary quantizer and every packing, whatever the tensor."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitdial.numerics import (
    QUANTIZERS,
    TERNARY_BITS,
    pack_bits,
    pack_trits,
    pack_trits_2bit,
    unpack_bits,
    unpack_trits,
    unpack_trits_2bit,
)

QUICK = settings(deadline=None, max_examples=60)
TERNARY = {name: q for name, q in QUANTIZERS.items() if q.fixed_bits == TERNARY_BITS}
NAMES = st.sampled_from(sorted(TERNARY))
THREE = torch.tensor(TERNARY_BITS)
SIZES = st.sampled_from([1e-42, 1e-36, 1e-3, 1.0, 1e20, 3e38])


@st.composite
def tensors(draw: st.DrawFn, size: st.SearchStrategy[float] = SIZES) -> Tensor:
    """A matrix with up to 5 x 9 values in [-1, 1] times a magnitude: any pattern of zeros, repeats and signs."""
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    entries = st.one_of(st.floats(-1, 1, width=32), st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e-6]))
    values = draw(st.lists(entries, min_size=rows * columns, max_size=rows * columns))
    return torch.tensor(values, dtype=torch.float64).mul(draw(size)).float().reshape(rows, columns)


@QUICK
@given(tensors(), NAMES, st.booleans(), st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]))
def test_three_values_with_the_signs_of_the_weights(
    w: Tensor, name: str, per_channel: bool, dtype: torch.dtype
) -> None:
    w = w.clamp(-1e4, 1e4).to(dtype)
    out = TERNARY[name].weight(w, THREE, per_channel)
    assert out.isfinite().all()
    assert out.dtype == dtype
    for group in out if per_channel else [out]:
        values = group.unique()
        assert (values > 0).sum() <= 1
        assert (values < 0).sum() <= 1
    assert (out * w.sign() >= 0).all()
    assert not torch.signbit(out[out == 0]).any()


@QUICK
@given(tensors(), NAMES)
def test_larger_weights_never_get_smaller_values(w: Tensor, name: str) -> None:
    ordered = w.flatten().sort().values
    assert (TERNARY[name].weight(ordered, THREE, False).diff() >= 0).all()


@QUICK
@given(tensors(), NAMES, st.booleans())
def test_weights_that_are_not_zero_never_become_all_zero(w: Tensor, name: str, per_channel: bool) -> None:
    out = TERNARY[name].weight(w, THREE, per_channel)
    for before, after in zip(w, out, strict=True) if per_channel else [(w, out)]:
        assert (before != 0).any() == (after != 0).any()


@QUICK
@given(tensors(), NAMES, st.booleans())
def test_the_opposite_weights_give_the_opposite(w: Tensor, name: str, per_channel: bool) -> None:
    quantize = TERNARY[name].weight
    assert torch.equal(quantize(-w, THREE, per_channel), -quantize(w, THREE, per_channel))


@QUICK
@given(tensors(), NAMES)
def test_a_channel_does_not_see_its_neighbours(w: Tensor, name: str) -> None:
    quantize = TERNARY[name].weight
    whole = quantize(w, THREE, True)
    for row, expected in zip(w, whole, strict=True):
        torch.testing.assert_close(quantize(row[None], THREE, True)[0], expected, rtol=1e-6, atol=0)


@QUICK
@given(tensors(), st.sampled_from(["ttq", "ternary_lsq"]), st.booleans(), st.floats(-1, 1, width=32))
def test_whatever_the_scales_gradients_are_numbers(w: Tensor, name: str, per_channel: bool, scale: float) -> None:
    make = TERNARY[name].make_weight
    assert make is not None
    leaf = w.clone().requires_grad_()
    module = make(w, per_channel)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(scale)
    module(leaf, THREE).sum().backward()
    for tensor in (leaf, *module.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()


@QUICK
@given(st.lists(st.integers(-1, 1), max_size=64), st.sampled_from([torch.int8, torch.int64, torch.float32]))
def test_trits_come_back(values: list[int], dtype: torch.dtype) -> None:
    codes = torch.tensor(values, dtype=dtype)
    packed = pack_trits(codes)
    assert packed.numel() == math.ceil(len(values) / 5)
    assert unpack_trits(packed, codes.shape).tolist() == values
    packed = pack_trits_2bit(codes)
    assert packed.numel() == math.ceil(len(values) / 4)
    assert unpack_trits_2bit(packed, codes.shape).tolist() == values


@QUICK
@given(st.integers(1, 8), st.data())
def test_codes_of_any_width_come_back(bits: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40))
    codes = torch.tensor(values, dtype=torch.int64)
    packed = pack_bits(codes, bits)
    assert packed.numel() == math.ceil(len(values) * bits / 8)
    assert unpack_bits(packed, bits, (len(values),)).tolist() == values
    # The plain reference: one long number, the first code in its lowest bits.
    number = sum(value << (bits * at) for at, value in enumerate(values))
    assert bytes(packed.tolist()) == number.to_bytes(packed.numel(), "little")
