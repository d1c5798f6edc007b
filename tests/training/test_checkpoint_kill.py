"""SIGKILL in the middle of saving: the next start finds a sound checkpoint, the best ones and a truthful record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("checkpoint_killing.py")


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    # A kill does not lose what the system was given, so memory will do, and hundreds of flushes cost nothing there.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        done = subprocess.run([sys.executable, str(PROGRAM), folder], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_killed_at_random_moments(report: dict[str, Any]) -> None:
    found = report["random"]
    assert found["problems"] == []
    assert found["rounds"] >= 100
    assert found["saves"] > 60  # the kills came in the middle of work
    assert found["leftovers_seen"] > 5  # and some in the middle of a write


def test_killed_before_every_single_call_into_the_file_system(report: dict[str, Any]) -> None:
    found = report["every_call"]
    assert found["problems"] == []
    assert found["leftovers_seen"] > 5
    assert found["saves"] > 0  # the last rounds got through a whole save, removals included


def test_a_background_save_is_not_lost_at_the_end_of_the_program(report: dict[str, Any]) -> None:
    for ending, (epoch, names) in report["endings"].items():
        assert epoch == 7, ending
        assert names == ["checkpoint-000001-epoch0007.pt", "checkpoint_tracking.json"], ending
