"""Snapping: the fast path equals the plain reference, whatever the tensor looks like."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bitdial.numerics import levels, min_max, snap, snap_symmetric
from bitdial.numerics.reference import snap_reference, snap_symmetric_reference, step_size

WIDTHS = [1.0, 1.58, 2.0, 2.7, 3.0, 4.0, 8.0, 12.0, 16.0, 20.0, 32.0]
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def values(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(4, 6, 5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "channels_last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3),
    "sliced": lambda x: x[:, ::2, 1:, ::3],
    "expanded": lambda x: x[:1].expand(3, -1, -1, -1),
    "flipped_storage": lambda x: x.permute(3, 1, 0, 2)[1:],
    "scalar": lambda x: x[0, 0, 0, 0],
    "one_value": lambda x: x[:1, :1, :1, :1],
}


def same_up_to_ties(fast: Tensor, plain: Tensor, step: Tensor) -> None:
    """Equal within ulps, but for values at a tie, which two ways of multiplying may send to either neighbour."""
    assert fast.dtype == plain.dtype
    assert fast.shape == plain.shape
    size = plain.float().abs().max().item() if plain.numel() else 0.0
    apart = (fast.float() - plain.float()).abs()
    moved = apart > 4e-7 * size
    assert (apart[moved] <= step.float().max() * 1.001 + 4e-7 * size).all()
    assert moved.float().mean() <= 0.01 if plain.numel() else True


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("clip", [False, True])
def test_snap_equals_the_reference(layout: str, dtype: torch.dtype, clip: bool) -> None:
    x = LAYOUTS[layout](values(dtype))
    low, high = (torch.tensor(-1.0), torch.tensor(0.8)) if clip else min_max(x)
    for bits in map(torch.tensor, WIDTHS):
        same_up_to_ties(
            snap(x, low, high, bits, clip=clip),
            snap_reference(x, low, high, bits, clip=clip),
            step_size(low, high, bits),
        )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("per_channel", [False, True])
def test_snap_symmetric_equals_the_reference(layout: str, dtype: torch.dtype, per_channel: bool) -> None:
    x = LAYOUTS[layout](values(dtype))
    size = x.abs().amax(tuple(range(1, x.dim())), keepdim=True) if per_channel and x.dim() else x.abs().max()
    for bits in map(torch.tensor, WIDTHS):
        same_up_to_ties(
            snap_symmetric(x, size.float(), bits),
            snap_symmetric_reference(x, size.float(), bits),
            step_size(-size.float(), size.float(), bits),
        )


@pytest.mark.parametrize("low", [0.0, -3.0, 2.0])
def test_spec_by_hand(low: float) -> None:
    # Two bits: four levels, 1 apart.
    x = torch.tensor([0.0, 0.4, 0.6, 1.4, 2.51, 3.0]) + low
    snapped = snap(x, torch.tensor(low), torch.tensor(low + 3.0), torch.tensor(2.0))
    assert torch.equal(snapped, torch.tensor([0.0, 0.0, 1.0, 1.0, 3.0, 3.0]) + low)


def test_ties_go_to_the_even_code() -> None:
    x = torch.tensor([0.5, 1.5, 2.5])
    snapped = snap(x, torch.tensor(0.0), torch.tensor(3.0), torch.tensor(2.0))
    assert snapped.tolist() == [0.0, 2.0, 2.0]


def test_clip_brings_values_to_the_ends_and_no_clip_extends_the_grid() -> None:
    x = torch.tensor([-5.0, 0.2, 9.0])
    low, high, bits = torch.tensor(0.0), torch.tensor(3.0), torch.tensor(2.0)
    assert snap(x, low, high, bits, clip=True).tolist() == [0.0, 0.0, 3.0]
    assert snap(x, low, high, bits).tolist() == [-5.0, 0.0, 9.0]


def test_symmetric_even_and_odd_numbers_of_levels_by_hand() -> None:
    x = torch.tensor([-3.0, -0.9, 0.1, 1.2, 3.0])
    four = snap_symmetric(x, torch.tensor(3.0), torch.tensor(2.0))  # levels -3, -1, 1, 3
    assert four.tolist() == [-3.0, -1.0, 1.0, 1.0, 3.0]
    three = snap_symmetric(x, torch.tensor(3.0), torch.tensor(1.58))  # levels -3, 0, 3
    assert three.tolist() == [-3.0, 0.0, 0.0, 0.0, 3.0]
    two = snap_symmetric(x, torch.tensor(3.0), torch.tensor(1.0))
    assert two.tolist() == [-3.0, -3.0, 3.0, 3.0, 3.0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_32_bits_is_the_identity_bit_for_bit(dtype: torch.dtype) -> None:
    x = torch.tensor([0.1, -0.0, 1e-7, torch.finfo(dtype).max, -torch.finfo(dtype).tiny]).to(dtype)
    bits = torch.tensor(32.0)
    unclipped = snap(x, torch.tensor(0.0), torch.tensor(1.0), bits, clip=True)
    symmetric = snap_symmetric(x, torch.tensor(1.0), bits)
    for out in (unclipped, symmetric):
        assert torch.equal(out, x)
        assert torch.equal(out.signbit(), x.signbit())


@pytest.mark.parametrize("function", [snap, snap_reference])
def test_an_input_that_requires_a_gradient_is_snapped_too(function: Callable[..., Tensor]) -> None:
    x = torch.linspace(-1, 1, 9, requires_grad=True)
    snapped = function(x, torch.tensor(-1.0), torch.tensor(1.0), torch.tensor(2.0))
    assert torch.equal(snapped.detach(), snap(x.detach(), torch.tensor(-1.0), torch.tensor(1.0), torch.tensor(2.0)))


def test_the_input_is_never_written_to() -> None:
    x = values()
    before = x.clone()
    for bits in map(torch.tensor, WIDTHS):
        snap(x, *min_max(x), bits, clip=True)
        snap_symmetric(x, x.abs().max(), bits)
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2)])
def test_empty_tensors_come_back_empty(shape: tuple[int, ...]) -> None:
    x = torch.empty(shape)
    low, high = min_max(x)
    assert (low.item(), high.item()) == (0.0, 0.0)
    assert low.dtype == high.dtype == torch.float32
    for bits in (torch.tensor(1.0), torch.tensor(32.0)):
        assert snap(x, low, high, bits).shape == shape
        assert snap_symmetric(x, high, bits).shape == shape


@pytest.mark.parametrize("dtype", DTYPES)
def test_min_max_are_float32_scalars(dtype: torch.dtype) -> None:
    low, high = min_max(torch.tensor([[3.0, -2.0], [0.5, 1.0]], dtype=dtype))
    assert (low.item(), high.item()) == (-2.0, 3.0)
    assert low.dtype == high.dtype == torch.float32
    assert low.dim() == high.dim() == 0


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_memory_format_is_kept(memory_format: torch.memory_format) -> None:
    x = values().to(memory_format=memory_format)
    for out in (
        snap(x, *min_max(x), torch.tensor(3.0)),
        snap_symmetric(x, x.abs().max(), torch.tensor(3.0)),
    ):
        assert out.is_contiguous(memory_format=memory_format)
        assert out.stride() == x.stride()


@pytest.mark.parametrize("size", [1e-44, 1e-40, 1e-30, 1e30, 1e38])
@pytest.mark.parametrize("bits", [1.0, 1.58, 4.0, 16.0, 32.0])
def test_extreme_magnitudes_stay_finite_and_near(size: float, bits: float) -> None:
    x = torch.linspace(-1, 1, 101) * size
    width = torch.tensor(bits)
    low, high = min_max(x)
    step = step_size(low, high, width)
    assert step.isfinite()
    assert step > 0
    for out in (snap(x, low, high, width), snap_symmetric(x, high, width)):
        assert out.isfinite().all()
        assert (out - x).abs().max() <= step * 0.5001 + 1e-6 * size


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_not_hidden(bad: float) -> None:
    x = torch.tensor([0.0, 1.0, bad])
    assert not snap(x, *min_max(x), torch.tensor(4.0)).isfinite().all()
    assert not snap_reference(x, *min_max(x), torch.tensor(4.0)).isfinite().all()


def test_float16_extremes() -> None:
    x = torch.tensor([-65504.0, 65504.0, 6e-8], dtype=torch.float16)
    for bits in (1.0, 2.0, 8.0, 16.0):
        for out in (
            snap(x, *min_max(x), torch.tensor(bits)),
            snap_symmetric(x, torch.tensor(65504.0), torch.tensor(bits)),
        ):
            assert out.dtype == torch.float16
            assert out.isfinite().all()
            assert out[:2].tolist() == [-65504.0, 65504.0]


def test_a_grid_has_its_number_of_levels_and_reaches_its_ends() -> None:
    x = torch.linspace(-1.3, 2.1, 200_001)
    low, high = min_max(x)
    for bits in (1.0, 1.58, 3.3, 6.0, 10.0):
        width = torch.tensor(bits)
        snapped = snap(x, low, high, width)
        assert len(snapped.unique()) == levels(width)
        torch.testing.assert_close(torch.stack([snapped.min(), snapped.max()]), torch.stack([low, high]))
