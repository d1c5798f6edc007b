"""The forms of packed weights: which is chosen, and that each is exact."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitdial.errors import BitdialError
from bitdial.export.encoding import decode, encode, same_bits
from bitdial.numerics import QUANTIZERS

QUICK = settings(deadline=None, max_examples=80)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 9))
    entries = st.one_of(st.floats(-1, 1, width=32), st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5]))
    values = draw(st.lists(entries, min_size=rows * columns, max_size=rows * columns))
    size = draw(st.sampled_from([1e-42, 1e-30, 1.0, 1e30]))
    return torch.tensor(values, dtype=torch.float64).mul(size).float().reshape(rows, columns)


@QUICK
@given(
    tensors(),
    st.sampled_from(sorted(QUANTIZERS)),
    st.booleans(),
    st.one_of(st.sampled_from([1.0, 1.585, 2.0, 8.0]), st.floats(1, 8)),
    st.sampled_from(["base3", "2bit"]),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
)
def test_every_quantized_weight_comes_back(
    w: Tensor, name: str, per_channel: bool, bits: float, trits: str, dtype: torch.dtype
) -> None:
    quantizer = QUANTIZERS[name]
    on_grid = quantizer.weight(w.clamp(-1e4, 1e4).to(dtype), torch.tensor(bits), per_channel)
    if not on_grid.isfinite().all():
        return
    levels = round(2 ** quantizer.weight_width(bits))
    encoded = encode(on_grid, len(w) if per_channel else 1, levels, trits)  # type: ignore[arg-type]
    back = decode(encoded)
    assert same_bits(back, on_grid + 0.0)


@QUICK
@given(tensors())
def test_any_few_values_come_back_through_a_table(w: Tensor) -> None:
    encoded = encode(w, len(w), 256, "base3")
    assert same_bits(decode(encoded), w + 0.0)


@pytest.mark.parametrize(
    ("rows", "levels", "form", "scales"),
    [
        ([[0.5, -0.5, 0.0], [2.0, 0.0, 0.0]], 3, "base3", (2,)),
        ([[0.5, -0.25, 0.0], [2.0, 0.0, 0.0]], 3, "base3", (2, 2)),
        ([[0.5, -0.5, 0.0], [0.0, 0.0, 0.0]], 3, "base3", (2,)),
        ([[0.5, 0.25, 0.0], [2.0, 0.0, 0.0]], 3, "table", (2, 3)),
        ([[1.5, -0.5, 0.5], [0.3, -0.1, -0.3]], 4, "grid", (2,)),
        ([[1.5, -0.6, 0.5], [0.3, -0.1, -0.3]], 4, "table", (2, 3)),
    ],
)
def test_the_first_form_that_is_exact(rows: list[list[float]], levels: int, form: str, scales: tuple[int, ...]) -> None:
    w = torch.tensor(rows)
    encoded = encode(w, 2, levels, "base3")
    assert encoded.form == form
    assert encoded.scales.shape == scales
    assert torch.equal(decode(encoded), w)


def test_more_than_256_values_are_refused() -> None:
    with pytest.raises(BitdialError, match="packed weights must have at most 256 values in a group, got 300"):
        encode(torch.arange(300.0).sqrt()[None], 1, 256, "base3")


def test_zeros_that_differ_in_sign_are_told_apart() -> None:
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert same_bits(torch.tensor([math.pi]), torch.tensor([math.pi]))
    assert not same_bits(torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64))
