"""Ctrl-C and SIGTERM: the first asks for a stop and is answered at once, the second stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Interrupts:
    """Catch SIGINT and SIGTERM in the body: the first asks for a stop at the next step, the second stops at once.

    The loop reads `requested` between steps. Outside the main thread, where Python allows no handlers, nothing is
    caught and `requested` stays None.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested: str | None = None
        """Name of the signal that asked for a stop (``"SIGINT"``), or None."""
        self.doing = "step"
        """What is ended first."""
        self.tell: Callable[[str], object] | None = None
        """Tells the user that the signal has come; None: nobody is told."""
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
            if self.tell is not None:
                self.tell(f"stopping after this {self.doing}; again to stop now")
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


def write_to_stderr(text: str) -> None:
    """Write a line to standard error; from a signal handler too, in which the file of Python may be in use."""
    try:
        os.write(2, f"\n{text}\n".encode())
    except OSError:  # there is none any more
        return


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the body as Ctrl-C does, so that what is half written is taken away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if former is None else former)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
