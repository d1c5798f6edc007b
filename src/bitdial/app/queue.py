"""The queue before the devices: one ticket a job, in the order of arrival, held by the job's own processes.

A ticket is a locked file. Its lock goes with the last process that holds it, however that ends, so that nothing must be
put right after a kill: a ticket that can be locked is nobody's. A job may begin when no earlier ticket that is held
names one of its devices. The queue is one for all processes that use the same root, on one machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bitdial.errors import BitdialError

FOLDER = ".queue"


class Queue:
    """The queue of the runs under a root."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER

    def take(self, run: str, devices: Sequence[str]) -> tuple[str, int]:
        """Take the next ticket; return its name, and the open file that holds it: for the job's processes to inherit.

        Raises:
            OSError: the folder cannot be written.
        """
        with self._locked():
            names = self._names()
            number = 1 + max((int(name.partition(".")[0]) for name in names), default=0)
            path = self.folder / f"{number:09d}.json"
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                _lock(handle)
                os.write(handle, json.dumps({"run": run, "devices": list(devices)}).encode())
            except BaseException:
                os.close(handle)
                path.unlink()
                raise
            return path.name, handle

    def before(self, ticket: str) -> str | None:
        """The run that a ticket's holder waits for: the last one before it that wants a device of its; None: its turn.

        A ticket that is gone waits for nobody.
        """
        mine = self._read(ticket)
        if mine is None:
            return None
        for name in reversed([name for name in self._names() if name < ticket]):
            other = self._read(name)
            if other is not None and {*other["devices"]} & {*mine["devices"]} and self._is_held(name):
                return str(other["run"])
        return None

    def give_back(self, ticket: str) -> None:
        """Take a ticket out of the queue."""
        if ticket:
            (self.folder / Path(ticket).name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Throw away the tickets that nobody holds any more."""
        if not self.folder.is_dir():
            return
        with suppress(OSError), self._locked():
            for name in self._names():
                if not self._is_held(name):
                    (self.folder / name).unlink(missing_ok=True)

    def _names(self) -> list[str]:
        with suppress(OSError):
            return sorted(name for name in os.listdir(self.folder) if name.endswith(".json") and name[:-5].isdigit())
        return []

    def _read(self, ticket: str) -> dict[str, Any] | None:
        try:
            found = json.loads((self.folder / ticket).read_bytes())
            return found if isinstance(found["run"], str) and isinstance(found["devices"], list) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # given back, or damaged: nothing to wait for

    def _is_held(self, ticket: str) -> bool:
        import fcntl

        try:
            handle = os.open(self.folder / ticket, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that look at once do not see each other
            return False
        except OSError:
            return True
        finally:
            os.close(handle)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder / "lock"):
            yield


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made where it is missing; its folder is not."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        _lock(handle)
        yield
    finally:
        os.close(handle)


def check_locks() -> None:
    """Refuse a system on which jobs cannot be kept apart.

    Raises:
        BitdialError: Windows.
    """
    try:
        import fcntl  # noqa: F401
    except ImportError:
        raise BitdialError(
            "jobs need the locks and process groups of Linux or macOS, got another system; use `bitdial train`"
        ) from None


def _lock(handle: int) -> None:
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_EX)
