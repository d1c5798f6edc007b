"""The output of a run, and its growing table of numbers: read in pieces, whatever their size."""

from __future__ import annotations

import csv
import ctypes
import os
import re
import stat
from contextlib import suppress
from io import BufferedReader
from pathlib import Path

from bitdial.app.records import LogPart, SeriesPart

MOST_TEXT = 64 * 1024
"""Bytes of output that are given at once."""
MOST_ROWS = 256 * 1024
"""Bytes of rows that are given at once."""
BIGGEST_OUTPUT = 16 << 20
"""Bytes on the disk from which on only the last ones of an output are kept there."""
KEPT_OUTPUT = 1 << 20
_BLOCK = 1 << 16
_PUNCH_HOLE_KEEP_SIZE = 3
"""``FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE`` of Linux' ``falloc.h``."""
_CONTROLS = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\x1b\]|\x9d)[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)|\x1b[@-_]"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f]"
)
"""Colours, moves of the cursor, and what else a terminal would act upon, in seven bits and in eight; tabs and line ends
are none."""


def read_output(path: Path, since: int | None) -> LogPart:
    """A piece of an output.

    Args:
        path: the file.
        since: offset from which to read; None, or one that it does not reach: the last piece.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        tail = since is None or not 0 <= since <= size
        begin = max(0, size - MOST_TEXT) if tail or since is None else _kept_from(file.fileno(), since, size)
        file.seek(begin)
        data = file.read(MOST_TEXT)
        if begin and (tail or begin != since):  # from a whole line on
            cut = data.find(b"\n") + 1
            begin, data = begin + cut, data[cut:]
        data = data[: _whole(data)] or data  # not to the middle of a letter
    return LogPart(plain(data), begin, begin + len(data), begin + len(data) < size)


def _kept_from(handle: int, since: int, size: int) -> int:
    """Where output begins that is still there, from an offset on."""
    try:
        return os.lseek(handle, since, os.SEEK_DATA) if since < size else since
    except (AttributeError, OSError):  # a system or a disk without holes
        return since


def last_lines(path: Path, lines: int = 12, most: int = 4096) -> str:
    """The last lines of an output, or nothing where there is none."""
    with suppress(OSError), open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - most))
        return "\n".join(plain(file.read(most)).strip().split("\n")[-lines:]).strip()
    return ""


def plain(data: bytes) -> str:
    """Output as text without what a terminal would act upon; of a line that overwrote itself, what was last seen."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n")
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return harmless("\n".join(lines))


def harmless(text: object) -> str:
    """Something as text without what a terminal would act upon; nothing, where it is nothing."""
    return _CONTROLS.sub("", str(text or ""))


def bound(path: Path) -> None:
    """Give back the disk that the older part of an output takes, where it has become big; offsets stay as they were.

    Nothing that is written meanwhile is lost. Where the disk knows no holes, the file stays whole.
    """
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        facts = os.fstat(handle)
        if facts.st_blocks * 512 > BIGGEST_OUTPUT:
            end = (facts.st_size - KEPT_OUTPUT) // _BLOCK * _BLOCK
            fallocate = ctypes.CDLL(None, use_errno=True).fallocate
            fallocate(handle, _PUNCH_HOLE_KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(end))
    except AttributeError:  # not Linux
        return
    finally:
        os.close(handle)


def read_series(path: Path, since: str) -> SeriesPart:
    """Rows of a CSV file that grows, or is written anew under a wider header.

    Args:
        path: the file.
        since: what an earlier piece said, or nothing.
    """
    with open_plain(path) as file:
        facts = os.fstat(file.fileno())
        head = file.readline(MOST_TEXT)
        if not head.endswith(b"\n"):
            return SeriesPart([], "", True, False)
        which = f"{facts.st_ino}.{len(head)}"
        known, _, told = since.partition(":")
        same = known == which and told.isdecimal() and len(head) <= int(told[:19]) <= facts.st_size
        begin = int(told) if same else len(head)
        file.seek(begin)
        data = file.read(MOST_ROWS)
    end = data.rfind(b"\n") + 1
    columns = next(csv.reader([head.decode("utf-8", "replace")]), [])
    lines = csv.reader(data[:end].decode("utf-8", "replace").replace("\0", "").splitlines())
    rows = [
        {name: number(cell) for name, cell in zip(columns, cells, strict=True) if cell}
        for cells in lines
        if len(cells) == len(columns)
    ]
    return SeriesPart(rows, f"{which}:{begin + end}", not same, begin + len(data) < facts.st_size and end > 0)


def number(cell: str) -> float | str:
    """A number, where it is one."""
    try:
        return float(cell)
    except ValueError:
        return cell


def open_plain(path: Path) -> BufferedReader:
    """Open a plain file; never a link, and never a pipe, which would make the reader wait.

    Raises:
        OSError: it is missing, or something else.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"{path} is no plain file")
    return os.fdopen(handle, "rb")


def _whole(data: bytes) -> int:
    """How many bytes of a piece are whole letters of UTF-8."""
    for back in range(1, min(4, len(data)) + 1):
        lead = data[-back]
        if lead & 0xC0 != 0x80:
            wanted = 4 if lead >= 0xF0 else 3 if lead >= 0xE0 else 2 if lead >= 0xC0 else 1
            return len(data) if wanted <= back else len(data) - back
    return len(data)
