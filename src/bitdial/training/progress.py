"""One live line about a run; a plain line now and then where there is no terminal."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

REDRAW_SECONDS = 0.1


class Progress:
    """Show how far a run is: phase, bar, step, loss, bits, learning rate, best accuracy, time left.

    Args:
        label: what is running, such as ``"cyclic: cpt, seed 0"``.
        total: steps in all; None where nobody knows.
        enabled: False keeps silent (ranks other than 0).
        console: where to write; standard error by default.
        plain_seconds: without a terminal, seconds between two lines.

    Whatever goes wrong in here, a lost terminal say, is warned of once and never stops the training.
    """

    def __init__(
        self,
        label: str,
        total: int | None = None,
        *,
        enabled: bool = True,
        console: Console | None = None,
        plain_seconds: float = 30.0,
    ) -> None:
        self.label = label
        self.total = total
        self._enabled = enabled
        self._console = console if console is not None else Console(stderr=True)
        self._plain_seconds = plain_seconds
        self._live: RichProgress | None = None
        self._task: Any = None
        self._shown: dict[str, float] = {}
        self._began = self._last = time.monotonic()
        self._began_at: int | None = None

    def __enter__(self) -> Progress:
        self._guard(self._start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._guard(self._live.stop)
            self._live = None

    def update(self, step: int, **values: float | None) -> None:
        """Show `step` steps done, and `values` (loss, bits, learning_rate, best, ...); those not given stay.

        May be called at every step: the line is redrawn ten times a second at most.
        """
        if not self._enabled:
            return
        if self._began_at is None:
            self._began_at = step
        if values:
            self._shown.update({name: value for name, value in values.items() if value is not None})
        now = time.monotonic()
        pause = REDRAW_SECONDS if self._live is not None else self._plain_seconds
        if now - self._last >= pause or (values and step == self.total):
            self._last = now
            self._guard(lambda: self._show(step, now))

    def note(self, text: str) -> None:
        """Print a line above the live one."""
        if self._enabled:
            self._guard(lambda: self._console.print(text, highlight=False, markup=False))

    def _start(self) -> None:
        if self._enabled and self._console.is_terminal:
            self._live = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[shown]}"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=False,
            )
            self._task = self._live.add_task(self.label, total=self.total, shown="")
            self._live.start()

    def _show(self, step: int, now: float) -> None:
        shown = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in self._shown.items())
        if self._live is not None:
            self._live.update(self._task, completed=step, shown=shown)
            return
        of = f"/{self.total}" if self.total is not None else ""
        line = f"{self.label}  step {step}{of}  {shown}{self._time_left(step, now)}"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _time_left(self, step: int, now: float) -> str:
        done = step - (self._began_at or 0)
        if self.total is None or done < 1 or step >= self.total:
            return ""
        seconds = (now - self._began) / done * (self.total - step)
        return f"  {seconds / 60:.1f} min left" if seconds >= 90 else f"  {seconds:.0f} s left"

    def _guard(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # progress is a courtesy; hours of training must not die of it
            self._enabled = False
            self._live = None
            warnings.warn(f"the progress display was switched off: {type(error).__name__}: {error}", stacklevel=3)
