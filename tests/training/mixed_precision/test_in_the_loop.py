"""Mixed precision inside of `fit`: what every recipe trains through."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitdial.training import (
    Classification,
    LoopConfig,
    MetricsLog,
    MixedPrecisionConfig,
    TaskOutput,
    TrainingDiverged,
    TrainingState,
    fit,
    make_fabric,
)
from tests.training.mixed_precision.faults import Fault, FaultyBackward, NotFiniteIn
from tests.training.running import FileSaver, differences, load, network, task_data, train


class Troubled(Classification):
    """A loss that float16 cannot carry."""

    def loss(self, model: nn.Module, batch: Any) -> TaskOutput:
        output = super().loss(model, batch)
        return TaskOutput(output.loss * 1e12, output.examples, output.metrics)


def run(model: nn.Module, folder: Path | None = None, **options: Any) -> TrainingState:
    inputs, labels = task_data()
    batches = list(zip(inputs.split(8), labels.split(8), strict=True))[:6]
    log = None if folder is None else MetricsLog(folder, tensorboard=False)
    settings = {key: options.pop(key) for key in list(options) if key in LoopConfig.model_fields}
    return fit(
        make_fabric(accelerator="cpu"), model, torch.optim.SGD(model.parameters(), lr=options.pop("lr", 0.1)),
        options.pop("task", Classification()), batches, LoopConfig(**{"epochs": 4, "log_interval": 2, **settings}),
        log=log, **options,
    )  # fmt: skip


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_falls_back_and_says_so_in_the_log(tmp_path: Path) -> None:
    model = network()
    precision = MixedPrecisionConfig(init_scale=16.0, overflow_patience=2)
    state = run(model, tmp_path, precision=precision, task=Troubled(), lr=1e-14, ema_decay=0.9)
    assert state.step == 24
    assert state.applied_steps == state.control.applied_steps == 24 - 6  # 16, 8, 4, 2, then twice at 1
    (change,) = state.control.history
    assert (change.step, change.before, change.after) == (6, "float16", "bfloat16")
    assert state.control.trouble() == (
        "float16: 6 of 24 steps were skipped (6 to overflows); from step 6 on bfloat16 instead of float16"
    )
    logged = rows(tmp_path)
    assert [row["format"] for row in logged][:4] == ["float16", "float16", "bfloat16", "bfloat16"]
    assert [row["skipped_steps"] for row in logged][:4] == ["2", "4", "6", "6"]
    assert [row["loss_scale"] for row in logged][:2] == ["4.0", "1.0"]
    assert logged[0]["train_loss"] == ""
    assert float(logged[-1]["train_loss"]) > 0
    assert state.ema is not None


def test_one_bad_batch_is_skipped_and_the_epoch_goes_on(tmp_path: Path) -> None:
    inputs, labels = task_data()
    spoiled = inputs.clone()
    spoiled[9, 3] = float("nan")
    batches = list(zip(spoiled.split(8), labels.split(8), strict=True))
    model = network()
    with MetricsLog(tmp_path, tensorboard=False) as log:
        state = fit(
            make_fabric(accelerator="cpu"), model, torch.optim.SGD(model.parameters(), lr=0.1), Classification(),
            batches, LoopConfig(epochs=2, log_interval=1), precision=MixedPrecisionConfig(dtype="bfloat16"), log=log,
        )  # fmt: skip
    assert state.step - state.applied_steps == 2
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    losses = [row["train_loss"] for row in rows(tmp_path)]
    assert [index for index, loss in enumerate(losses) if not loss] == [1, 8]
    assert sum(loss != loss for loss in state.history["loss"]) == 2


def test_for_good_it_stops_with_layer_and_checkpoint(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(12, 8), NotFiniteIn(torch.bfloat16, torch.float32), nn.Linear(8, 4))
    bad = model[1]
    bad.on = False

    class Later(Classification):
        def loss(self, network: nn.Module, batch: Any) -> TaskOutput:
            output = super().loss(network, batch)
            bad.on = len(saver.paths) > 0
            return output

    saver = FileSaver(tmp_path / "checkpoints")
    with pytest.raises(TrainingDiverged) as caught:
        run(
            model, precision=MixedPrecisionConfig(dtype="bfloat16", overflow_patience=3), task=Later(),
            checkpoints=saver, checkpoint_interval=4,
        )  # fmt: skip
    text = str(caught.value)
    assert "the output of layer '1' (NotFiniteIn)" in text
    assert text.endswith(f"the last checkpoint is {saver.paths[-1]}")
    assert "in 3 steps in a row" in text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_out_of_memory_costs_time_and_nothing_else(dtype: str) -> None:
    states = []
    for fault in (Fault(()), Fault({5})):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 8), FaultyBackward(fault), nn.ReLU(), nn.Linear(8, 4))
        states.append(
            run(model, precision=MixedPrecisionConfig(dtype=dtype), gradient_accumulation_steps=2, max_grad_norm=1.0)
        )
    tolerance = {"rtol": 1e-4, "atol": 1e-6} if dtype == "float32" else {"rtol": 0.05, "atol": 5e-3}
    assert states[1].control.memory_retries == 1
    for mine, theirs in zip(states[0].model.parameters(), states[1].model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, **tolerance)
    assert states[0].history["loss"] == pytest.approx(
        states[1].history["loss"], rel=1e-4 if dtype == "float32" else 0.05
    )


TROUBLE = MixedPrecisionConfig(init_scale=2.0**40, growth_interval=3, overflow_patience=2, recovery_interval=3)


@pytest.mark.parametrize("stop", [1, 5, 8, 11])
def test_resumes_exactly_while_the_scale_moves(stop: int, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    _, saver = train(whole, precision=TROUBLE)
    expected = load(saver.paths[-1])
    assert expected["scaler_state_dict"]["overflows"] > 3
    train(parts, precision=TROUBLE, stop=stop)
    train(parts, precision=TROUBLE, resume=load(sorted((parts / "checkpoints").iterdir())[-1]), seed=99)
    final = load(sorted((parts / "checkpoints").iterdir())[-1])
    for state in (final, expected):
        del state["seconds"]
    assert differences(final, expected) == []
    assert (parts / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


@pytest.mark.parametrize("precision", [None, TROUBLE], ids=["float32", "float16"])
def test_resumes_exactly_after_memory_ran_out(
    precision: MixedPrecisionConfig | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, batch norm, accumulation, an average of the weights, and epochs whose last step is smaller."""
    loss = Classification.loss

    def final(folder: Path, stop: int | None) -> dict[str, Any]:
        folder.mkdir()
        fault = Fault({6})
        monkeypatch.setattr(Classification, "loss", lambda *args: (fault(), loss(*args))[1])
        _, saver = train(folder, precision=precision, stop=stop)
        if stop is not None:
            resumed = load(sorted((folder / "checkpoints").iterdir())[-1])
            assert resumed["scaler_state_dict"]["parts"] == 2
            _, saver = train(folder, precision=precision, resume=resumed, seed=99)
        state = load(saver.paths[-1])
        del state["seconds"]
        return state

    whole = final(tmp_path / "whole", None)
    assert whole["scaler_state_dict"]["memory_retries"] == 1
    assert differences(final(tmp_path / "parts", 7), whole) == []


def test_float32_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain run looks at its losses when a row is due, not at every step."""
    looked: list[int] = []
    monkeypatch.setattr(
        "bitdial.training.step.control.PrecisionControl.are_finite",
        lambda self, losses, found: (looked.append(1), (True, True))[1],
    )
    state = run(network())
    assert state.applied_steps == 24
    assert looked == []
    run(network(), precision=MixedPrecisionConfig(dtype="bfloat16"))
    assert len(looked) == 24


def test_what_a_checkpoint_of_lightnings_scaler_held(tmp_path: Path) -> None:
    """Older runs of ours and other people's: the scale goes on, and nothing else is asked for."""
    _, saver = train(tmp_path, precision=MixedPrecisionConfig(), stop=3)
    state = load(saver.paths[-1])
    state["scaler_state_dict"] = {**torch.amp.GradScaler("cpu", init_scale=64.0).state_dict(), "_growth_tracker": 5}
    again, _ = train(tmp_path, precision=MixedPrecisionConfig(), resume=state)
    assert again is not None
    assert again.control.scaler.scale == 64.0
    assert again.control.scaler.growth_tracker == 5 + again.control.applied_steps - 3
