"""Networks that read the weight of a layer instead of calling it: they get the quantized one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from bitdial.export import load_packed, save_packed
from bitdial.layers import BitDial, QuantConv2d, QuantizedLayer, cost, quantize
from tests.layers.nets import images, rows

EVERY_KIND = ["uniform", "dorefa", "twn", "absmean", "ttq", "ternary_lsq"]


class Tied(nn.Module):
    """An autoencoder whose decoder is the encoder's weight, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 8)
        self.body = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.body(torch.relu(self.encoder(x))))
        return functional.linear(h, self.encoder.weight.t())


class Read(nn.Module):
    """A convolution that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.conv.weight, self.conv.bias)


def by_hand(layer: QuantizedLayer) -> Tensor:
    return layer.quantized_weight()


@pytest.mark.parametrize("quantizer", EVERY_KIND)
def test_a_functional_convolution_takes_the_quantized_weight(quantizer: str) -> None:
    model = quantize(Read(), 3, 8, quantizer=quantizer, skip=())
    x = images()
    expected = functional.conv2d(x, by_hand(model.conv), model.conv.bias)
    gradients = torch.autograd.grad(expected.square().sum(), list(model.parameters()), allow_unused=True)
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            assert torch.equal(model(x), expected)
            assert torch.equal(model.forward(x), expected)  # without the hooks that a call runs
            assert torch.equal(torch.func.functional_call(model, dict(model.named_parameters()), (x,)), expected)
    model(x).square().sum().backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        assert gradient is not None
        assert torch.equal(parameter.grad, gradient)


@pytest.mark.parametrize("quantizer", EVERY_KIND)
def test_tied_uses_are_quantized_alike_and_load_back_alike(quantizer: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = quantize(Tied(), 3, 32, quantizer=quantizer, skip=())
    x = rows()
    encoder, body = by_hand(model.encoder), by_hand(model.body)
    h = torch.relu(
        functional.linear(torch.relu(functional.linear(x, encoder, model.encoder.bias)), body, model.body.bias)
    )
    assert torch.allclose(model(x), functional.linear(h, encoder.t()), atol=1e-6)
    file = save_packed(model, tmp_path / "tied.safetensors")
    fresh = load_packed(file, quantize(Tied(), 3, 32, quantizer=quantizer, skip=()))
    assert torch.equal(fresh.eval()(x), model.eval()(x))
    copied = copy.deepcopy(model)
    assert torch.equal(copied(x), model(x))


def test_at_32_bits_a_read_weight_is_the_float_one_with_its_gradient() -> None:
    plain = Tied()
    model = quantize(copy.deepcopy(plain), 32, 32, skip=())
    for each in (plain, model):
        each(rows()).square().sum().backward()
    assert torch.equal(model(rows()), plain(rows()))
    assert torch.equal(model.encoder.weight.grad, plain.encoder.weight.grad)


def test_turning_the_dial_turns_what_is_read() -> None:
    model = quantize(Read(), 8, 8, skip=())
    outputs = []
    for bits in (2, 4, 32):
        BitDial(model).set(weights=bits)
        outputs.append(model(images()))
        assert torch.equal(outputs[-1], functional.conv2d(images(), by_hand(model.conv), model.conv.bias))
    assert not any(torch.equal(one, outputs[2]) for one in outputs[:2])


def test_outside_of_a_forward_pass_the_weight_is_the_parameter() -> None:
    model = quantize(Tied(), 2, 2, skip=())
    assert model.encoder.weight is model.encoder._parameters["weight"]
    assert isinstance(model.encoder.weight, nn.Parameter)
    seen: list[Any] = []
    model.encoder.register_forward_hook(lambda layer, *_: seen.append(layer.weight))
    model(rows())
    assert seen[0] is model.encoder.weight  # nor for the layer itself, and its own hooks
    del model.encoder.weight
    with pytest.raises(AttributeError, match="weight"):
        _ = model.encoder.weight


def test_the_ledger_says_which_weights_are_read() -> None:
    ledger = cost(quantize(Tied(), 4, 4, skip=()), rows())
    assert ledger.read == ("encoder",)
    assert "weights that other modules read (what they multiply is not quantized): encoder" in ledger.table()
    model = nn.Sequential(Read(), nn.Conv2d(4, 4, 1))
    ledger = cost(quantize(model, 4, 4, skip=()), images())
    assert (ledger.read, ledger.uncounted) == (("0.conv",), ("0.conv",))
    assert cost(quantize(nn.Sequential(nn.Linear(6, 6)), 4, 4, skip=()), rows()).read == ()


def test_compiled_the_read_weight_is_quantized_too() -> None:
    model = quantize(Read(), 3, 8, skip=())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for bits in (2, 3, 32):
        BitDial(model).set(bits)
        assert torch.allclose(compiled(images()), model(images()), atol=1e-6)


def test_what_is_written_over_the_weight_goes_before() -> None:
    layer = QuantConv2d(3, 4, 3, weights=2)
    layer.weight = replacement = nn.Parameter(torch.ones_like(layer.weight))
    assert layer.weight is replacement is dict(layer.named_parameters())["weight"]


@pytest.mark.parametrize("quantizer", ["uniform", "twn"])
def test_a_swin_transformer_loads_back_alike(quantizer: str, tmp_path: Path) -> None:
    def small() -> nn.Module:
        torch.manual_seed(0)
        return torchvision.models.SwinTransformer([4, 4], 8, [2], [2], [4, 4], num_classes=5)

    model = quantize(small(), 3, 8, quantizer=quantizer).train()
    x = torch.randn(2, 3, 32, 32)
    model(x).sum().backward()
    assert all(layer.weight.grad is not None for layer in model.modules() if isinstance(layer, QuantizedLayer))
    file = save_packed(model.eval(), tmp_path / "swin.safetensors")
    loaded = load_packed(file, quantize(small(), 3, 8, quantizer=quantizer)).eval()
    assert torch.equal(loaded(x), model(x))
    assert {name.rsplit(".", 1)[1] for name in cost(model, x).read} == {"qkv", "proj"}
