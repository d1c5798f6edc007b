"""How far a run is, in a small file that is written at most once a second: for whoever watches from another process."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bitdial.errors import RunInterrupted
from bitdial.files import write_atomically
from bitdial.processes import ProcessMark

PAUSE_SECONDS = 1.0


class ProgressFile:
    """``progress.json`` of a run: its process, what it is doing, and how it ended.

    A disk that is full, or a folder that is gone, never stops the training: the file is then what it was.

    Args:
        path: the file.
        facts: what stays, such as the recipe.
    """

    def __init__(self, path: Path, **facts: str) -> None:
        self.path = path
        self._facts: dict[str, Any] = {**facts, "process": asdict(ProcessMark.here()), "began": time.time()}
        self._told: dict[str, Any] = {"doing": "preparing"}
        self._last = -math.inf

    @property
    def due(self) -> bool:
        """Whether the last writing is so long ago that it may be written again."""
        return time.monotonic() - self._last >= PAUSE_SECONDS

    def tell(self, *, at_once: bool = False, **told: Any) -> None:
        """Note what has changed; write, where it is due."""
        self._told.update(told)
        if at_once or self.due:
            self._last = time.monotonic()
            content = json.dumps(_strict({**self._facts, **self._told, "updated": time.time()}))
            with suppress(OSError):
                write_atomically(self.path, content, make_folder=False, durable="ended" in self._told)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Note how the body ends: finished, stopped on request, or failed, with the text of what was raised."""
        self.tell(at_once=True)
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, RunInterrupted | KeyboardInterrupt)
            text = " ".join(str(error).split()) or type(error).__name__
            if not isinstance(error, SystemExit) or error.code:
                self.tell(at_once=True, ended="stopped" if stopped else "failed", message=text[:2000])
            raise
        self.tell(at_once=True, ended="finished", doing="", share=1.0, seconds_left=0.0)


def _strict(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _strict(each) for key, each in value.items()}
    return value
