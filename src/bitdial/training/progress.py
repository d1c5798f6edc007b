"""One live line about a run; a plain line now and then where there is no terminal."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from bitdial.terminal import terminal
from bitdial.training.progress_file import ProgressFile

REDRAW_SECONDS = 0.1
SHORT = {"loss": ("loss", 6), "bits": ("bits", 4), "learning_rate": ("lr", 7), "best_accuracy": ("best", 6)}
"""What the live line calls a value, and the columns that its number takes."""
ROOMY = 110
"""From this many columns on, the live line has room for the best score beside loss, bits and learning rate."""
ROOM, MORE_ROOM = 34, 44
"""Columns of the values: three of them, or four on a roomy terminal."""


@dataclass
class WholeRun:
    """How long all that a run trains will take, judged by the steps that were done since the program began."""

    ahead: list[int | None]
    """Steps of each network that is not begun yet; None: as many as the one under way has."""
    _began: float = field(default_factory=time.monotonic)
    _done: float = 0.0
    _before: float = 0.0
    _first: int | None = None
    _past: int = 0
    _total: int = 0

    def begin(self) -> None:
        """The next network is under way, or was trained before."""
        self.ahead.pop(0)
        self._first = None
        self._past, self._total = self._past + self._total, 0

    def share(self, step: int, total: int) -> float:
        """How much of all steps is done, those of networks that were trained before this program began left out."""
        self._total = total
        ahead = sum(total if steps is None else steps for steps in self.ahead)
        return (self._past + step) / max(1, self._past + total + ahead)

    def left(self, step: int, total: int) -> float | None:
        """Seconds until the end of the run; None: nobody can tell yet."""
        if self._first is None:
            self._first, self._before = step, self._done
        self._done = self._before + step - self._first
        if self._done < 1:
            return None
        rest = total - step + sum(total if steps is None else steps for steps in self.ahead)
        return (time.monotonic() - self._began) / self._done * rest


@dataclass
class Progress:
    """Show how far a run is: phase, bar, step, loss, bits, learning rate, best accuracy, time left.

    Whatever goes wrong in here, a lost terminal say, is warned of once and never stops the training.
    """

    label: str
    """What is running, such as ``"cyclic: cpt, seed 0"``."""
    total: int | None = None
    """Steps in all; None where nobody knows."""
    _: KW_ONLY
    enabled: bool = True
    """False keeps silent (ranks other than 0)."""
    console: Console = field(default_factory=lambda: terminal(stderr=True))
    plain_seconds: float | None = None
    """Without a terminal, seconds between two lines; None: 5 in a notebook, 30 elsewhere."""
    label_width: int = 0
    """Columns that the label takes at least, so that the lines of several phases stand in columns."""
    transient: bool = False
    """Whether the live line goes when it is done."""
    whole: WholeRun | None = None
    """The run that this is a part of; None: the whole of it."""
    file: ProgressFile | None = None
    """Is told all this too, for whoever watches from another process."""
    run: WholeRun | None = None
    """The run, for the file: also where this is the whole of it."""

    def __post_init__(self) -> None:
        self._live: RichProgress | None = None
        self._task: Any = None
        self._shown: dict[str, float] = {}
        self._scoring = ""
        self._more: dict[str, float] = {}
        self._began = self._last = time.monotonic()
        self._began_at: int | None = None

    def __enter__(self) -> Progress:
        self._guard(self._start)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._guard(self._live.stop)
            self._live = None

    def passing(self, doing: str, total: int | None) -> Progress:
        """A line like this one for something short that follows, which goes when it is done."""
        return replace(self, label=f"{doing} {self.label}", total=total, transient=True, whole=None, file=None)

    def update(self, step: int, **values: float | None) -> None:
        """Show `step` steps done, and `values` (loss, bits, learning_rate, best, ...); those not given stay.

        May be called at every step: the line is redrawn ten times a second at most.
        """
        if not self.enabled:
            return
        if self._began_at is None:
            self._began_at = step
        self._scoring = ""
        if values:
            self._shown.update({name: value for name, value in values.items() if value is not None})
        self._maybe_show(step, at_once=bool(values) and step == self.total)
        if self.file is not None and (self.file.due or step == self.total):
            self._guard(lambda: self._tell_file(step, "training"))

    def also(self, values: Mapping[str, float]) -> None:
        """Tell the file of values that the line has no room for."""
        self._more = dict(values)

    def scoring(self, step: int, done: int, batches: int | None) -> None:
        """Show how far an evaluation after `step` is, in batches."""
        if self.enabled:
            self._scoring = f"scoring {done}" + ("" if batches is None else f"/{batches}")
            self._maybe_show(step)
            if self.file is not None and self.file.due:
                self._guard(lambda: self._tell_file(step, "scoring"))

    def _maybe_show(self, step: int, *, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._live is not None:
            pause = REDRAW_SECONDS
        elif self.plain_seconds is not None:
            pause = self.plain_seconds
        else:
            pause = 5.0 if self.console.is_jupyter else 30.0
        if now - self._last >= pause or at_once:
            self._last = now
            self._guard(lambda: self._show(step, now))

    def note(self, text: str) -> None:
        """Print a line above the live one."""
        if self.enabled:
            self._guard(lambda: self.console.print(Text(text)))

    def _start(self) -> None:
        if self.enabled and self.console.is_terminal:
            # Widths are fixed from the start: columns that share a narrow terminal would cut off the numbers.
            count = 2 * len(str(self.total)) + 1 if self.total is not None else 9
            label = max(len(self.label), self.label_width)
            numbers = self._room()
            whole = 0 if self.whole is None else len("all 99h59")
            room = self.console.width - count - numbers - len("00:00") - 5 - (whole + 1 if whole else 0)
            bar = min(24, max(5, room - label))
            label = max(8, min(label, room - bar))
            name = self.label if len(self.label) <= label else f"{self.label[: label - 1]}\u2026"
            self._live = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=bar),
                TextColumn("{task.fields[count]:>" + str(count) + "}", style="progress.download", markup=False),
                TextColumn("{task.fields[shown]:" + str(numbers) + "}", markup=False),
                *([TextColumn("{task.fields[whole]:" + str(whole) + "}", markup=False)] if whole else []),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                console=self.console,
                transient=self.transient,
            )
            self._task = self._live.add_task(f"{name:{label}}", total=self.total, shown="", count="", whole="")
            self._live.start()

    def _show(self, step: int, now: float) -> None:
        if self._live is not None:
            count = str(step) if self.total is None else f"{step}/{self.total}"
            seconds = self._whole_left(step)
            whole = "" if seconds is None else f"all {_clock(seconds)}"
            self._live.update(self._task, completed=step, shown=self._in_short(), count=count, whole=whole)
            return
        shown = "  ".join(f"{name.replace('_', ' ')} {_number(name, value, 4)}" for name, value in self._shown.items())
        shown = self._scoring or shown
        of = f"/{self.total}" if self.total is not None else ""
        line = f"{self.label}  step {step}{of}  {shown}{self._time_left(step, now)}"
        self.console.print(Text(line), soft_wrap=True)

    def _tell_file(self, step: int, doing: str) -> None:
        assert self.file is not None
        told: dict[str, Any] = {"step": step, "total": self.total, "values": {**self._more, **self._shown}}
        if self.run is not None and self.total is not None:
            told |= {"share": self.run.share(step, self.total), "seconds_left": self.run.left(step, self.total)}
        self.file.tell(doing=doing, arm=self.label, **told)

    def _in_short(self) -> str:
        """The values as the live line has room for them, in columns."""
        if self._scoring:
            return self._scoring
        parts: list[str] = []
        for name, value in self._shown.items():
            short, width = SHORT.get(name, (name.replace("_", " "), 6))
            digits = 2 if name == "learning_rate" else 3
            part = f"{short} {_number(name, value, digits):<{width}}"
            if len(" ".join([*parts, part])) <= self._room():
                parts.append(part)
        return " ".join(parts)

    def _room(self) -> int:
        return MORE_ROOM if self.console.width >= ROOMY else ROOM

    def _time_left(self, step: int, now: float) -> str:
        done = step - (self._began_at or 0)
        if self.total is None or done < 1 or step >= self.total:
            return ""
        whole = self._whole_left(step)
        more = "" if whole is None else f", {_duration(whole)} of the whole run"
        return f"  {_duration((now - self._began) / done * (self.total - step))} left{more}"

    def _whole_left(self, step: int) -> float | None:
        return None if self.whole is None or self.total is None else self.whole.left(step, self.total)

    def _guard(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:  # progress is a courtesy; hours of training must not die of it
            self.enabled = False
            self._live = None
            warnings.warn(f"the progress display was switched off: {type(error).__name__}: {error}", stacklevel=3)


class Measuring:
    """Shows how far an evaluation is that is no part of training (a `passes.Watcher`), in a line like the one given."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress or Progress("", enabled=False)

    def begin(self, batches: int | None) -> None:
        """So many follow."""
        self._line = self._progress.passing("measuring", batches)
        self._line.__enter__()

    def look(self, done: int) -> None:
        """So many are done."""
        self._line.update(done)

    def end(self) -> None:
        """All are done."""
        self._line.__exit__()


def _number(name: str, value: float, digits: int) -> str:
    return f"{100 * value:.1f}%" if name.endswith("accuracy") else f"{value:.{digits}g}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes:02d}:{rest:02d}" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02d}"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 90 else f"{seconds:.0f} s"
