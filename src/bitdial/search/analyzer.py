"""The analyzer of finished runs: what was found, what mattered, what to take, as tables and figures."""

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
from bitdial.search.importance import EVALUATORS, importance_of, study_of
from bitdial.search.readers import FoundRun, Unread, read_runs
from bitdial.search.table import RunTable, larger

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna import Study
    from pandas import DataFrame


class HyperparameterAnalyzer:
    """Finished runs below a folder, whatever wrote them: tables, figures, importance, recommendations.

    Names of parameters and metrics are those that the runs have; the last part is enough where it is unique (``psnr``
    for ``val/psnr``). Runs that failed or were pruned are listed, and are in no mean, figure or assessment. Nothing is
    written but to a path that was given.

    Args:
        results_dir: the folder.
        parameters: the parameters to look at; none: all that vary, but for seeds and what names a run, such as a
            ``run_name`` or an ``output_dir`` that no two runs share.
        lambda_name: the parameter that is the lambda of rate and distortion; None: found by its name.

    Raises:
        BitdialError: no such folder, or packages of the extra ``search`` are missing.
    """

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
        if not self.results_dir.is_dir():
            what = "a file" if self.results_dir.exists() else "nothing"
            raise BitdialError(f"expected a folder of runs at {self.results_dir}, got {what}; check the path")
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
        return read_runs(self.results_dir)

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
        return study_of(self.runs, self._varied(lambda_value), column, maximize=larger(column, maximize), chosen=chosen)

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

    def plot_heatmap(
        self,
        param1: str | float | None = None,
        param2: str | None = None,
        metric: str | None = None,
        lambda_value: float | None = None,
        save_path: str | os.PathLike[str] | None = None,
        *,
        maximize: bool | None = None,
    ) -> Figure:
        """Draw the mean of a metric for each pair of values of two parameters.

        A pair that no run has is grey with a dash. Of more than 30 values numbers are put in bins.

        Args:
            param1: the one that goes down; none: the two most important ones. A number is taken for `lambda_value`.
            param2: the one that goes across.
            metric: what is averaged; None: `default_metric`.
            lambda_value: only runs of this lambda; None: means over all.
            save_path: file to write, .png, .pdf or .svg; None: nothing is written.
            maximize: whether larger is better; None: by the metric's name.
        """
        from bitdial.search.value_plots import heat_map

        if isinstance(param1, int | float) and not isinstance(param1, bool) and lambda_value is None:
            param1, lambda_value = None, param1
        table, column = self.table, self.table.metric(metric)
        runs = self._finite(column, lambda_value)
        if param1 is None or param2 is None:
            first = self.by_importance(metric, lambda_value, maximize)
            given = [] if param1 is None else [table.parameter(str(param1)).name]
            pair = [*given, *(name for name in first if name not in given)][:2]
            if len(pair) < 2:
                raise BitdialError(f"a heat map needs two parameters in which runs differ, got {len(pair)}; name both")
            param1, param2 = pair
        down, across = table.parameter(str(param1)), table.parameter(param2)
        if down is across:
            raise BitdialError(f"a heat map needs two different parameters, got {down.name} twice; name another")
        up = larger(column, maximize)
        title = f"{column.name} by {down.name} and {across.name}{self._at(lambda_value)}"
        return _saved(heat_map(down, across, column, runs, maximize=up, title=title), save_path)

    def plot_comparison(
        self,
        param_name: str,
        metric: str | None = None,
        save_path: str | os.PathLike[str] | None = None,
        *,
        lambda_value: float | None = None,
        maximize: bool | None = None,
    ) -> Figure:
        """Draw a metric over the values of a parameter: every run, and means with 95% intervals, for each lambda."""
        from bitdial.search.value_plots import comparison

        parameter, column = self.table.parameter(param_name), self.table.metric(metric)
        runs = self._finite(column, lambda_value)
        lam = None if self.table.lam is parameter else self.table.lam
        title = f"{column.name} by {parameter.name}{self._at(lambda_value)}"
        figure = comparison(parameter, column, lam, runs, maximize=larger(column, maximize), title=title)
        return _saved(figure, save_path)

    def plot_importance(
        self,
        metric: str | None = None,
        save_path: str | os.PathLike[str] | None = None,
        *,
        evaluator: str = "ped-anova",
        lambda_value: float | None = None,
        maximize: bool | None = None,
    ) -> Figure:
        """Draw what `importance` returns as bars."""
        from bitdial.search.run_plots import importance_bars

        shares = self.importance(metric, evaluator, lambda_value, maximize)
        title = f"What mattered for {self.table.metric(metric).name}{self._at(lambda_value)}"
        return _saved(importance_bars(shares, title=title, method=EVALUATORS[evaluator]), save_path)

    def plot_parallel_coordinates(
        self,
        metric: str | None = None,
        save_path: str | os.PathLike[str] | None = None,
        *,
        lambda_value: float | None = None,
        maximize: bool | None = None,
    ) -> Figure:
        """Draw a line a run over an axis for each parameter, the most important first, and one for the metric."""
        from bitdial.search.run_plots import parallel_coordinates

        column = self.table.metric(metric)
        runs = self._finite(column, lambda_value)
        columns = [self.table.parameters[name] for name in self.by_importance(metric, lambda_value, maximize, lam=True)]
        title = f"{len(runs)} runs and their {column.name}{self._at(lambda_value)}"
        figure = parallel_coordinates(columns, column, runs, maximize=larger(column, maximize), title=title)
        return _saved(figure, save_path)

    def plot_pareto(
        self,
        metric1: str,
        metric2: str,
        save_path: str | os.PathLike[str] | None = None,
        *,
        maximize: tuple[bool | None, bool | None] = (None, None),
        lambda_value: float | None = None,
    ) -> Figure:
        """Draw configurations over two metrics and join those that none beats in both.

        Args:
            metric1: the one that goes across.
            metric2: the one that goes up.
            save_path: file to write; None: nothing is written.
            maximize: of each whether larger is better; None: by its name.
            lambda_value: only runs of this lambda.
        """
        from bitdial.search.run_plots import pareto, pareto_points

        across, up = self.table.metric(metric1), self.table.metric(metric2)
        if across is up:
            raise BitdialError(f"a Pareto front needs two different metrics, got {across.name} twice; name another")
        if not isinstance(maximize, tuple | list) or len(maximize) != 2:
            raise BitdialError(f"maximize must be a pair, one for each metric, got {maximize!r:.60}")
        groups = self.configurations(lambda_value)
        if not pareto_points(groups, across, up):
            raise BitdialError(
                f"expected runs with finite {across.name} and {up.name}, got none with both; name others"
            )
        ways = larger(across, maximize[0]), larger(up, maximize[1])
        names = {index: run.name for index, run in enumerate(self.runs)}
        title = f"{up.name} against {across.name}{self._at(lambda_value)}"
        return _saved(pareto(groups, across, up, names, maximize=ways, title=title), save_path)

    def by_importance(
        self,
        metric: str | None = None,
        lambda_value: float | None = None,
        maximize: bool | None = None,
        *,
        lam: bool = False,
    ) -> list[str]:
        """Return the parameters that vary, the most important first as far as that can be told; lambda if asked for."""
        varied = [c.name for c in self._varied(lambda_value) if lam or c is not self.table.lam]
        try:
            shares = self.importance(metric, "ped-anova", lambda_value, maximize)
        except BitdialError:
            return varied
        return sorted(varied, key=lambda name: -shares.get(name, 0.0))

    def report(self, path: str | os.PathLike[str], metric: str | None = None, **options: Any) -> Path:
        """Write all of it as one page that needs no network, and return its path; options as of `analysis_page`."""
        from bitdial.evaluation.page import write_page
        from bitdial.search.analysis_page import analysis_page

        return write_page(analysis_page(self, metric, **options), Path(path))

    def _varied(self, lambda_value: float | None) -> list[Column]:
        """The parameters to look at in which the runs of a lambda differ."""
        runs = self.table.counted(lambda_value)
        return [c for c in self.table.settings if c.among(runs).varied]

    def _finite(self, metric: Column, lambda_value: float | None) -> list[int]:
        runs = self.table.finite(metric, self.table.counted(lambda_value))
        if not runs:
            raise BitdialError(f"expected runs with a finite {metric.name}, got none; name another metric")
        return runs

    def _at(self, lambda_value: float | None) -> str:
        return "" if lambda_value is None or self.table.lam is None else f" at {self.table.lam.name} {lambda_value:g}"


def _saved(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    from bitdial.search.drawing import save

    return save(figure, path)
