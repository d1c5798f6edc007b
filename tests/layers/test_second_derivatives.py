"""Derivatives of derivatives: gradient penalties, Hessians, meta-learning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitdial.errors import BitdialError
from bitdial.layers import (
    BitDial,
    QuantConv1d,
    QuantConv2d,
    QuantConvTranspose2d,
    QuantizedLayer,
    QuantLinear,
    quantize,
)
from bitdial.numerics import min_max, quantize_gradient
from bitdial.numerics.reference import snap_reference
from tests.layers.nets import rows


def through(x: Tensor, values: Tensor) -> Tensor:
    """The values, with the gradient of x: the straight-through estimator, by sums."""
    return values.detach() + (x - x.detach())


def plainly(layer: QuantizedLayer, x: Tensor) -> Tensor:
    """What a layer computes, in operations that autograd differentiates any number of times."""
    low, high = (layer.range_low, layer.range_high) if not layer.training else min_max(x.detach())
    inside = (x >= low) & (x <= high) | (layer.activation_bits == 32)
    clipped = torch.where(inside, x, x.detach())  # torch.clamp has other derivatives at the ends
    x = through(clipped, snap_reference(x.detach(), low, high, layer.activation_bits, clip=not layer.training))
    if layer.quantizer.name in ("uniform", "twn", "absmean"):
        weight = through(layer.weight, layer.quantized_weight())
    elif layer.weight_bits == 32:
        weight = layer.weight
    else:  # DoReFa: E and the maximum are constants
        bent = layer.weight.tanh()
        largest = bent.abs().max().detach()
        weight = through(bent * (layer.weight.abs().mean().detach() / largest), layer.quantized_weight())
    if isinstance(layer, nn.Linear):
        return functional.linear(x, weight, layer.bias)
    if isinstance(layer, nn.ConvTranspose2d):
        more = layer.stride, layer.padding, layer.output_padding, layer.groups, layer.dilation
        return functional.conv_transpose2d(x, weight, layer.bias, *more)
    convolve = functional.conv1d if isinstance(layer, nn.Conv1d) else functional.conv2d
    return convolve(x, weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups)


def penalty(run: Callable[[Tensor], Tensor], x: Tensor, wanted: list[Tensor], way: str) -> list[Tensor]:
    """Gradients of a loss with a gradient penalty in it (WGAN-GP, double backpropagation)."""
    loss = run(x).square().sum()
    first = torch.autograd.grad(loss, [x, *wanted[:1]], create_graph=True)
    total = loss + sum((g * g).sum() for g in first)
    if way == "grad":
        return list(torch.autograd.grad(total, wanted))
    for each in wanted:
        each.grad = None
    if way == "backward":
        total.backward()
    else:
        total.backward(inputs=wanted)
    return [each.grad.clone() for each in wanted]


MAKERS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "linear": (lambda **o: (QuantLinear(6, 5, **o), QuantLinear(5, 3, **o)), (7, 6)),
    "linear of three dimensions": (lambda **o: (QuantLinear(6, 5, **o), QuantLinear(5, 3, **o)), (2, 4, 6)),
    "conv1d": (lambda **o: (QuantConv1d(3, 4, 3, padding=1, **o), QuantConv1d(4, 2, 2, stride=2, **o)), (2, 3, 8)),
    "conv2d": (lambda **o: (QuantConv2d(3, 4, 3, padding=1, **o), QuantConv2d(4, 4, 3, groups=2, **o)), (2, 3, 6, 6)),
    "transposed": (
        lambda **o: (QuantConvTranspose2d(3, 4, 3, 2, 1, **o), QuantConvTranspose2d(4, 4, 2, groups=2, **o)),
        (2, 3, 4, 4),
    ),
    "one image": (lambda **o: (QuantConv2d(3, 4, 3, padding=1, **o), QuantConv2d(4, 2, 2, **o)), (3, 6, 6)),
}


@pytest.mark.parametrize("way", ["grad", "backward", "inputs"])
@pytest.mark.parametrize("bits", [2, 4, 32])
@pytest.mark.parametrize("quantizer", ["uniform", "dorefa", "twn", "absmean"])
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("training", [True, False])
def test_a_gradient_penalty_is_that_of_the_straight_through_estimator(
    kind: str, quantizer: str, bits: float, way: str, training: bool
) -> None:
    torch.manual_seed(0)
    make, shape = MAKERS[kind]
    layers = make(weights=bits, activations=bits, quantizer=quantizer, activation_quantizer="uniform")
    net = nn.Sequential(layers[0], nn.Tanh(), layers[1])
    x = torch.randn(shape, requires_grad=True)
    net(torch.randn(shape) / 2)
    layers[1].range_low.fill_(-0.51)  # ends that no value meets: on them, rounding decides what is inside
    layers[1].range_high.fill_(0.47)
    net.train(training)
    wanted = [parameter for parameter in net.parameters() if parameter.dim() > 1]
    expected = penalty(lambda x: plainly(layers[1], torch.tanh(plainly(layers[0], x))), x, wanted, "grad")
    found = penalty(net, x, wanted, way)
    for ours, right in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, right, rtol=2e-4, atol=2e-4 * right.abs().max().item())


def test_at_32_bits_it_is_the_float_networks_in_float64() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)).double()
    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    wanted = list(net.parameters())[::2]
    expected = penalty(net, x, wanted, "grad")
    quantize(net, 32, 32, gradients=32, skip=())
    for ours, right in zip(penalty(net, x, wanted, "grad"), expected, strict=True):
        torch.testing.assert_close(ours, right)
    assert torch.autograd.gradgradcheck(net, (x,))


@pytest.mark.parametrize("quantizer", ["ttq", "ternary_lsq"])
def test_learned_scales_take_part(quantizer: str) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(6, 5, weights=2, quantizer=quantizer)
    x = rows().requires_grad_()
    scale = next(layer.weight_quantizer.parameters())
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), scale)
    weight = layer.weight_quantizer(layer.weight, layer.weight_bits)
    plain = 2 * functional.linear(x, weight, layer.bias) @ weight
    (expected,) = torch.autograd.grad(plain.square().sum(), scale)
    torch.testing.assert_close(second, expected)


def test_rounded_gradients_are_straight_through() -> None:
    layer = QuantLinear(6, 5, gradients=4)
    x = rows().requires_grad_()
    torch.manual_seed(0)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    torch.manual_seed(0)
    assert torch.equal(first.detach(), torch.autograd.grad(layer(x).square().sum(), x)[0])
    torch.manual_seed(1)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.manual_seed(1)  # what comes back to the layer's output a second time is rounded as well
    expected = quantize_gradient(2 * torch.ones_like(x) @ layer.weight.t(), layer.gradient_bits) @ layer.weight
    torch.testing.assert_close(second, expected)


def test_the_dial_may_be_turned_and_memory_reused_before_the_second_derivative() -> None:
    torch.manual_seed(0)
    layer, x = QuantLinear(6, 5, weights=3, activations=3), rows().requires_grad_()

    def second(between: Callable[[], None]) -> Tensor:
        BitDial(layer).set(3)
        first = torch.autograd.grad(layer(x).square().sum(), [x, layer.weight], create_graph=True)
        between()
        return torch.autograd.grad(sum(g.square().sum() for g in first), layer.weight)[0]

    def disturb() -> None:
        BitDial(layer).set(8)
        layer(rows(seed=5) * 9)

    assert torch.equal(second(disturb), second(lambda: None))


def test_a_hessian_of_a_quantized_network() -> None:
    layer = QuantLinear(6, 1, bias=False)
    x = rows(3)
    hessian = torch.autograd.functional.hessian(lambda t: layer(t).square().sum(), x[:1])
    torch.testing.assert_close(hessian[0, :, 0], 2 * layer.weight.t() @ layer.weight)


@pytest.mark.parametrize("quantizer", ["uniform", "dorefa", "ttq"])
@pytest.mark.parametrize("transform", ["grad", "vmap", "jvp", "jacrev"])
def test_torch_func_is_refused_with_a_sentence(transform: str, quantizer: str) -> None:
    net = quantize(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)), 4, 4, quantizer=quantizer, skip=())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    run: dict[str, Callable[[], Any]] = {
        "grad": lambda: torch.func.grad(lambda x: net(x).sum())(rows()),
        "vmap": lambda: torch.func.vmap(net)(rows()),
        "jvp": lambda: torch.func.jvp(net, (rows(),), (rows(),)),
        "jacrev": lambda: torch.func.jacrev(net)(rows()),
    }
    with pytest.raises(BitdialError, match=r"torch\.func .* cannot go through a quantized layer; use torch\.autograd"):
        run[transform]()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
