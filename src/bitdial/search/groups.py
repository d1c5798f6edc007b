"""Configurations: runs that differ in their seeds alone, with means and intervals, ranked as far as those allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bitdial.evaluation.results import Interval
from bitdial.evaluation.statistics import interval
from bitdial.evaluation.wording import spread
from bitdial.search.columns import MISSING, Column, key, shown

_SAID = 6
"""How many settings a sentence names."""


@dataclass(frozen=True, eq=False)
class Configuration:
    """Runs that differ in nothing but their seeds.

    Attributes:
        settings: of each parameter; MISSING where the runs have none of that name.
        runs: their numbers.
    """

    settings: Mapping[str, Any]
    runs: Sequence[int]

    def interval(self, metric: Column) -> Interval | None:
        """Return mean and 95% t interval of a metric over the runs that have it; None: none has."""
        there = [run for run in self.runs if metric.values[run] is not MISSING]
        values = [math.nan if (value := metric.at(run)) is None else float(value) for run in there]
        return interval(values) if values else None


@dataclass(frozen=True, eq=False)
class Ranked:
    """A configuration in its place.

    Attributes:
        configuration: the runs.
        value: mean and interval of the metric.
        verdict: how it compares with the best, in words.
        tied: whether it cannot be told from the best.
    """

    configuration: Configuration
    value: Interval
    verdict: str
    tied: bool


def configurations(parameters: Sequence[Column], runs: Sequence[int]) -> list[Configuration]:
    """Group runs that agree in every one of the parameters, which leave out seeds, in the order of their first ones."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for run in runs:
        groups.setdefault(tuple(key(column.values[run]) for column in parameters), []).append(run)
    return [
        Configuration({column.name: column.values[members[0]] for column in parameters}, members)
        for members in groups.values()
    ]


def ranking(groups: Sequence[Configuration], metric: Column, *, maximize: bool) -> list[Ranked]:
    """Order configurations by their means, the best first; those without a finite mean are left out."""
    found = [(group, value) for group in groups if (value := group.interval(metric)) and math.isfinite(value.mean)]
    found.sort(key=lambda pair: -pair[1].mean if maximize else pair[1].mean)
    if not found:
        return []
    best = found[0][1]
    ranked = []
    for place, (group, value) in enumerate(found):
        words, tied = ("best", True) if place == 0 else _verdict(best, value)
        ranked.append(Ranked(group, value, words, tied))
    return ranked


def conclusion(ranked: Sequence[Ranked], metric: str, *, maximize: bool) -> str:
    """Say in a sentence what the best configuration is and how sure that is."""
    best, rest = ranked[0], ranked[1:]
    way = "highest" if maximize else "lowest"
    if not rest:
        return f"The only configuration has a {metric} of {written(best.value)}; there is nothing to compare it with."
    what = f"The {way} {metric} is {written(best.value)}, of {said(best.configuration.settings)}"
    if best.value.half is None and all(each.value.half is None for each in rest):
        return f"{what}. With one seed there is no interval: whether it is better than the next is not known."
    tied = sum(each.tied for each in rest)
    if tied:
        more = "the next one" if tied == 1 else f"{tied} others"
        return f"{what}, but it lies inside the interval of {more}, or they inside its own: more seeds would tell."
    unsure = " (those with one seed have no interval)" if any(each.value.half is None for each in rest) else ""
    return f"{what}; no other configuration lies inside its interval, nor it inside theirs{unsure}."


def said(settings: Mapping[str, Any]) -> str:
    """Return settings in words, the first ones, without those that are not there."""
    there = [f"{name} {shown(value, 30)}" for name, value in settings.items() if value is not MISSING]
    more = [f"and {len(there) - _SAID} more"] if len(there) > _SAID else []
    return ", ".join([*there[:_SAID], *more]) or "no settings"


def written(value: Interval) -> str:
    """Return a mean with half its interval, ``"31.25 ± 0.4"``, or with both of two values."""
    behind = spread(value, (lambda each: f"{each:.2g}") if value.n != 2 else shown)
    return f"{shown(float(value.mean))}{behind}"


def _verdict(best: Interval, other: Interval) -> tuple[str, bool]:
    if _inside(best.mean, other):
        return "the best lies inside its interval", True
    if _inside(other.mean, best):
        return "inside the interval of the best", True
    if best.half is None or other.half is None:
        return ("one seed: no interval" if other.half is None else "the best has one seed: no interval"), False
    return "worse", False


def _inside(value: float, span: Interval) -> bool:
    return span.low is not None and span.high is not None and span.low <= value <= span.high
