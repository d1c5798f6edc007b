"""Ctrl-C in the terminal, a kill, and two processes: whatever stops a run, resumed it is the run that never stopped."""

from __future__ import annotations

import csv
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bitdial.cli import main
from tests.e2e.cyclic_runs import start
from tests.recipes.ternary.tiny import differences, state_of

WORDS = shlex.split(
    "train ternary --model mlp --batch_size 32 --epochs 12 --warmup_epochs .5 --log_interval 3 --cutmix --mixup "
    "--random_erasing --ema_decay .9 --early_stopping --activation_bits 4 --save_freq 1"
)


def train_here(words: list[str], cwd: Path) -> None:
    process = start(cwd, words)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err


def steps_logged(run: Path) -> int:
    try:
        with (run / "metrics.csv").open() as file:
            return max((int(row["step"]) for row in csv.DictReader(file)), default=0)
    except (FileNotFoundError, TypeError, ValueError):
        return 0


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    limit = time.monotonic() + 240
    while steps_logged(run) < step:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit, "the run never got there"
        time.sleep(0.005)


def assert_same(run: Path, whole: Path) -> None:
    assert differences(state_of(run), state_of(whole)) == []
    assert (run / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert (run / "report.html").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_stopped_by_a_signal(number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_here([*WORDS, "--run_dir", "whole"], tmp_path)
    process = start(tmp_path, WORDS)
    run = tmp_path / "runs" / "ternary-1"
    try:
        wait_for_step(process, run, 100)
        process.send_signal(number)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert not (run / "results.json").exists(), "the run ended before the signal reached it"
    if number == signal.SIGINT:
        assert process.returncode == 130
        last = err.splitlines()[-1]
        assert last.startswith("bitdial: ternary: stopped by SIGINT after step ")
        assert last.endswith("to go on: `bitdial train ternary --resume runs/ternary-1`")
        assert "Traceback" not in err
    monkeypatch.chdir(tmp_path)
    train_here(["train", "ternary", "--resume", "runs/ternary-1"], tmp_path)
    assert_same(run, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_stopped_and_resumed(strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*WORDS, "--devices", "2", "--strategy", strategy]
    train_here([*words, "--run_dir", "whole"], tmp_path)
    process = start(tmp_path, [*words, "--run_dir", "parts"])
    try:
        wait_for_step(process, tmp_path / "parts", 100)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not (tmp_path / "parts" / "results.json").exists()
    assert state_of(tmp_path / "parts")["batch_in_epoch"] >= 0
    train_here(["train", "ternary", "--resume", "parts"], tmp_path)
    assert_same(tmp_path / "parts", tmp_path / "whole")
    monkeypatch.chdir(tmp_path)
    assert main(["export", "parts"]) == 0
