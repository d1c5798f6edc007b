"""Ctrl-C and SIGTERM: the first asks for a stop at the next step, the second stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """Catch SIGINT and SIGTERM while the body runs, and put the former handlers back afterwards.

    The loop reads `requested` between steps. Outside the main thread, where Python allows no handlers, nothing is
    caught and `requested` stays None.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested: str | None = None
        """Name of the signal that asked for a stop (``"SIGINT"``), or None."""
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in self.SIGNALS:
                self._former[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            # None: the former handler was set by C code and cannot be put back from Python
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._former.clear()

    def _catch(self, number: int, frame: FrameType | None) -> None:
        if self.requested is None:
            self.requested = signal.Signals(number).name
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
