"""How far a command is with its pictures: a live line on a terminal, a plain one now and then elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.filesize import decimal
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from bitdial.commands.picture_paths import printable
from bitdial.terminal import terminal

_PLAIN_SECONDS = 30.0


class PictureProgress:
    """A context in which `advance` shows that one more picture is done, and `note` prints a line above that."""

    def __init__(self, doing: str, total: int) -> None:
        self._doing, self._total, self._done, self._last = doing, total, 0, time.monotonic()
        self._console = terminal(stderr=True)
        columns = (BarColumn(24), MofNCompleteColumn(), TextColumn("{task.fields[shown]}", markup=False))
        self._live = Progress(
            TextColumn(doing, markup=False), *columns, TimeRemainingColumn(compact=True),
            console=self._console, transient=True, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task = self._live.add_task("", total=total, shown="")

    def __enter__(self) -> PictureProgress:
        self._live.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._live.stop()

    def advance(self, shown: str = "") -> None:
        """Show that one more is done, and something besides."""
        self._done += 1
        self._live.update(self._task, completed=self._done, shown=shown)
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last >= _PLAIN_SECONDS:
            self._last = now
            self.note(f"{self._doing}  {self._done}/{self._total}  {shown}")

    def part(self, done: int, parts: int) -> None:
        """Show how far the next picture is."""
        self._live.update(self._task, completed=self._done + done / parts)

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(Text(printable(text)), soft_wrap=True)


def sizes(before: int, after: int) -> str:
    """Bytes before and after, in words."""
    return f"{decimal(before)} -> {decimal(after)}"
