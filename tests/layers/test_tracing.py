"""Recording operations in other ways than by ``torch.compile``: the graph computes what the layer computes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from bitdial.layers import quantize
from tests.layers.nets import images

QUANTIZERS = ["uniform", "dorefa", "twn", "ttq", "lsq", "pact", "seq", "quest", "nested"]


def net(quantizer: str, bits: float) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.Flatten(), nn.Linear(196, 3)]
    model = quantize(nn.Sequential(*layers), bits, bits, quantizer=quantizer, skip=())
    model(images(8, seed=1))
    return model.eval()


def traced(model: nn.Module, x: Tensor) -> Any:
    with warnings.catch_warnings():  # "is deprecated", "might not generalise"
        warnings.simplefilter("ignore")
        return torch.jit.trace(model, x, check_trace=False)


WAYS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "jit.trace": traced,
    "make_fx": lambda model, x: make_fx(model)(x),
    "make_fx with fake tensors": lambda model, x: make_fx(model, tracing_mode="fake", _allow_non_fake_inputs=True)(x),
    "make_fx with symbols": lambda model, x: make_fx(model, tracing_mode="symbolic", _allow_non_fake_inputs=True)(x),
    "export": lambda model, x: torch.export.export(model, (x,)).module(),
    "strict export": lambda model, x: torch.export.export(model, (x,), strict=True).module(),
}


def cases() -> list[Any]:
    """All of them; the slow ones record what others among the quick ones record, or export as the tests of ONNX do."""
    return [
        pytest.param(bits, quantizer, way, marks=() if is_quick else pytest.mark.slow)
        for bits in (3, 32)
        for quantizer in QUANTIZERS
        for way in WAYS
        for is_quick in [
            quantizer == "uniform" or (quantizer in ("twn", "lsq") and (bits, way) == (3, "make_fx with symbols"))
        ]
    ]


@pytest.mark.parametrize(("bits", "quantizer", "way"), cases())
def test_a_recorded_graph_computes_the_same_of_other_inputs(bits: float, quantizer: str, way: str) -> None:
    model = net(quantizer, bits)
    with torch.no_grad():
        graph = WAYS[way](model, images())
        for seed in (0, 5):
            expected = model(images(seed=seed))
            torch.testing.assert_close(graph(images(seed=seed)), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("training", [True, False])
def test_a_traced_graph_has_the_gradients_of_the_layer_and_can_be_saved(training: bool, tmp_path: Path) -> None:
    model = net("uniform", 8).train(training)
    graph = traced(model, images())
    torch.jit.save(graph, tmp_path / "net.pt")
    x = images(seed=5)
    torch.testing.assert_close(torch.jit.load(tmp_path / "net.pt")(x), model(x))
    results = []
    for each in (graph, model):
        leaf = x.clone().requires_grad_()
        results.append(torch.autograd.grad(each(leaf).square().sum(), [leaf, *model.parameters()]))
    for ours, right in zip(*results, strict=True):
        assert (ours - right).norm() < 0.02 * right.norm()  # single values may round the other way


@pytest.mark.parametrize("gradients", [None, 4])
def test_a_recorded_backward_pass(gradients: float | None) -> None:
    model = quantize(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2)), 4, 4, gradients=gradients, skip=())
    weight = model[0].weight

    def by_weight(x: Tensor) -> Tensor:
        return torch.autograd.grad(model(x).square().sum(), weight)[0]

    x, other = torch.randn(4, 6), torch.randn(4, 6)
    torch.manual_seed(0)
    graph = make_fx(by_weight)(x)
    torch.manual_seed(0)
    found = graph(other)
    torch.manual_seed(0)
    torch.testing.assert_close(found, by_weight(other), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_a_mode_that_looks_on_changes_nothing(quantizer: str) -> None:
    model = net(quantizer, 3)
    x = images(seed=5)
    expected = model(x)
    with FlopCounterMode(display=False) as counter:
        torch.testing.assert_close(model(x), expected, rtol=1e-3, atol=1e-3)
    assert counter.get_total_flops() > 0
