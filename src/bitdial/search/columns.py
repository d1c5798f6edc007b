"""Runs as columns: what each parameter and metric is in each run, and what kind of thing it is."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal

from bitdial.evaluation import wording
from bitdial.search import names
from bitdial.search.readers import FoundRun


class _Missing:
    """What stands where a run has no such parameter; None is a value like others."""

    def __repr__(self) -> str:
        return wording.MISSING


MISSING: Final = _Missing()
_ENOUGH = 3
"""From so many different numbers on, None beside them is no choice of its own."""
LARGEST = 1e100
"""A number above has no place on an axis: as a parameter it is a choice, as a metric not finite."""
_LABELS = 4
"""From so many runs on, a text that differs in every one of them may be a name."""


@dataclass(frozen=True, eq=False)
class Column:
    """A parameter or a metric.

    Attributes:
        name: unique among all columns.
        kind: what it is.
        values: of each run, MISSING where it has none.
        larger_is_better: of a metric, as studies say; None: they say nothing, or not the same.
    """

    name: str
    kind: Literal["parameter", "metric"]
    values: Sequence[Any]
    larger_is_better: bool | None = None

    @cached_property
    def present(self) -> list[Any]:
        """The values that there are."""
        return [value for value in self.values if value is not MISSING]

    @cached_property
    def numeric(self) -> bool:
        """Whether its values are numbers to be put on an axis, instead of choices."""
        if self.kind == "metric":
            return True
        given = [value for value in self.present if value is not None]
        if not given or not all(is_number(value) for value in given):
            return False
        return len(given) == len(self.present) or len({*given}) >= _ENOUGH

    @cached_property
    def distinct(self) -> list[Any]:
        """Its different values: numbers in order, choices in order of their first run."""
        if self.numeric:
            return sorted({number(value) for value in self.present if _has_place(value)})
        return list(dict.fromkeys(text(value) for value in self.present))

    @property
    def varied(self) -> bool:
        """Whether two runs differ in it."""
        return len({key(value) for value in self.present} if self.numeric else self.distinct) > 1

    @property
    def label(self) -> bool:
        """Whether it names a run: by its own name, and as a text that no two runs share."""
        return (
            len(self.present) >= _LABELS
            and names.names_a_run(self.name)
            and all(isinstance(value, str) for value in self.present)
            and len({*self.present}) == len(self.present)
        )

    @cached_property
    def log(self) -> bool:
        """Whether its numbers lie more evenly on a logarithmic axis."""
        return self.numeric and is_log(self.distinct)

    def among(self, runs: Sequence[int]) -> Column:
        """Return the column of some runs alone."""
        return Column(self.name, self.kind, [self.values[run] for run in runs], self.larger_is_better)

    def at(self, run: int) -> float | str | None:
        """Return a run's value as a number or a choice; None: nothing that has a place on the axis."""
        value = self.values[run]
        if value is MISSING:
            return None
        if not self.numeric:
            return text(value)
        return number(value) if _has_place(value) else None


def is_number(value: object) -> bool:
    """Whether a value is a number; a boolean is a choice, and so is what no float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return (isinstance(value, float) and not math.isfinite(value)) or abs(value) <= LARGEST


def _has_place(value: Any) -> bool:
    return value is not None and math.isfinite(value) and abs(value) <= LARGEST


def number(value: Any) -> float:
    """Return a number as float, with 0.0 for -0.0."""
    return float(value) + 0.0


def text(value: object) -> str:
    """Return a value as it is written for people."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def shown(value: Any, most: int = 60) -> str:
    """Return a value as tables show it; of a text longer than `most` the middle is cut out."""
    if value is MISSING:
        return wording.MISSING
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    words = str(value)
    half = (most - 1) // 2
    return words if len(words) <= most else f"{words[:half]}\u2026{words[-half:]}"


def key(value: object) -> tuple[str, Any]:
    """Return what is equal for equal values and for no others: 1 is 1.0, but True is neither, and NaN is NaN."""
    if is_number(value):
        return ("number", "nan" if value != value else number(value))
    return (type(value).__name__, str(value))


def is_log(values: Sequence[float]) -> bool:
    """Whether sorted, different values lie more evenly by their logarithms: positive, over a factor of 10 or more."""
    if len(values) < 2 or values[0] <= 0 or values[-1] < 10 * values[0]:
        return False
    middle, low, high = values[len(values) // 2], values[0], values[-1]
    if len(values) == 2:
        return high >= 100 * low
    straight = (middle - low) / (high - low)
    bent = math.log(middle / low) / math.log(high / low)
    return abs(bent - 0.5) < abs(straight - 0.5)


def columns_of(runs: Sequence[FoundRun]) -> tuple[list[Column], list[Column]]:
    """Return the parameters and the metrics of runs, in the order in which they are met.

    A metric whose name is one of a parameter too has `` (metric)`` added; names that begin with an underscore are those
    of our own columns, so that a parameter or metric of such a name has `` (parameter)`` or `` (metric)`` added.
    """
    known = list(dict.fromkeys(name for run in runs for name in run.config))
    taken = set[str]()
    parameters = [
        Column(
            free(name, taken, "parameter", name.startswith("_")),
            "parameter",
            [run.config.get(name, MISSING) for run in runs],
        )
        for name in known
    ]
    measured = dict.fromkeys(name for run in runs for name in run.metrics)
    metrics = [
        Column(
            free(name, taken, "metric", name.startswith("_")),
            "metric",
            [run.metrics.get(name, MISSING) for run in runs],
            _told({run.larger_is_better[name] for run in runs if name in run.larger_is_better}),
        )
        for name in measured
    ]
    return parameters, metrics


def _told(answers: set[bool]) -> bool | None:
    """What all studies say alike."""
    return answers.pop() if len(answers) == 1 else None


def free(name: str, taken: set[str], kind: str, always: bool = False) -> str:
    """Return a name that is not taken yet, with its kind added where needed, and take it."""
    while always or name in taken:
        name, always = f"{name} ({kind})", False
    taken.add(name)
    return name


def named(columns: Iterable[Column]) -> dict[str, Column]:
    """Return columns by name."""
    return {column.name: column for column in columns}
