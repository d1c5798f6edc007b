"""What an analysis says in words and numbers: the same on the page and in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bitdial.errors import BitdialError
from bitdial.search import names
from bitdial.search.columns import Column
from bitdial.search.groups import Ranked, conclusion
from bitdial.search.readers import FoundRun
from bitdial.search.table import larger

if TYPE_CHECKING:
    from bitdial.search.analyzer import HyperparameterAnalyzer


@dataclass(frozen=True, eq=False)
class Overview:
    """What was found.

    Attributes:
        metric: what runs are judged by; None: they have none with a finite value.
        maximize: whether larger is better.
        ranked: the configurations, the best first.
        headline: the answer in a sentence.
        shares: how much each parameter mattered; empty where that cannot be told.
        unknown: why it cannot, else empty.
        notes: what there is to know to read the numbers rightly.
    """

    metric: Column | None
    maximize: bool
    ranked: Sequence[Ranked]
    headline: str
    shares: Mapping[str, float]
    unknown: str
    notes: Sequence[str]


def overview_of(
    analyzer: HyperparameterAnalyzer,
    metric: str | None = None,
    *,
    lambda_value: float | None = None,
    maximize: bool | None = None,
    evaluator: str = "ped-anova",
) -> Overview:
    """Rank configurations and assess parameters by a metric, or by the one to look at first."""
    table = analyzer.table
    if not table.metrics and metric is None:
        return Overview(None, True, [], "No run has a metric.", {}, "No run has a metric.", _notes(analyzer))
    column = table.metric(metric)
    up = larger(column, maximize)
    ranked = analyzer.ranking(column.name, lambda_value, up)
    shares: dict[str, float] = {}
    unknown = ""
    try:
        shares = analyzer.importance(column.name, evaluator, lambda_value, up)
    except BitdialError as error:
        unknown = str(error)
    chosen = [] if metric is not None else [f"{column.name} was taken as what most runs have; another: --metric NAME."]
    if maximize is None and column.larger_is_better is None and names.larger_is_better(column.name) is None:
        taken = "larger was taken; else: --minimize" if up else "smaller was taken; else: --no_minimize"
        chosen.append(f"The name {column.name} does not tell which way is better: {taken}.")
    runs = table.counted(lambda_value)
    if lacking := len(runs) - len(table.finite(column, runs)):
        chosen.append(f"{_runs(lacking)} without a finite {column.name}: listed, and in no mean.")
    if lambda_value is None and table.lam is not None and table.lam.varied:
        chosen.append(f"Runs of every {table.lam.name} are compared with each other; of one alone: --lambda_value X.")
    if len(ranked) > 1:
        chosen.append(
            f"The best of {len(ranked)} was chosen by the numbers that it is shown with, and so looks slightly better "
            "than it is; if those are of test data, measure it on others."
        )
    headline = conclusion(ranked, column.name, maximize=up) if ranked else f"No run has a finite {column.name}."
    return Overview(column, up, ranked, headline, shares, unknown, [*chosen, *_notes(analyzer)])


def counted(analyzer: HyperparameterAnalyzer) -> str:
    """Say how many runs of which kind and state there are: ``"12 runs (10 csv, 2 wandb; 1 failed)"``."""
    sources = Counter(run.source for run in analyzer.runs)
    states = Counter(run.state for run in analyzer.runs if run.state != "finished")
    parts = [
        ", ".join(f"{count} {name}" for name, count in found.most_common()) for found in (sources, states) if found
    ]
    return f"{_runs(len(analyzer.runs))} ({'; '.join(parts)})"


def why(run: FoundRun) -> str:
    """Say why a run is left out, as far as is known; of a pruned one its state says it."""
    return "; ".join(run.notes) or ("" if run.state == "pruned" else "no reason given")


def _notes(analyzer: HyperparameterAnalyzer) -> list[str]:
    table = analyzer.table
    notes = []
    if table.labels:
        notes.append(f"Taken for names of runs, as no two share one: {', '.join(table.labels)}; else: --param NAME.")
    if seeds := [name for name, column in table.parameters.items() if names.is_seed(name) and column.varied]:
        notes.append(f"Runs that differ in {', '.join(seeds)} alone are one configuration.")
    if count := sum(run.state == "running or crashed" for run in table.runs):
        notes.append(f"{_runs(count)} running or crashed: counted with the last values logged.")
    return notes


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
