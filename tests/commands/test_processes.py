"""Work in several processes: nothing is lost when one is killed, and nothing is left when all are stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bitdial.commands.processes import in_processes
from tests.commands.slow_writer import nothing, square

ROOT = Path(__file__).parents[2]


def test_every_task_has_a_result_but_that_whose_process_was_killed() -> None:
    found = dict(in_processes(square, range(7), 2, nothing))
    assert found == {0: 0, 1: 1, 2: 4, 3: None, 4: 16, 5: 25, 6: 36}
    assert list(in_processes(square, [1, 2], 1, nothing)) == [(1, 1), (2, 4)]


def soon(what: Callable[[], bool]) -> bool:
    end = time.monotonic() + 30
    while not what():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_in_the_middle_of_files(number: int, tmp_path: Path) -> None:
    with (tmp_path / "said").open("w") as said:
        running = subprocess.Popen(
            [sys.executable, "-m", "tests.commands.slow_writer", tmp_path],
            cwd=ROOT, start_new_session=True, stderr=said,
        )  # fmt: skip
    old = [tmp_path / "a", tmp_path / "b"]
    assert soon(lambda: all(path.exists() for path in old) and len(list(tmp_path.glob(".*.part"))) == 2)
    processes = psutil.Process(running.pid).children(recursive=True)
    assert len(processes) >= 2
    if number == signal.SIGINT:
        os.killpg(running.pid, number)  # as a terminal does
    else:
        running.send_signal(number)
    assert running.wait() == (-9 if number == signal.SIGKILL else 130)
    assert soon(lambda: not any(each.is_running() for each in processes))
    # processes whose parent was killed end with the file that they are at
    content = b"new" if number == signal.SIGKILL else b"old"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": content, "b": content, "said": b""}
