"""A state keeps the names of the plain network, whatever is wrapped around it when it is saved and when it loads."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from bitdial.errors import RunInterrupted
from bitdial.layers.names import named_as
from bitdial.training import Classification, LoopConfig, fit, make_fabric, read_checkpoint
from tests.training.running import FileSaver, StopAfter, task_data


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 4))


def named_module() -> nn.Module:
    """A network whose only child is really called so."""
    return nn.Sequential(OrderedDict(module=plain()))


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


WRAPPINGS = {
    "none": lambda m: m,
    "compiled": compiled,
    "parallel": nn.DataParallel,
    "parallel of compiled": lambda m: nn.DataParallel(compiled(m)),
    "compiled parallel": lambda m: compiled(nn.DataParallel(m)),
    "compiled parallel of compiled": lambda m: compiled(nn.DataParallel(compiled(m))),
    "average": AveragedModel,
    "average of compiled": lambda m: AveragedModel(compiled(m)),
    "average of parallel of compiled": lambda m: AveragedModel(nn.DataParallel(compiled(m))),
    "compiled average": lambda m: compiled(AveragedModel(m)),
}


@pytest.mark.parametrize("now", ["none", "compiled parallel"])
@pytest.mark.parametrize("make", [plain, named_module])
@pytest.mark.parametrize("then", WRAPPINGS)
def test_a_state_of_a_wrapped_model_fits_the_network(then: str, make: Any, now: str, tmp_path: Path) -> None:
    model, other = make(), make()
    torch.save(WRAPPINGS[then](model).state_dict(), tmp_path / "state.pt")
    state = read_checkpoint(tmp_path / "state.pt", expected=()).state["model_state_dict"]
    wrapped = WRAPPINGS[now](other)
    wrapped.load_state_dict(named_as(wrapped, state))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def run(folder: Path, model: nn.Module, *hooks: Any, resume: Any = None) -> nn.Module:
    inputs, labels = task_data()
    batches = list(zip(inputs.split(8), labels.split(8), strict=True))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    state = fit(
        make_fabric(accelerator="cpu"), model, optimizer, Classification(), batches,
        LoopConfig(steps=6, ema_decay=0.5), hooks=hooks, checkpoints=FileSaver(folder), resume=resume,
    )  # fmt: skip
    return state.evaluated_model


@pytest.mark.parametrize("now", ["none", "compiled"])
@pytest.mark.parametrize("then", ["none", "compiled", "parallel"])
@pytest.mark.parametrize("make", [plain, named_module])
def test_a_run_of_a_wrapped_model_saves_plain_names_and_resumes(make: Any, then: str, now: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = make().state_dict()
    nets = [make() for _ in range(3)]
    for net in nets:
        net.load_state_dict(start)
    whole = run(tmp_path / "whole", nets[0])
    with pytest.raises(RunInterrupted):
        run(tmp_path / "parts", WRAPPINGS[then](nets[1]), StopAfter(3))
    saved = read_checkpoint(next((tmp_path / "parts").glob("*step3.pt")), expected=()).state
    assert saved["model_state_dict"].keys() == start.keys() == saved["ema_state_dict"]["model_state_dict"].keys()
    resumed = run(tmp_path / "parts", WRAPPINGS[now](nets[2]), resume=saved)
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[2].parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
