"""Trackers of experiments, which get every number beside TensorBoard and CSV: wandb, trackio, mlflow.

None of them is imported before it is asked for. A run has one logged run of its own, whatever arms it has; its id is
kept in the run's folder, so that a run that is resumed goes on in it.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from bitdial.errors import BitdialError
from bitdial.files import write_atomically

logger = logging.getLogger("bitdial.training.trackers")

TrackerName = Literal["none", "wandb", "trackio", "mlflow"]
PROJECT = "bitdial"
"""What the runs are filed under."""
FILE = "tracker.json"
"""In the folder of a run: tracker -> what names the logged run."""
_current: list[Callable[[Mapping[str, float], int], None]] = []


def check_tracker(name: TrackerName) -> None:
    """Refuse (`BitdialError`) a tracker that is not installed."""
    if name != "none" and importlib.util.find_spec(name) is None:
        raise BitdialError(f"log {name} needs the package {name}; run: pip install {name}")


@contextmanager
def tracked(name: TrackerName, folder: Path, config: Mapping[str, Any]) -> Iterator[None]:
    """Give what is logged in the body to a tracker, in the logged run that belongs to the folder of a run.

    Raises:
        BitdialError: the tracker cannot begin.
    """
    if name == "none":
        yield
        return
    check_tracker(name)
    file = folder / FILE
    ids: dict[str, str] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    try:
        ids[name], log, finish = _BEGIN[name](importlib.import_module(name), ids.get(name), folder, dict(config))
    except Exception as error:  # whatever its network and its log-in make of it
        reason = " ".join(str(error).split())[:200]
        offline = ", or set WANDB_MODE=offline" if name == "wandb" else ""
        raise BitdialError(
            f"{name} cannot begin a run ({reason}); log in there{offline}, or leave --log {name} out"
        ) from error
    write_atomically(file, json.dumps(ids))
    _current.append(log)
    try:
        yield
    finally:
        if log in _current:
            _current.remove(log)
        finish()


def track(values: Mapping[str, float], step: int) -> None:
    """Give numbers to the tracker that `tracked` began, and to a run of wandb that the process began by itself."""
    begun = getattr(sys.modules.get("wandb"), "run", None)  # never imported here
    if begun is not None and not _current:
        begun.log(dict(values))
    for log in list(_current):
        try:
            log(values, step)
        except Exception as error:
            _current.remove(log)  # a tracker must not cost the run
            logger.warning("the tracker failed (%s); the run goes on, and logs to its folder alone", error)


Begun = tuple[str, Callable[[Mapping[str, float], int], None], Callable[[], Any]]
"""What names the logged run, what logs numbers, and what ends it."""


def _wandb(wandb: Any, known: str | None, folder: Path, config: dict[str, Any]) -> Begun:
    own = wandb.run is None
    if own:
        settings = wandb.Settings(silent=True)
        name = known or uuid.uuid4().hex[:8]
        how = {"project": PROJECT, "id": name, "name": folder.name, "dir": str(folder), "config": config}
        wandb.init(**how, resume="allow", settings=settings)
    run = wandb.run
    return run.id, lambda values, step: run.log(dict(values)), run.finish if own else lambda: None


def _trackio(trackio: Any, known: str | None, folder: Path, config: dict[str, Any]) -> Begun:
    name = known or f"{folder.name}-{uuid.uuid4().hex[:8]}"
    quiet = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
    trackio.init(project=PROJECT, name=name, config=config, resume="allow", **quiet)

    def log(values: Mapping[str, float], step: int) -> None:
        trackio.log({"optimizer_step" if key == "step" else key: value for key, value in values.items()})

    return name, log, trackio.finish  # step is a column of trackio's own there


def _mlflow(mlflow: Any, known: str | None, folder: Path, config: dict[str, Any]) -> Begun:
    mlflow.set_experiment(PROJECT)
    run = mlflow.start_run(run_id=known) if known else mlflow.start_run(run_name=folder.name)
    if known is None:
        mlflow.log_params({key: str(value)[:500] for key, value in config.items()})
    return run.info.run_id, lambda values, step: mlflow.log_metrics(dict(values), step=step), mlflow.end_run


_BEGIN: dict[str, Callable[[Any, str | None, Path, dict[str, Any]], Begun]] = {
    "wandb": _wandb,
    "trackio": _trackio,
    "mlflow": _mlflow,
}
