"""The log of a run: every row in `metrics.csv`, every number in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitdial.errors import BitdialError
from bitdial.training.csv_log import CsvLog

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class MetricsLog:
    """Write rows of numbers to ``FOLDER/metrics.csv`` and to TensorBoard event files.

    Args:
        folder: the run's folder, which exists.
        scope: constant columns that tell the phases of one run apart, such as ``{"phase": "static_4bit", "seed": 1}``.
            The phases share `metrics.csv`; each has its own folder of event files, ``tensorboard/cpt-0`` say, because
            steps start anew in each.
        tensorboard: write event files too.
        copy: a second CSV file that gets the same rows, or None.

    The log holds nothing that depends on the clock, so that a resumed run's `metrics.csv` equals that of a run that was
    never stopped. No file is touched before the first `rewind` or `write`: only one process of a run may do these.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        scope: Mapping[str, str | int] | None = None,
        tensorboard: bool = True,
        copy: Path | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.scope = dict(scope or {})
        self.rows = 0
        """Rows written in this scope so far."""
        self._tensorboard = tensorboard
        self._csv: CsvLog | None = None
        self._copy_path = copy
        self._copy: CsvLog | None = None
        self._events: SummaryWriter | None = None
        self._first_step: int | None = None

    def rewind(self, rows: int, step: int) -> None:
        """Go back to the state after the first `rows` rows of this scope, the last of them at `step`.

        Later rows of the scope, written by a run that went on after its last checkpoint, are dropped; event files are
        told to forget what comes after `step`. A fresh run rewinds to ``(0, 0)``.
        """
        seen = 0

        def wanted(row: dict[str, str]) -> bool:
            nonlocal seen
            if any(row.get(name, "") != str(value) for name, value in self.scope.items()):
                return True
            seen += 1
            return seen <= rows

        self._file().keep(wanted)
        self.rows = min(seen, rows)
        self._first_step = step + 1 if rows else None
        if self._copy_path is not None:  # made again from what is left
            kept = self._file().rows()
            self._copy = CsvLog(self._copy_path)
            self._copy.keep(lambda _: False)
            for row in kept:
                self._copy.append(row)

    def write(self, row: Mapping[str, Any]) -> None:
        """Write one row; ``row["step"]`` is its place in TensorBoard.

        Values are numbers, or text, which goes to `metrics.csv` only. NaN is written as ``nan``.
        """
        self._file().append({**self.scope, **row})
        if self._copy is not None:
            self._copy.append({**self.scope, **row})
        self.rows += 1
        if self._tensorboard:
            writer = self._writer()
            for name, value in row.items():
                if name != "step" and not isinstance(value, str) and value is not None:
                    writer.add_scalar(_tag(name), float(value), int(row["step"]))

    def flush(self) -> None:
        """Bring the event files up to date; rows of `metrics.csv` always are."""
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Close all files."""
        for file in (self._csv, self._copy):
            if file is not None:
                file.close()
        self._csv = self._copy = None
        if self._events is not None:
            self._events.close()
            self._events = None

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _file(self) -> CsvLog:
        if self._csv is None:
            self._csv = CsvLog(self.folder / "metrics.csv")
        return self._csv

    def _writer(self) -> SummaryWriter:
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter  # a second of imports, for the one process that logs

            phase = "-".join(str(value) for value in self.scope.values())
            place = self.folder / "tensorboard" / phase if phase else self.folder
            self._events = SummaryWriter(str(place), purge_step=self._first_step, flush_secs=10)
        return self._events


def check_copy(path: Path) -> None:
    """Refuse a file for the copy of a log that a new run would write over, or that cannot be there.

    Raises:
        BitdialError: it exists, or its folder does not.
    """
    if path.exists():
        what = "a folder" if path.is_dir() else "a file"
        raise BitdialError(f"csv_log must name a new file, got {path}, which is {what} already; choose another name")
    if not path.absolute().parent.is_dir():
        raise BitdialError(f"csv_log must lie in a folder that exists, got {path}; make the folder first")


def _tag(name: str) -> str:
    """Return the TensorBoard tag of a column: ``train_loss`` is shown as ``train/loss``."""
    for group in ("train_", "val_"):
        if name.startswith(group):
            return f"{group[:-1]}/{name[len(group) :]}"
    return name
