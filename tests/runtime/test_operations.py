"""What a network is made of, one kind after the other: each equals what PyTorch computes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import bitdial as bd
from bitdial.export.calibration import calibrated
from bitdial.runtime.activations import activation_of
from bitdial.runtime.network import Network, why_no_kernels
from bitdial.runtime.operations import Clamp, Table

pytestmark = pytest.mark.skipif(bool(why_no_kernels()), reason=f"no kernels here: {why_no_kernels()}")


class Around(nn.Module):
    """A function of a quantized layer's output, and its input."""

    def __init__(self, between: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.between = nn.Conv2d(6, 10, 3, padding=1), between

    def forward(self, x: Tensor) -> Tensor:
        return self.between(self.first(x), x)


class Flat(nn.Module):
    """A layer, a function of its output, and a linear layer."""

    def __init__(self, flatten: Callable[[Tensor], Tensor], features: int) -> None:
        super().__init__()
        self.first, self.flatten, self.last = nn.Conv2d(6, 10, 3, padding=1), flatten, nn.Linear(features, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.flatten(self.first(x)))


def made(model: nn.Module, *shape: int, weights: float = 4) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    bd.quantize(model, weights=weights, activations=8, skip=())
    x = torch.randn(5, *shape)
    model.train()
    model(x)
    return calibrated(model), x


def compared(model: nn.Module, x: Tensor) -> Network:
    network = Network(model, threads=1)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=2e-5)
    return network


def left(network: Network, x: Tensor) -> list[str]:
    plan = network.plan(x)
    assert plan is not None
    return [str(node.target) for node in plan.left]


BETWEEN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": lambda y, x: functional.relu(y),
    "relu method": lambda y, x: y.relu(),
    "relu6": lambda y, x: functional.relu6(4 * y),
    "hardtanh": lambda y, x: functional.hardtanh(y, -0.5, 2.0),
    "clamp": lambda y, x: y.clamp(min=-0.25),
    "gelu": lambda y, x: functional.gelu(y),
    "gelu by tanh": lambda y, x: functional.gelu(y, approximate="tanh"),
    "silu": lambda y, x: functional.silu(y),
    "hardswish": lambda y, x: functional.hardswish(y),
    "sigmoid": lambda y, x: torch.sigmoid(y),
    "tanh": lambda y, x: y.tanh(),
    "add": lambda y, x: y + functional.relu(y),
    "concat": lambda y, x: torch.cat([y, x, functional.relu(y)], 1),
    "concat twice": lambda y, x: torch.cat([torch.cat([x, y], 1), x], dim=1),
    "max pool": lambda y, x: functional.max_pool2d(y, 3, 2, 1),
    "mean": lambda y, x: y.mean((2, 3)),
    "mean, kept": lambda y, x: y.mean([-1, -2], keepdim=True),
    "adaptive pool": lambda y, x: functional.adaptive_avg_pool2d(y, 1),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_stands_between_layers(name: str) -> None:
    model, x = made(Around(BETWEEN[name]), 6, 8, 9)
    network = compared(model, x)
    assert not [each for each in left(network, x) if "mul" not in each]


def test_a_product_is_left_to_pytorch() -> None:
    model, x = made(Around(lambda y, x: y * y.mean((2, 3), keepdim=True)), 6, 8, 9)
    assert any("mul" in each for each in left(compared(model, x), x))


POOLS: dict[str, nn.Module] = {
    "max": nn.MaxPool2d(2),
    "max, borders": nn.MaxPool2d(3, 2, 1),
    "max, dilation": nn.MaxPool2d(2, 1, dilation=2),
    "max, rounded up": nn.MaxPool2d(3, 2, ceil_mode=True),
    "mean": nn.AvgPool2d(2),
    "mean, borders": nn.AvgPool2d(3, 2, 1),
    "mean, borders left out": nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "mean, rounded up": nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    "mean, divisor": nn.AvgPool2d(2, divisor_override=3),
    "adaptive": nn.AdaptiveAvgPool2d((4, 3)),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools(name: str) -> None:
    model, x = made(nn.Sequential(nn.Conv2d(6, 21, 3, padding=1), POOLS[name]), 6, 8, 9)
    network = compared(model, x)
    assert not left(network, x)


FLATTENS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "flatten": (lambda y: torch.flatten(y, 1), 720),
    "view": (lambda y: y.view(y.size(0), -1), 720),
    "reshape": (lambda y: y.reshape(y.shape[0], 720), 720),
    "after a pool": (lambda y: functional.adaptive_avg_pool2d(y, 1).flatten(1), 10),
}


@pytest.mark.parametrize("name", FLATTENS)
def test_flattened_images(name: str) -> None:
    flatten, features = FLATTENS[name]
    model, x = made(Flat(flatten, features), 6, 8, 9)
    compared(model, x)


LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "conv": (nn.Conv2d(6, 9, 3, padding=1), (6, 8, 9)),
    "uneven": (nn.Conv2d(6, 9, (2, 5), (2, 1), (0, 3)), (6, 8, 9)),
    "same": (nn.Conv2d(6, 9, (2, 3), padding="same"), (6, 8, 9)),
    "dilation": (nn.Conv2d(6, 9, 3, dilation=2, padding=2), (6, 8, 9)),
    "groups": (nn.Conv2d(6, 9, 3, groups=3), (6, 8, 9)),
    "depthwise": (nn.Conv2d(18, 18, 3, groups=18, padding=1), (18, 8, 9)),
    "one dimension": (nn.Conv1d(6, 9, 3, stride=2, padding=1), (6, 20)),
    "linear": (nn.Linear(13, 9), (13,)),
    "linear, tokens": (nn.Linear(13, 9), (4, 13)),
    "linear, two dimensions of tokens": (nn.Linear(13, 9, bias=False), (4, 3, 13)),
    "norm": (nn.Sequential(nn.Conv2d(6, 9, 3, bias=False), nn.BatchNorm2d(9), nn.ReLU()), (6, 8, 9)),
    "norm first": (nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 9, 3)), (6, 8, 9)),
    "norm of features": (nn.Sequential(nn.Linear(13, 20), nn.BatchNorm1d(20), nn.ReLU()), (13,)),
    "dropout": (nn.Sequential(nn.Conv2d(6, 9, 3), nn.Dropout(), nn.ReLU(inplace=True)), (6, 8, 9)),
    "repeated borders": (nn.Conv2d(6, 9, 3, padding=1, padding_mode="reflect"), (6, 8, 9)),
    "transposed": (nn.ConvTranspose2d(6, 9, 3), (6, 4, 4)),
}


@pytest.mark.parametrize("weights", [2.0, 4.0, 8.0])
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, weights: float) -> None:
    module, shape = LAYERS[name]
    model, x = made(copy.deepcopy(module), *shape, weights=weights)
    compared(model, x)


def test_layers_without_a_kernel_are_named_with_the_reason() -> None:
    model, x = made(nn.Sequential(nn.Conv2d(6, 9, 3, padding=1, padding_mode="reflect"), nn.Conv2d(9, 4, 1)), 6, 8, 9)
    network = compared(model, x)
    assert [name for name, _ in network.chosen.stayed] == ["0"]
    assert "reflect" in str(network.chosen)


class Block(nn.Module):
    """A residual block with two ways that both compute."""

    def __init__(self, out: int, stride: int) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(8, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.two = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(8, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.two(functional.relu(self.norm(self.one(x))))
        y += self.short(x)
        return functional.relu(y)


def test_sums_become_a_part_of_the_layer_before() -> None:
    model, x = made(Block(12, 2), 8, 8, 9)
    network = compared(model, x)
    plan = network.plan(x)
    assert plan is not None
    assert [len(program.operations) for program in plan.programs] == [3]
    assert not plan.left


def test_a_value_that_is_read_twice_is_kept() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x)
            return self.two(y) + self.three(functional.relu(y)) + y

    model, x = made(Twice(), 6, 5, 5)
    compared(model, x)


def test_a_network_that_changes_a_value_in_place_and_reads_it_again_is_right() -> None:
    class Changes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(6, 8, 1), nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x)
            z = functional.relu(y, inplace=True)
            return self.two(z) + y

    model, x = made(Changes(), 6, 5, 5)
    compared(model, x)


def test_a_network_without_a_graph_is_computed_layer_by_layer() -> None:
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(12, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x)
            return self.two(y if y.sum() > 0 else -y)

    model, x = made(Decides(), 7, 12)
    network = compared(model, x)
    assert network.plan(x) is None
    assert network.chosen.way == "kernels"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_strange_inputs_give_what_pytorch_gives(value: float) -> None:
    model, x = made(nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 9, 3), nn.ReLU()), 6, 8, 9)
    x[0, 0, 0, 0] = value
    network = Network(model)
    with torch.no_grad():
        expected, got = model(x), network(x)
    assert torch.equal(got[1:].isfinite(), expected[1:].isfinite())
    torch.testing.assert_close(got[1:], expected[1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "function", [functional.gelu, functional.silu, functional.hardswish, torch.sigmoid, torch.tanh]
)
def test_tables_are_as_close_as_they_say(function: Any) -> None:
    table = activation_of(function, {})
    assert isinstance(table, Table)
    x = torch.linspace(-16, 16, 99_991, dtype=torch.float64)
    place = (x + 16) * 256
    left = place.floor().clamp(0, 8191).long()
    values = torch.from_numpy(table.values).double()
    y = values[left] + (place - left) * (values[left + 1] - values[left])
    assert (y - function(x)).abs().max() < 2e-6
    for ends, (slope, offset) in ((-16.0, table.below), (16.0, table.above)):
        far = torch.tensor([ends, 3 * ends], dtype=torch.float64)
        assert (far * slope + offset - function(far)).abs().max() < 2e-6


def test_what_is_no_activation_function_is_none() -> None:
    assert activation_of(torch.add, {"1": 2}) is None
    assert activation_of(torch.clamp, {"min": torch.zeros(3)}) is None
    assert activation_of(functional.relu6, {}) == Clamp(0.0, 6.0)
