"""On a GPU every quantizer gives what it gives on the CPU: forward, backward, running ranges, at every width."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from bitdial.layers import (
    BitDial,
    QuantConv1d,
    QuantConv2d,
    QuantConvTranspose2d,
    QuantLinear,
    cost,
    quantize,
    reestimate_batch_norm,
)
from bitdial.numerics.quantizers import QUANTIZERS
from tests.gpu.conftest import Device
from tests.layers.nets import ResidualNet, images

WIDTHS = [1.0, 1.58, 2.0, 3.0, 4.0, 8.0, 16.0, 32.0]
LAYERS = {
    "linear": (lambda **how: QuantLinear(24, 16, **how), (8, 24)),
    "conv1d": (lambda **how: QuantConv1d(6, 8, 3, padding="same", **how), (4, 6, 20)),
    "transposed": (lambda **how: QuantConvTranspose2d(6, 8, 4, 2, 1, **how), (4, 6, 9, 9)),
    "conv2d": (lambda **how: QuantConv2d(6, 8, 3, stride=2, padding=1, **how), (4, 6, 9, 9)),
    "circular": (lambda **how: QuantConv2d(4, 8, 3, padding=1, padding_mode="circular", **how), (2, 4, 8, 8)),
}


def close(got: Tensor, expected: Tensor, where: str) -> None:
    """Equal but for the order of sums; single values at a tie may fall to either side."""
    assert got.dtype == expected.dtype, where
    assert got.isfinite().all(), where
    gap = (got.detach().cpu() - expected.detach()).norm()
    assert gap <= 1e-4 * expected.detach().norm() + 1e-6, f"{where}: off by {gap:g}"


def run(layer: nn.Module, x: Tensor, *, train: bool) -> dict[str, Tensor]:
    """Output, and every gradient."""
    layer.train(train)
    layer.zero_grad()
    x = x.clone().requires_grad_()
    y = layer(x)
    weights = torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y)  # a gradient with more than one value
    (y * weights).sum().backward()
    assert x.grad is not None
    found = {"output": y, "input's gradient": x.grad}
    return found | {f"gradient of {n}": p.grad for n, p in layer.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_forward_backward_and_dial(quantizer: str, kind: str, granularity: str, device: Device) -> None:
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    here = make(weights=4, activations=4, quantizer=quantizer, granularity=granularity)
    there = copy.deepcopy(here).to(device)
    dials = BitDial(nn.Sequential(here)), BitDial(nn.Sequential(there))
    generator = torch.Generator().manual_seed(1)
    for step, width in enumerate(WIDTHS):
        for dial in dials:
            dial.set(weights=width, activations=WIDTHS[-1 - step])
        x = torch.randn(shape, generator=generator)
        for train in (True, False):
            expected = run(here, x, train=train)
            with device.computing():
                got = run(there, x.to(device), train=train)
            assert got.keys() == expected.keys()
            for name, value in expected.items():
                assert got[name].device.type == device
                close(got[name], value, f"{name} at {width:g} bits, training {train}")
    for name, buffer in here.named_buffers():
        close(there.get_buffer(name), buffer, name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_under_autocast(quantizer: str, dtype: torch.dtype, device: Device) -> None:
    torch.manual_seed(0)
    here = quantize(ResidualNet(), 8, 8, quantizer=quantizer, skip=())
    there = copy.deepcopy(here).to(device)
    expected = run(here, images(), train=True)["output"]
    with torch.autocast(device, dtype=dtype), device.computing():
        got = run(there, images().to(device), train=True)["output"]
    assert (got.float().cpu() - expected).norm() <= 0.1 * expected.norm()


@pytest.mark.parametrize("quantizer", ["uniform", "dorefa", "twn"])
def test_rounded_gradients_are_right_on_average(quantizer: str, device: Device) -> None:
    torch.manual_seed(0)
    layer = QuantLinear(32, 16, weights=8, activations=8, gradients=4, quantizer=quantizer).to(device)
    exact = copy.deepcopy(layer)
    BitDial(nn.Sequential(exact)).set(gradients=32)
    x = torch.randn(64, 32, device=device)
    true = run(exact, x, train=True)["gradient of weight"]
    mean = torch.stack([run(layer, x, train=True)["gradient of weight"] for _ in range(200)]).mean(0)
    assert 0 < (mean - true).norm() <= 0.1 * true.norm()


def test_a_network_counts_and_measures_its_batch_norm(device: Device) -> None:
    torch.manual_seed(0)
    here = quantize(ResidualNet(), 4, 4)
    there = copy.deepcopy(here).to(device)
    for model, place in ((here, "cpu"), (there, device)):
        model.train()
        with device.computing() if model is there else nullcontext():
            model(images(8).to(place))
            reestimate_batch_norm(model, [images(8, seed=each).to(place) for each in range(3)])
    for name, buffer in here.named_buffers():
        torch.testing.assert_close(there.get_buffer(name).cpu(), buffer, rtol=1e-3, atol=1e-4)
    assert cost(there, images(1).to(device)).table() == cost(here, images(1)).table()
