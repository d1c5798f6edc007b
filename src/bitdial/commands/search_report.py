"""What ``bitdial search`` prints: a line for each trial, and at the end the best ones and how to train them in full."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bitdial.commands.picture_paths import printable
from bitdial.configuration.files import to_flow
from bitdial.recipes.recipe import Recipe
from bitdial.search.space import Choices
from bitdial.search.study import FOLDER, HOST, PLANNED, REASON, RETRY_OF, STEPS, SharedStudy

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

MOST_ROWS = 5


def line_of(trial: FrozenTrial, metrics: Sequence[str]) -> Text:
    """A trial that ended, in a line."""
    state, reason = trial.state.name, trial.user_attrs.get(REASON, "")
    if state == "COMPLETE":
        told = ", ".join(f"{name} {value:.4g}" for name, value in zip(metrics, trial.values, strict=True))
    elif state == "PRUNED":
        last = f", {metrics[0]} {trial.value:.4g}" if trial.values else ""
        told = f"pruned after {trial.user_attrs[STEPS]:,} of {trial.user_attrs[PLANNED]:,} steps{last}"
    elif state == "FAIL":
        told = f"failed: {reason}"
    else:
        told = "is left to others"
    earlier = trial.user_attrs.get(RETRY_OF)
    again = "" if earlier is None else f" (trial {earlier} again, whose worker died)"
    return Text(printable(f"trial {trial.number}{again}: {told}  {_options(trial)}".rstrip()))


def print_report(
    study: SharedStudy,
    recipe: Recipe[Any, Any, Any, Any],
    words: Sequence[str],
    metrics: Sequence[str],
    console: Console,
) -> None:
    """Print the best trials, what pruning saved, and how to train the best again."""
    counted = study.counted
    states = [trial.state.name for trial in counted]
    complete = [trial for trial in counted if trial.state.name == "COMPLETE"]
    several = len(metrics) > 1
    best = sorted(study.study.best_trials, key=lambda trial: trial.number) if several and complete else _ranked(study)
    if best:
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        table.add_column("trial", justify="right")
        for metric in metrics:
            table.add_column(Text(metric), justify="right", no_wrap=True)
        table.add_column("options", overflow="fold")
        for trial in best[: None if several else MOST_ROWS]:
            values = (f"{value:.4g}" for value in trial.values)
            table.add_row(str(trial.number), *values, Text(printable(_options(trial))))
        console.print(
            Text(
                f"Study {study.study.study_name}: {'none is better in all of' if several else 'by'} "
                f"{', '.join(metrics)}, on data held out"
            )
        )
        console.print(table)
    console.print(Text(_summary(counted)), soft_wrap=True)
    if running := states.count("RUNNING"):
        console.print(f"{running} still running in other workers.")
    if not best:
        console.print("No trial was trained to its end.")
        return
    first = best[0]
    host, folder = first.user_attrs.get(HOST, ""), first.user_attrs.get(FOLDER, "")
    where = f"{folder}" if host == study.me.host else f"{folder} on {host}"
    console.print(Text(printable(f"Run of trial {first.number}: {where}")), soft_wrap=True)
    chosen = {name: _value(study, name, value) for name, value in first.params.items()}
    command = [*recipe.prog.split(), *words, *_flags({**study.space.fixed, **chosen})]
    console.print(Text(printable(f"To train it in full: {shlex.join(command)}")), soft_wrap=True)
    console.print("More trials: the same command with a larger --trials.")


def spelled(value: Any) -> str:
    """A value as a flag takes it."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if isinstance(value, str) else to_flow(value).removesuffix("\n...").strip()


def _ranked(study: SharedStudy) -> list[FrozenTrial]:
    complete = [trial for trial in study.counted if trial.state.name == "COMPLETE"]
    if len(study.study.directions) > 1:
        return []
    up = study.study.direction.name == "MAXIMIZE"
    return sorted(complete, key=lambda trial: -trial.values[0] if up else trial.values[0])


def _summary(counted: Sequence[FrozenTrial]) -> str:
    pruned = [trial for trial in counted if trial.state.name == "PRUNED"]
    failed = sum(trial.state.name == "FAIL" for trial in counted)
    taken = sum(trial.user_attrs.get(STEPS, 0) for trial in counted)
    planned = sum(trial.user_attrs.get(PLANNED, 0) for trial in counted)
    told = f"{len(counted)} trial{'' if len(counted) == 1 else 's'}"
    if pruned:
        share = 1 - taken / planned if planned else 0
        told = f"pruned {len(pruned)} of {told}; {taken:,} of {planned:,} steps taken, {share:.0%} saved"
    else:
        told += f", {taken:,} steps taken"
    return told + (f"; {failed} failed" if failed else "")


def _options(trial: FrozenTrial) -> str:
    return " ".join(f"{name}={spelled(value)}" for name, value in trial.params.items())


def _value(study: SharedStudy, name: str, stored: Any) -> Any:
    each = study.space.searched[name]
    return each.values[each.points.index(stored)] if isinstance(each, Choices) else stored


def _flags(values: Mapping[str, Any]) -> list[str]:
    """The words of a command line that set options."""
    words: list[str] = []
    for name, value in values.items():
        if isinstance(value, list) and value:
            words += [f"--{name}", *(_word(each) for each in value)]
        else:
            words += [f"--{name}", _word(value)]
    return words


def _word(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float | str) else to_flow(value)
