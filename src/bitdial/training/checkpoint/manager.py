"""The manager: the calls that a training loop makes, checked, on the right rank, now or in the background."""

from __future__ import annotations

import atexit
import logging
import operator
import os
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self, SupportsFloat, SupportsIndex

import torch
from torch import distributed

from bitdial.errors import BitdialError
from bitdial.training.checkpoint.contents import Snapshot, prepare
from bitdial.training.checkpoint.reading import LoadedCheckpoint, load_file, newest_sound, resolved
from bitdial.training.checkpoint.series import PREFIX, Record, Series
from bitdial.training.checkpoint.writing import aside
from bitdial.training.devices import is_distributed

logger = logging.getLogger("bitdial.training.checkpoint")

_OWN_KEYS = ("epoch", "step", "model_state_dict", "optimizer_state_dict", "metric", "metric_name")


class CheckpointManager:
    """Saves checkpoints of one run and keeps the right ones.

    Kept are the last `keep_last_n`, the best `keep_best` of all ever saved (also across restarts), the newest one
    saved with ``is_best=True``, and the one resumed from. Only files that this series wrote are ever deleted, and only
    after the new checkpoint and the tracking file have reached the disk.

    Under ``torch.distributed`` only rank 0 writes and deletes; the other ranks load as usual, and their saves return at
    once. There is no collective operation inside, so a rank may skip a save; gather sharded states before the call.

    Args:
        save_dir: the folder; made when missing. Several managers may share it when their `prefix` differs.
        keep_last_n: how many of the newest to keep, at least 1.
        keep_best: how many of the best to keep, 0 for none.
        metric: what `metric_value` measures; also the key it is stored under.
        higher_is_better: False for a loss, True for an accuracy.
        prefix: in front of the file names; the tracking file is ``<prefix>_tracking.json``.
        background: write in a thread. `save_checkpoint` then returns as soon as the state is copied to CPU memory
            (which this object keeps), and a failure is raised by the next call or by `close`. A normal end of the
            program, an exception included, waits for the last write; a kill does not.
        links: keep symbolic links ``<prefix>-last.pt`` and ``<prefix>-best.pt`` to the newest and the best file, and
            ``last.pt`` and ``best.pt`` where this series is the only one, for programs such as ``torch.load``. Not
            where a program writes files of these names: it would write through the link.

    Raises:
        BitdialError: a setting makes no sense, the folder cannot be made, or it holds a series of another metric.

    Example:
        >>> import torch
        >>> from bitdial.training import CheckpointManager
        >>> net = torch.nn.Linear(8, 4)
        >>> with CheckpointManager("checkpoints", metric="accuracy", higher_is_better=True) as manager:
        ...     file = manager.save_checkpoint(0, net.state_dict(), None, 0.91, step=100)
        >>> CheckpointManager("checkpoints", metric="accuracy", higher_is_better=True).load_best().state["step"]
        100
    """

    def __init__(
        self,
        save_dir: str | os.PathLike[str],
        keep_last_n: int = 5,
        keep_best: int = 3,
        metric: str = "loss",
        higher_is_better: bool = False,
        *,
        prefix: str = "checkpoint",
        background: bool = False,
        links: bool = False,
    ) -> None:
        if not isinstance(metric, str) or not metric or metric in _OWN_KEYS:
            raise BitdialError(f"metric must be the name of a number such as 'loss' or 'accuracy', got {metric!r}")
        if not isinstance(prefix, str) or not PREFIX.fullmatch(prefix):
            raise BitdialError(
                f"prefix must begin with a letter or digit and hold only those, '.', '_' and '-', got {prefix!r}"
            )
        self.save_dir = Path(save_dir)
        self.keep_last_n = _whole("keep_last_n", keep_last_n, 1)
        self.keep_best = _whole("keep_best", keep_best, 0)
        self.metric, self.higher_is_better, self.prefix = metric, bool(higher_is_better), prefix
        self.background = background
        self._series = Series(
            self.save_dir, prefix, self.keep_last_n, self.keep_best, metric, self.higher_is_better, links
        )
        self._snapshot = Snapshot()
        self._writing: Future[None] | None = None
        # what was loaded last before the first save, and what was loaded last: a run that rolled back resumed from that
        self._held: dict[str, str] = {}
        self._saved = False
        self._closed = False
        if _rank() == 0:
            self._series.make_folder()
        self._series.look()
        self._series.check_metric()
        if _rank() == 0:
            self._series.track()

    @property
    def tracking_path(self) -> Path:
        """The tracking file: paths of the last checkpoints (oldest first), paths and metrics of the best."""
        return self._series.tracking_path

    @property
    def checkpoints(self) -> list[Path]:
        """All readable checkpoints of this series, oldest first."""
        return [record.path for record in self._look()]

    @property
    def latest(self) -> Path | None:
        """The newest checkpoint, or None; whether it is sound shows when it is loaded."""
        return next((record.path for record in reversed(self._look())), None)

    @property
    def best(self) -> Path | None:
        """The checkpoint of best metric, or None when none has a finite one."""
        return next((record.path for record in self._series.best(self._look())), None)

    @property
    def busy(self) -> bool:
        """Whether a background save is under way; False also when it has ended and its failure waits to be raised."""
        return self._writing is not None and not self._writing.done()

    def save_checkpoint(
        self,
        epoch: SupportsIndex,
        model_state: Mapping[str, Any],
        optimizer_state: Mapping[str, Any] | None,
        metric_value: SupportsFloat | None,
        is_best: bool | None = None,
        **extra: Any,
    ) -> Path:
        """Save a checkpoint durably, then drop the files that are no longer worth keeping.

        Args:
            epoch: counted as the caller does, 0 or more.
            model_state: ``model.state_dict()``.
            optimizer_state: ``optimizer.state_dict()``, or None.
            metric_value: what the file is ranked by; a number or a tensor with one element. None, NaN and infinite
                values are stored and never count as best.
            is_best: True keeps this file besides the best by metric, until another one is saved with True. None and
                False leave the ranking to the metric alone: a good value is never thrown away because of them.
            **extra: stored under their own names: ``step`` (a whole number, goes into the file name), ``accuracy``,
                ``scheduler_state_dict``, ``early_stopping``, ``rng_state``, ...

        Returns:
            The file (with ``background=True`` it may still be on its way; on ranks other than 0, which write nothing,
            the folder).

        Raises:
            BitdialError: the disk is full or the like, the state cannot be loaded back with ``weights_only=True``, or
                an earlier background save failed. The earlier checkpoints are untouched.
        """
        self.wait()
        if self._closed:
            raise BitdialError(f"the checkpoint manager of {self.save_dir} is closed; make a new one to go on saving")
        number = _whole("epoch", epoch, 0)
        step = None if extra.get("step") is None else _whole("step", extra["step"], 0)
        value = _number(self.metric, metric_value)
        for name, part in (("model_state", model_state), ("optimizer_state", optimizer_state)):
            if not isinstance(part, Mapping) and not (part is None and name == "optimizer_state"):
                raise BitdialError(f"{name} must be a state dict, got {type(part).__name__}; pass its .state_dict()")
        clash = [key for key in extra if key in _OWN_KEYS and key != "step"]
        if clash:
            raise BitdialError(f"'{clash[0]}' is stored by the checkpoint manager itself; give it another name")
        state = {
            "epoch": number,
            "model_state_dict": model_state,
            "optimizer_state_dict": optimizer_state,
            "metric": value,
            "metric_name": self.metric,
            self.metric: value,
            **extra,
        }
        if _rank() != 0:
            return self.save_dir
        record = self._series.next_record(number, step, value, bool(is_best))
        self._saved = True
        if not self.background:
            self._series.save(record, *prepare(state), set(self._held.values()))
            return record.path
        contents, held = self._snapshot.take(state), set(self._held.values())  # loading waits: nothing is added

        def write() -> None:
            try:
                self._series.save(record, *contents, held)
            except Exception:
                atexit.register(self._tell)  # in case nobody calls again
                raise

        self._writing = aside(write)
        return record.path

    def load_latest(self, map_location: Any = "cpu") -> LoadedCheckpoint:
        """Load the newest sound checkpoint; a damaged one is passed over, and the notes and the log say so.

        The file counts as the one resumed from: it is kept.

        Raises:
            BitdialError: there is no sound checkpoint.
        """
        return self._load_first(list(reversed(self._look())), map_location, "newest")

    def load_best(self, map_location: Any = "cpu") -> LoadedCheckpoint:
        """Load the sound checkpoint of best metric; as `load_latest` otherwise.

        Raises:
            BitdialError: there is no sound checkpoint with a finite metric.
        """
        records = self._look()
        ranked = self._series.best(records)
        if records and not ranked:
            raise BitdialError(f"no checkpoint in {self.save_dir} has a finite {self.metric}; use load_latest instead")
        return self._load_first(ranked, map_location, "best")

    def load(self, path: str | os.PathLike[str], map_location: Any = "cpu") -> LoadedCheckpoint:
        """Load one file, by its path or by its name in the folder; here a damaged one is an error.

        Raises:
            DamagedCheckpoint: the file is cut short or altered.
            BitdialError: there is no such file, or it is not a checkpoint.
        """
        self.wait()
        chosen = Path(path) if Path(path).exists() else resolved(self.save_dir / path)
        if not chosen.is_file():
            raise BitdialError(f"no checkpoint file {path}, here or in {self.save_dir}; load_latest takes the newest")
        loaded = load_file(chosen, map_location)
        if chosen.resolve().parent == self.save_dir.resolve():
            self._hold(chosen.name)
        return loaded

    def wait(self) -> None:
        """Wait for a background save.

        Raises:
            BitdialError: it failed.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            atexit.unregister(self._tell)
            writing.result()

    def close(self) -> None:
        """Wait for what is under way; nothing can be saved afterwards.

        Raises:
            BitdialError: the last background save failed.
        """
        self._closed = True
        try:
            self.wait()
        finally:
            self._series.wait()
            self._snapshot = Snapshot()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.close()
        except BitdialError as failure:
            if error is None:
                raise
            logger.error("%s", failure)  # it must not hide what stopped the training

    def _look(self) -> list[Record]:
        self.wait()
        return self._series.look()

    def _tell(self) -> None:
        try:
            self.wait()
        except Exception as failure:
            logger.error("%s", failure)

    def _load_first(self, candidates: list[Record], map_location: Any, wanted: str) -> LoadedCheckpoint:
        loaded = newest_sound(self._series, candidates, map_location, wanted)
        self._hold(loaded.path.name)
        if loaded.notes and _rank() == 0:
            self._series.track()
        return loaded

    def _hold(self, name: str) -> None:
        self._held["last"] = name
        if not self._saved:
            self._held["first"] = name


def _rank() -> int:
    return distributed.get_rank() if is_distributed() else 0


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise BitdialError(f"{name} must be a whole number of at least {least}, got {value!r}")
    return number


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        return float(value.item() if isinstance(value, torch.Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        raise BitdialError(f"metric_value ('{name}') must be a number or None, got {value!r}") from None
