"""Between two batches of an evaluation: how far it is, and where it can be left."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Watcher(Protocol):
    """Hears of batches that are scored, or that statistics are re-estimated from."""

    def begin(self, batches: int | None) -> None:
        """So many follow; None: nobody knows."""

    def look(self, done: int) -> None:
        """So many of them are done. What this raises ends the evaluation, which leaves everything as it was."""

    def end(self) -> None:
        """All are done, or it was left."""


class _Watched:
    def __init__(self, watcher: Watcher) -> None:
        self.watcher, self.depth, self.done = watcher, 0, 0


_watched: list[_Watched] = []


@contextmanager
def watching(watcher: Watcher | None) -> Iterator[None]:
    """Let a watcher hear of the evaluations in the body; it alone."""
    former, _watched[:] = list(_watched), [] if watcher is None else [_Watched(watcher)]
    try:
        yield
    finally:
        _watched[:] = former


@contextmanager
def expecting(batches: int | None) -> Iterator[None]:
    """So many batches are gone through in the body; what parts of it expect is among them."""
    watched = list(_watched)
    for each in watched:
        each.depth += 1
        if each.depth == 1:
            each.done = 0
            each.watcher.begin(batches)
    try:
        yield
    finally:
        for each in watched:
            each.depth -= 1
            if each.depth == 0:
                each.watcher.end()


def one_more() -> None:
    """A batch is done."""
    for each in _watched:
        each.done += 1
        each.watcher.look(each.done)
