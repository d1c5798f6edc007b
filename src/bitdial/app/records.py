"""What is told of a run, and what a job keeps of itself on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bitdial.processes import ProcessMark

State = Literal["waiting", "running", "stopping", "finished", "stopped", "failed"]
"""waiting: for its device; running: its process lives; stopping: it was asked to stop and lives; finished: it has all
its results; stopped: it ended on request before that, and can be resumed; failed: it ended otherwise."""
ALIVE: tuple[State, ...] = ("waiting", "running", "stopping")
"""The states in which a run can be stopped, and cannot be removed or resumed."""


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with an option."""

    field: str
    """Dotted name of the option, such as ``cyclic.cycle_length``; empty where it is about the whole."""
    message: str
    """One sentence: what was expected, what was got, what to do."""


@dataclass(frozen=True)
class Score:
    """The best network of a run."""

    value: float
    """Accuracy as a fraction, or PSNR in dB."""
    measure: str = "accuracy"
    what: str = ""
    """Which network, in words, once the run is finished."""
    bytes: int | None = None
    """Of its packed file, once the run is finished and where it has one."""

    def told(self) -> str:
        """The value with its unit."""
        if self.measure == "accuracy":
            return f"{100 * self.value:.1f}%"
        return f"{self.value:.2f} dB" if self.measure.lower().startswith("psnr") else f"{self.value:.3g}"


@dataclass(frozen=True)
class RunStatus:
    """All that is told of a run at a look. Texts are a user's, or a program's, and no markup."""

    id: str
    """Name of the run's folder under the root; what every method of `JobManager` takes."""
    state: State
    recipe: str
    model: str
    """Empty where the run has none, or does not say."""
    dataset: str
    device: str
    """What it queues for: ``cpu``, ``cuda:0``, ``cuda:0,cuda:1``; empty for runs that were started by hand."""
    managed: bool
    """Whether a `JobManager` started it; False: by hand, by ``bitdial train`` or from Python."""
    waiting_for: str = ""
    """Id of the run whose end it waits for."""
    doing: str = ""
    """While it runs: loading, preparing, training, scoring, measuring or concluding."""
    arm: str = ""
    """What is trained, such as ``cpt (1/3, seed 0)``."""
    step: int | None = None
    """Steps of this arm that are done."""
    total: int | None = None
    """Steps of this arm in all."""
    percent: float | None = None
    """Of the whole run, all arms and seeds, 0 to 100."""
    seconds_left: float | None = None
    """Of the whole run; None: nobody can tell yet."""
    values: Mapping[str, float] = field(default_factory=dict)
    """The last numbers of the log: loss, learning_rate, best_accuracy, and whatever a schedule turns (bits, scale,
    gamma)."""
    score: Score | None = None
    seconds: float | None = None
    """How long it ran, or has run; waiting does not count."""
    created: float = 0.0
    """When the run was asked for, in seconds since 1970; runs are listed by it, the newest first."""
    message: str = ""
    """Why it failed or stopped, in a sentence or a few lines: the last ones of its output."""
    pid: int | None = None
    """Of the training process, while it lives."""

    @property
    def alive(self) -> bool:
        """Whether it waits, runs, or is about to stop."""
        return self.state in ALIVE


@dataclass(frozen=True)
class LogPart:
    """A piece of a run's output."""

    text: str
    start: int
    """Offset of the text's first byte; larger than what was asked for where output in between is not given."""
    next: int
    """What to give as `since` for what follows."""
    more: bool
    """Whether there is more already."""


@dataclass(frozen=True)
class SeriesPart:
    """Rows of ``metrics.csv``."""

    rows: list[dict[str, float | str]]
    """Column -> number (text where it is none, such as the name of an arm); blank cells are left out."""
    next: str
    """What to give as `since` for the rows that follow."""
    anew: bool
    """Whether these are rows from the first one on, because the file is another one now: forget the earlier ones."""
    more: bool
    """Whether there are more already."""


@dataclass(frozen=True)
class FileEntry:
    """A file of a run that may be offered."""

    name: str
    """Such as ``results.json`` or ``plots/loss.png``: what `JobManager.path` takes, and nothing else."""
    bytes: int


class Job(BaseModel):
    """``job.json``: what a job keeps of itself, for any process to read."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    version: Literal[1] = 1
    recipe: str
    command: list[str]
    cwd: str
    devices: list[str]
    token: str
    """In the environment of all its processes, as ``BITDIAL_JOB``."""
    created: float
    state: Literal["waiting", "running", "finished", "stopped", "failed"] = "waiting"
    ticket: str = ""
    """Its place in the queue."""
    supervisor: dict[str, Any] | None = None
    """The process that waits for the device and watches over the training; it leads their group."""
    process: dict[str, Any] | None = None
    """The training: host, machine, pid and start time of that pid."""
    started: float | None = None
    ended: float | None = None
    heartbeat: float = 0.0
    stop_requested: float | None = None
    exit_code: int | None = None
    message: str = ""


def mark_of(data: Mapping[str, Any] | None) -> ProcessMark | None:
    """The process that a file names, or None where it names none that could be one."""
    try:
        return ProcessMark(str(data["host"]), str(data["machine"]), int(data["pid"]), float(data["started"]))  # type: ignore[index]
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def parse_job(data: bytes) -> Job | None:
    """The job of a file's content; None where it is damaged."""
    try:
        return Job.model_validate_json(data)
    except (ValidationError, ValueError):
        return None
