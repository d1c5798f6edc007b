"""Transposed convolutions: their float layer on separately quantized operands, one grid for each output channel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitdial.evaluation.average_width import get_average_bitwidth
from bitdial.export import load_packed, packed_sizes, save_packed
from bitdial.layers import (
    BitDial,
    QuantConv2d,
    QuantConvTranspose1d,
    QuantConvTranspose2d,
    cost,
    quantize,
    skipped_layers,
)
from bitdial.numerics import fake_quantize, min_max
from tests.export.models import weights
from tests.layers.test_tracing import traced

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "up": {"stride": 2, "padding": 1, "output_padding": 1},
    "dilation": {"dilation": 2, "padding": 1},
    "groups": {"groups": 2, "stride": 2},
    "depthwise": {"groups": 4, "padding": 1},
    "no_bias": {"bias": False},
}
QUANTIZERS = ["uniform", "dorefa", "twn", "absmean", "binary", "ttq", "ternary_lsq", "lsq", "seq", "quest"]


def draw(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.7 + 0.2


def by_hand(layer: Any, weight: Tensor) -> Tensor:
    """The weight with every output channel on a grid of its own, one channel after the other."""
    values, groups = torch.empty_like(weight), layer.groups
    per_group, inputs = weight.shape[1], weight.shape[0] // groups
    for channel in range(layer.out_channels):
        place = slice(channel // per_group * inputs, (channel // per_group + 1) * inputs), channel % per_group
        alone = weight[place].unsqueeze(0)
        made = layer.quantizer.weight(alone, layer.weight_bits, True)
        values[place] = made[0]
    return values


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("gradients", [None, 32])
@pytest.mark.parametrize("dims", [1, 2])
def test_output_and_gradients_are_those_of_its_parts(case: str, gradients: float | None, dims: int) -> None:
    torch.manual_seed(0)
    kind = (QuantConvTranspose1d, QuantConvTranspose2d)[dims - 1]
    layer: Any = kind(4, 8, 3, weights=4, activations=3, gradients=gradients, **CASES[case])
    convolve: Any = (functional.conv_transpose1d, functional.conv_transpose2d)[dims - 1]
    for shape in ((3, 4, 7, 6)[: 2 + dims], (4, 5, 6)[: 1 + dims]):
        found = []
        for ours in (True, False):
            layer.zero_grad()
            x = draw(*shape).requires_grad_()
            if ours:
                y = layer(x)
            else:
                weight = layer.weight + (by_hand(layer, layer.weight) - layer.weight).detach()
                values = fake_quantize(x, *min_max(x.detach()), layer.activation_bits)
                more = layer.output_padding, layer.groups, layer.dilation
                y = convolve(values, weight, layer.bias, layer.stride, layer.padding, *more)
            (y * torch.linspace(-1, 1.5, y.numel()).view(y.shape)).sum().backward()
            found.append((y.detach(), x.grad, *(p.grad for p in layer.parameters())))
        assert len(found[0]) == 3 + (layer.bias is not None)
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quantizer", [*QUANTIZERS, "quest_hadamard"])
@pytest.mark.parametrize("granularity", ["channel", "tensor", "group:6"])
@pytest.mark.parametrize("groups", [1, 2])
def test_every_quantizer_takes_the_weight_as_it_takes_that_of_a_convolution(
    quantizer: str, granularity: str, groups: int
) -> None:
    torch.manual_seed(0)
    options: dict[str, Any] = {"weights": 3, "activations": 4, "quantizer": quantizer, "granularity": granularity}
    layer = QuantConvTranspose2d(4, 6, 3, groups=groups, **options)
    per_group, inputs = 6 // groups, 4 // groups
    plain = nn.Conv2d(4, 6, 3, groups=groups)
    with torch.no_grad():  # the same weights, output channels first
        for o in range(6):
            for i in range(inputs):
                plain.weight[o, i] = layer.weight[o // per_group * inputs + i, o % per_group]
    other = QuantConv2d.from_float(plain, **options)
    if layer.weight_quantizer is not None:
        layer.weight_quantizer.load_state_dict(other.weight_quantizer.state_dict())  # type: ignore[union-attr]
        fresh = QuantConvTranspose2d.from_float(nn.ConvTranspose2d(4, 6, 3, groups=groups), **options)
        fresh.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
        for name, scale in fresh.weight_quantizer.state_dict().items():  # type: ignore[union-attr]
            torch.testing.assert_close(scale, other.weight_quantizer.state_dict()[name])  # type: ignore[union-attr]
    assert layer.scale_groups == other.scale_groups
    mine, theirs = layer.quantized_weight(), other.quantized_weight()
    for o in range(6):
        for i in range(inputs):
            assert torch.equal(mine[o // per_group * inputs + i, o % per_group], theirs[o, i])
    x = draw(2, 4, 5, 5).requires_grad_()
    layer(x).square().mean().backward()
    assert layer.weight.grad.isfinite().all()
    assert layer.weight.grad.any()


def test_32_bits_is_the_float_layer_bit_for_bit_and_the_output_size_is_asked_for() -> None:
    plain = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, groups=2)
    layer, x = QuantConvTranspose2d.from_float(plain), draw(2, 4, 5, 5)
    assert torch.equal(layer(x), plain(x))
    assert torch.equal(layer(x, output_size=[10, 9]), plain(x, output_size=[10, 9]))
    with pytest.raises(ValueError, match="output size"):
        layer(x, output_size=[20, 9])


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_compiled_and_a_traced_layer_give_the_same() -> None:
    torch.manual_seed(0)
    layer, x = QuantConvTranspose2d(4, 6, 2, 2, weights=4, activations=4), draw(2, 4, 5, 5)
    expected = layer(x)
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected)
    layer.eval()
    torch.testing.assert_close(traced(layer, x)(x), layer(x))


class Net(nn.Sequential):
    """Down, up in one and in two dimensions, with groups."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(2, 6, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, 2, groups=2), nn.ReLU()),
            *(nn.Flatten(2), nn.ConvTranspose1d(4, 3, 3, 2, 1), nn.Flatten(), nn.Linear(381, 5)),
        )


