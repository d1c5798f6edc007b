"""Two processes over gloo train one model, stop together and resume exactly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bitdial.errors import BitdialError, RunInterrupted
from bitdial.evaluation.sweep import evaluate
from bitdial.training import (
    CheckpointManager,
    Classification,
    Hook,
    LoopConfig,
    RunFolder,
    StepResult,
    TrainingState,
    fit,
    make_fabric,
)
from bitdial.training.checkpoint import series
from tests.training.running import FileSaver, config, differences, load, network, task_data, train

ROOT = Path(__file__).parents[2]


class Interrupt(Hook):
    """Press Ctrl-C in one process only."""

    def before_step(self, state: TrainingState) -> None:
        if state.step == 3 and state.fabric.global_rank == 1:
            os.kill(os.getpid(), signal.SIGINT)


def note_when_left(mark: Path) -> None:
    """Write a file when this process closes its connections to the other one."""
    leave = torch.distributed.destroy_process_group

    def noted() -> None:
        leave()
        mark.touch()

    torch.distributed.destroy_process_group = noted


def in_each_process(fabric: Any, root: str) -> None:
    """Runs in both processes; what it finds goes to files."""
    torch.set_num_threads(1)
    note_when_left(Path(root) / f"left{fabric.global_rank}")
    rank, root_path = fabric.global_rank, Path(root)
    found: dict[str, Any] = {}
    folder = RunFolder.create("two", {"devices": 2}, root=root_path / "runs", fabric=fabric)
    found["folder"] = str(folder.path)
    for name, stop, resumed_from in (("whole", None, None), ("parts", 5, None), ("parts", None, "parts")):
        place = root_path / name
        place.mkdir(exist_ok=True)
        fabric.barrier()
        resume = load(sorted((root_path / resumed_from / "checkpoints").iterdir())[-1]) if resumed_from else None
        fabric.barrier()
        settings = config(stop_check_interval=1, log_interval=3)
        state, _ = train(place, stop=stop, resume=resume, fabric=fabric, settings=settings)
        if state is not None:
            found[name] = state.state_dict()
            found[name].pop("seconds")
            fabric.barrier()
    found["left"] = evaluation_left_together(fabric, root_path / "left")
    found["weight"] = one_step_on_half_the_batch(fabric)
    found["interrupt"] = interrupted_together(fabric, root_path / "interrupted")
    found["refused"] = refused(fabric, root_path)
    found["full_disk"] = full_disk_behind(fabric, root_path / "full")
    torch.save(found, root_path / f"rank{rank}.pt")


def interrupted_together(fabric: Any, folder: Path) -> str:
    model = network()
    batches = [(torch.randn(4, 12), torch.zeros(4, dtype=torch.int64))] * 40
    try:
        fit(
            fabric, model, torch.optim.SGD(model.parameters(), lr=0.1), Classification(), batches,
            LoopConfig(epochs=1, stop_check_interval=5), hooks=[Interrupt()], checkpoints=FileSaver(folder),
        )  # fmt: skip
    except RunInterrupted as error:
        return str(error)
    return "not interrupted"


class Asked:
    """Batches of a long evaluation, in which Ctrl-C comes to the second process."""

    def __init__(self, rank: int) -> None:
        self.rank, self.batches = rank, 0

    def __iter__(self) -> Any:
        for number in range(2000):
            if number == 3 and self.rank == 1:
                os.kill(os.getpid(), signal.SIGINT)
            self.batches += 1
            yield task_data()

    def __len__(self) -> int:
        return 2000


def evaluation_left_together(fabric: Any, folder: Path) -> tuple[str, int]:
    model, asked = network(), Asked(fabric.global_rank)
    try:
        fit(
            fabric, model, torch.optim.SGD(model.parameters(), lr=0.1), Classification(), [task_data()] * 2,
            LoopConfig(epochs=1), evaluate=lambda network: evaluate(network, asked), checkpoints=FileSaver(folder),
        )  # fmt: skip
    except RunInterrupted as error:
        return str(error), asked.batches
    return "not interrupted", asked.batches


def one_step_on_half_the_batch(fabric: Any) -> torch.Tensor:
    """Two micro-batches of unequal size in each process: 4 examples + 2."""
    torch.manual_seed(3)
    model = torch.nn.Linear(12, 4)
    x, y = (part[:12].chunk(2)[fabric.global_rank] for part in task_data())
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    fit(fabric, model, optimizer, Classification(), batches, LoopConfig(epochs=1, gradient_accumulation_steps=2))
    return model.weight.detach()


def refused(fabric: Any, folder: Path) -> str:
    """One process cannot make the folder: both must hear of it."""
    try:
        RunFolder.create("two", {}, run_dir=folder, fabric=fabric)
    except BitdialError as error:
        return str(error)
    return "not refused"


def full_disk_behind(fabric: Any, folder: Path) -> tuple[str, int]:
    """What the first process writes in the background fails: both must hear of it, at the same step."""

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    kept, series.save_sealed = series.save_sealed, full
    model = torch.nn.Linear(12, 4)
    batches = [task_data()] * 6
    seen = Steps()
    try:
        with CheckpointManager(folder, background=True) as manager:
            fit(
                fabric, model, torch.optim.SGD(model.parameters(), lr=0.1), Classification(), batches,
                LoopConfig(epochs=1, checkpoint_interval=2), hooks=[seen], checkpoints=manager,
            )  # fmt: skip
    except BitdialError as error:
        return str(error), seen.count
    finally:
        series.save_sealed = kept
    return "no failure", seen.count


class Steps(Hook):
    """Counts steps."""

    def __init__(self) -> None:
        self.count = 0

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        self.count += 1


def test_two_processes(tmp_path: Path) -> None:
    fabric = make_fabric(devices=2, strategy="ddp_spawn", accelerator="cpu")
    fabric.launch(in_each_process, str(tmp_path))
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    assert (tmp_path / "left0").exists()  # left open, the connections abort a process at its end, now and then
    assert (tmp_path / "left1").exists()

    for name in ("whole", "parts"):  # one model: equal parameters and optimizer; running statistics are rank 0's
        different = differences(first[name]["model_state_dict"], second[name]["model_state_dict"])
        assert [place for place in different if "running" not in place] == []
        assert differences(first[name]["optimizer_state_dict"], second[name]["optimizer_state_dict"]) == []
        assert differences(first[name]["recorder"], second[name]["recorder"]) == []
    rngs = first["whole"]["rng_state"]
    assert len(rngs) == 2
    assert differences(rngs[0]["torch"], rngs[1]["torch"]) != []  # each process has its own dropout

    assert differences(first["parts"], first["whole"]) == []  # stopped and resumed is never stopped
    assert (tmp_path / "parts" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()

    torch.manual_seed(3)  # the gradient is that of one batch of all twelve examples
    model = torch.nn.Linear(12, 4)
    x, y = (part[:12] for part in task_data())
    torch.nn.functional.cross_entropy(model(x), y).backward()
    torch.testing.assert_close(first["weight"], (model.weight - model.weight.grad).detach())
    assert torch.equal(first["weight"], second["weight"])

    assert first["folder"] == second["folder"] == str(tmp_path / "runs" / "two-1")
    assert "after step 5 of 40" in first["interrupt"]  # Ctrl-C came in step 4, in the other process
    assert "stopped by another process" in first["interrupt"]
    assert "stopped by SIGINT after step 5 of 40" in second["interrupt"]
    assert "stopped by another process after step 2 of 2" in first["left"][0]
    assert "stopped by SIGINT after step 2 of 2" in second["left"][0]
    assert first["left"][1] == second["left"][1] < 100  # of 2,000 batches
    assert load(next((tmp_path / "left").iterdir()))["unscored"]["row"]["train_loss"] > 0
    assert "already holds files" in first["refused"]
    assert first["refused"] == second["refused"]
    assert first["full_disk"][0].startswith("could not save checkpoint")
    assert second["full_disk"][0].startswith("the first process could not save a checkpoint: BitdialError: could not")
    assert first["full_disk"][1] == second["full_disk"][1] == 4  # asked for after step 2, heard of at the next save


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from bitdial.training import make_fabric
from tests.training.running import train
fabric = make_fabric(devices=2, accelerator="cpu")
fabric.launch()
state, _ = train(Path(sys.argv[1]), fabric=fabric)
if fabric.is_global_zero:
    print("steps", state.step)
"""


@pytest.mark.slow
def test_the_same_command_line_is_started_once_per_device(tmp_path: Path) -> None:
    """And both processes say nothing of their own accord, and end cleanly."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ran = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert (ran.stdout, ran.stderr) == ("steps 6\n", "")
