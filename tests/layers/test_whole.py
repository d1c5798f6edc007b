"""A quantized layer in whole numbers: equal to int64, in any order of sums, and near to the layer itself."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitdial.layers import QuantConv1d, QuantConv2d, QuantConvTranspose1d, QuantConvTranspose2d, QuantLinear
from bitdial.layers.arithmetic import LinearArithmetic, TransposedArithmetic
from bitdial.layers.whole import LIMIT, WholeProduct, whole_product

LAYERS: dict[str, Any] = {
    "linear": (lambda **o: QuantLinear(6, 8, **o), (3, 6)),
    "linear of three dimensions": (lambda **o: QuantLinear(6, 8, **o), (2, 3, 6)),
    "conv1d": (lambda **o: QuantConv1d(6, 8, 3, padding=1, **o), (2, 6, 9)),
    "1x1": (lambda **o: QuantConv2d(6, 8, 1, **o), (2, 6, 5, 4)),
    "3x3": (lambda **o: QuantConv2d(6, 8, 3, 2, 1, dilation=2, **o), (2, 6, 9, 7)),
    "an even kernel": (lambda **o: QuantConv2d(6, 8, 2, padding="same", **o), (2, 6, 5, 5)),
    "reflected": (lambda **o: QuantConv2d(6, 8, 3, padding=1, padding_mode="reflect", **o), (2, 6, 5, 5)),
    "depthwise": (lambda **o: QuantConv2d(6, 6, 3, padding=1, groups=6, bias=False, **o), (2, 6, 5, 5)),
    "one image": (lambda **o: QuantConv2d(6, 8, 3, groups=2, **o), (6, 5, 5)),
    "up": (lambda **o: QuantConvTranspose2d(6, 8, 4, 2, 1, **o), (2, 6, 5, 4)),
    "up in groups": (lambda **o: QuantConvTranspose2d(6, 8, 3, 2, 1, 1, groups=2, **o), (2, 6, 5, 4)),
    "up in one dimension": (lambda **o: QuantConvTranspose1d(6, 8, 2, 2, **o), (2, 6, 5)),
}


def int64_product(arithmetic: Any, x: Tensor, weight: Tensor) -> Tensor:
    """The arithmetic's product of whole numbers, in int64, one place of the kernel after the other."""
    x, weight = x.long(), weight.long()
    if isinstance(arithmetic, LinearArithmetic):
        return (x[..., None, :] * weight).sum(-1)
    dims = len(arithmetic.stride)
    if x.dim() == dims + 1:
        return int64_product(arithmetic, x[None], weight)[0]
    kernel, transposed = weight.shape[2:], isinstance(arithmetic, TransposedArithmetic)
    more = arithmetic.output_padding if transposed else (arithmetic.more_behind or (0,) * dims)
    reach = [d * (k - 1) for d, k in zip(arithmetic.dilation, kernel, strict=True)]
    sides = list(zip(x.shape[2:], arithmetic.stride, arithmetic.padding, reach, more, strict=True))
    chunks = []
    for part, own in zip(x.chunk(arithmetic.groups, 1), weight.chunk(arithmetic.groups, 0), strict=True):
        if transposed:
            shape = [(n - 1) * s + 1 + r + m for n, s, _, r, m in sides]
            out = torch.zeros(len(x), own.shape[1], *shape, dtype=torch.int64)
        else:
            part = nn.functional.pad(part, [e for _, _, p, _, m in reversed(sides) for e in (p, p + m)])
            shape = [(n + 2 * p + m - r - 1) // s + 1 for n, s, p, r, m in sides]
            out = torch.zeros(len(x), len(own), *shape, dtype=torch.int64)
        counts = part.shape[2:] if transposed else shape
        for place in torch.cartesian_prod(*(torch.arange(k) for k in kernel)).view(-1, dims).tolist():
            taken = [
                slice(k * d, k * d + s * (c - 1) + 1, s)
                for k, d, s, c in zip(place, arithmetic.dilation, arithmetic.stride, counts, strict=True)
            ]
            here = own[(slice(None), slice(None), *place)]
            if transposed:
                out[(..., *taken)] += (part[:, :, None] * here[(..., *(None,) * dims)]).sum(1)
            else:
                out += (part[(..., *taken)][:, None] * here[(..., *(None,) * dims)]).sum(2)
        chunks.append(out)
    found = torch.cat(chunks, 1)
    if not transposed:
        return found
    ends = [slice(p, found.shape[2 + i] - p) for i, p in enumerate(arithmetic.padding)]
    return found[(..., *ends)]


class Int64:
    """An arithmetic whose sums are int64."""

    def __init__(self, arithmetic: Any) -> None:
        self.arithmetic = arithmetic

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        assert bias is None
        assert torch.equal(x, x.round())
        assert torch.equal(weight, weight.round())
        return int64_product(self.arithmetic, x, weight).double()


def made(kind: str, **options: Any) -> tuple[Any, Tensor, WholeProduct]:
    """A layer in evaluation, an input that leaves its range, and its product."""
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    layer = make(**{"weights": 5, "activations": 6, "activation_quantizer": "uniform", **options})
    layer(torch.randn(shape))
    product = whole_product(layer.eval())
    assert isinstance(product, WholeProduct), product
    return layer, 1.5 * torch.randn(shape), product


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_equals_int64_and_is_near_to_itself(kind: str) -> None:
    layer, x, product = made(kind)
    expected = layer(x)
    used: list[Any] = []
    vars(layer)["_product"] = lambda x, arithmetic: used.append((x, arithmetic)) or product(x, Int64(arithmetic))  # type: ignore[func-returns-value]
    in_int64 = layer(x)
    padded, arithmetic = used[0]
    low, high = layer.range_low.double(), layer.range_high.double()
    step = (high - low) / (2**6 - 1)
    on_grid = low + step * ((padded.double().clamp(low, high) - low) / step).round()
    weight = layer.as_weight(
        layer.outputs_first(product.codes) * product.half.view(-1, *(1,) * (layer.weight.dim() - 1))
    )
    bias = None if layer.bias is None else layer.bias.double()
    torch.testing.assert_close(in_int64, arithmetic.product(on_grid, weight, bias), rtol=1e-11, atol=1e-11)
    product.take_place()
    found = layer(x)
    assert found.dtype == torch.float64
    assert torch.equal(found, in_int64)
    assert torch.equal(found.signbit(), in_int64.signbit())
    torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(product.codes, product.codes.round())
    assert product.codes.abs().max() <= 2**5 - 1


@pytest.mark.parametrize("kind", ["linear", "3x3", "up", "up in groups"])
@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize(
    "quantizer", ["uniform", "dorefa", "twn", "absmean", "binary", "ternary_lsq", "lsq", "seq", "quest", "nested"]
)
def test_weights_of_every_grid_with_one_step(quantizer: str, granularity: str, kind: str) -> None:
    own = {"quantizer": "uniform", "nested": True} if quantizer == "nested" else {"quantizer": quantizer}
    for bits in (1, 3, 8, 5.5):
        layer, x, product = made(kind, weights=bits, granularity=granularity, **own)
        scale = product.half.view(-1, *(1 for _ in range(layer.weight.dim() - 1)))
        weight = layer.as_weight(layer.outputs_first(product.codes) * scale)
        torch.testing.assert_close(weight.float(), layer.quantized_weight().detach(), rtol=1e-6, atol=0)
        expected = layer(x)
        product.take_place()
        torch.testing.assert_close(layer(x).float(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [k for k in LAYERS if "group" not in k and k not in ("depthwise", "one image")])
def test_the_order_of_sums_does_not_show(kind: str) -> None:
    layer, x, product = made(kind)
    product.take_place()
    found = layer(x)
    order = torch.randperm(6)
    with torch.no_grad():
        layer.weight.copy_(layer.as_weight(layer.outputs_first(layer.weight)[:, order]))
    shuffled = whole_product(layer)
    assert isinstance(shuffled, WholeProduct)
    shuffled.take_place()
    channel = x.dim() - layer._feature_dims
    assert torch.equal(layer(x.index_select(channel, order)), found)


@pytest.mark.parametrize("kind", ["3x3", "depthwise", "up"])
def test_threads_batches_and_onednn_do_not_show(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x, product = made(kind)
    product.take_place()
    expected, threads = layer(x), torch.get_num_threads()
    assert torch.equal(torch.cat([layer(one[None]) for one in x]), expected)
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            monkeypatch.setattr(torch.backends.mkldnn, "enabled", number == 1)
            assert torch.equal(layer(x), expected)
    finally:
        torch.set_num_threads(threads)


def test_a_sum_of_zero_has_no_sign() -> None:
    class Backwards:
        def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return -torch.zeros(2, 6, 5, 5, dtype=torch.float64)  # as it comes out where -0 is added to -0

    layer, x, product = made("depthwise")
    layer.range_low.zero_()
    assert not product(x, Backwards()).signbit().any()  # type: ignore[arg-type]


def test_sums_up_to_the_bound_are_exact_and_beyond_it_refused() -> None:
    layer = QuantLinear(500, 3, weights=16, activations=28)
    layer(torch.rand(4, 500))
    with torch.no_grad():
        layer.weight.copy_(layer.weight.abs())
    product = whole_product(layer.eval())
    assert isinstance(product, WholeProduct)
    x = torch.full((1, 500), 2.0)  # beyond the range: each code is the last
    sums = LinearArithmetic().product(
        torch.full((1, 500), float(product.last), dtype=torch.float64), product.codes, None
    )
    by_hand = [product.last * sum(int(code) for code in row) for row in product.codes]
    assert [int(value) for value in sums[0]] == by_hand
    assert LIMIT / 8 < max(by_hand) < LIMIT
    expected = layer(x)
    product.take_place()
    torch.testing.assert_close(layer(x).float(), expected, rtol=1e-4, atol=1e-4)
    layer.turn({"activation_bits": 31})
    reason = whole_product(layer)
    assert isinstance(reason, str)
    assert "from 2^53 on they are not exact; turn the dial" in reason


def test_an_unknown_range_is_that_of_the_input_and_each_call_may_have_its_own() -> None:
    layer, x = QuantLinear(6, 4, weights=4, activations=4).eval(), torch.randn(5, 6)
    expected = layer(x)
    product = whole_product(layer)
    assert isinstance(product, WholeProduct)
    product.take_place()
    torch.testing.assert_close(layer(x).float(), expected, rtol=1e-4, atol=1e-4)
    del vars(layer)["_product"]
    layer.keep_ranges(2)
    layer.train()
    for factor in (1, 100):
        layer(x * factor)
    layer.eval()
    expected = [layer(x), layer(x * 100)]  # type: ignore[assignment]
    product.take_place()
    for found, right in zip([layer(x), layer(x * 100)], expected, strict=True):
        torch.testing.assert_close(found.float(), right, rtol=1e-4, atol=1e-4)


def test_nothing_but_zeros_and_what_is_not_finite() -> None:
    layer, x, _ = made("3x3")
    with torch.no_grad():
        layer.weight[2] = 0
    product = whole_product(layer)
    assert isinstance(product, WholeProduct)
    product.take_place()
    assert torch.equal(layer(x)[:, 2], torch.full_like(layer(x)[:, 2], layer.bias[2].item()))
    x[0, 0, 3, 3] = math.nan
    assert layer(x)[0].isnan().any()
    assert layer(x)[1].isfinite().all()


REFUSED: dict[str, Any] = {
    "weights of ttq are not whole numbers of one step": {"quantizer": "ttq", "weights": 2},
    "quest_hadamard rotates its input": {"quantizer": "quest_hadamard"},
    "activation quantizer lsq has no fixed grid": {"activation_quantizer": "lsq"},
    "activation quantizer token has no fixed grid": {"activation_quantizer": "token"},
    "granularity group:3 has several steps in one sum": {"granularity": "group:3"},
    "it stands at 32 bits": {"activations": 32},
    "it stands at 32 bits; turn": {"weights": 32},
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_has_no_whole_numbers_says_why(reason: str) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(6, 4, **{"weights": 4, "activations": 4, "activation_quantizer": "uniform", **REFUSED[reason]})
    if layer.weight_quantizer is not None and "ttq" in reason:
        with torch.no_grad():
            layer.weight_quantizer.positive.mul_(1.3)  # type: ignore[union-attr, operator]
    found = whole_product(layer.eval())
    assert isinstance(found, str)
    assert reason in found
