"""Runs of ``bitdial train cyclic`` that take a second, for the tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from bitdial.cli import main
from bitdial.training.checkpoint import CheckpointManager

ROOT = Path(__file__).parents[2]

SMALL = [
    *("--model", "tiny_cnn", "--steps", "12", "--num_static_iterations", "4", "--warmup_steps", "2"),
    *("--log_interval", "4", "--cyclic.cycle_length", "5", "--model_options.bit_widths", "2", "4", "8"),
    *("--static.test_configurations", "{4bit: 4, mixed: [2, 4]}"),
]
"""Eight layers' worth of nothing: a network of three convolutions, a dozen steps."""


def bitdial(*words: str) -> int:
    """Run a command in this process."""
    return main(list(words))


def train(folder: Path, *words: str) -> Path:
    """Train in `folder` and return the folder of the run."""
    run = folder / "run"
    assert bitdial("train", "cyclic", *SMALL, "--run_dir", str(run), *words) == 0
    return run


def start(cwd: Path, words: Iterable[str]) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "bitdial", *words],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},  # to compare with runs in this process
    )


def results_of(run: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return loaded


TIMED = {"seconds", "seconds_own", "forward_seconds", "created"}


def without_time(value: Any) -> Any:
    """The results without what the clock decides."""
    if isinstance(value, dict):
        return {key: without_time(inner) for key, inner in value.items() if key not in TIMED}
    if isinstance(value, list):
        return [without_time(inner) for inner in value]
    return re.sub(r"\d+ s\b", "some s", value) if isinstance(value, str) else value


def final_weights(run: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The last weights of every arm."""
    folders = sorted((run / "checkpoints").glob("*-seed*"))
    return {folder.name: _latest(folder) for folder in folders if (folder / "arm.json").exists()}


def _latest(folder: Path) -> dict[str, torch.Tensor]:
    manager = CheckpointManager(folder, keep_last_n=2, keep_best=0, metric="accuracy", higher_is_better=True)
    state: dict[str, torch.Tensor] = manager.load_latest().state["model_state_dict"]
    return state


def everything_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
