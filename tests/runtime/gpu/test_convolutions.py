"""Convolutions on packed weights equal sums in 64 bits, whatever their geometry."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bitdial.runtime.gpu import pack, packed_conv2d
from bitdial.runtime.gpu.reference import reference_conv2d
from tests.runtime.gpu.cases import WEIGHTS, bound, codes, weights


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def check(
    shape: tuple[int, ...], out: int, kernel: tuple[int, int], *, groups: int = 1, name: str = "ternary",
    dtype: torch.dtype = torch.uint8, zero_point: int = 77, channels_last: bool = True, **geometry: Any,
) -> None:  # fmt: skip
    """Compare one convolution with the reference."""
    x, w = codes(dtype, *shape), weights(name, out, shape[1] // groups, *kernel)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    y = packed_conv2d(x, pack(w, groups), zero_point=zero_point, **geometry)
    expected = reference_conv2d(x, w, groups=groups, zero_point=zero_point, **geometry)
    assert y.dtype == torch.int32
    assert torch.equal(y.long(), expected)
    assert y.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_kernels_and_strides(kernel: int, stride: int) -> None:
    dilation = 1 + (kernel + stride) % 2
    check((1, 5, 7, 8), 7, (kernel, kernel), stride=stride, padding=dilation * (kernel // 2), dilation=dilation)


@pytest.mark.parametrize(("padding", "zero_point"), [
    (0, 129), (1, 0), (2, 255), (3, 129), ((0, 3), 1), ((2, 1), 128)
])  # fmt: skip
def test_borders_have_the_code_of_zero(padding: Any, zero_point: int) -> None:
    check((1, 3, 4, 5), 6, (3, 3), padding=padding, zero_point=zero_point)


@pytest.mark.parametrize("zero_point", [-128, 127])
def test_borders_of_signed_codes(zero_point: int) -> None:
    check((1, 3, 4, 5), 6, (3, 3), padding=2, zero_point=zero_point, dtype=torch.int8)


@pytest.mark.parametrize(("groups", "channels", "out", "name"), [
    (2, 6, 10, "ternary"), (3, 9, 6, "4 bits"), (2, 6, 6, "8 bits"), (3, 3, 6, "ternary"), (6, 6, 6, "ternary"),
    (33, 33, 33, "2 bits, odd"), (7, 7, 7, "4 bits, odd"), (2, 2, 2, "8 bits"),
])  # fmt: skip
def test_groups_down_to_channels_that_stand_alone(groups: int, channels: int, out: int, name: str) -> None:
    check((2, channels, 5, 4), out, (3, 3), groups=groups, name=name, padding=1, stride=(1, 2))


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(("stride", "dilation", "padding"), [((1, 2), (2, 1), (0, 2)), ((2, 1), (1, 2), (3, 1))])
def test_rows_and_columns_have_numbers_of_their_own(
    stride: tuple[int, int], dilation: tuple[int, int], padding: tuple[int, int], groups: int
) -> None:
    check((1, 3, 6, 5), 3, (2, 3), groups=groups, stride=stride, dilation=dilation, padding=padding)


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHTS)
def test_every_width(name: str) -> None:
    check((1, 18, 4, 4), 19, (2, 3), name=name, padding=1)


@pytest.mark.parametrize("channels", [1, 17, 70])
def test_channels_fewer_and_more_than_a_step(channels: int) -> None:
    check((1, channels, 3, 3), 65, (1, 2), padding=1)


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_batches(batch: int) -> None:
    check((batch, 4, 5, 5), 6, (3, 3), padding=1)
    check((batch, 4, 5, 5), 4, (3, 3), groups=4, padding=1)
    check((batch, 4, 1, 1), 4, (1, 1))


def test_sides_may_have_borders_of_their_own() -> None:
    x, w = codes(torch.uint8, 1, 3, 5, 6), weights("ternary", 4, 3, 3, 3)
    padded = torch.nn.functional.pad(x, (1, 3, 0, 2), value=11)  # left, right, top, bottom
    y = packed_conv2d(x, pack(w), padding=(0, 1, 2, 3), zero_point=11)
    assert torch.equal(y.long(), reference_conv2d(padded, w, zero_point=11))


def test_images_may_lie_in_any_order() -> None:
    check((2, 6, 5, 5), 8, (3, 3), padding=1, channels_last=False)
    w = weights("ternary", 8, 6, 3, 3)
    base = codes(torch.uint8, 4, 10, 9, 12).to(memory_format=torch.channels_last)
    for x in (
        base[::2, :6],
        base[:, 2:8, 1:, ::2],
        base.transpose(2, 3)[:, :6],
        base[:, ::2][:, :1].expand(4, 6, 9, 12),
    ):
        y = packed_conv2d(x, pack(w), padding=1, stride=2, zero_point=5)
        assert torch.equal(y.long(), reference_conv2d(x, w, padding=1, stride=2, zero_point=5))


@pytest.mark.parametrize(
    ("code", "zero", "weight", "groups"), [(255, 0, 1, 1), (0, 255, -128, 1), (255, 0, -128, 4), (0, 255, 1, 4)]
)
def test_the_ends_of_codes(code: int, zero: int, weight: int, groups: int) -> None:
    x = torch.full((1, 4, 4, 4), code, dtype=torch.uint8)
    w = torch.full((4, 4 // groups, 3, 3), weight, dtype=torch.int8)
    y = packed_conv2d(x, pack(w, groups), padding=2, zero_point=zero)
    assert torch.equal(y.long(), reference_conv2d(x, w, padding=2, groups=groups, zero_point=zero))


@pytest.mark.parametrize(("groups", "out", "dtype"), [
    (1, 9, torch.float16), (1, 9, torch.bfloat16), (2, 8, torch.float16), (6, 6, torch.bfloat16)
])  # fmt: skip
def test_halves_are_summed_within_a_bound(groups: int, out: int, dtype: torch.dtype) -> None:
    x, w = codes(dtype, 2, 6, 5, 5), weights("4 bits", out, 6 // groups, 3, 3)
    scale, bias = torch.rand(out) + 0.5, torch.randn(out)
    y = packed_conv2d(x, pack(w, groups), padding=1, scale=scale, bias=bias, dtype=torch.float32)
    factor, depth = scale.double()[:, None, None], 9 * 6 // groups
    expected = reference_conv2d(x, w, padding=1, groups=groups) * factor
    sizes = reference_conv2d(x.abs(), w.abs(), padding=1, groups=groups) * factor
    whole = expected + bias.double()[:, None, None]
    assert ((y - whole).abs() <= bound(sizes, depth) + 2.0**-22 * (expected.abs() + whole.abs())).all()
    narrow = packed_conv2d(x, pack(w, groups), padding=1, scale=scale, bias=bias)
    assert narrow.dtype == dtype
    assert torch.equal(narrow, y.to(dtype))


@pytest.mark.slow
def test_random_convolutions_are_exact() -> None:
    draw = torch.Generator().manual_seed(2)

    def number(least: int, most: int) -> int:
        return int(torch.randint(least, most + 1, (), generator=draw))

    done = 0
    while done < 300:
        groups = (1, 1, number(2, 5))[number(0, 2)]
        per_in, per_out = number(1, 40 // groups), number(1, 80 // groups)
        kernel, apart = (number(1, 5), number(1, 5)), (number(1, 2), number(1, 2))
        sides, borders = (number(1, 9), number(1, 9)), (number(0, 3), number(0, 3))
        if any(s + 2 * b < a * (k - 1) + 1 for s, b, a, k in zip(sides, borders, apart, kernel, strict=True)):
            continue
        done += 1
        check(
            (number(1, 2), groups * per_in, *sides), groups * per_out, kernel, groups=groups,
            name=list(WEIGHTS)[number(0, 5)], dtype=(torch.uint8, torch.int8)[number(0, 1)], zero_point=number(0, 127),
            channels_last=bool(number(0, 1)), stride=(number(1, 3), number(1, 3)), padding=borders, dilation=apart,
        )  # fmt: skip
