"""The log of a run: every row in `metrics.csv`, of single layers in `layers.csv`, every number in TensorBoard."""

from __future__ import annotations

import csv
import io
import os
import re
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitdial.errors import BitdialError
from bitdial.files import write_atomically
from bitdial.training.trackers import track

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class CsvLog:
    """Append rows of named values to a CSV file, an existing one too, whose half row at the end is cut off.

    A row goes to disk in one `write` to a file opened for appending, so that a process that is killed leaves whole rows
    only. The columns are those of the first row; a row with a new column rewrites the file under the wider header,
    aside and then moved into place. Values that a row lacks stay blank.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.columns: list[str] = []
        self._handle: int | None = None
        if self.path.exists():
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


class MetricsLog:
    """Write rows of numbers to ``FOLDER/metrics.csv``, to TensorBoard event files, and to `copy`, a second CSV file.

    `scope` are constant columns that tell the phases of one run apart, such as ``{"phase": "static_4bit", "seed": 1}``.
    Numbers of single layers go to ``layers.csv``, so that `metrics.csv` stays narrow enough to be read as it grows.
    The phases share these files; each has its own folder of event files, ``tensorboard/cpt-0`` say, because steps
    start anew in each.

    The tracker that is `tracked` meanwhile, or a run of wandb that the process has begun (``wandb.init()``), gets every
    number too, under the names of TensorBoard. Trackers forget nothing: a step which they have is not told again by a
    run that went back to its last checkpoint.

    The log holds nothing that depends on the clock, so that the files of a resumed run equal those of a run that was
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
        self._tensorboard = tensorboard
        self._csv: CsvLog | None = None
        self._layers: CsvLog | None = None
        self._copy_path = copy
        self._copy: CsvLog | None = None
        self._events: SummaryWriter | None = None
        self._first_step: int | None = None
        self._told = -1  # the last step that was logged before going back

    def rewind(self, rows: int, step: int) -> None:
        """Go back to the state after the first `rows` rows of this scope, the last of them at `step`.

        Later rows of the scope, written by a run that went on after its last checkpoint, are dropped; event files are
        told to forget what comes after `step`. A fresh run rewinds to ``(0, 0)``, and one that begins with a checkpoint
        of another log to the rows and the step that this had.
        """
        seen, steps = 0, set[str]()

        def mine(row: dict[str, str]) -> bool:
            return all(row.get(name, "") == str(value) for name, value in self.scope.items())

        def wanted(row: dict[str, str]) -> bool:
            nonlocal seen
            if not mine(row):
                return True
            seen += 1
            if seen > rows or float(row.get("step") or 0) > step:
                self._told = max(self._told, int(float(row.get("step") or 0)))
                return False
            steps.add(row.get("step", ""))
            return True

        self._file().keep(wanted)
        self._layers_file().keep(lambda row: not mine(row) or row.get("step", "") in steps)
        self._first_step = step + 1 if rows else 0
        if self._copy_path is not None:  # made again from what is left
            kept = self._file().rows()
            try:
                self._copy_path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BitdialError(f"cannot make the folder of csv_log {self._copy_path}: {error.strerror}") from error
            self._copy = CsvLog(self._copy_path)
            self._copy.keep(lambda _: False)
            for row in kept:
                self._copy.append(row)

    def write(self, row: Mapping[str, Any], layers: Mapping[str, float] | None = None) -> None:
        """Write one row; ``row["step"]`` is its place in TensorBoard.

        Values are numbers, or text, which goes to `metrics.csv` only. NaN is written as ``nan``.

        Args:
            row: of the network as a whole.
            layers: of its layers.
        """
        if layers:
            place = {name: row[name] for name in ("step", "epoch") if name in row}
            self._layers_file().append({**self.scope, **place, **layers})
        self._file().append({**self.scope, **row})
        if self._copy is not None:
            self._copy.append({**self.scope, **row})
        # train_loss is shown as train/loss; a name that has a slash of its own is a tag as it stands
        numbers = {
            re.sub("^(train|val)_", r"\1/", name): float(value)
            for name, value in {**row, **(layers or {})}.items()
            if name != "step" and not isinstance(value, str) and value is not None
        }
        if (events := self._writer()) is not None:
            for tag, value in numbers.items():
                events.add_scalar(tag, value, int(row["step"]))
        begin = f"{self._phase}/" if self._phase else ""  # whose steps start anew
        step = int(row["step"])
        if step > self._told:
            track({f"{begin}{tag}": value for tag, value in {**numbers, "step": step}.items()}, step)

    def draw(self, tag: str, figure: Any, step: int) -> None:
        """Show a matplotlib figure in TensorBoard."""
        if (events := self._writer()) is not None:
            events.add_figure(tag, figure, step, close=False)  # closing is for figures of pyplot

    def _writer(self) -> SummaryWriter | None:
        """The event file of this scope, opened when the first thing is written into it."""
        if self._events is None and self._tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # a second of imports, for the one process that logs

            place = self.folder / "tensorboard" / self._phase if self._phase else self.folder
            _wait_for_a_later_second(place)
            self._events = SummaryWriter(str(place), purge_step=self._first_step, flush_secs=10)
        return self._events

    @property
    def _phase(self) -> str:
        return "-".join(str(value) for value in self.scope.values())

    def flush(self) -> None:
        """Bring the event files up to date; rows of `metrics.csv` always are."""
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Close all files."""
        for file in (self._csv, self._layers, self._copy, self._events):
            if file is not None:
                file.close()
        self._csv = self._layers = self._copy = self._events = None

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _file(self) -> CsvLog:
        if self._csv is None:
            self._csv = CsvLog(self.folder / "metrics.csv")
        return self._csv

    def _layers_file(self) -> CsvLog:
        if self._layers is None:
            self._layers = CsvLog(self.folder / "layers.csv")
        return self._layers


def _wait_for_a_later_second(place: Path) -> None:
    """Wait until event files that are there were made in an earlier second, which their names begin with.

    Readers take them in the order of their names, so that of two of one second the later steps might come first, and be
    dropped as those of a run that was begun again.
    """
    made = [path.name.split(".")[3] for path in place.glob("events.out.tfevents.*")]
    newest = max((int(second) for second in made if second.isdigit()), default=0)
    while 0 <= newest - int(time.time()) < 2:  # one from the future, of a clock that was wrong, is not waited for
        time.sleep(0.02)


def check_copy(path: Path) -> None:
    """Refuse (`BitdialError`) a copy of a log that would write over something, or that no folder can be made for."""
    if path.exists():
        what = "a folder" if path.is_dir() else "a file"
        raise BitdialError(f"csv_log must name a new file, got {path}, which is {what} already; choose another name")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        what = "may not be written to" if above.is_dir() else "is a file"
        raise BitdialError(
            f"csv_log must lie where a folder can be made, got {path}, but {above} {what}; choose another"
        )


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
