"""Zeros and flips of quantized weights: counted by hand, logged, and the same after a resume."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bitdial.errors import BitdialError, RunInterrupted
from bitdial.layers import BitDial, QuantLinear, quantize
from bitdial.numerics import TERNARY_BITS
from bitdial.training import (
    Classification,
    Hook,
    LoopConfig,
    MetricsLog,
    OptimizerConfig,
    WeightStatistics,
    build_optimizer,
    fit,
    make_fabric,
    seed_everything,
)
from tests.training.running import FileSaver, Jumping, StopAfter, load


def state_of(model: nn.Module) -> Any:
    """Return as much of a training state as the hook reads."""
    return SimpleNamespace(model=model)


def one_layer(rows: list[list[float]]) -> nn.Module:
    layer = QuantLinear(len(rows[0]), len(rows), weights=1.585, quantizer="twn", granularity="tensor")
    write(layer, rows)
    return nn.Sequential(layer)


def write(layer: nn.Module, rows: list[list[float]]) -> None:
    with torch.no_grad():
        layer.get_parameter("weight").copy_(torch.tensor(rows))


def test_zeros_and_flips_by_hand() -> None:
    model, hook = one_layer([[1.0, -1.0, 0.1, 0.0]]), WeightStatistics()
    hook.before_step(state_of(model))
    assert hook.metrics(state_of(model)) == {"zeros/0": 0.5, "flips/0": 0.0}
    write(model[0], [[-1.0, -1.0, 1.0, 0.1]])  # the first changes sides, the third leaves zero
    hook.before_step(state_of(model))
    assert hook.metrics(state_of(model)) == {"zeros/0": 0.25, "flips/0": 0.5}
    assert hook.metrics(state_of(model)) == {"zeros/0": 0.25, "flips/0": 0.0}  # since the last row
    write(model[0], [[0.0, 0.0, 0.0, 0.0]])
    assert hook.metrics(state_of(model)) == {"zeros/0": 1.0, "flips/0": 0.75}


def test_the_first_row_counts_from_the_first_step() -> None:
    model, hook = one_layer([[1.0, -1.0, 0.1, 0.0]]), WeightStatistics()
    hook.before_step(state_of(model))
    write(model[0], [[1.0, 1.0, 0.1, 0.0]])
    hook.before_step(state_of(model))  # later steps do not move the mark
    assert hook.metrics(state_of(model))["flips/0"] == 0.25


def test_a_row_before_any_step_has_no_flips() -> None:
    assert WeightStatistics().metrics(state_of(one_layer([[1.0, 0.0]]))) == {"zeros/0": 0.5, "flips/0": 0.0}


def test_every_quantized_layer_is_named_as_in_the_dial() -> None:
    model = quantize(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 5), nn.Linear(5, 2)))
    wrapped = torch.compile(model, backend="eager")
    names = BitDial(model).names
    expected = [*(f"zeros/{name}" for name in names), *(f"flips/{name}" for name in names)]
    assert list(WeightStatistics().metrics(state_of(wrapped))) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(("bits", "zeros"), [(1, 0.0), (2, 0.0), (32, 0.25)])
def test_weights_that_are_not_ternary_count_by_their_sign(bits: float, zeros: float) -> None:
    layer = QuantLinear(4, 1, weights=bits)
    write(layer, [[1.0, -1.0, 0.2, 0.0]])
    hook, model = WeightStatistics(), nn.Sequential(layer)
    hook.before_step(state_of(model))
    write(layer, [[-1.0, -1.0, 0.2, 0.0]])
    assert hook.metrics(state_of(model)) == {"zeros/0": zeros, "flips/0": 0.25}


def test_a_narrower_grid_flips_no_latent_weight() -> None:
    layer = QuantLinear(4, 1, weights=8, granularity="tensor")
    model, on_the_grid, latent = nn.Sequential(layer), WeightStatistics(), WeightStatistics(latent=True)
    write(layer, [[1.0, -1.0, 0.1, -0.1]])
    for hook in (on_the_grid, latent):
        hook.before_step(state_of(model))
    BitDial(model).set(TERNARY_BITS)
    assert on_the_grid.metrics(state_of(model)) == {"zeros/0": 0.5, "flips/0": 0.5}
    assert latent.metrics(state_of(model)) == {"flips/0": 0.0}
    write(layer, [[1.0, 1.0, 0.1, -0.1]])
    assert latent.metrics(state_of(model)) == {"flips/0": 0.25}


def test_the_hook_leaves_gradients_and_randomness_alone() -> None:
    model, hook = one_layer([[1.0, -1.0, 0.1, 0.0]]), WeightStatistics()
    random = torch.get_rng_state()
    hook.before_step(state_of(model))
    hook.metrics(state_of(model))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_the_state_is_small_and_counts_on() -> None:
    model, hook = one_layer([[1.0, -1.0, 0.1, 0.0, 1.0, 0.0, -1.0]]), WeightStatistics()
    assert hook.state_dict() == {}
    hook.before_step(state_of(model))
    state = hook.state_dict()
    assert state["signs"]["0"].numel() == 2  # five weights a byte
    other = WeightStatistics()
    other.load_state_dict(state)
    assert torch.equal(other.state_dict()["signs"]["0"], state["signs"]["0"])  # also before its first step
    write(model[0], [[1.0, 1.0, 0.1, 0.0, 1.0, 0.0, -1.0]])
    other.before_step(state_of(model))
    assert other.metrics(state_of(model)) == hook.metrics(state_of(model)) == {"zeros/0": 3 / 7, "flips/0": 1 / 7}


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"signs": None},
        {"signs": [1, 2]},
        {"signs": {"0": [1, 2]}},
        {"flips": {}},
        None,
        [],
    ],
)
def test_a_state_of_something_else_is_refused(state: Any) -> None:
    with pytest.raises(BitdialError, match="the state of WeightStatistics must hold the signs of each layer"):
        WeightStatistics().load_state_dict(state)


@pytest.mark.parametrize(
    "signs",
    [
        {"1": torch.zeros(1, dtype=torch.uint8)},
        {"0": torch.zeros(9, dtype=torch.uint8)},
        {"0": torch.zeros(1, dtype=torch.uint8), "1": torch.zeros(1, dtype=torch.uint8)},
        {},
    ],
)
def test_a_state_of_another_model_is_refused(signs: Mapping[str, torch.Tensor]) -> None:
    hook = WeightStatistics()
    hook.load_state_dict({"signs": signs})
    with pytest.raises(BitdialError, match="must be of a model with the layers 0, got"):
        hook.before_step(state_of(one_layer([[1.0, 0.0]])))


def test_damaged_signs_and_unquantized_models_are_refused() -> None:
    hook = WeightStatistics()
    hook.load_state_dict({"signs": {"0": torch.full((1,), 250, dtype=torch.uint8)}})
    with pytest.raises(BitdialError, match="packed trits must be bytes up to 242, got 250"):
        hook.before_step(state_of(one_layer([[1.0, 0.0, 0.0, 0.0, 0.0]])))
    with pytest.raises(BitdialError, match="WeightStatistics needs a model with quantized layers, got none"):
        WeightStatistics().before_step(state_of(nn.Linear(2, 2)))


def run(folder: Path, *, stop: int | None = None, resume: Mapping[str, Any] | None = None) -> FileSaver:
    """Train a ternary network for two epochs of seven steps, a row every two."""
    folder.mkdir(exist_ok=True)
    seed_everything(0)
    hidden = [nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(2)]
    model = quantize(nn.Sequential(nn.Linear(12, 16), *hidden, nn.Linear(16, 4)), quantizer="ttq")
    hooks: list[Hook] = [WeightStatistics(), StopAfter(stop)]
    saver = FileSaver(folder / "checkpoints")
    with MetricsLog(folder, tensorboard=False) as log:
        try:
            fit(
                make_fabric(accelerator="cpu"),
                model,
                build_optimizer(model, OptimizerConfig(learning_rate=0.5)),
                Classification(),
                Jumping(),
                LoopConfig(epochs=2, log_interval=2, checkpoint_epochs=None, checkpoint_best=False),
                hooks=hooks,
                log=log,
                checkpoints=saver,
                resume=resume,
            )
        except RunInterrupted:
            assert stop is not None
    return saver


@pytest.mark.parametrize("stop", [3, 6, 7])
def test_a_resumed_run_logs_the_same_numbers(tmp_path: Path, stop: int) -> None:
    run(tmp_path / "whole")
    saver = run(tmp_path / "parts", stop=stop)
    run(tmp_path / "parts", resume=load(saver.paths[-1]))
    whole, parts = ((tmp_path / name / "layers.csv").read_text() for name in ("whole", "parts"))
    rows = list(csv.DictReader(whole.splitlines()))
    flips = [float(row[f"flips/{layer}"]) for row in rows for layer in ("1.0", "2.0")]
    assert any(flips)
    assert all(0 <= share <= 1 for share in flips)
    assert parts == whole
    assert "/" not in (tmp_path / "whole" / "metrics.csv").read_text()