def images(seed: int = 0) -> Tensor:
    return torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(seed))


def trained(quantizer: str, seed: int = 0, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    model = quantize(Net(), 4, 8, quantizer=quantizer, skip=(), **options)
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    for batch in range(2):
        optimizer.zero_grad()
        model(images(batch)).square().mean().backward()
        assert quantizer != "uniform" or all(p.grad is not None and p.grad.any() for p in model.parameters())
        optimizer.step()
    return model.eval()


def test_quantize_the_dial_and_the_state_know_them() -> None:
    model = trained("uniform")
    assert skipped_layers(model) == {}
    dial = BitDial(model)
    assert dial.names == ("0", "2", "5", "7")
    dial.set([3, 5, 6, 7])
    other = quantize(Net(), skip=())
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(images()), model(images()))
    coarse = len(model[2].quantized_weight()[0, 0].unique())  # type: ignore[operator, index]
    dial.set(1)
    assert len(model[2].quantized_weight()[:3, 0].unique()) == 2 < coarse  # type: ignore[operator, index]
    assert get_average_bitwidth(model) == 1


@pytest.mark.parametrize("quantizer", ["uniform", "dorefa", "ttq", "twn", "lsq", "seq"])
@pytest.mark.parametrize("granularity", ["channel", "tensor", "group:3"])
def test_a_packed_file_gives_the_dialled_network(tmp_path: Path, quantizer: str, granularity: str) -> None:
    model = trained(quantizer, granularity=granularity)
    path = save_packed(model, tmp_path / "net")
    other = load_packed(path, trained(quantizer, seed=5, granularity=granularity))
    mine, theirs = weights(other), weights(model)
    assert all(torch.equal(weight, theirs[name]) for name, weight in mine.items())
    assert torch.equal(other(images()), model(images()))
    sizes = packed_sizes(model)
    if quantizer == "uniform" and granularity == "channel":
        assert sizes.scales == 4 * (6 + 4 + 3 + 5)
        assert sizes.weights == sum(-(-count * 4 // 8) for count in (108, 48, 36, 1905))


def test_nested_weights_come_out_of_a_packed_file_at_every_width(tmp_path: Path) -> None:
    model, dial = (made := trained("uniform", nested=True)), BitDial(made)
    dial.set(weights=8)
    other = load_packed(save_packed(model, tmp_path / "net"), trained("uniform", seed=5, nested=True))
    for bits in (8, 5, 2):
        dial.set(weights=bits)
        BitDial(other).set(weights=bits)
        assert torch.equal(other(images()), model(images()))


def test_the_ledger_counts_by_hand() -> None:
    ledger = cost(quantize(Net(), 4, 8, skip=()), images())
    rows = {row.name: row for row in ledger.rows}
    # Every value of the input meets every weight of its channel: out / groups x kernel.
    assert rows["2"].macs == 6 * 4 * 4 * (4 // 2) * 2 * 2
    assert rows["5"].macs == 4 * 64 * 3 * 3
    assert (rows["2"].weights, rows["2"].parameters, rows["2"].scales) == (48, 52, 4)
    assert rows["2"].quantized
    assert ledger.uncounted == ()
    plain = cost(Net(), images())
    assert [row.macs for row in plain.rows] == [row.macs for row in ledger.rows]
