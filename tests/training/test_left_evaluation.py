"""A stop in mid-evaluation leaves it at once; it comes first when the run goes on, which is then the same run."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from bitdial.errors import RunInterrupted
from bitdial.evaluation.sweep import evaluate
from bitdial.training import Classification, EarlyStopping, LoopConfig, TrainingState, fit, make_fabric
from bitdial.training.metrics_log import MetricsLog
from bitdial.training.passes import expecting, one_more, watching
from tests.training.running import FileSaver, comparable, differences, load, network, task_data

EVALUATIONS = 4


class Scores:
    """Evaluations of many batches, in one of which somebody presses Ctrl-C."""

    def __init__(self, press_in: int | None) -> None:
        self.press_in, self.begun, self.batches = press_in, 0, 0

    def __iter__(self) -> Any:
        self.begun += 1
        for number in range(5):
            if self.begun == self.press_in and number == 2:
                os.kill(os.getpid(), signal.SIGINT)
            self.batches += 1
            yield task_data()

    def __len__(self) -> int:
        return 5

    def __call__(self, model: Any) -> dict[str, float]:
        return evaluate(model, self)


def train(folder: Path, press_in: int | None = None, resume: Any = None) -> tuple[Scores, TrainingState]:
    torch.manual_seed(0)
    model, scores, saver = network(), Scores(press_in), FileSaver(folder / "checkpoints")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    settings = LoopConfig(epochs=EVALUATIONS, log_interval=2, checkpoint_best=True)
    with MetricsLog(folder, tensorboard=False) as log:
        state = fit(
            make_fabric(accelerator="cpu"), model, optimizer, Classification(), [task_data()] * 3, settings,
            evaluate=scores, checkpoints=saver, log=log, resume=resume, early_stopping=EarlyStopping(9),
        )  # fmt: skip
    return scores, state


def newest(folder: Path) -> dict[str, Any]:
    return load(sorted((folder / "checkpoints").iterdir())[-1])


@pytest.mark.parametrize("number", [1, 2, EVALUATIONS])
def test_it_is_the_run_that_was_never_stopped(number: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole)
    with pytest.raises(RunInterrupted, match=f"stopped by SIGINT after step {3 * number} of 12"):
        train(parts, number)
    assert "stopping after this pass; again to stop now" in capfd.readouterr().err
    left = newest(parts)
    assert left["unscored"]["row"]["train_loss_epoch"] > 0
    assert len((parts / "metrics.csv").read_text().splitlines()) < len((whole / "metrics.csv").read_text().splitlines())
    scores, _ = train(parts, resume=left)
    assert scores.begun == EVALUATIONS - number + 1  # it comes first
    assert (parts / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert differences(comparable(newest(parts)), comparable(newest(whole))) == []


def test_it_is_left_after_the_batch(tmp_path: Path) -> None:
    scores = Scores(1)
    with pytest.raises(RunInterrupted):
        fit(
            make_fabric(accelerator="cpu"), network(), torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1),
            Classification(), [task_data()], LoopConfig(epochs=1), evaluate=scores,
        )  # fmt: skip
    assert scores.batches == 3


def test_parts_of_what_is_expected_are_not_counted_again() -> None:
    heard: list[Any] = []

    class Watcher:
        def begin(self, batches: int | None) -> None:
            heard.append(("begin", batches))

        def look(self, done: int) -> None:
            heard.append(done)

        def end(self) -> None:
            heard.append("end")

    with watching(Watcher()):
        with expecting(3):
            for count in (1, 2):
                with expecting(count):
                    for _ in range(count):
                        one_more()
        with watching(None), expecting(1):
            one_more()
        with expecting(None):
            one_more()
    one_more()
    assert heard == [("begin", 3), 1, 2, 3, "end", ("begin", None), 1, "end"]
