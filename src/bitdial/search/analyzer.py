"""The analyzer of finished runs: what was found, what mattered, what to take, as tables, figures and a page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitdial.errors import BitdialError
from bitdial.search.analysis import Analysis
from bitdial.search.importance import EVALUATORS
from bitdial.search.table import larger

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class HyperparameterAnalyzer(Analysis):
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

        A pair that no run has is empty, with a dash. Of more than 30 values numbers are put in bins.

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
        runs = self.finite(column, lambda_value)
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
        runs = self.finite(column, lambda_value)
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
        runs = self.finite(column, lambda_value)
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

    def report(self, path: str | os.PathLike[str], metric: str | None = None, **options: Any) -> Path:
        """Write all of it as one page that needs no network, and return its path; options as of `analysis_page`."""
        from bitdial.evaluation.page import write_page
        from bitdial.search.analysis_page import analysis_page

        return write_page(analysis_page(self, metric, **options), Path(path))

    def _at(self, lambda_value: float | None) -> str:
        return "" if lambda_value is None or self.table.lam is None else f" at {self.table.lam.name} {lambda_value:g}"


def _saved(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    from bitdial.search.drawing import save

    return save(figure, path)
