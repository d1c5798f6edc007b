"""Accuracies of several programs in one unit: those of this one are fractions, many others write per cent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bitdial.search import names
from bitdial.search.readers import FoundRun

_SHARES = {"accuracy", "acc", "top1", "top5"}


def as_fractions(runs: Sequence[FoundRun]) -> list[FoundRun]:
    """Return runs whose accuracies can be compared: those in per cent as fractions, with a note, beside our own.

    Whether a program writes per cent is told by its largest value of a metric in a group of runs. Where no run is ours,
    all stays as it is: nothing says what 0.9 means.
    """
    ours = {name for run in runs if run.source == "bitdial" for name in run.metrics}
    shares = {name for name in ours if _SHARES & {*names.words(name)}}
    largest: dict[tuple[str, str | None, str], float] = {}
    for run in runs:
        for name in shares & run.metrics.keys() if run.source != "bitdial" else ():
            key = (run.source, run.group, name)
            largest[key] = max(largest.get(key, 0.0), run.metrics[name])
    percent = {key for key, value in largest.items() if 1 < value <= 100}
    return [_converted(run, [name for name in run.metrics if (run.source, run.group, name) in percent]) for run in runs]


def _converted(run: FoundRun, found: Sequence[str]) -> FoundRun:
    if not found:
        return run
    told = f"{', '.join(found)}: given in per cent, taken as a fraction"
    return replace(run, metrics=run.metrics | {n: run.metrics[n] / 100 for n in found}, notes=[*run.notes, told])
