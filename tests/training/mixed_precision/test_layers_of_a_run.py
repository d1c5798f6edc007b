"""Layers with formats of their own inside a run, and float8 layers that follow its format."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.training import (
    Classification,
    Hook,
    LoopConfig,
    MetricsLog,
    MixedPrecisionConfig,
    StepResult,
    TrainingState,
    fit,
    make_fabric,
)
from bitdial.training.mixed_precision import AdaptiveMixedPrecisionTrainer, MixedPrecisionTrainer
from bitdial.training.step.config import prepare_layers
from bitdial.training.step.control import PrecisionControl
from bitdial.training.step.optimizer_step import MicroBatches
from bitdial.training.step.policy_layers import is_float8_layer
from tests.training.probing import Net, seen, tokens

HALF, BRAIN, WIDE = torch.float16, torch.bfloat16, torch.float32
POLICIES = {"blocks.0.mlp": "float32", "head": {0: "bfloat16", 2: "float32"}}


class Notes(Hook):
    """What the layers of a run computed in at every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Any]] = []

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        self.steps.append(seen(state.model))


def data() -> list[tuple[Tensor, Tensor]]:
    return [(tokens(seed)[:, 0], torch.tensor([0, 1, 2, 0])) for seed in range(4)]


class Flat(Net):
    """One row a sample."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, None])[:, 0]


def expected(step: int) -> dict[str, torch.dtype]:
    first = {name: WIDE if "blocks.0.mlp" in name else HALF for name in seen(Flat())}
    return {**first, "head": BRAIN if step < 2 else WIDE}


def test_in_the_loop_and_taken_up_again() -> None:
    model, notes = Flat(), Notes()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    config = MixedPrecisionConfig(dtype="float16", policies=POLICIES, init_scale=256.0)
    state = fit(
        make_fabric(accelerator="cpu"), model, optimizer, Classification(), data(), LoopConfig(steps=3),
        precision=config, hooks=[notes],
    )  # fmt: skip
    assert notes.steps == [expected(step) for step in range(3)]
    assert {type(module) for module in model.modules()} == {type(module) for module in Flat().modules()}

    other, again = Flat(), Notes()
    fit(
        make_fabric(accelerator="cpu"), other, torch.optim.SGD(other.parameters(), lr=0.01), Classification(), data(),
        LoopConfig(steps=4), precision=config, hooks=[again], resume=state.state_dict(),
    )  # fmt: skip
    assert again.steps == [expected(3)]


def test_stepped_by_hand() -> None:
    model = Flat()
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(policies=list(POLICIES.items()), init_scale=256.0))
    trainer.prepare_model(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step, (x, y) in enumerate(data()):
        assert trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), x, y).stepped
        assert seen(model) == expected(step)
    trainer.prepare_model(model)  # twice is once


@pytest.mark.parametrize(
    ("policies", "says"),
    [
        ({"haed": "float32"}, "policy pattern must match a layer, got 'haed'; the nearest names are 'head'"),
        ({"blocks.*.attn": "float32"}, "'blocks.*.attn'"),
    ],
)
def test_what_matches_nothing_is_refused(policies: Any, says: str) -> None:
    model = Flat()
    config = MixedPrecisionConfig(policies=policies)
    with pytest.raises(BitdialError) as by_hand:
        MixedPrecisionTrainer(config).prepare_model(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(BitdialError) as in_the_loop:
        fit(
            make_fabric(accelerator="cpu"), model, optimizer, Classification(), data(), LoopConfig(steps=1),
            precision=config,
        )  # fmt: skip
    assert says in str(by_hand.value)
    assert says in str(in_the_loop.value)


def test_float16_layers_in_a_float32_run_get_a_loss_scale(tmp_path: Path) -> None:
    model = Flat()
    config = MixedPrecisionConfig(
        dtype="float32", policies={"blocks.0": {0: "float32", 1: "float16"}}, init_scale=512.0
    )
    with MetricsLog(tmp_path, tensorboard=False) as log:
        state = fit(
            make_fabric(accelerator="cpu"), model, torch.optim.SGD(model.parameters(), lr=0.01), Classification(),
            data(), LoopConfig(steps=3, log_interval=1), precision=config, log=log,
        )  # fmt: skip
    assert state.control.scaler.scaling
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    place = header.split(",").index("loss_scale")
    assert [row.split(",")[place] for row in rows] == ["512.0"] * 3


def test_written_to_a_file_and_read_again() -> None:
    config = MixedPrecisionConfig(policies=POLICIES)
    plain = config.model_dump()
    assert plain["policies"] == [["blocks.0.mlp", "float32"], ["head", {0: "bfloat16", 2: "float32"}]]
    assert MixedPrecisionConfig(**plain) == config
    assert MixedPrecisionConfig().model_dump()["policies"] is None


@pytest.mark.skipif(importlib.util.find_spec("torchao") is None, reason="float8 layers are torchao's")
class TestFloat8:
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 32), nn.Linear(32, 3))

    def test_layers_follow_the_format_of_the_run(self) -> None:
        """A run in float8 that falls back computes its float8 layers in bfloat16, then in float32, and comes back."""
        model = self.model()
        control = PrecisionControl(MixedPrecisionConfig(dtype="float8", policies={"3": "float32"}), "cpu")
        layers = prepare_layers(model, control, emulate=True)
        assert layers is not None
        assert [is_float8_layer(module) for module in model] == [False, True, False, True, False]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        work = Classification()
        micro = MicroBatches(control, model, model, optimizer, work.loss)
        x = torch.randn(16, 32)
        found = []
        for format in (torch.float8_e4m3fn, BRAIN, WIDE, torch.float8_e4m3fn):
            control.format = format
            micro.add((x, torch.zeros(16, dtype=torch.int64)))
            assert micro.apply(optimizer.step, None)[0]
            micro.clear()
            found.append(layers.dtypes())
        assert [each["1"] for each in found] == [torch.float8_e4m3fn, BRAIN, WIDE, torch.float8_e4m3fn]
        assert {each["3"] for each in found} == {WIDE}

    def test_without_the_hardware_it_is_refused(self) -> None:
        for trainer in (MixedPrecisionTrainer, AdaptiveMixedPrecisionTrainer):
            with pytest.raises(BitdialError, match="float8 needs an NVIDIA GPU"):
                trainer(MixedPrecisionConfig(dtype="float8")).prepare_model(self.model())
