"""Under torch.compile every training method has one graph to train with and one to evaluate with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch

from bitdial.data import load_dataset, make_loader
from bitdial.evaluation import validate_random_bitwidths
from bitdial.layers import BitDial
from bitdial.models import build_model
from bitdial.recipes.joint.methods import InPasses, plan
from bitdial.recipes.joint.options import JointConfig, TrainingMethod
from bitdial.recipes.joint.recipe import quantization
from bitdial.recipes.saved_model import quantized
from bitdial.training import Classification


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The graphs that were compiled, one entry each."""
    torch._dynamo.reset()
    yield []
    torch._dynamo.reset()


QUICK = ("any_precision", "joint_quantization", "sandwich")


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in get_args(TrainingMethod)],
)
@pytest.mark.parametrize("batch_norm", [pytest.param("per_width", marks=pytest.mark.slow), "shared"])
def test_one_graph_each(method: str, batch_norm: str, graphs: list[Any]) -> None:
    options = JointConfig(training_method=method, batch_norm=batch_norm, bitwidth_options=[2, 3, 4, 6, 8, 32])
    torch.manual_seed(0)
    network = build_model("tiny_cnn", num_classes=10, in_channels=1, image_size=8)
    model = quantized(network, dict(quantization(options) or {}))

    def count(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    dial = BitDial(model)
    turns = plan(options, len(dial), 0)
    task = InPasses(Classification(), dial, turns(0))
    model.compile(backend=count)
    batch = (torch.randn(8, 1, 8, 8), torch.arange(8))
    with torch._dynamo.config.patch(error_on_recompile=False, recompile_limit=64):
        for step in range(5):
            task.turn(turns(step))
            for item in task.passes(batch):
                task.loss(model, item).loss.backward()
        trained = len(graphs)
        loader = make_loader(load_dataset("digits").test.subset(torch.arange(16)), 8, train=False)
        for seed in range(3):
            validate_random_bitwidths(model, loader, seed=seed, num_configs=2, recalibration_limit=1, verbose=False)
    assert trained == 1
    assert len(graphs) == 2
