"""What is known of finished runs: read, as tables, grouped by seeds, ranked, and assessed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitdial.errors import BitdialError
from bitdial.search.columns import Column
from bitdial.search.groups import Configuration, Ranked, configurations, ranking
from bitdial.search.importance import importance_of, study_of
from bitdial.search.readers import FoundRun, Unread, check_folder, read_runs
from bitdial.search.shares import as_fractions
from bitdial.search.table import RunTable, larger

if TYPE_CHECKING:
    from optuna import Study
    from pandas import DataFrame


class Analysis:
    """The part of `HyperparameterAnalyzer` that draws nothing."""

    def __init__(
        self,
        results_dir: str | os.PathLike[str],
        *,
        parameters: Sequence[str] = (),
        lambda_name: str | None = None,
    ) -> None:
        for package in ("pandas", "optuna"):
            if importlib.util.find_spec(package) is None:
                raise BitdialError(f'the analyzer needs the package {package}; run: pip install "bitdial[search]"')
        if not isinstance(results_dir, str | os.PathLike):
            raise BitdialError(f"results_dir must be the path of a folder, got {results_dir!r:.60}")
        self.results_dir = Path(results_dir)
        check_folder(self.results_dir)
        if isinstance(parameters, str) or not all(isinstance(name, str) for name in parameters):
            raise BitdialError(f"parameters must be a list of names, got {parameters!r:.60}")
        self._asked, self._lambda = list(parameters), lambda_name
        self._assessed: dict[tuple[Any, ...], dict[str, float]] = {}

    def load_results(self) -> DataFrame:
        """Read the runs, anew at every call, and return a row a run.

        The index is the names of the runs. Columns are their parameters, their metrics (with `` (metric)`` added to a
        name that a parameter has too), and ours: ``_source``, ``_state``, ``_steps``, ``_group``, ``_path``,
        ``_notes``. A run without some metric stays, with NaN and a note.

        Raises:
            BitdialError: nothing there could be read.
        """
        from bitdial.search.frames import frame_of_runs

        self.__dict__.pop("table", None)
        self.__dict__.pop("_found", None)
        self._assessed.clear()
        return frame_of_runs(self.table)

    @cached_property
    def _found(self) -> tuple[list[FoundRun], list[Unread]]:
        runs, unread = read_runs(self.results_dir)
        return as_fractions(runs), unread

    @cached_property
    def table(self) -> RunTable:
        """The runs as columns, read when first asked for."""
        if not self.runs:
            why = f", and {self.unread[0].path.name} could not be read: {self.unread[0].reason}" if self.unread else ""
            raise BitdialError(
                f"expected finished runs in {self.results_dir}, got none{why}; name a folder that has some"
            )
        return RunTable.of(self.runs, self._asked, self._lambda)

    @property
    def runs(self) -> list[FoundRun]:
        """The runs that were found."""
        return self._found[0]

    @property
    def unread(self) -> list[Unread]:
        """The files that could not be read, and why."""
        return self._found[1]

    @property
    def parameters(self) -> list[str]:
        """The names of all parameters."""
        return list(self.table.parameters)

    @property
    def metrics(self) -> list[str]:
        """The names of all metrics."""
        return list(self.table.metrics)

    @property
    def constant(self) -> dict[str, Any]:
        """The parameters that are the same in all runs that have them, with their values."""
        return self.table.constant

    @property
    def default_metric(self) -> str:
        """The metric that is looked at where none is named."""
        return self.table.metric(None).name

    def grouped(self, *metrics: str) -> DataFrame:
        """Return a row a configuration: runs that differ in their seeds alone, with means and 95% t intervals.

        Args:
            metrics: their names; none: all. Of each there are the mean (under its name), `` low``, `` high`` and
                `` n``, the number of runs that have it; a run whose value is not finite makes the mean NaN.
        """
        from bitdial.search.frames import frame_of_groups

        chosen = [self.table.metric(name) for name in metrics or self.metrics]
        return frame_of_groups(self.table, self.configurations(), chosen)

    def configurations(self, lambda_value: float | None = None) -> list[Configuration]:
        """Return the runs that count, grouped by all that they are set to but their seeds."""
        return configurations(self.table.settings, self.table.counted(lambda_value))

    def ranking(
        self, metric: str | None = None, lambda_value: float | None = None, maximize: bool | None = None
    ) -> list[Ranked]:
        """Return the configurations with a finite mean of a metric, the best first."""
        column = self.table.metric(metric)
        return ranking(self.configurations(lambda_value), column, maximize=larger(column, maximize))

    def recommend_parameters(
        self,
        top_k: int = 5,
        lambda_value: float | None = None,
        metric: str | None = "psnr",
        maximize: bool | None = None,
    ) -> DataFrame:
        """Return the best configurations: a row each, with the parameters that vary and what their runs allow to say.

        Args:
            top_k: how many.
            lambda_value: only runs of this lambda.
            metric: what they are judged by; None: `default_metric`.
            maximize: whether larger is better; None: by the metric's name, as for psnr.

        Returns:
            Besides parameters the columns ``_mean``, ``_low`` and ``_high`` (a 95% t interval over seeds, NaN with
            one), ``_n``, ``_verdict`` and ``_runs``.
        """
        from bitdial.search.frames import frame_of_best

        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise BitdialError(f"top_k must be a whole number of 1 or more, got {top_k!r}")
        ranked = self.ranking(metric, lambda_value, maximize)
        if not ranked:
            raise BitdialError(
                f"expected runs with a finite {self.table.metric(metric).name}, got none; name another metric"
            )
        return frame_of_best(self.table, ranked[:top_k])

    def study(
        self, metric: str | None = None, lambda_value: float | None = None, maximize: bool | None = None
    ) -> Study:
        """Return the runs as an Optuna study in memory; seeds and what is the same in all runs are left out."""
        column = self.table.metric(metric)
        chosen = self.table.counted(lambda_value)
        return study_of(self.runs, self.varied(lambda_value), column, maximize=larger(column, maximize), chosen=chosen)

    def importance(
        self,
        metric: str | None = None,
        evaluator: str = "ped-anova",
        lambda_value: float | None = None,
        maximize: bool | None = None,
    ) -> dict[str, float]:
        """Return of each parameter its share in what makes runs good (PED-ANOVA) or different ("fanova").

        Raises:
            BitdialError: fewer than four runs, or none that differ.
        """
        column = self.table.metric(metric)
        asked = column.name, lambda_value, larger(column, maximize), evaluator
        if asked not in self._assessed:  # a page asks many times
            self._assessed[asked] = importance_of(self.study(column.name, *asked[1:3]), column.name, evaluator)
        return dict(self._assessed[asked])

    def by_importance(
        self,
        metric: str | None = None,
        lambda_value: float | None = None,
        maximize: bool | None = None,
        *,
        lam: bool = False,
    ) -> list[str]:
        """Return the parameters that vary, the most important first as far as that can be told; lambda if asked for."""
        varied = [c.name for c in self.varied(lambda_value) if lam or c is not self.table.lam]
        try:
            shares = self.importance(metric, "ped-anova", lambda_value, maximize)
        except BitdialError:
            return varied
        return sorted(varied, key=lambda name: -shares.get(name, 0.0))

    def varied(self, lambda_value: float | None) -> list[Column]:
        """Return the parameters to look at in which the runs of a lambda differ."""
        runs = self.table.counted(lambda_value)
        return [c for c in self.table.settings if c.among(runs).varied]

    def finite(self, metric: Column, lambda_value: float | None) -> list[int]:
        """Return the numbers of the runs of a lambda that count and have a finite number of a metric."""
        runs = self.table.finite(metric, self.table.counted(lambda_value))
        if not runs:
            raise BitdialError(f"expected runs with a finite {metric.name}, got none; name another metric")
        return runs
