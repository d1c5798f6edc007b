"""Trials of Optuna, whatever they were stored in; and the journals of Optuna, which are lines of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bitdial.search.readers.found import RUNNING, FoundRun, Metrics, UnreadableError, number, settings

MAGIC = b'{"op_code":'
_STATES = ("RUNNING", "COMPLETE", "PRUNED", "FAIL", "WAITING")  # as journals count them
_MAXIMIZE = 2  # likewise
_SAID = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
_MAKES_NOTHING = re.compile(r'\{"op_code":(?:[2356789]|10),')
_BOOKKEEPING = frozenset({"grid_point", "heartbeat", "planned_steps", "retry_of", "steps", "worker_died"})
"""Numbers in which a search of bitdial notes who trains a trial."""


@dataclass
class Study:
    """A study: its name, and what it optimizes."""

    name: str
    metrics: list[str] = field(default_factory=list)
    maximised: list[bool] = field(default_factory=list)
    """Whether it maximises each of its values."""
    trials: int = 0
    deleted: bool = False


@dataclass
class Trial:
    """A trial, as far as it was stored."""

    study: Study
    number: int
    state: str = "RUNNING"
    params: dict[str, Any] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    values: list[Any] = field(default_factory=list)
    reports: dict[int, Any] = field(default_factory=dict)


@dataclass
class TrialRun(FoundRun):
    """The run of a trial; one of ``bitdial search`` has a folder too, which tells more."""

    folder: str | None = None


def read_journal(path: Path, name: str) -> list[FoundRun]:
    """Read the trials of the studies in a journal.

    Lines count trials, so that one that is damaged ends the reading, unless it is one that makes none.

    Raises:
        UnreadableError: not even its first line is whole.
    """
    studies, trials, damaged, notes = list[Study](), list[Trial](), 0, list[str]()
    with path.open(encoding="utf-8", errors="replace") as file:
        for place, line in enumerate(file, 1):
            try:
                _apply(json.loads(line), studies, trials)
            except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
                if not _MAKES_NOTHING.match(line):
                    notes.append(f"line {place} of the journal is damaged; what comes after is left out")
                    break
                damaged += 1
    if not studies:
        raise UnreadableError("begins as a journal of Optuna does, and its first line is damaged")
    notes += [f"damaged lines of the journal are left out: {damaged}"] if damaged else []
    return trial_runs(path, name, studies, trials, notes)


def joined(runs: Sequence[FoundRun]) -> list[FoundRun]:
    """Leave out the trials whose run has a folder that was read too, which gets their study, state and objective."""
    folders = dict[str, list[FoundRun]]()
    for run in runs:
        if run.source == "bitdial":
            folders.setdefault(run.path.name, []).append(run)
    left = list[FoundRun]()
    for trial in runs:
        told = folders.get(Path(trial.folder).name, []) if isinstance(trial, TrialRun) and trial.folder else []
        place = trial.path.parent / str(getattr(trial, "folder", ""))
        own = [run for run in told if run.path.resolve() == place.resolve()]
        if not own and len({run.path for run in told}) == 1:  # copied from elsewhere
            own = told
        for run in own:
            run.group = trial.group
            run.state = run.state if run.state == "finished" else trial.state  # the last of several tries tells
            run.notes += [note for note in trial.notes if note.startswith("reason: ")]
            if len(own) == 1:
                run.metrics = {**trial.metrics, **run.metrics}
            run.larger_is_better = trial.larger_is_better
        left += [] if own else [trial]
    return left


def param(value: Any, distribution: str) -> Any:
    """A parameter as a user sees it: what is stored is the index of a choice, and whole numbers as floats."""
    told = json.loads(distribution)
    if "choices" in told["attributes"]:
        return told["attributes"]["choices"][int(value)]
    return int(value) if told["name"].startswith("Int") else value


def trial_runs(
    path: Path, name: str, studies: Sequence[Study], trials: Sequence[Trial], notes: Sequence[str]
) -> list[FoundRun]:
    """The runs of trials; one that only waits is none."""
    runs = list[FoundRun]()
    for trial in trials:
        if trial.state == "WAITING" or trial.study.deleted:
            continue
        found = Metrics()
        for step, value in sorted(trial.reports.items()):
            if (measured := number(value)) is not None:
                found.add("reported", measured, step)
        several = len(trial.values) > 1
        names = trial.study.metrics or [f"value_{at}" if several else "value" for at in range(len(trial.values))]
        named = [*trial.attributes.items(), *zip(names, trial.values, strict=False)]
        for key, value in named:
            if (measured := number(value)) is not None and key not in _BOOKKEEPING:
                found.last[key] = measured
        steps = trial.attributes.get("steps", max(trial.reports, default=None))
        runs.append(
            TrialRun(
                f"{name}:{trial.study.name}#{trial.number}" if len(studies) > 1 else f"{name}#{trial.number}",
                "optuna",
                path,
                _SAID.get(trial.state, RUNNING),
                settings(trial.params),
                found.last,
                steps if isinstance(steps, int) else None,
                [
                    *notes,
                    *found.notes(),
                    *([f"reason: {reason}"] if (reason := trial.attributes.get("reason")) else []),
                ],
                trial.study.name,
                dict(zip(names, trial.study.maximised, strict=False)),
                folder if isinstance(folder := trial.attributes.get("folder"), str) else None,
            )
        )
    return runs


def _apply(entry: Mapping[str, Any], studies: list[Study], trials: list[Trial]) -> None:
    """Do what a line says. As in Optuna, the first worker to make a study makes it, and a finished trial stays so."""
    code = entry["op_code"]
    if code == 0:
        if all(study.name != entry["study_name"] or study.deleted for study in studies):
            studies.append(Study(entry["study_name"], maximised=[each == _MAXIMIZE for each in entry["directions"]]))
    elif code == 1:
        studies[entry["study_id"]].deleted = True
    elif code == 3:
        study = studies[entry["study_id"]]
        study.metrics = entry["system_attr"].get("study:metric_names", study.metrics)
    elif code == 4:
        _new_trial(entry, studies[entry["study_id"]], trials)
    elif code in (5, 6, 7, 8) and (trial := trials[entry["trial_id"]]).state not in _SAID:
        if code == 5:
            trial.params[entry["param_name"]] = param(entry["param_value_internal"], entry["distribution"])
        elif code == 6:
            trial.state, trial.values = _STATES[entry["state"]], entry.get("values") or trial.values
        elif code == 7:
            trial.reports[int(entry["step"])] = entry["intermediate_value"]
        else:
            trial.attributes |= entry["user_attr"]


def _new_trial(entry: Mapping[str, Any], study: Study, trials: list[Trial]) -> None:
    trial = Trial(study, study.trials, _STATES[entry.get("state", 0)])
    for key, value in entry.get("params", {}).items():  # a trial that was added as a whole
        trial.params[key] = param(value, entry["distributions"][key])
    trial.attributes |= entry.get("user_attrs", {})
    trial.reports |= {int(step): value for step, value in entry.get("intermediate_values", {}).items()}
    trial.values = entry.get("values") or [value for value in [entry.get("value")] if value is not None]
    study.trials += 1
    trials.append(trial)
