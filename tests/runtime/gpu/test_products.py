"""Matrix products of packed weights equal sums in 64 bits, at every class of shapes and at the ends of all codes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bitdial.errors import BitdialError
from bitdial.runtime.gpu import configurations, pack, packed_conv2d, packed_matmul, products
from bitdial.runtime.gpu.reference import reference_matmul
from tests.runtime.gpu.cases import WEIGHTS, bound, codes, weights

SHAPES = [
    (0, 5, 7), (1, 1, 1), (1, 70, 130), (2, 3, 33), (3, 65, 64), (5, 1, 3), (5, 64, 1), (6, 9, 15),
    (7, 67, 31), (64, 64, 32), (65, 65, 47), (64, 130, 16), (70, 64, 64),
]  # fmt: skip
"""Rows, outputs, inputs: 1, odd, multiples of tiles, more and fewer; up to four rows there is another kernel."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_these_tests_are_interpreted() -> None:
    assert configurations.INTERPRETED


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_of_codes_are_exact(shape: tuple[int, int, int]) -> None:
    rows, out, depth = shape
    x, w = codes((torch.uint8, torch.int8)[out % 2], rows, depth), weights("ternary", out, depth)
    y = packed_matmul(x, pack(w), zero_point=9)
    assert y.dtype == torch.int32
    assert torch.equal(y.long(), reference_matmul(x, w, zero_point=9))


