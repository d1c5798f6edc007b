"""Files that are either the old version or the new one, never half of each."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_atomically(
    path: str | os.PathLike[str], content: str | bytes, *, make_folder: bool = True, durable: bool = True
) -> Path:
    """Write `content` to `path` through a temporary file in the same folder; make the folder when it is missing.

    A reader, or a run that is killed half-way, meets the previous file or the whole new one. Text is written as UTF-8,
    with what is none (in the name of a file) escaped.

    Args:
        path: the file.
        content: all of it.
        make_folder: False where a folder that is missing was taken away on purpose.
        durable: wait until it is on the disk; False where losing it with the machine's power is no loss.

    Raises:
        OSError: the folder cannot be written; the previous file stays as it was.
    """
    target = Path(path)
    if make_folder:
        target.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())  # mkstemp makes the file private to its owner; a result is for everyone
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    if durable:
        _sync_folder(target.parent)
    return target


def as_text(name: str) -> str:
    """The name of a file as text that can be written, with what is not UTF-8 in it escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the new name durable, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
