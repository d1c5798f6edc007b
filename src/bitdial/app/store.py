"""The files of runs under a root: which folders are runs, and `job.json`, read by all and written under a lock."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bitdial.app.queue import held
from bitdial.app.records import Job, parse_job
from bitdial.errors import BitdialError, suggest
from bitdial.files import write_atomically
from bitdial.training.run_folder import JOB, JOB_LOCK

LONGEST = 255
"""Bytes of a file's name, on any system."""
BIGGEST = 1 << 20
"""Bytes of a small file that is read whole; a larger one is damaged."""


def is_id(name: object) -> bool:
    """Whether a name can be that of a run: a plain name of a folder, never a path."""
    return (
        isinstance(name, str)
        and 0 < len(name.encode("utf-8", "surrogatepass")) <= LONGEST
        and name.isprintable()
        and not name.startswith(".")
        and not {*name} & {"/", "\\"}
    )


def is_run(folder: Path) -> bool:
    """Whether a folder, itself no link, is one of a run."""
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            return False
    except (OSError, ValueError):
        return False
    return any(os.path.lexists(folder / name) for name in ("config.yaml", JOB))


def run_ids(root: Path) -> list[str]:
    """The runs under a root.

    Raises:
        BitdialError: the root is a file, or cannot be read.
    """
    try:
        with os.scandir(root) as entries:
            names = [each.name for each in entries if is_id(each.name) and each.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise BitdialError(f"expected a folder of runs at {root}, got: {error.strerror}; give another") from error
    return sorted(name for name in names if is_run(root / name))


def folder_of(root: Path, run: str) -> Path:
    """The folder of a run.

    Raises:
        BitdialError: there is none of that id; the text has the nearest.
    """
    if is_id(run) and is_run(root / run):
        return root / run
    told = f"{run!r:.80}"
    known = run_ids(root)
    hint = suggest(str(run)[:LONGEST], known) or (
        f"; there are: {', '.join(known[:5])}" if known else "; there are none"
    )
    raise BitdialError(f"expected the id of a run under {root}, got {told}{hint}")


def read_bytes(path: Path, most: int = BIGGEST) -> bytes | None:
    """What a plain file holds; None where it is missing, is something else (a link, a pipe), or holds more."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError):
        return None
    with os.fdopen(handle, "rb") as file:
        with suppress(OSError):
            if stat.S_ISREG(os.fstat(handle).st_mode):
                content = file.read(most + 1)
                return content if len(content) <= most else None
        return None


def read_job(folder: Path) -> Job | None:
    """The job of a run; None where nobody manages it, or what is said of it is damaged."""
    data = read_bytes(folder / JOB)
    return None if data is None else parse_job(data)


def write_job(folder: Path, job: Job) -> None:
    """Write the job of a run, whose folder must be there."""
    write_atomically(folder / JOB, job.model_dump_json(indent=1), make_folder=False)


def change_job(folder: Path, changes: Callable[[Job], dict[str, Any] | None]) -> Job | None:
    """Change the job of a run, alone among all processes; return what it is then, None where there is none.

    Args:
        folder: of the run.
        changes: of the job as it is now; None leaves it.

    Raises:
        OSError: it cannot be written, or the folder is gone.
    """
    with held(folder / JOB_LOCK):
        job = read_job(folder)
        new = None if job is None else changes(job)
        if job is None or new is None:
            return job
        changed = job.model_copy(update=new)
        write_job(folder, changed)
        return changed