@pytest.mark.parametrize("rows", [2, pytest.param(19, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", WEIGHTS)
def test_sums_are_exact_at_every_width(name: str, rows: int) -> None:
    x, w = codes(torch.uint8, rows, 45), weights(name, 70, 45)
    packed = pack(w)
    assert packed.packing.bits == WEIGHTS[name][0]
    assert torch.equal(packed.unpacked()[:, :, 0, 0], w)
    assert torch.equal(packed_matmul(x, packed, zero_point=200).long(), reference_matmul(x, w, zero_point=200))


@pytest.mark.parametrize(("rows", "weight"), [(5, -128), (5, 1), (1, 127)])
@pytest.mark.parametrize(("dtype", "code", "zero"), [
    (torch.uint8, 0, 255), (torch.uint8, 255, 0), (torch.int8, -128, 127), (torch.int8, 127, -128),
])  # fmt: skip
def test_sums_are_exact_at_the_ends(dtype: torch.dtype, code: int, zero: int, weight: int, rows: int) -> None:
    x, w = torch.full((rows, 31), code, dtype=dtype), torch.full((13, 31), weight, dtype=torch.int8)
    expected = torch.full((rows, 13), 31 * (code - zero) * weight)
    assert torch.equal(packed_matmul(x, pack(w), zero_point=zero).long(), expected)


@pytest.mark.parametrize("rows", [3, 20])
def test_scale_and_bias_are_those_of_each_output(rows: int) -> None:
    x, w = codes(torch.uint8, rows, 50), weights("4 bits", 37, 50)
    scale, bias = torch.rand(37) + 0.1, torch.randn(37)
    exact = reference_matmul(x, w, zero_point=3).double() * scale.double()
    for given, expected in (({"scale": scale}, exact), ({"scale": scale, "bias": bias}, exact + bias.double())):
        y = packed_matmul(x, pack(w), zero_point=3, **given)
        assert y.dtype == torch.float32
        # The sum is exact in float32; the product rounds once and the addition once.
        assert ((y - expected).abs() <= 2.0**-23 * (exact.abs() + expected.abs())).all()
    alone = packed_matmul(x, pack(w), zero_point=3, bias=bias)
    assert torch.equal(alone, reference_matmul(x, w, zero_point=3).float() + bias)
    half = packed_matmul(x, pack(w), zero_point=3, scale=scale, bias=bias, dtype=torch.float16)
    assert torch.equal(half, packed_matmul(x, pack(w), zero_point=3, scale=scale, bias=bias).half())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("shape", "name"), [((2, 70, 31), "ternary"), ((19, 33, 45), "8 bits")])
def test_halves_are_multiplied_within_a_bound(name: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, out, depth = shape
    x, w = codes(dtype, rows, depth), weights(name, out, depth)
    expected, sizes = reference_matmul(x, w), x.double().abs() @ w.double().abs().T
    wide = packed_matmul(x, pack(w), dtype=torch.float32)
    assert ((wide - expected).abs() <= bound(sizes, depth)).all()
    narrow = packed_matmul(x, pack(w))
    assert narrow.dtype == dtype
    half_unit = torch.finfo(dtype).eps / 2
    assert (
        (narrow.double() - expected).abs() <= (1 + half_unit) * bound(sizes, depth) + half_unit * expected.abs()
    ).all()


def test_inputs_may_have_any_order_and_dimensions() -> None:
    w = weights("ternary", 12, 20)
    packed = pack(w)
    base = codes(torch.uint8, 20, 2, 3, 4)
    for x in (
        base.permute(1, 2, 3, 0),
        base.permute(3, 1, 2, 0)[::2],
        base[:, 0, 0, 0],
        base.permute(2, 1, 3, 0)[:, :, 1:],
    ):
        assert torch.equal(packed_matmul(x, packed, zero_point=7).long(), reference_matmul(x, w, zero_point=7))
    assert packed_matmul(base[:, 0, 0, 0], packed).shape == (12,)
    assert packed_matmul(torch.zeros(2, 0, 20, dtype=torch.uint8), packed).shape == (2, 0, 12)
    wide = codes(torch.int8, 6, 40)[:, ::2]
    assert torch.equal(packed_matmul(wide, packed).long(), reference_matmul(wide, w))


def test_weights_may_lie_in_any_order() -> None:
    w = weights("4 bits", 20, 12).T
    x = codes(torch.int8, 6, 20)
    assert torch.equal(packed_matmul(x, pack(w)).long(), reference_matmul(x, w))


def test_two_bits_take_an_eighth_of_a_half() -> None:
    packed = pack(weights("ternary", 256, 512))
    assert packed.data.numel() == 256 * 512 // 4
    assert packed.nbytes == 256 * 512 // 4 + 4 * 256


TERNARY = pack(torch.ones(4, 6, dtype=torch.int8))
IMAGE = pack(torch.ones(4, 3, 3, 3, dtype=torch.int8))
X = torch.zeros(2, 6, dtype=torch.uint8)
PICTURE = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
WRONG: dict[str, tuple[Any, str]] = {
    "float32": (lambda: packed_matmul(X.float(), TERNARY), "x must be a tensor of uint8"),
    "a list": (lambda: packed_matmul([[1] * 6], TERNARY), "x must be a tensor of uint8"),  # type: ignore[arg-type]
    "other inputs": (lambda: packed_matmul(X[:, :5], TERNARY), r"x must be \(..., 6\)"),
    "a number": (lambda: packed_matmul(X[0, 0], TERNARY), r"x must be \(..., 6\)"),
    "bare weights": (lambda: packed_matmul(X, torch.ones(4, 6)), "weight must be packed"),  # type: ignore[arg-type]
    "those of a convolution": (lambda: packed_matmul(X, IMAGE), "use packed_conv2d"),
    "another device": (lambda: packed_matmul(X.to("meta"), TERNARY), "on one device"),
    "zero beyond codes": (lambda: packed_matmul(X, TERNARY, zero_point=256), "from 0 to 255"),
    "zero of floats": (lambda: packed_matmul(X.half(), TERNARY, zero_point=1), "from 0 to 0"),
    "a broken zero": (lambda: packed_matmul(X, TERNARY, zero_point=0.5), "whole number"),  # type: ignore[arg-type]
    "too many scales": (lambda: packed_matmul(X, TERNARY, scale=torch.ones(5)), r"scale must be dense .* of \(4,\)"),
    "a scale of halves": (lambda: packed_matmul(X, TERNARY, scale=torch.ones(4).half()), "scale must be dense float32"),
    "a bias that is a number": (lambda: packed_matmul(X, TERNARY, bias=1.0), "bias must be"),  # type: ignore[arg-type]
    "sums of floats as int32": (lambda: packed_matmul(X.half(), TERNARY, dtype=torch.int32), "dtype must be one of"),
    "scaled as int32": (lambda: packed_matmul(X, TERNARY, scale=torch.ones(4), dtype=torch.int32), "dtype must be one"),
    "weights of floats": (lambda: pack(torch.ones(4, 6)), "weights must be int8 codes"),
    "weights of three dimensions": (lambda: pack(torch.ones(4, 6, 1, dtype=torch.int8)), "weights must be int8 codes"),
    "two bits of four": (lambda: pack(torch.full((2, 2), 7, dtype=torch.int8), bits=2), "do not fit into 2 bits"),
    "three bits": (lambda: pack(torch.ones(2, 2, dtype=torch.int8), bits=3), "bits must be 2, 4 or 8"),
    "groups that do not divide": (lambda: pack(torch.ones(4, 1, 1, 1, dtype=torch.int8), 3), "groups must divide"),
    "groups of a linear layer": (lambda: pack(torch.ones(4, 1, dtype=torch.int8), 2), "one group"),
    "no groups": (lambda: pack(torch.ones(4, 1, 1, 1, dtype=torch.int8), 0), "groups must divide"),
    "an image of other channels": (
        lambda: packed_conv2d(torch.zeros(1, 4, 8, 8, dtype=torch.uint8), IMAGE), r"x must be \(batch, 3"
    ),
    "no image": (lambda: packed_conv2d(X, IMAGE), r"x must be \(batch, 3"),
    "a small image": (lambda: packed_conv2d(PICTURE[..., :2], IMAGE), "must fit into the padded"),
    "a stride of zero": (
        lambda: packed_conv2d(PICTURE, IMAGE, stride=0), "stride must be"
    ),
    "negative padding": (
        lambda: packed_conv2d(PICTURE, IMAGE, padding=-1), "padding must be"
    ),
    "three dilations": (
        lambda: packed_conv2d(PICTURE, IMAGE, dilation=(1, 1, 1)),  # type: ignore[arg-type]
        "dilation must be",
    ),
    "sums beyond 32 bits": (
        lambda: pack(torch.full((1, 70_000), -128, dtype=torch.int8)), "must stay within 32 bits"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_told_in_a_sentence(name: str) -> None:
    call, sentence = WRONG[name]
    with pytest.raises(BitdialError, match=sentence) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_random_products_are_exact() -> None:
    draw = torch.Generator().manual_seed(1)

    def number(most: int) -> int:
        return int(torch.randint(1, most, (), generator=draw))

    for _ in range(300):
        rows, out, depth = number(40), number(150), number(150)
        name = list(WEIGHTS)[number(7) - 1]
        dtype = (torch.uint8, torch.int8)[number(3) - 1]
        x, w, zero = codes(dtype, rows, depth), weights(name, out, depth), number(127)
        y = packed_matmul(x, pack(w), zero_point=zero).long()
        assert torch.equal(y, reference_matmul(x, w, zero_point=zero)), (rows, out, depth, name, dtype, zero)
    assert products.VECTORS < 40
