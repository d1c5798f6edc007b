"""A CSV file that grows row by row and never holds half a row."""

from __future__ import annotations

import csv
import io
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bitdial.errors import BitdialError
from bitdial.files import write_atomically


class CsvLog:
    """Append rows of named values to a CSV file.

    A row goes to disk in one `write` to a file opened for appending, so that a process that is killed leaves whole rows
    only. The columns are those of the first row; a row with a new column rewrites the file under the wider header,
    aside and then moved into place. Values that a row lacks stay blank.

    Args:
        path: the file; an existing one is continued, a half row at its end (of a machine that went down) cut off.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.columns: list[str] = []
        self._handle: int | None = None
        if self.path.exists():
            self._repair()

    def _repair(self) -> None:
        whole = self.path.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            os.truncate(self.path, end)
        header = whole[:end].split(b"\n", 1)[0].decode("utf-8", errors="replace")
        self.columns = next(csv.reader([header]), [])

    def rows(self) -> list[dict[str, str]]:
        """Return all rows, values as text; rows that do not fit the header are left out with a warning."""
        if not self.columns:
            return []
        with self.path.open(encoding="utf-8", errors="replace", newline="") as file:
            lines = list(csv.reader(line.replace("\0", "") for line in file))[1:]
        sound = [dict(zip(self.columns, cells, strict=True)) for cells in lines if len(cells) == len(self.columns)]
        if len(sound) < len(lines):
            warnings.warn(f"{self.path}: {len(lines) - len(sound)} damaged rows were left out", stacklevel=2)
        return sound

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row.

        Raises:
            BitdialError: the file cannot be written; what was there before stays whole.
        """
        text = {name: _cell(value) for name, value in row.items()}
        new = [name for name in text if name not in self.columns]
        try:
            if new:
                earlier = self.rows()
                self.columns += new
                self._rewrite([*earlier, text])
            else:
                self._append_line(_line(text.get(name, "") for name in self.columns))
        except OSError as error:
            raise BitdialError(
                f"cannot write {self.path}: {error.strerror}; check the path and the free space, then resume"
            ) from error

    def keep(self, wanted: Callable[[dict[str, str]], bool]) -> None:
        """Drop the rows that `wanted` refuses; the file is untouched when it refuses none."""
        rows = self.rows()
        kept = [row for row in rows if wanted(row)]
        if len(kept) < len(rows):
            self._rewrite(kept)

    def close(self) -> None:
        """Close the file; a later `append` opens it again."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _append_line(self, line: bytes) -> None:
        if self._handle is None:
            self._handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        size = os.fstat(self._handle).st_size
        if (written := os.write(self._handle, line)) < len(line):
            os.ftruncate(self._handle, size)  # a full disk takes part of a line; take that back
            raise OSError(28, f"only {written} of {len(line)} bytes fitted")

    def _rewrite(self, rows: Iterable[Mapping[str, str]]) -> None:
        lines = [_line(self.columns), *(_line(row.get(name, "") for name in self.columns) for row in rows)]
        self.close()  # the open file is about to be another one
        write_atomically(self.path, b"".join(lines))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return " ".join(value.split())  # a line break inside a cell would look like half a row
    if isinstance(value, int):
        return str(int(value))
    return repr(float(value))


def _line(cells: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(list(cells))
    return text.getvalue().encode()
