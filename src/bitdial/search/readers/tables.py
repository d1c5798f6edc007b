"""CSV files: the log of one run or several, with a column of steps; or a table with a run in each row."""

from __future__ import annotations

import csv
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitdial.search.readers.found import RUNNING, FoundRun, Metrics, UnreadableError, number_in

MOST_RUNS = 10_000
"""More than that in one file are no runs."""
STEPS = ("step", "global_step", "_step", "trainer/global_step", "iteration", "iter", "epoch")
"""Names of the column that says which line of a log it is, the most exact first."""
SCOPES = ("phase", "experiment", "arm", "run", "run_id", "run_name", "trial", "seed")
"""Columns that tell the runs in one log apart."""
_NAMES = ("name", "run_name", "run", "run_id", "id", "number")
_STATES = {"complete": "finished", "crashed": RUNNING, "running": RUNNING, "fail": "failed"}
_METRICS, _SETTINGS = ("metrics.", "metrics/", "metric.", "values_"), ("config.", "config/", "params_", "params.")
_METRIC = re.compile(
    r"(?:^|[^a-z])(?:metrics?|values?|results?|scores?|objective|loss|acc|accuracy|error|err|psnr|ssim|lpips|bpp|"
    r"mse|mae|rmse|r2|auc|map|f1|i?ou|miou|dice|precision|recall|bleu|rouge|wer|cer|perplexity|ppl|nll|elbo|fid|"
    r"reward|return|val|valid|validation|test|eval|train|seconds|runtime|throughput)(?:[^a-z]|$)"
)
_MAY_BE_ODD = re.compile("[nN](?:[aA][nN]|[fF])").search  # NaN or infinity may be in a line


@dataclass
class Log:
    """The lines of one run in a log."""

    last: list[str]
    """The last text in each column."""
    odd: dict[int, tuple[float, str]] = field(default_factory=dict)
    """Column -> the first NaN or infinity in it, and the step."""
    rows: int = 0
    step: float = -1.0

    @property
    def steps(self) -> int:
        """The last step, or how many lines there are where it is no number."""
        return int(self.step) if 0 <= self.step < 2**63 else self.rows


class Table:
    """A CSV file, gone through with a line in memory at a time.

    Raises:
        UnreadableError: it is empty, or no text.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.notes = path, list[str]()
        if not path.is_file():  # a pipe of that name would never end
            raise FileNotFoundError(path)
        with path.open("rb") as file:
            start = file.read(4096)
        self._encoding = "utf-16" if start.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
        text = start.decode(self._encoding, "replace")
        if not text.strip():
            raise UnreadableError("an empty file")
        if "\0" in text or text.count("\ufffd") > len(text) / 20:
            raise UnreadableError("holds no text, though it is named as a table")
        self._delimiter = max(",;\t", key=text.splitlines()[0].count)
        self.columns = next(self._lines())
        places = {name.casefold(): at for at, name in reversed([*enumerate(self.columns)])}
        self.step_at = next((places[name] for name in STEPS if name in places), None)
        self.scopes = {name: places[name] for name in SCOPES if name in places}

    def _lines(self) -> Iterator[list[str]]:
        """Yield the header, then the rows that fit it."""
        self.notes, ragged = [], 0
        with self.path.open(encoding=self._encoding, errors="replace", newline="") as file:
            reader = csv.reader(file, delimiter=self._delimiter)
            try:
                header = next(reader, [])
                count = len(header)
                yield self._named(header)
                for row in reader:
                    if len(row) == count:
                        yield row
                    elif len(row) > count and not any(row[count:]):  # a delimiter at the end of each line
                        yield row[:count]
                    else:
                        ragged += bool(row)
            except (csv.Error, UnicodeError) as error:
                self.notes.append(f"line {reader.line_num}: {error}; what comes after is left out")
        if ragged:
            self.notes.append(f"rows that do not fit the header are left out: {ragged}")

    def _named(self, header: list[str]) -> list[str]:
        """The names of the columns, each once."""
        seen, names = Counter[str](), list[str]()
        for at, text in enumerate(header, 1):
            name = text.strip() or f"column {at}"
            seen[name] += 1
            names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
        if twice := [name for name, count in seen.items() if count > 1]:
            self.notes.append(f"columns of the same name, told apart by #2 and so on: {', '.join(twice)}")
        return names

    def rows(self) -> Iterator[list[str]]:
        """Yield the rows that fit the header."""
        lines = self._lines()
        next(lines)
        return lines

    def logs(self) -> tuple[dict[tuple[str, ...], Log], bool]:
        """The runs in a log, by what tells them apart; and whether its steps rise, as those of a log do."""
        logs, turns, rows = dict[tuple[str, ...], Log](), 0, 0
        if (step_at := self.step_at) is None:
            return logs, False
        scopes = list(self.scopes.values())
        for row in self.rows():
            key = tuple([row[at] for at in scopes])
            if (log := logs.get(key)) is None:
                if len(logs) == MOST_RUNS:
                    raise UnreadableError(f"holds more than {MOST_RUNS} runs, going by its column of steps")
                log = logs[key] = Log(row)
            log.last = [new or old for new, old in zip(row, log.last, strict=True)] if "" in row else row
            if _MAY_BE_ODD("".join(row)):
                for at, text in enumerate(row):
                    if text and text[-1] in "nNyYfF" and not math.isfinite(value := self.number(text, 0)):
                        log.odd.setdefault(at, (value, row[step_at]))
            try:
                step = float(row[step_at])
            except ValueError:
                step = log.step
            turns, rows = turns + (step < log.step), rows + 1
            log.rows, log.step = log.rows + 1, step
        return logs, bool(logs) and turns <= (rows - len(logs)) / 10

    def number(self, text: str, otherwise: Any = None) -> Any:
        """The number that a cell holds; with semicolons between cells, a comma may be its point."""
        value = number_in(text.replace(",", ".") if self._delimiter == ";" else text)
        return otherwise if value is None else value

    def setting(self, text: str) -> Any:
        """What a cell says of a run's settings."""
        return self.number(text, {"": None, "true": True, "false": False}.get(text.casefold(), text))

    def metrics(self, log: Log) -> Metrics:
        """The last number in each column of a log, but for those that say which line it is."""
        found = Metrics(odd={self.columns[at]: odd for at, odd in log.odd.items()})
        for at, text in enumerate(log.last):
            if (value := self.number(text)) is not None and self.columns[at].casefold() not in (*STEPS, *SCOPES):
                found.last[self.columns[at]] = float(value)
        return found


