"""The log of a run, and the copy of it that ``--csv_log`` asks for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitdial.errors import BitdialError
from bitdial.training import CsvLog, MetricsLog


class CopiedLog(MetricsLog):
    """A `MetricsLog` whose rows go to a second CSV file too.

    Args:
        folder, scope: as for `MetricsLog`.
        copy: the second file, or None.
    """

    def __init__(self, folder: Path, *, scope: Mapping[str, str | int] | None, copy: Path | None) -> None:
        super().__init__(folder, scope=scope)
        self._copy_path = copy
        self._copy: CsvLog | None = None

    def rewind(self, rows: int, step: int) -> None:
        """Go back to the state after the first `rows` rows; the copy is made again from what is left."""
        super().rewind(rows, step)
        if self._copy_path is None:
            return
        kept = self._file().rows()
        self._copy = CsvLog(self._copy_path)
        self._copy.keep(lambda _: False)
        for row in kept:
            self._copy.append(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row to both."""
        super().write(row)
        if self._copy is not None:
            self._copy.append({**self.scope, **row})

    def close(self) -> None:
        """Close all files."""
        super().close()
        if self._copy is not None:
            self._copy.close()
            self._copy = None


def check_copy(path: Path | None) -> None:
    """Refuse a file for ``--csv_log`` that a new run would write over, or that cannot be there.

    Raises:
        BitdialError: it exists, or its folder does not.
    """
    if path is None:
        return
    if path.exists():
        what = "a folder" if path.is_dir() else "a file"
        raise BitdialError(f"csv_log must name a new file, got {path}, which is {what} already; choose another name")
    if not path.absolute().parent.is_dir():
        raise BitdialError(f"csv_log must lie in a folder that exists, got {path}; make the folder first")
