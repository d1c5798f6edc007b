"""One series of checkpoints on disk: what there is, which are worth keeping, saving one, dropping the others."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import shutil
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch.serialization import get_unsafe_globals_in_checkpoint

from bitdial.errors import BitdialError
from bitdial.training.checkpoint.sealing import DamagedCheckpoint, read_header
from bitdial.training.checkpoint.writing import point, remove, save_sealed, save_text, sweep, sync_folder

logger = logging.getLogger("bitdial.training.checkpoint")

PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME = re.compile(rf"(?P<prefix>{PREFIX.pattern})-(?P<number>\d{{6,}})-epoch\d{{4,}}(?:-step\d+)?\.pt")


@dataclass(frozen=True)
class Record:
    """One checkpoint file, as its own name and header describe it."""

    path: Path
    number: int
    """Counts the saves of this series; the order of the files."""
    epoch: int
    step: int | None
    metric: float | None
    """The value that the file is ranked by; may be NaN or infinite."""
    metric_name: str
    higher_is_better: bool
    marked: bool
    """Whether the caller called it the best."""

    @property
    def ranked(self) -> bool:
        """Whether the metric can be compared at all."""
        return self.metric is not None and math.isfinite(self.metric)

    def header(self, prefix: str) -> dict[str, Any]:
        """Return the header to seal the file with."""
        values = asdict(self)
        del values["path"]
        if self.metric is not None and not self.ranked:
            values["metric"] = repr(self.metric)  # JSON has no NaN
        return {"format": 1, "prefix": prefix, **values}


def prefix_of(name: str) -> str | None:
    """Return the prefix of a name that looks like a checkpoint of any series, or None."""
    match = _NAME.fullmatch(name)
    return match["prefix"] if match else None


class Registry:
    """The checkpoints of one series in one folder, as the files themselves tell."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix
        self.records: list[Record] = []
        """The readable files, oldest first."""
        self.damaged: dict[str, str] = {}
        """File name -> reason, of files of this series that cannot be used."""
        self.names: list[str] = []
        """Everything in the folder at the last look."""
        self._known: dict[str, Record | None] = {}

    def look(self) -> list[Record]:
        """Bring the registry up to date with the folder, and return its records; only new files are opened."""
        try:
            self.names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            self.names = []
        present = {name for name in self.names if self.number_of(name) is not None}
        self.damaged = {name: why for name, why in self.damaged.items() if name in present}
        self._known = {name: record for name, record in self._known.items() if name in present}
        for name in sorted(present - self._known.keys() - self.damaged.keys()):
            try:
                self._known[name] = self._read_record(self.folder / name)
            except DamagedCheckpoint as error:
                self.damaged[name] = error.reason
            except FileNotFoundError:
                continue  # removed since the listing
            except (OSError, KeyError, TypeError, ValueError) as error:
                self.damaged[name] = f"it cannot be read ({error})"
        self.records = sorted((record for record in self._known.values() if record), key=lambda record: record.number)
        return self.records

    def mark_damaged(self, error: DamagedCheckpoint) -> None:
        """Strike a file that failed its checksum: it no longer takes the place of a sound one."""
        self._known.pop(error.path.name, None)
        self.damaged[error.path.name] = error.reason
        self.records = [record for record in self.records if record.path.name != error.path.name]

    @property
    def next_number(self) -> int:
        """One more than the highest number in use, damaged and half-written files included."""
        inner = (name[1:-4] if name.startswith(".") else name for name in self.names)
        return 1 + max((self.number_of(name) or 0 for name in inner), default=0)

    def number_of(self, name: str) -> int | None:
        """Return the number in a file name of this very series, or None for a name that is not its own."""
        match = _NAME.fullmatch(name)
        return int(match["number"]) if match and match["prefix"] == self.prefix else None

    def _read_record(self, path: Path) -> Record | None:
        """Return what the header of a file says; None for a foreign file that merely has a name of this series.

        Raises:
            DamagedCheckpoint: the header cannot be read, or there is none although the name says that this is ours.
            OSError: the file cannot be opened.
        """
        header = read_header(path)
        if header is None:
            raise DamagedCheckpoint(path, "it carries no header and no checksum")
        if header.get("prefix") != self.prefix or header.get("number") != self.number_of(path.name):
            return None  # a renamed copy: somebody wanted it, so it is not ours to delete
        values = {name: header[name] for name in Record.__dataclass_fields__ if name != "path"}
        if values["metric"] is not None:
            values["metric"] = float(values["metric"])
        return Record(path, **values)


