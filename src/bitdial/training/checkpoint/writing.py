"""Writing a file so that it is there whole or not at all, and stays there when the power goes."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from torch.utils.serialization import config

from bitdial.training.checkpoint.sealing import seal

try:
    import fcntl
except ImportError:  # no file locks on this system; a leftover is then recognised by its name alone
    fcntl = None  # type: ignore[assignment]

_BUFFER = 1 << 18
_EARLY = 4 << 20
_SLOW_TO_FREE = 8 << 20

_descriptors: set[int] = set()


def _close_inherited() -> None:
    # A data loader's worker forked in the middle of a save would otherwise hold the file, and its disk space, for good.
    while _descriptors:
        with contextlib.suppress(OSError):
            os.close(_descriptors.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)


def aside(action: Callable[[], None]) -> Future[None]:
    """Do something in a thread of its own; the result waits for it and raises what it raised.

    Not a daemon: a program that ends waits for it.
    """
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            action()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    try:
        threading.Thread(target=run, name="bitdial-checkpoint").start()
    except RuntimeError:  # no new threads: the interpreter is about to end
        run()
    return outcome


def point(link: Path, target: Path | None) -> None:
    """Let a symbolic link name a file of its folder, at once for whoever opens it, or (None) remove the link.

    What has that name and is no link stays.

    Raises:
        OSError: it cannot be made there.
    """
    if not link.is_symlink() and (target is None or link.exists()):
        return
    if target is None:
        link.unlink()
    elif not link.is_symlink() or link.readlink() != Path(target.name):
        made = link.with_name(f".{link.name}.link")
        made.unlink(missing_ok=True)
        made.symlink_to(target.name)
        made.replace(link)


class _Sink(io.RawIOBase):
    """Writes to a descriptor and remembers the first failure instead of raising it into torch's C++ writer.

    Every few megabytes the system is asked to start writing to the device, so that the fsync at the end, which waits
    for all of it, has little left to wait for.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.written = 0
        self.error: BaseException | None = None
        self._started = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        total = len(view)
        try:
            while view and self.error is None:
                count = os.write(self.descriptor, view)
                self.written += count
                view = view[count:]
                if self.written - self._started >= _EARLY:
                    _start_writing_back(self.descriptor, self._started, self.written - self._started)
                    self._started = self.written
        except BaseException as error:  # an interrupt too: it is raised again by `check`
            self.error = error
        return total

    def check(self) -> None:
        if self.error is not None:
            raise self.error


def save_sealed(
    path: Path,
    state: dict[str, Any],
    header: dict[str, Any],
    companion: tuple[Path, str],
    check: Callable[[Path], None],
) -> None:
    """Write `state` with ``torch.save``, sealed with `header`, durably: when this returns, a power cut cannot undo it.

    The companion, path and text of a small file in the same folder, is replaced with it: never before it, never long
    after. It is flushed while the state is being written, so that it costs no wait of its own. `check` is called with
    the temporary file when that is complete; what it raises stops the save.

    Raises:
        OSError: nothing has changed in the folder, unless it was a rename or the flush of the folder that failed.
        Exception: what ``torch.save`` raises for a state that cannot be pickled; nothing has changed then either.
    """
    beside, text = companion
    with _temporary(beside) as small, _temporary(path) as large, contextlib.ExitStack() as before_closing:
        writing = aside(lambda: _write_text(small, text))
        before_closing.callback(writing.exception)  # waits, also when something else fails
        sink = _Sink(large)
        buffer = io.BufferedWriter(sink, _BUFFER)
        with config.patch("save.compute_crc32", True):  # type: ignore[attr-defined]  # the seal relies on it
            torch.save(state, buffer)
        buffer.flush()
        sink.check()
        seal(large, sink.written, header)
        check(temporary_path(path))
        os.fsync(large)
        writing.result()
        temporary_path(path).replace(path)
        temporary_path(beside).replace(beside)
    sync_folder(path.parent)


def save_text(path: Path, text: str) -> None:
    """Replace a small text file durably; after an `OSError` the earlier content is still in place."""
    with _temporary(path) as descriptor:
        _write_text(descriptor, text)
        temporary_path(path).replace(path)
    sync_folder(path.parent)


def _write_text(descriptor: int, text: str) -> None:
    data = memoryview(text.encode())
    while data:
        data = data[os.write(descriptor, data) :]
    os.fsync(descriptor)


def _start_writing_back(descriptor: int, start: int, length: int) -> None:
    """Ask the system to begin writing a range to the device; returns at once."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # advice only
            os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[int]:
    """Give a descriptor of an empty temporary file beside `path`, removed again if anything fails."""
    temporary = temporary_path(path)
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
    _descriptors.add(descriptor)
    try:
        if not _lock(descriptor):
            raise BlockingIOError(errno.EAGAIN, "another process is writing this very file")
        try:
            os.ftruncate(descriptor, 0)
            yield descriptor
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    finally:
        _descriptors.discard(descriptor)
        os.close(descriptor)


def temporary_path(path: Path) -> Path:
    """Return the name under which `path` is written until it is whole."""
    return path.with_name(f".{path.name}.tmp")


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable (a rename is not, until its folder is flushed)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(temporary: Path) -> bool:
    """Remove what a killed save left, unless a living process is writing it; return whether it was removed."""
    with contextlib.suppress(OSError), temporary.open("r+b") as file:
        if _lock(file.fileno()):
            temporary.unlink(missing_ok=True)
            return True
    return False


def remove(paths: list[Path]) -> tuple[list[OSError], Future[None] | None]:
    """Remove files; return the failures (a file that is gone already is none), and what gives back the space, if any.

    Freeing the cached pages of a large file takes about as long as writing half of it: the training need not wait. For
    small ones a thread would cost more than it saves.
    """
    failures, descriptors, size = [], [], 0
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY)
            descriptors.append(descriptor)
            _descriptors.add(descriptor)
            size += os.fstat(descriptor).st_size
            path.unlink()
        except FileNotFoundError:
            pass
        except OSError as error:
            failures.append(error)
    if size < _SLOW_TO_FREE:
        _close(descriptors)
        return failures, None
    return failures, aside(lambda: _close(descriptors))


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        _descriptors.discard(descriptor)
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Mark the file as being written by a living process; a kill of any kind releases the mark."""
    if fcntl is not None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
    return True
