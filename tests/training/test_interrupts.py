"""Ctrl-C stops a run at the next step, with everything saved; a second one stops it at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from bitdial.errors import RunInterrupted
from bitdial.training import Classification, Hook, Interrupts, LoopConfig, TrainingState, fit, make_fabric
from tests.training.running import FileSaver, Jumping, config, differences, load, network, task_data, train

ROOT = Path(__file__).parents[2]
SCRIPT = """
import sys, time, torch
from pathlib import Path
torch.set_num_threads(1)
from bitdial.errors import RunInterrupted
from bitdial.training import Classification, Hook, LoopConfig, fit, make_fabric
from tests.training.running import FileSaver, network, task_data

class Slow(Hook):
    def before_step(self, state):
        if state.step == 2:
            print("ready", flush=True)
        time.sleep(.02 if state.step >= 2 else 0)

model = network()
inputs, labels = task_data()
try:
    fit(make_fabric(accelerator="cpu"), model, torch.optim.SGD(model.parameters(), lr=.1), Classification(),
        [(inputs, labels)] * 100_000, LoopConfig(epochs=1), hooks=[Slow()], checkpoints=FileSaver(Path({folder!r})),
        how_to_resume="bitdial train cyclic --resume runs/cyclic-1")
except RunInterrupted as error:
    print(error)
    sys.exit(3)
"""


def start(folder: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(folder=str(folder))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def test_the_first_signal_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    child = start(tmp_path / "checkpoints")
    os.kill(child.pid, signal.SIGINT)
    said, complaints = child.communicate(timeout=60)
    assert child.returncode == 3, complaints
    (path,) = (tmp_path / "checkpoints").iterdir()
    step = load(path)["step"]
    assert f"stopped by SIGINT after step {step} of 100000" in said
    assert str(path) in said
    assert "to go on: bitdial train cyclic --resume runs/cyclic-1" in said


class Press(Hook):
    """Send signals to this process within one step."""

    def __init__(self, *numbers: signal.Signals) -> None:
        self.numbers = numbers
        self.outlived = 0

    def before_step(self, state: TrainingState) -> None:
        if state.step == 2:
            for number in self.numbers:
                os.kill(os.getpid(), number)
                self.outlived += 1


def fit_pressing(press: Press, folder: Path) -> None:
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fabric, batches = make_fabric(accelerator="cpu"), [task_data()] * 9
    config, saver = LoopConfig(epochs=1), FileSaver(folder)
    fit(fabric, model, optimizer, Classification(), batches, config, hooks=[press], checkpoints=saver)


def test_sigterm_stops_at_the_next_step_too(tmp_path: Path) -> None:
    said = r"stopped by SIGTERM after step 3 of 9 \(epoch 0\), saved to .*step3\.pt"
    with pytest.raises(RunInterrupted, match=said):
        fit_pressing(Press(signal.SIGTERM), tmp_path)


@pytest.mark.parametrize(("second", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_the_second_signal_stops_at_once(second: signal.Signals, raised: type[BaseException], tmp_path: Path) -> None:
    press = Press(signal.SIGTERM, second)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(raised):
        fit_pressing(press, tmp_path / "checkpoints")
    assert press.outlived == 1
    assert not (tmp_path / "checkpoints").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_signal_in_the_middle_of_a_run_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    whole, _ = train(tmp_path / "whole")

    class Loader(Jumping):
        def __iter__(self):
            for number, batch in enumerate(super().__iter__()):
                if self.current == 1 and number == 2:
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch

    state, saver = train(tmp_path / "parts", loader=Loader(), settings=config())
    assert state is None
    again, _ = train(tmp_path / "parts", resume=load(saver.paths[-1]))
    assert whole is not None
    assert again is not None
    assert differences(again.model.state_dict(), whole.model.state_dict()) == []


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.requested == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_outside_the_main_thread_nothing_is_caught() -> None:
    seen: list[str | None] = []

    def work() -> None:
        with Interrupts() as interrupts:
            seen.append(interrupts.requested)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None]
