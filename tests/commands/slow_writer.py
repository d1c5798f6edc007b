"""A job for several processes, each of which is in the middle of a file all the time."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from bitdial.commands.processes import in_processes
from bitdial.files import write_atomically
from bitdial.interrupts import interrupted_by_sigterm


def nothing() -> None:
    """What a process needs at its start."""


def square(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), 9)
    return number**2


def slowly(path: Path) -> int:
    write_atomically(path, b"old")
    sync, os.fsync = os.fsync, lambda _: time.sleep(4)
    try:
        write_atomically(path, b"new")
    finally:
        os.fsync = sync
    return os.getpid()


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    try:
        with interrupted_by_sigterm():
            list(in_processes(slowly, [folder / "a", folder / "b", folder / "c"], 2, nothing))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
