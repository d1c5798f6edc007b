"""Whether the worker of a trial lives: it signs the trial, and renews a sign of life while it trains."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

HEARTBEAT_SECONDS = 60.0
"""Between two signs of life of a worker."""
SILENT_SECONDS = 600.0
"""After so long without one, a worker on another machine counts as dead."""
WORKER, HEARTBEAT = "worker", "heartbeat"
"""User attributes of a trial."""


@dataclass(frozen=True)
class Worker:
    """This process, in a way that another can tell whether it still lives."""

    host: str
    machine: str
    pid: int
    started: float

    @classmethod
    def here(cls) -> Worker:
        """This process."""
        return cls(socket.gethostname(), _machine(), os.getpid(), psutil.Process().create_time())

    def has_lost(self, trial: FrozenTrial) -> bool:
        """Whether the worker of a running trial is dead, as far as can be told from here."""
        signed = trial.user_attrs.get(WORKER)
        now = time.time()
        if signed is None:  # it died, if it did, before it could sign, or while it put the trial back
            began = 0.0 if trial.datetime_start is None else trial.datetime_start.timestamp()
            return bool(now - max(began, trial.user_attrs.get(HEARTBEAT, 0.0)) > SILENT_SECONDS)
        if signed["machine"] != self.machine:
            return bool(now - trial.user_attrs.get(HEARTBEAT, 0.0) > SILENT_SECONDS)
        try:
            process = psutil.Process(signed["pid"])
            lives = process.status() != psutil.STATUS_ZOMBIE
            return not lives or abs(process.create_time() - signed["started"]) > 2
        except psutil.NoSuchProcess:
            return True
        except psutil.AccessDenied:
            return False


def _machine() -> str:
    """What two processes have in common that can see each other's numbers: the boot, and the space of numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return f"{socket.gethostname()} {psutil.boot_time():.0f}"


class Heartbeat(threading.Thread):
    """Renews the sign of life of a trial while the body runs."""

    def __init__(self, trial: Trial) -> None:
        super().__init__(daemon=True)
        self._trial = trial
        self._over = threading.Event()

    def __enter__(self) -> Heartbeat:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(timeout=5)

    def run(self) -> None:
        """Until it is over."""
        while not self._over.wait(HEARTBEAT_SECONDS):
            try:
                self._trial.set_user_attr(HEARTBEAT, time.time())
            except Exception:  # the next report of the trial tells what is wrong
                continue
