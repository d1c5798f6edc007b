"""Small programs that stand in for a training, and waiting for what they do."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from bitdial.app.jobs import JobManager
from bitdial.app.records import ALIVE

T = TypeVar("T")
PATIENCE = 30.0
"""Seconds after which a test gives up; nothing is asserted on how long it took."""
ENDLESS = "import time; print('begun', flush=True); time.sleep(600)"


def launch(jobs: JobManager, code: str, *words: str, devices: Sequence[str] = ("cpu",)) -> str:
    """Start a program as a job."""
    return jobs.launch("cyclic", devices, lambda folder: [sys.executable, "-u", "-c", code, str(folder), *words])


def until(look: Callable[[], T], wanted: Callable[[T], object] = bool) -> T:
    """Look until it is as wanted."""
    end = time.monotonic() + PATIENCE
    while not wanted(found := look()):
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


def until_begun(jobs: JobManager, run: str) -> int:
    """Wait until a program has said that it begins; return its process number."""
    until(lambda: jobs.log(run, 0).text, lambda text: "begun" in text)
    pid = jobs.status(run).pid
    assert pid is not None
    return pid


def until_ended(jobs: JobManager, run: str) -> None:
    """Wait until a run waits and trains no more."""
    until(lambda: jobs.status(run).state, lambda state: state not in ALIVE)


def lives(pid: int) -> bool:
    """Whether there is a process of that number that is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@contextmanager
def ending_all(jobs: JobManager) -> Iterator[JobManager]:
    """Leave no job behind."""
    from bitdial.app.jobs import processes_of
    from bitdial.app.store import read_job, run_ids
    from bitdial.processes import send

    try:
        yield jobs
    finally:
        for run in run_ids(jobs.root):
            for _ in range(3):
                if not (left := processes_of(jobs.root / run)):
                    break
                send(left, signal.SIGKILL)
                time.sleep(0.05)
            job = read_job(jobs.root / run)
            if job is not None and job.supervisor is not None:
                with suppress(OSError):
                    os.killpg(int(job.supervisor["pid"]), signal.SIGKILL)
