"""What is done with one picture, in whichever process."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from bitdial.commands.picture_paths import Job, older
from bitdial.compression.codec import Codec, Progress
from bitdial.compression.coding.container import MAGIC, File, read
from bitdial.compression.pictures import read_picture, software_of, write_picture
from bitdial.errors import BitdialError
from bitdial.files import write_atomically
from bitdial.recipes.compress.codecs import load_codec
from bitdial.training.step.memory import is_out_of_memory

_ANY_SIZE = 2**64


@dataclass(frozen=True)
class Task:
    """A job, and what it is to be done with.

    Attributes:
        job: the two files.
        model: run or file of the codec.
        model_id: of that codec.
        max_pixels: the largest picture that there is memory for.
        preview: how many coding steps are decoded; None: all.
    """

    job: Job
    model: Path
    model_id: str
    max_pixels: int
    preview: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        read, written: bytes of the two files.
        pixels: of the picture.
        notes: what is to be said of it.
        failure: why nothing was made.
        stop: whether others would fail for the same reason.
    """

    read: int = 0
    written: int = 0
    pixels: int = 0
    notes: tuple[str, ...] = ()
    failure: str = ""
    stop: bool = False


def compress(task: Task, progress: Progress | None = None) -> Outcome:
    """Make a compressed file of a picture; `progress` is told of its tiles."""

    def make() -> tuple[Callable[[], Path], int, tuple[str, ...]]:
        with job.source.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                raise BitdialError(f"{job.source} is compressed already; `bitdial decompress` makes a picture of it")
        picture = read_picture(job.source, max_pixels=task.max_pixels)
        data = codec(task.model, task.model_id).compress(picture.pixels, picture.mode, progress=progress)
        return lambda: write_atomically(job.target, data), picture.pixels[0].numel(), picture.notes

    job = task.job
    return _outcome(job, make)


def decompress(task: Task, progress: Progress | None = None) -> Outcome:
    """Make a picture of a compressed file; `progress` is told of its tiles."""

    def make() -> tuple[Callable[[], Path], int, tuple[str, ...]]:
        own = codec(task.model, task.model_id)
        data = job.source.read_bytes()
        file = read(data, max_pixels=_ANY_SIZE, path=str(job.source))
        limits = {"max_pixels": task.max_pixels, "path": str(job.source)}
        picture = own.decompress(data, preview=task.preview, progress=progress, **limits)  # type: ignore[arg-type]
        said = origin(file, task.preview)
        write = lambda: write_picture(job.target, picture.pixels, picture.mode, software=said)  # noqa: E731
        return write, picture.pixels[0].numel(), picture.notes

    job = task.job
    return _outcome(job, make)


def compressed_there(job: Job, model_id: str) -> str | None:
    """What is where a compressed picture is to be; None: that picture, whole, by the same codec."""
    if job.target.is_dir():
        return "a folder"
    try:
        file = read(job.target.read_bytes(), max_pixels=_ANY_SIZE)
    except (BitdialError, OSError):
        return "no whole compressed picture"
    if file.model_id != model_id:
        return "of another model"
    return "older than its picture" if older(job) else None


def picture_there(job: Job, file: File, preview: int | None) -> str | None:
    """What is where a decompressed picture is to be; None: that picture."""
    if job.target.is_dir():
        return "a folder"
    there, expected = software_of(job.target), origin(file, preview)
    if there.rpartition(" ")[0] == expected.rpartition(" ")[0]:
        return None if there == expected else "the same picture with other coding steps"
    return "another file"


def header(job: Job) -> File:
    """What a compressed picture says of itself.

    Raises:
        BitdialError: it is none, or cannot be read.
    """
    try:
        return read(job.source.read_bytes(), max_pixels=_ANY_SIZE, path=str(job.source))
    except OSError as error:
        raise BitdialError(f"{job.source} cannot be read: {error.strerror}") from error


def origin(file: File, preview: int | None) -> str:
    """What a decompressed picture is marked with: by that it is known when a command is taken up again."""
    return f"bitdial {file.model_id} {file.symbols_crc:08x} {preview or 'all'}"


def one_thread() -> None:
    """Leave the other cores to the other processes."""
    torch.set_num_threads(1)


def codec(model: Path, model_id: str = "") -> Codec:
    """The codec of a run or file, loaded once where it is known which one it must be.

    Raises:
        BitdialError: it has become another one.
    """
    if not model_id:
        _loaded.cache_clear()
    found = _loaded(model)
    if model_id not in ("", found.model_id):
        raise BitdialError(f"{model} must hold the codec {model_id}, got {found.model_id}: it has changed; start again")
    return found


@lru_cache(4)
def _loaded(model: Path) -> Codec:
    return load_codec(model)


def _outcome(job: Job, make: Callable[[], tuple[Callable[[], Path], int, tuple[str, ...]]]) -> Outcome:
    try:
        before = job.source.stat().st_size
        write, pixels, notes = make()
    except BitdialError as error:
        return Outcome(failure=str(error))
    except OSError as error:
        return Outcome(failure=f"{job.source} cannot be read: {error.strerror}")
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return Outcome(failure=f"{job.source} needs more memory than there is; try fewer --jobs, or scale it down")
    try:
        write()
        return Outcome(before, job.target.stat().st_size, pixels, notes)
    except (BitdialError, OSError) as error:
        number = getattr(error if isinstance(error, OSError) else error.__cause__, "errno", None)
        if number is None:
            return Outcome(failure=str(error))
        reason = f"{job.target} cannot be written: {os.strerror(number)}"
        return Outcome(failure=reason, stop=number != errno.ENAMETOOLONG)
