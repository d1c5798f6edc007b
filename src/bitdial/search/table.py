"""All that was found as one table: runs, parameters, metrics, and which of them to look at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bitdial.errors import BitdialError
from bitdial.search import names
from bitdial.search.columns import Column, columns_of, named, shown
from bitdial.search.readers import FoundRun

_LEFT_OUT = ("failed", "pruned")


@dataclass(frozen=True, eq=False)
class RunTable:
    """Runs with their parameters and metrics as columns.

    Attributes:
        runs: in the order of their names.
        parameters: by name.
        metrics: by name.
        asked: the parameters to look at; empty: all that vary but for seeds and names.
        lambda_asked: the parameter that is lambda; None: found by its name.
    """

    runs: Sequence[FoundRun]
    parameters: Mapping[str, Column]
    metrics: Mapping[str, Column]
    asked: Sequence[str] = ()
    lambda_asked: str | None = None

    @classmethod
    def of(cls, runs: Sequence[FoundRun], asked: Sequence[str], lambda_asked: str | None) -> RunTable:
        """Make the table of runs.

        Raises:
            BitdialError: no run has a parameter of a name that was asked for.
        """
        parameters, metrics = map(named, columns_of(runs))
        known = list(parameters)
        asked = [names.find(name, known, "parameter") for name in asked]
        given = None if lambda_asked is None else names.find(lambda_asked, known, "parameter")
        return cls(runs, parameters, metrics, asked, given)

    @cached_property
    def settings(self) -> list[Column]:
        """The parameters to look at: those asked for, or all that vary but for seeds and what names a run."""
        if self.asked:
            return [self.parameters[name] for name in self.asked]
        return [c for c in self.parameters.values() if c.varied and not names.is_seed(c.name) and not c.label]

    @property
    def labels(self) -> list[str]:
        """The parameters that are taken for names of runs."""
        return [c.name for c in self.parameters.values() if c.label and c.varied and c not in self.settings]

    @property
    def constant(self) -> dict[str, Any]:
        """The parameters that are the same in all runs that have them."""
        return {name: c.present[0] for name, c in self.parameters.items() if not c.varied}

    @cached_property
    def lam(self) -> Column | None:
        """The parameter that is the lambda of rate and distortion."""
        varied = [name for name, column in self.parameters.items() if column.varied]
        name = self.lambda_asked or names.find_lambda(list(self.parameters), varied)
        return None if name is None else self.parameters[name]

    def left_out(self) -> list[FoundRun]:
        """Return the runs that failed or were pruned: they are listed, and in no mean, plot or assessment."""
        return [run for run in self.runs if run.state in _LEFT_OUT]

    def counted(self, lambda_value: float | None = None) -> list[int]:
        """Return the numbers of the runs that count: neither failed nor pruned, and of one lambda if that is given.

        Raises:
            BitdialError: there is no lambda, or no run of that one.
        """
        runs = [index for index, run in enumerate(self.runs) if run.state not in _LEFT_OUT]
        if lambda_value is None:
            return runs
        if isinstance(lambda_value, bool) or not isinstance(lambda_value, int | float):
            raise BitdialError(f"lambda_value must be a number or None, got {lambda_value!r:.60}")
        if self.lam is None:
            raise BitdialError(
                f"expected runs with a lambda for lambda_value={lambda_value:g}, got none with such a parameter; leave "
                "it out, or name the parameter (lambda_name)"
            )
        at = {index: self.lam.at(index) for index in runs}
        found = [
            i for i, value in at.items() if isinstance(value, float) and math.isclose(value, lambda_value, rel_tol=1e-6)
        ]
        if not found:
            there = ", ".join(map(shown, self.lam.distinct[:12])) or "none"
            raise BitdialError(f"expected a {self.lam.name} that runs have, got {lambda_value:g}; there are {there}")
        return found

    def metric(self, name: str | None) -> Column:
        """Return a metric by its name, or by the last part of it; None: the one to look at first.

        Raises:
            BitdialError: there is none of that name, or none at all.
        """
        if not self.metrics:
            raise BitdialError("expected runs with metrics, got none that has one; check what the runs log")
        if name is None:
            counts = {name: len(self.finite(column)) for name, column in self.metrics.items()}
            judged = {name: n for name, n in counts.items() if self.metrics[name].larger_is_better is not None}
            most_have_it = max(judged.values(), default=0) >= names.MOST * max(counts.values())
            return self.metrics[names.default_metric(judged if judged and most_have_it else counts)]
        return self.metrics[names.find(name, list(self.metrics), "metric")]

    def parameter(self, name: str) -> Column:
        """Return a parameter by its name, or by the last part of it.

        Raises:
            BitdialError: there is none of that name.
        """
        return self.parameters[names.find(name, list(self.parameters), "parameter")]

    def finite(self, metric: Column, runs: Sequence[int] | None = None) -> list[int]:
        """Return those of some runs (of all that count) that have a finite number of a metric."""
        return [index for index in (self.counted() if runs is None else runs) if metric.at(index) is not None]


def larger(metric: Column, maximize: bool | None) -> bool:
    """Say whether larger is better: as told, else as the study has it, else by the metric's name, else yes."""
    if maximize is not None:
        return bool(maximize)
    if metric.larger_is_better is not None:
        return metric.larger_is_better
    by_name = names.larger_is_better(metric.name)
    return True if by_name is None else by_name
