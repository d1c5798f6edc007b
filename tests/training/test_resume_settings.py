"""A resumed run trains with the settings that it is given, not with those of the checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam, Adamax, AdamW, Optimizer, RMSprop

from bitdial.errors import BitdialError, RunInterrupted
from bitdial.training import (
    Classification,
    Hook,
    LoopConfig,
    MixedPrecisionConfig,
    StepResult,
    TrainingState,
    fit,
    make_fabric,
)
from bitdial.training.step.control import PrecisionControl
from tests.training.running import FileSaver, StopAfter, load, task_data

pytestmark = pytest.mark.filterwarnings("ignore:resume. the checkpoint does not say", "ignore:resume. no random states")

Make = Callable[[nn.Module], Optimizer]


class Decaying(Hook):
    """Moves a setting of the optimizer step by step, from wherever it stands."""

    def __init__(self, name: str) -> None:
        self.name = name

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        for group in state.optimizer.param_groups:
            group[self.name] *= 0.9


class Counting(SGD):
    """Keeps a count among the settings of its groups, as optimizers without a schedule do."""

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)
        for group in self.param_groups:
            group["k"] = 0

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["k"] += 1
        return super().step(closure)


def run(folder: Path, make: Make, *hooks: Hook, resume: Any = None, decay: float | None = None) -> TrainingState:
    torch.manual_seed(0)
    model = nn.Linear(12, 4)
    inputs, labels = task_data()
    batches = list(zip(inputs.split(8), labels.split(8), strict=True))
    fabric, settings = make_fabric(accelerator="cpu"), LoopConfig(steps=6, ema_decay=decay)
    saver = FileSaver(folder)
    return fit(
        fabric, model, make(model), Classification(), batches, settings, hooks=hooks, checkpoints=saver, resume=resume
    )  # fmt: skip


def saved(folder: Path, make: Make, *hooks: Hook, **more: Any) -> dict[str, Any]:
    with pytest.raises(RunInterrupted):
        run(folder, make, *hooks, StopAfter(3), **more)
    return load(sorted(folder.iterdir())[-1])


def older(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint as it was before it said how its optimizer was built, without a schedule."""
    return {key: state[key] for key in ("model_state_dict", "optimizer_state_dict")}


def sgd(model: nn.Module, **settings: Any) -> SGD:
    groups = [{"params": [model.weight]}, {"params": [model.bias], "weight_decay": 0.0}]
    return SGD(groups, **{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, **settings})


CHANGES: dict[str, tuple[Make, Make]] = {
    "weight decay": (sgd, lambda m: sgd(m, weight_decay=0.3)),
    "momentum": (sgd, lambda m: sgd(m, momentum=0.5)),
    "nesterov": (sgd, lambda m: sgd(m, nesterov=True)),
    "rate": (sgd, lambda m: sgd(m, lr=0.01)),
    "betas": (lambda m: AdamW(m.parameters()), lambda m: AdamW(m.parameters(), betas=(0.5, 0.6))),
    "eps": (lambda m: AdamW(m.parameters()), lambda m: AdamW(m.parameters(), eps=0.1)),
    "amsgrad": (lambda m: Adam(m.parameters()), lambda m: Adam(m.parameters(), maximize=True)),
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("what", CHANGES)
def test_what_is_asked_for_now_counts(what: str, old: bool, tmp_path: Path) -> None:
    before, now = CHANGES[what]
    state = saved(tmp_path / "one", before)
    # by hand: what was gathered, from the file; how the optimizer is set, from now
    changed = copy.deepcopy(state)
    names = [{k: v for k, v in group.items() if k != "params"} for group in now(nn.Linear(12, 4)).param_groups]
    for group, settings in zip(changed["optimizer_state_dict"]["param_groups"], names, strict=True):
        group.update(settings)
    changed["optimizer_settings"] = None
    expected = run(tmp_path / "two", now, resume=older(changed) if old else changed)
    got = run(tmp_path / "three", now, resume=older(state) if old else state)
    assert got.optimizer.param_groups[0].keys() == expected.optimizer.param_groups[0].keys()
    assert torch.equal(got.model.weight, expected.model.weight)  # type: ignore[arg-type]
    same = run(tmp_path / "four", before, resume=older(state) if old else state)
    assert not torch.equal(got.model.weight, same.model.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["weight_decay", "momentum"])
def test_a_setting_that_a_hook_has_moved_goes_on_where_it_stood(name: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", sgd, Decaying(name))
    resumed = run(tmp_path / "two", sgd, Decaying(name), resume=saved(tmp_path / "one", sgd, Decaying(name)))
    assert resumed.optimizer.param_groups[0][name] == whole.optimizer.param_groups[0][name]
    assert torch.equal(resumed.model.weight, whole.model.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("old", [False, True])
def test_a_count_that_an_optimizer_keeps_among_its_settings_goes_on(old: bool, tmp_path: Path) -> None:
    def counting(model: nn.Module) -> Counting:
        return Counting(model.parameters(), lr=0.1)

    state = saved(tmp_path / "one", counting)
    state = {key: value for key, value in state.items() if not (old and key == "optimizer_settings")}
    assert run(tmp_path / "two", counting, resume=state).optimizer.param_groups[0]["k"] == 6


KINDS: list[type[Optimizer]] = [SGD, AdamW, Adam, Adamax, Adagrad, RMSprop]


@pytest.mark.parametrize(("before", "now"), [(one, other) for one in KINDS for other in KINDS if one is not other])
def test_another_optimizer_is_refused(before: Any, now: Any, tmp_path: Path) -> None:
    state = saved(tmp_path / "one", lambda model: before(model.parameters(), lr=0.1))
    with pytest.raises(BitdialError, match=f"expected the state of {now.__name__}, got that of {before.__name__}"):
        run(tmp_path / "two", lambda model: now(model.parameters(), lr=0.1), resume=state)


@pytest.mark.parametrize(("before", "now"), [(AdamW, SGD), (SGD, AdamW), (SGD, RMSprop), (Adagrad, SGD)])
def test_another_optimizer_of_an_older_checkpoint_is_refused(before: Any, now: Any, tmp_path: Path) -> None:
    state = older(saved(tmp_path / "one", lambda model: before(model.parameters(), lr=0.1)))
    with pytest.raises(BitdialError, match=f"expected the state of {now.__name__}, got one without"):
        run(tmp_path / "two", lambda model: now(model.parameters(), lr=0.1), resume=state)


def test_the_decay_of_the_average_is_what_is_asked_for(tmp_path: Path) -> None:
    state = saved(tmp_path / "one", sgd, decay=0.9)
    resumed = run(tmp_path / "two", sgd, resume=state, decay=0.2)
    assert resumed.ema is not None
    assert resumed.ema.decay == 0.2


def test_how_long_a_wide_format_is_kept_is_what_is_asked_for() -> None:
    def control(interval: int) -> PrecisionControl:
        config = MixedPrecisionConfig(dtype="float16", recovery_interval=interval, overflow_patience=1)
        return PrecisionControl(config, "cpu", adaptive=True)

    before, now = control(100), control(7)
    for _ in range(2):
        before.change_format(torch.bfloat16, "a test")
        before.change_format(torch.float16, "a test")
    assert before.recovery_wait == 200
    now.load_state_dict(before.state_dict())
    assert now.recovery_wait == 14