class Series(Registry):
    """A registry that also writes, and keeps what `CheckpointManager` says.

    The order of the writes is what makes a kill harmless: the new checkpoint is whole and has its name before the
    tracking file names it, and both are durable before anything that is no longer worth keeping is removed.
    """

    def __init__(
        self,
        folder: Path,
        prefix: str,
        keep_last_n: int,
        keep_best: int,
        metric: str,
        higher_is_better: bool,
        links: bool,
    ) -> None:
        super().__init__(folder, prefix)
        self.keep_last_n, self.keep_best, self.links = keep_last_n, keep_best, links
        self.metric, self.higher_is_better = metric, higher_is_better
        self.tracking_path = folder / f"{prefix}_tracking.json"
        self._freeing: Future[None] | None = None

    def make_folder(self) -> None:
        """Make the folder, durably, or raise a `BitdialError`."""
        try:
            missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in missing:
                sync_folder(folder.parent)
            self.look()
        except OSError as error:
            reason = error.strerror or error
            raise BitdialError(
                f"cannot use {self.folder} for checkpoints: {reason}; choose a folder that you can write to"
            ) from error

    def check_metric(self) -> None:
        """Refuse (`BitdialError`) to rank by one metric what was saved by another."""
        for record in self.records:
            if (record.metric_name, record.higher_is_better) != (self.metric, self.higher_is_better):
                theirs, ours = ("higher" if each.higher_is_better else "lower" for each in (record, self))
                raise BitdialError(
                    f"{self.folder} holds checkpoints ranked by '{record.metric_name}' ({theirs} is better), "
                    f"got '{self.metric}' ({ours} is better); use that metric, another folder or another prefix"
                )

    def best(self, records: list[Record], count: int | None = None) -> list[Record]:
        """Return the `count` records of best finite metric (all: None), best first; of equal ones the earlier first."""
        sign = -1.0 if self.higher_is_better else 1.0
        ranked = [record for record in records if record.ranked]
        return sorted(ranked, key=lambda record: (sign * (record.metric or 0.0), record.number))[:count]

    def next_record(self, epoch: int, step: int | None, metric: float | None, marked: bool) -> Record:
        """Return the record of a checkpoint to be saved now; names sort as saved."""
        if not self.folder.is_dir():  # somebody removed the whole folder while the run went on
            self.make_folder()
        self.look()
        number = self.next_number
        at_step = "" if step is None else f"-step{step}"
        path = self.folder / f"{self.prefix}-{number:06d}-epoch{epoch:04d}{at_step}.pt"
        return Record(path, number, epoch, step, metric, self.metric, self.higher_is_better, marked)

    def save(self, record: Record, state: dict[str, Any], unknown: list[str], held: set[str]) -> None:
        """Save one checkpoint and the tracking file, then remove what is neither in `held` nor worth keeping.

        Raises:
            BitdialError: it could not be saved; the text says why and what to do. Nothing was removed.
        """
        self.wait()  # the room of the files removed last time may be needed now
        for name in self.names:
            if self._is_leftover(name) and sweep(self.folder / name):
                logger.info("removed %s, left by a save that was killed", name)

        def check(temporary: Path) -> None:
            """Refuse a file that ``weights_only=True`` would not give back; types that the user allowed are fine."""
            if unknown and get_unsafe_globals_in_checkpoint(temporary):
                raise BitdialError(
                    f"checkpoint {record.path.name} could not be loaded again safely because of {', '.join(unknown)}; "
                    "store plain values instead (vars(config), array.tolist(), torch.from_numpy(array))"
                )

        try:
            tracked = self._tracking([*self.records, record])
            save_sealed(record.path, state, record.header(self.prefix), (self.tracking_path, tracked), check)
        except OSError as error:
            raise self._failed(record.path, error) from error
        except BitdialError:
            raise
        except Exception as error:  # what pickle and torch raise for a value they cannot store is of many types
            culprit = f" (look at {', '.join(unknown)})" if unknown else ""
            raise BitdialError(
                f"cannot store checkpoint {record.path.name}: {error}{culprit}; pass tensors, numbers, strings, and "
                "dicts or lists of them"
            ) from error
        records = self.look()
        self._link()  # before what the links name so far is removed
        marked = [each for each in records if each.marked and (each.metric is None or each.ranked)]
        keep = [*records[-self.keep_last_n :], *self.best(records, self.keep_best), *marked[-1:]]
        names = held.union(each.path.name for each in keep)
        failures, self._freeing = remove([each.path for each in records if each.path.name not in names])
        for failure in failures:
            logger.warning("could not remove an old checkpoint, trying again at the next save: %s", failure)

    def track(self) -> None:
        """Make the tracking file say what the files say, if it does not."""
        text = self._tracking(self.records)
        self._link()
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if self.tracking_path.read_text() == text:
                return
        if self.records or self.tracking_path.exists():
            with contextlib.suppress(OSError):  # a folder that can only be read can still be loaded from
                save_text(self.tracking_path, text)

    def _link(self) -> None:
        """Set the links that `CheckpointManager` tells of; a file of such a name that is none of ours stays."""
        if not self.links:
            return
        alone = {self.prefix} >= {prefix_of(name) for name in self.names} - {None}
        targets: dict[str, Path] = {}
        if self.records:
            targets = {"last": self.records[-1].path, "best": (self.best(self.records, 1) or self.records[-1:])[0].path}
        for which in ("last", "best"):
            for link in (self.folder / f"{self.prefix}-{which}.pt", self.folder / f"{which}.pt"):
                wanted = targets.get(which) if alone or link.name != f"{which}.pt" else None
                with contextlib.suppress(OSError):
                    if self._copied(link):
                        link.unlink()
                    point(link, wanted)

    def _copied(self, link: Path) -> bool:
        """Whether a copy of one of our files stands for a link, as where a run was copied with what its links name."""
        if link.is_symlink() or not link.exists():
            return False
        try:
            header = read_header(link)
        except DamagedCheckpoint:
            return False
        return header is not None and header.get("prefix") == self.prefix

    def wait(self) -> None:
        """Wait until the space of the removed files is given back."""
        freeing, self._freeing = self._freeing, None
        if freeing is not None:
            freeing.result()

    def _tracking(self, records: list[Record]) -> str:
        """Return the text of the tracking file: the last ones, oldest first, and the best ones, best first."""
        best = self.best(records, self.keep_best)
        tracked = {
            "last_checkpoints": [record.path.name for record in records[-self.keep_last_n :]],
            "best_checkpoints": [{"path": record.path.name, "metric": record.metric} for record in best],
        }
        return json.dumps(tracked, indent=2, allow_nan=False)

    def _is_leftover(self, name: str) -> bool:
        """Whether `name` is a temporary file of this very series."""
        inner = name[1:-4]
        ours = inner == self.tracking_path.name or self.number_of(inner) is not None
        return ours and name == f".{inner}.tmp"

    def _failed(self, path: Path, error: OSError) -> BitdialError:
        try:
            free = f"{shutil.disk_usage(self.folder).free / 1e6:,.1f} MB free there"
        except OSError:
            free = "the folder cannot be reached"
        earlier = len(self.records)
        untouched = f"; the {earlier} earlier checkpoints are untouched" if earlier else ""
        return BitdialError(
            f"could not save checkpoint {path}: {error.strerror or error} ({free}); make room, lower keep_last_n or "
            f"keep_best, or choose another folder{untouched}"
        )
