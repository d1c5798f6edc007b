"""Which process is meant: a number alone soon belongs to another program. Linux, macOS; what it can elsewhere."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil

CLOCK_ERROR = 2.0
"""Seconds by which two readings of the start of one process may differ, where clocks are set meanwhile."""


@dataclass(frozen=True)
class ProcessMark:
    """A process, marked so that any other can tell whether it still lives."""

    host: str
    machine: str
    """What two processes have in common that can see each other's numbers: the boot, and the space of numbers."""
    pid: int
    started: float
    """Seconds since 1970; a process of the same number that began at another time is another one."""

    @classmethod
    def here(cls) -> Self:
        """This process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> Self:
        """The process of that number.

        Raises:
            ProcessLookupError: there is none.
        """
        try:
            return cls(socket.gethostname(), visible_space(), pid, psutil.Process(pid).create_time())
        except psutil.NoSuchProcess as error:
            raise ProcessLookupError(pid) from error

    def lives(self) -> bool | None:
        """Whether it does; None: it is of another machine (or boot, or container), and nobody can tell from here."""
        if self.machine != visible_space():
            return None
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return False
            return abs(process.create_time() - self.started) <= CLOCK_ERROR
        except (psutil.NoSuchProcess, ValueError, OverflowError):
            return False
        except psutil.AccessDenied:
            return True


def visible_space() -> str:
    """The boot, and the space of process numbers that this process sees."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def members(group: int, mark: tuple[str, str], *, sure: bool = False) -> list[int]:
    """The processes of a group; zombies left out.

    Args:
        group: number of the process group, of which the leader may be dead.
        mark: name and value of an environment variable that they were started with. Without it the number could be that
            of a later group of another program.
        sure: the leader lives, and nothing need be asked.
    """
    found = []
    for pid in psutil.pids():
        with suppress(psutil.Error, OSError):
            if os.getpgid(pid) != group:
                continue
            process = psutil.Process(pid)
            if process.status() != psutil.STATUS_ZOMBIE and (sure or process.environ().get(mark[0]) == mark[1]):
                found.append(pid)
    return found


def below(mark: ProcessMark) -> Iterator[int]:
    """A process that lives here, and its children's children, the deepest last."""
    if mark.lives():
        with suppress(psutil.Error):
            process = psutil.Process(mark.pid)
            yield mark.pid
            yield from (child.pid for child in process.children(recursive=True))


def send(pids: list[int], number: signal.Signals) -> None:
    """Send a signal to processes; those that have ended meanwhile, or are another user's, are left out."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
