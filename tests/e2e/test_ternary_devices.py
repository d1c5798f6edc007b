"""Several processes, on one machine or on two, with whole weights or in shards: one run, one folder, one result."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.recipes.ternary.tiny import state_of

pytestmark = pytest.mark.slow

WORDS = shlex.split("train ternary --model mlp --batch_size 32 --log_interval 6 --cutmix --ema_decay .9")


def start(cwd: Path, *words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bitdial", *WORDS, *words], cwd=cwd, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    try:
        out, err = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_machines_train_as_two_devices_of_one(strategy: str, tmp_path: Path) -> None:
    finish(start(tmp_path, "--steps", "24", "--devices", "2", "--strategy", strategy, "--run_dir", "one"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    words = ["--steps", "24", "--devices", "1", "--num_nodes", "2", "--strategy", strategy, "--run_dir", "two"]
    machines = [
        start(tmp_path, *words, MASTER_ADDR="127.0.0.1", MASTER_PORT=port, NODE_RANK=rank) for rank in ("0", "1")
    ]
    first, second = (finish(machine) for machine in machines)
    assert "Report: two/report.html" in first
    assert second == ""
    assert (tmp_path / "two" / "metrics.csv").read_bytes() == (tmp_path / "one" / "metrics.csv").read_bytes()
    one, two = (state_of(tmp_path / name) for name in ("one", "two"))
    for name, weight in one["model_state_dict"].items():
        assert weight.equal(two["model_state_dict"][name])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_process_that_loses_the_other_says_where_to_go_on(strategy: str, tmp_path: Path) -> None:
    """The first process is killed; what the second one says comes through the same pipe."""
    words = ["--steps", "100000", "--checkpoint_interval", "6", "--devices", "2", "--strategy", strategy]
    process = start(tmp_path, *words, "--run_dir", "run")
    saved, limit = tmp_path / "run" / "checkpoints", time.monotonic() + 200
    try:
        while not any(saved.glob("*-step12.pt")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < limit
            time.sleep(0.05)
        process.kill()
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    *_, last = err.splitlines()
    assert last.startswith("bitdial: another process of this run has ended or cannot be reached, after step ")
    assert "the last checkpoint is run/checkpoints/ternary-seed0-" in last
    assert last.endswith("to go on: `bitdial train ternary --resume run`")
    assert "Traceback" not in err
