"""SIGKILL in the middle of saving: the next start finds a sound checkpoint, the best ones and a truthful record."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("checkpoint_killing.py")


def run(mode: str, folder: Path, rounds: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), mode, str(folder), str(rounds)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_killed_at_random_moments(tmp_path: Path) -> None:
    report = run("random", tmp_path / "checkpoints", 104)
    assert report["problems"] == []
    assert report["saves"] > 100  # the kills came in the middle of work
    assert report["leftovers_seen"] > 5  # and some in the middle of a write


def test_killed_before_every_single_call_into_the_file_system(tmp_path: Path) -> None:
    report = run("every_call", tmp_path / "checkpoints", 52)
    assert report["problems"] == []
    assert report["leftovers_seen"] > 5


def test_a_background_save_is_not_lost_at_the_end_of_the_program(tmp_path: Path) -> None:
    for ending, (epoch, names) in run("endings", tmp_path, 0).items():
        assert epoch == 7, ending
        assert names == ["checkpoint-000001-epoch0007.pt", "checkpoint_tracking.json"], ending