def read_csv(path: Path, name: str) -> list[FoundRun]:
    """Read the runs in a CSV file.

    With a column of steps that rise, each run is a log, its metrics the last number in each column. Otherwise each row
    is a run; which of its columns are metrics their names tell.

    Raises:
        UnreadableError: it is no table of either kind.
    """
    table = Table(path)
    logs, rising = table.logs()
    if not rising:
        return _a_run_each(table, name)
    runs = []
    for key, log in logs.items():
        config = {column: table.setting(text) for column, text in zip(table.scopes, key, strict=True)}
        metrics = table.metrics(log)
        own = name if len(logs) == 1 else f"{name}:{'-'.join(key)}"
        told = [*table.notes, *metrics.notes()]
        runs.append(FoundRun(own, "csv", path, "finished", config, metrics.last, log.steps, told))
    return runs


def _a_run_each(table: Table, name: str) -> list[FoundRun]:
    rows = list[list[str]]()
    for row in table.rows():
        if len(rows) == MOST_RUNS:
            raise UnreadableError(
                f"holds more than {MOST_RUNS} rows and no column of steps that rise: neither the log of a run nor a "
                "table of runs"
            )
        rows.append(row)
    if not rows:
        raise UnreadableError("holds no rows below a header")
    columns = zip(*rows, strict=True)
    numeric = [any(column) and all(not c or table.number(c) is not None for c in column) for column in columns]
    settings, metrics = _split(table.columns, numeric)
    if not metrics:
        raise UnreadableError(
            "has no column of steps and none that is named like a metric (loss, accuracy, psnr); if each of its rows "
            "is a run, call its metrics metrics.NAME"
        )
    low = [column.casefold() for column in table.columns]
    called = next((low.index(each) for each in _NAMES if each in low), None)
    state_at = low.index("state") if "state" in low else None
    runs = []
    for index, row in enumerate(rows, 1):
        values = {bare: table.number(row[at]) for at, bare in metrics.items()}
        found = Metrics({bare: float(value) for bare, value in values.items() if value is not None})
        missing = [bare for bare, value in values.items() if value is None]
        told = [*table.notes, *found.notes(), *([f"no value of {', '.join(missing)}"] if missing else [])]
        config = {bare: table.setting(row[at]) for at, bare in settings.items() if at not in (called, state_at)}
        state = row[state_at].casefold() if state_at is not None else ""
        state = _STATES.get(state, state if state in ("failed", "pruned") else "finished")
        own = f"{name}#{index if called is None else row[called]}"
        runs.append(FoundRun(own, "csv", table.path, state, config, found.last, None, told, name))
    return runs


def _split(columns: Sequence[str], numeric: Sequence[bool]) -> tuple[dict[int, str], dict[int, str]]:
    """Which columns of a table of runs are settings and which metrics, and their names without a prefix."""
    settings, metrics = dict[int, str](), dict[int, str]()
    for at, (name, is_numeric) in enumerate(zip(columns, numeric, strict=True)):
        low = name.casefold()
        said = next((prefix for prefix in (*_METRICS, *_SETTINGS) if low.startswith(prefix)), "")
        is_metric = said in _METRICS if said else _METRIC.search(low)
        (metrics if is_numeric and is_metric else settings)[at] = name[len(said) :] or name
    return settings, metrics
