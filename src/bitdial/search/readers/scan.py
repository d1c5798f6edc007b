"""Going through a folder: what is a run, which reader it needs, and what belongs to another run and is none."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from bitdial.files import as_text
from bitdial.search.readers import sqlite_files, trials
from bitdial.search.readers.bitdial_runs import OWN_FILES, OWN_FOLDERS, is_bitdial_run, read_bitdial
from bitdial.search.readers.found import FoundRun, Unread, UnreadableError, natural
from bitdial.search.readers.json_folders import METRICS, read_json, settings_beside
from bitdial.search.readers.tables import read_csv

Reader = Callable[[Path, str], list[FoundRun]]
_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})
_OF_WANDB = frozenset({"files", "logs", "tmp"})
"""Folders beside a record file, with copies of what is in it."""
_NAMED_SO = (".csv", ".tsv", ".wandb", ".db", ".sqlite", ".sqlite3")


class Scan:
    """What is found in a folder, or in a single file."""

    def __init__(self, root: Path) -> None:
        self.runs, self.unread = list[FoundRun](), list[Unread]()
        self._root, self._real = root, os.path.realpath(root)
        self._events = dict[Path, list[Path]]()
        self._beside = dict[Path, dict[str, Any]]()
        self._linked = set[str]()  # folders elsewhere that links lead to; they may lead in circles

    def go(self) -> None:
        """Go through all of it."""
        if not self._root.is_dir():
            self._file(self._root)
        waiting = [self._root] if self._root.is_dir() else []
        while waiting:
            waiting += self._folder(waiting.pop())
        if self._events:
            from bitdial.search.readers.tensorboard_runs import read_tensorboard  # numpy, protobuf

            runs, unread = read_tensorboard(self._events, self._name)
            self.runs += [self._with_settings(run) for run in runs]
            self.unread += unread

    def _folder(self, folder: Path) -> list[Path]:
        """Read what is in a folder; return the folders in it."""
        try:
            names = sorted(each for each in os.listdir(folder) if each == ".wandb" or not each.startswith("."))
        except OSError as error:
            self._not_read(folder, error)
            return []
        if is_bitdial_run(folder):
            self._read(read_bitdial, folder, self._name(folder))
            names = [each for each in names if each not in OWN_FILES | OWN_FOLDERS and "tfevents" not in each]
        if any(each.endswith(".wandb") for each in names):
            names = [each for each in names if each not in _OF_WANDB]
        if several := [each for each in METRICS if each in names][1:]:  # one run, told in several files
            names = [each for each in names if each not in several]
        return [path for path in (folder / each for each in names) if self._is_folder(path)]

    def _is_folder(self, path: Path) -> bool:
        """Read what is a file; tell whether it is a folder to go through."""
        try:
            mode = path.stat().st_mode
        except OSError as error:
            self._not_read(path, "a link that leads nowhere" if path.is_symlink() else error)
            return False
        if path.is_symlink():
            real = os.path.realpath(path)
            if real in self._linked or f"{real}{os.sep}".startswith(f"{self._real}{os.sep}"):
                return False  # is met, or was met, where it really is
            self._linked.add(real)
        if stat.S_ISREG(mode):
            self._file(path)
            return False
        if path.name.endswith(_NAMED_SO) or path.name in METRICS:
            self._not_read(path, "a folder that is named as a file" if stat.S_ISDIR(mode) else "no regular file")
        return stat.S_ISDIR(mode) and path.name not in _SKIPPED

    def _file(self, path: Path) -> None:
        name = path.name.lower()
        if "tfevents" in name:
            self._events.setdefault(path.parent, []).append(path)
        elif name.endswith(".wandb"):
            from bitdial.search.readers.wandb_files import read_wandb  # protobuf

            beside = [each for each in path.parent.glob("*.wandb") if each != path]
            self._read(read_wandb, path, self._name(path if beside or path == self._root else path.parent))
        elif name.endswith((".csv", ".tsv")):
            self._read(read_csv, path, self._name(path))
        elif name in METRICS:
            self._read(read_json, path, self._name(path if path == self._root else path.parent))
        else:
            self._other(path)

    def _other(self, path: Path) -> None:
        """Databases and journals have any name: what they begin with tells."""
        try:
            with path.open("rb") as file:
                start = file.read(16)
        except OSError as error:
            if path.name.endswith(_NAMED_SO):
                self._not_read(path, error)
            return
        if start.startswith(trials.MAGIC):
            self._read(trials.read_journal, path, self._name(path))
        elif start == sqlite_files.MAGIC:
            self._read(sqlite_files.read_sqlite, path, self._name(path))
        elif path.name.endswith(_NAMED_SO):
            self._not_read(path, "does not begin as a database of SQLite does" if start else "an empty file")

    def _read(self, reader: Reader, path: Path, name: str) -> None:
        try:
            found = reader(path, name)
        except Exception as error:  # whatever lies there, the other runs are to be read
            self._not_read(path, error)
        else:
            self.runs += [self._with_settings(run) for run in found]

    def _with_settings(self, run: FoundRun) -> FoundRun:
        """Give the run of a log the settings that lie beside it."""
        if run.source in ("tensorboard", "json") or (run.source == "csv" and run.steps is not None):
            beside = settings_beside(run.path, self._beside, run.notes)
            run.config = {**beside, **run.config}
        return run

    def _name(self, path: Path) -> str:
        """The path below the folder."""
        return as_text(path.resolve().name if path == self._root else path.relative_to(self._root).as_posix())

    def _not_read(self, path: Path, why: object) -> None:
        if isinstance(why, OSError):
            why = f"cannot be opened ({why.strerror})"
        elif isinstance(why, Exception) and not isinstance(why, UnreadableError):
            why = f"damaged in a way that no reader knows ({type(why).__name__}: {why})"
        self.unread.append(Unread(path, str(why)))


def settled(runs: Iterable[FoundRun]) -> list[FoundRun]:
    """Runs in the order of their names, each name once, and each run once that was told of in two places."""
    runs = trials.joined(list(runs))
    copies = [Path(run.config["csv_log"]) for run in runs if run.source == "bitdial" and run.config.get("csv_log")]
    runs = [run for run in runs if not (run.source == "csv" and any(_ends(run.path, copy) for copy in copies))]
    seen = Counter[str]()
    for run in sorted(runs, key=lambda run: (natural(run.name), str(run.path))):
        seen[run.name] += 1
        if seen[run.name] > 1:
            run.name += f" ({seen[run.name]})"
    return sorted(runs, key=lambda run: natural(run.name))


def _ends(path: Path, end: Path) -> bool:
    """Whether a path ends with another, as the same file does that is seen from elsewhere."""
    parts = end.parts[1:] if end.is_absolute() else end.parts
    return path.absolute().parts[-len(parts) :] == parts
