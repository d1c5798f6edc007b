"""SQLite files: studies of Optuna and projects of trackio, read as they lie; neither package need be there."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

from bitdial.search.readers.found import FoundRun, Metrics, UnreadableError, flatten, number, settings
from bitdial.search.readers.trials import Study, Trial, param, trial_runs

MAGIC = b"SQLite format 3\0"
_NOT_FINITE = {"INF_POS": math.inf, "INF_NEG": -math.inf, "NAN": math.nan}


def read_sqlite(path: Path, name: str) -> list[FoundRun]:
    """Read the trials of the studies, or the runs of the project, in a file, which is not written to.

    Raises:
        UnreadableError: it is neither kind of file, or damaged.
    """
    log = path.with_name(f"{path.name}-wal")  # of a program that writes just now, or died
    mode = "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"  # which leaves no files beside it
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?{mode}", uri=True, timeout=2)) as base:
            base.execute("pragma writable_schema = on")  # else nothing at all is read of a file whose end is missing
            base.text_factory = lambda text: text.decode("utf-8", "replace")
            tables = {row[0] for row in base.execute("select name from sqlite_master where type = 'table'")}
            if {"studies", "trials", "trial_params", "trial_values"} <= tables:
                return _optuna(_Queries(base), path, name)
            if {"metrics", "configs"} <= tables:
                return _trackio(_Queries(base), path, name)
    except sqlite3.Error as error:
        raise UnreadableError(f"a damaged database ({error})") from error
    raise UnreadableError("a database, but neither a study of Optuna nor a project of trackio")


class _Queries:
    """Goes through rows; what is damaged is counted and left out."""

    def __init__(self, base: sqlite3.Connection) -> None:
        self._base = base
        self._damaged, self._lost = 0, list[str]()

    def each(self, query: str, take: Callable[..., None]) -> None:
        """Call `take` with the columns of each row."""
        try:
            for row in self._base.execute(query):
                try:
                    take(*row)
                except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
                    self._damaged += 1
        except sqlite3.Error as error:
            self._lost.append(f"rows of the database are lost ({error})")

    def notes(self) -> list[str]:
        """What was left out, in words."""
        return [*self._lost, *([f"damaged rows are left out: {self._damaged}"] if self._damaged else [])]


def _optuna(queries: _Queries, path: Path, name: str) -> list[FoundRun]:
    studies, trials = dict[int, Study](), dict[int, Trial]()

    def new_study(key: int, label: str) -> None:
        studies[key] = Study(str(label))

    def name_metrics(key: int, text: str) -> None:
        studies[key].metrics = json.loads(text)

    def add_direction(key: int, direction: str) -> None:
        studies[key].maximised.append(direction == "MAXIMIZE")

    def new_trial(key: int, count: int, study: int, state: str) -> None:
        trials[key] = Trial(studies[study], int(count), str(state))

    def add_param(key: int, label: str, value: Any, distribution: str) -> None:
        trials[key].params[label] = param(value, distribution)

    def add_attribute(key: int, label: str, text: str) -> None:
        trials[key].attributes[label] = json.loads(text)

    def add_value(key: int, value: Any, kind: str) -> None:
        trials[key].values.append(_NOT_FINITE.get(kind, value))

    def add_report(key: int, step: int, value: Any, kind: str) -> None:
        trials[key].reports[int(step)] = _NOT_FINITE.get(kind, value)

    for take, query in (
        (new_study, "study_id, study_name from studies"),
        (name_metrics, "study_id, value_json from study_system_attributes where key = 'study:metric_names'"),
        (add_direction, "study_id, direction from study_directions order by objective"),
        (new_trial, "trial_id, number, study_id, state from trials order by trial_id"),
        (add_param, "trial_id, param_name, param_value, distribution_json from trial_params order by param_id"),
        (add_attribute, "trial_id, key, value_json from trial_user_attributes"),
        (add_value, "trial_id, value, value_type from trial_values order by objective"),
        (add_report, "trial_id, step, intermediate_value, intermediate_value_type from trial_intermediate_values"),
    ):
        queries.each(f"select {query}", take)
    return trial_runs(path, name, list(studies.values()), list(trials.values()), queries.notes())


def _trackio(queries: _Queries, path: Path, name: str) -> list[FoundRun]:
    """The runs of a project; nothing in it tells how one ended."""
    configs, labels = dict[str, dict[str, Any]](), dict[str, str]()
    found, steps = dict[str, Metrics](), dict[str, int]()

    def configure(run: str, label: str, text: str) -> None:
        labels[run] = label
        configs[run] = settings(json.loads(text))

    def log(run: str, label: str, step: int, text: str) -> None:
        labels.setdefault(run, label)
        metrics = found.setdefault(run, Metrics())
        for metric, value in flatten(json.loads(text)):
            if (measured := number(value)) is not None:
                metrics.add(metric, measured, step)
        steps[run] = max(int(step), steps.get(run, 0))

    queries.each("select run_id, run_name, config from configs order by id", configure)
    queries.each("select run_id, run_name, step, metrics from metrics order by id", log)
    several = len(set(labels.values())) < len(labels)
    runs = []
    for run, label in labels.items():
        metrics, config = found.get(run, Metrics()), configs.get(run, {})
        plain = {key: value for key, value in config.items() if not key.startswith("_")}
        own = f"{name}#{label}-{run[:8]}" if several else f"{name}#{label}"
        notes = [*queries.notes(), *metrics.notes()]
        group = config.get("_Group") or path.stem
        runs.append(FoundRun(own, "trackio", path, "finished", plain, metrics.last, steps.get(run), notes, group))
    return runs
