"""What the loop says of a checkpoint that is written in the background: nothing before it is on the disk."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitdial.errors import BitdialError, RunInterrupted
from bitdial.training import (
    CheckpointManager,
    Classification,
    Hook,
    LoopConfig,
    StepResult,
    TrainingDiverged,
    TrainingState,
    fit,
    make_fabric,
)
from bitdial.training.checkpoint import series as series_module
from bitdial.training.checkpoint.writing import save_sealed
from tests.training.running import StopAfter, task_data


class Watching(Hook):
    """Opens a gate after some step and notes what is known of checkpoints."""

    def __init__(self, gate: threading.Event, opens_after: int, manager: CheckpointManager) -> None:
        self.gate, self.opens_after, self.manager = gate, opens_after, manager
        self.told: list[tuple[int, str, bool]] = []
        self.known: dict[int, str | None] = {}

    def before_step(self, state: TrainingState) -> None:
        self.known[state.step] = None if state.last_checkpoint is None else state.last_checkpoint.name

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        if state.step == self.opens_after:
            self.gate.set()
            while self.manager.busy:
                pass

    def on_checkpoint(self, state: TrainingState, path: Path) -> None:
        self.told.append((state.step, path.name, path.exists()))


def run(manager: CheckpointManager, hooks: list[Hook], **settings: Any) -> TrainingState:
    inputs, labels = task_data()
    network = nn.Linear(12, 4)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    defaults: dict[str, Any] = {"steps": 6, "checkpoint_interval": 2, "checkpoint_best": False}
    with manager:
        return fit(
            make_fabric(accelerator="cpu"),
            network,
            optimizer,
            Classification(),
            [(inputs, labels)] * 6,
            LoopConfig(**{**defaults, **settings}),
            hooks=hooks,
            checkpoints=manager,
        )


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Every write waits until this is set."""
    event = threading.Event()

    def slow(*arguments: Any) -> None:
        assert event.wait(20)
        save_sealed(*arguments)

    monkeypatch.setattr(series_module, "save_sealed", slow)
    return event


def test_a_checkpoint_is_known_and_told_of_when_it_is_on_the_disk(tmp_path: Path, gate: threading.Event) -> None:
    manager = CheckpointManager(tmp_path, background=True)
    watching = Watching(gate, 3, manager)
    state = run(manager, [watching], checkpoint_interval=100, steps=4, checkpoint_epochs=None)
    assert watching.known == dict.fromkeys(range(4))
    assert [(step, exists) for step, _, exists in watching.told] == [(4, True)]
    assert state.last_checkpoint is not None
    assert state.last_checkpoint.exists()


def test_training_goes_on_while_a_checkpoint_is_written(tmp_path: Path, gate: threading.Event) -> None:
    manager = CheckpointManager(tmp_path, background=True)
    watching = Watching(gate, 5, manager)
    state = run(manager, [watching], checkpoint_interval=3, steps=5, checkpoint_epochs=None)
    first, last = watching.told
    assert watching.known[4] is None  # asked for after step 3, still on its way before step 5
    assert first[0] == 5
    assert first[1].endswith("step3.pt")
    assert first[2]
    assert last[1].endswith("step5.pt")
    assert state.last_checkpoint is not None
    assert state.last_checkpoint.name == last[1]


def test_a_failure_ends_the_run_at_the_next_step_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(series_module, "save_sealed", full)
    manager = CheckpointManager(tmp_path, background=True)
    watching = Watching(threading.Event(), 3, manager)
    with pytest.raises(BitdialError, match=r"could not save checkpoint .*step2\.pt: No space left on device"):
        run(manager, [watching])
    assert max(watching.known) == 2  # found after step 3, not at the save after step 4
    assert watching.told == []
    assert caplog.text == ""


def test_the_last_save_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(series_module, "save_sealed", full)
    with pytest.raises(BitdialError, match="No space left on device"):
        run(CheckpointManager(tmp_path, background=True), [], checkpoint_interval=None, checkpoint_epochs=None)


def test_the_message_of_a_stopped_run_names_a_file_that_is_there(tmp_path: Path, gate: threading.Event) -> None:
    manager = CheckpointManager(tmp_path, background=True)
    threading.Timer(0.3, gate.set).start()
    with pytest.raises(RunInterrupted, match=r"saved to (.*step3\.pt); to go on") as caught:
        run(manager, [StopAfter(3)], checkpoint_interval=None)
    (path,) = tmp_path.glob("*.pt")
    assert str(path) in str(caught.value)


def test_the_message_of_a_diverged_run_names_the_newest_file_on_the_disk(tmp_path: Path, gate: threading.Event) -> None:
    class Breaks(Hook):
        def after_step(self, state: TrainingState, result: StepResult) -> None:
            if state.step == 3:
                with torch.no_grad():
                    next(state.model.parameters()).fill_(float("nan"))
                threading.Timer(0.3, gate.set).start()

    manager = CheckpointManager(tmp_path, background=True)
    with pytest.raises(TrainingDiverged, match=r"the last checkpoint is .*step2\.pt") as caught:
        run(manager, [Breaks()], log_interval=4)
    (path,) = tmp_path.glob("*.pt")
    assert str(caught.value).endswith(str(path))


def test_a_diverged_run_whose_save_failed_says_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def full(*arguments: Any) -> None:
        assert gate.wait(20)
        raise OSError(28, "No space left on device")

    class Breaks(Hook):
        def after_step(self, state: TrainingState, result: StepResult) -> None:
            if state.step == 3:
                with torch.no_grad():
                    next(state.model.parameters()).fill_(float("nan"))
                threading.Timer(0.3, gate.set).start()

    monkeypatch.setattr(series_module, "save_sealed", full)
    said = r"no checkpoint was written yet \(could not save .*No space left"
    with pytest.raises(TrainingDiverged, match=said):
        run(CheckpointManager(tmp_path, background=True), [Breaks()], log_interval=4)
