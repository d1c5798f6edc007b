"""Whether the worker of a trial lives: it signs the trial, and renews a sign of life while it trains."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from bitdial.processes import ProcessMark

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial

HEARTBEAT_SECONDS = 60.0
"""Between two signs of life of a worker."""
SILENT_SECONDS = 600.0
"""After so long without one, a worker on another machine counts as dead."""
WORKER, HEARTBEAT = "worker", "heartbeat"
"""User attributes of a trial."""


class Worker(ProcessMark):
    """This process, in a way that another can tell whether it still lives."""

    def has_lost(self, trial: FrozenTrial) -> bool:
        """Whether the worker of a running trial is dead, as far as can be told from here."""
        signed = trial.user_attrs.get(WORKER)
        now = time.time()
        if signed is None:  # it died, if it did, before it could sign, or while it put the trial back
            began = 0.0 if trial.datetime_start is None else trial.datetime_start.timestamp()
            return bool(now - max(began, trial.user_attrs.get(HEARTBEAT, 0.0)) > SILENT_SECONDS)
        lives = ProcessMark(**signed).lives()
        if lives is None:
            return bool(now - trial.user_attrs.get(HEARTBEAT, 0.0) > SILENT_SECONDS)
        return not lives


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
