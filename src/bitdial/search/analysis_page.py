"""The page of an analysis: one file that needs no network, with all runs to sort, filter and brush."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bitdial.errors import BitdialError
from bitdial.evaluation.explorer import Explorer, ExplorerColumn
from bitdial.evaluation.page import (
    Bars,
    Block,
    Details,
    Facts,
    Page,
    Picture,
    Row,
    Section,
    Table,
    Text,
    Tile,
    made,
    notes_section,
)
from bitdial.evaluation.plot_style import render
from bitdial.evaluation.wording import spread_note
from bitdial.search import names
from bitdial.search.columns import MISSING, Column, shown, text
from bitdial.search.groups import written
from bitdial.search.importance import EVALUATORS
from bitdial.search.overview import Overview, counted, overview_of, why

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bitdial.search.analyzer import HyperparameterAnalyzer

_AXES = 7
"""How many parameters have an axis."""
_BARS = 15
"""How many parameters have a bar."""
_LISTED = 200
"""How many runs that failed, or files that could not be read, are listed."""


def analysis_page(
    analyzer: HyperparameterAnalyzer,
    metric: str | None = None,
    *,
    lambda_value: float | None = None,
    maximize: bool | None = None,
    top_k: int = 10,
    evaluator: str = "ped-anova",
) -> Page:
    """Make the page.

    Args:
        analyzer: what was found.
        metric: what runs are judged by; None: the one to look at first.
        lambda_value: judge runs of this lambda alone; all are in the table.
        maximize: whether larger is better; None: by the metric's name.
        top_k: how many of the best configurations are listed.
        evaluator: "ped-anova" or "fanova".
    """
    found = overview_of(analyzer, metric, lambda_value=lambda_value, maximize=maximize, evaluator=evaluator)
    blocks: list[Block] = []
    if found.metric is not None:
        blocks += [*_best(analyzer, found, top_k), *_importance(found, evaluator)]
    blocks += [Section("All runs"), explorer_of(analyzer, found, lambda_value)]
    if found.metric is not None:
        blocks += _figures(analyzer, found, lambda_value)
    blocks += [*_left_out(analyzer), *notes_section(found.notes), *_constant(analyzer)]
    left_out = len(analyzer.table.left_out())
    tiles = [
        *([Tile(written(found.ranked[0].value), f"best {found.metric.name}")] if found.ranked and found.metric else []),
        Tile(str(len(analyzer.runs)), "runs"),
        *([Tile(str(len(found.ranked)), "configurations")] if found.ranked else []),
        *([Tile(str(left_out), "failed or pruned")] if left_out else []),
        *([Tile(str(len(analyzer.unread)), "files not read")] if analyzer.unread else []),
    ]
    folder = analyzer.results_dir.resolve()
    meta = [str(folder), counted(analyzer), made(datetime.now(UTC).isoformat(timespec="seconds"))]
    return Page(f"What the runs in {folder.name or folder} found", meta, blocks, headline=found.headline, tiles=tiles)


def explorer_of(analyzer: HyperparameterAnalyzer, found: Overview, lambda_value: float | None = None) -> Explorer:
    """Return all runs with their parameters that vary and their metrics, the most important on axes."""
    table, metric = analyzer.table, found.metric
    order = [] if metric is None else analyzer.by_importance(metric.name, lambda_value, found.maximize, lam=True)
    first = [table.parameters[name] for name in order]
    others = [c for c in table.parameters.values() if c.varied and c not in first]
    measured = [c for c in table.metrics.values() if c is not metric]
    shown_columns = [*([metric] if metric else []), *first, *measured, *others]
    axes = {column.name: place for place, column in enumerate(first[:_AXES])}
    if metric is not None:
        partner = _partner(analyzer, metric)
        axes |= {name: _AXES + place for place, name in enumerate([*([partner] if partner else []), metric.name])}
    columns = [
        ExplorerColumn("run"),
        *(ExplorerColumn(c.name, c.numeric, axes.get(c.name) if c.distinct else None, c.log) for c in shown_columns),
        ExplorerColumn("state"),
        ExplorerColumn("kind"),
        ExplorerColumn("steps", numeric=True),
        ExplorerColumn("notes"),
    ]
    rows = [
        [
            run.name,
            *(_cell(column, column.values[number]) for column in shown_columns),
            run.state,
            run.source,
            run.steps,
            "; ".join(run.notes) or None,
        ]
        for number, run in enumerate(table.runs)
    ]
    caption = "A line a run. Drag along an axis to select a range, in several if you like: the table follows."
    if metric is not None:
        caption += f" Blue lines have a better {metric.name} than orange ones."
    return Explorer(columns, rows, None if metric is None else 1, found.maximize, f"{caption} Click a heading to sort.")


def _cell(column: Column, value: Any) -> float | str | None:
    if value is MISSING or (value is None and column.numeric):
        return None
    if not column.numeric:
        return text(value)
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else f"{'-' * (value < 0)}Infinity"
    return str(value) if abs(value) > 2**53 and isinstance(value, int) else value


def _best(analyzer: HyperparameterAnalyzer, found: Overview, top_k: int) -> list[Block]:
    assert found.metric is not None
    settings = sorted((c.name for c in analyzer.table.settings), key=lambda name: -found.shares.get(name, 0.0))
    rows = [
        Row(
            f"{place}. {shortest(analyzer, each.configuration.runs)}",
            [
                written(each.value),
                str(each.value.n),
                *(shown(each.configuration.settings[n]) for n in settings),
                each.verdict,
            ],
            best=place == 1,
        )
        for place, each in enumerate(found.ranked[:top_k], start=1)
    ]
    way = "highest" if found.maximize else "lowest"
    spread = spread_note(each.value.n for each in found.ranked) if found.ranked else ""
    columns = ["runs", f"mean {found.metric.name}", "seeds", *settings, "compared with the best"]
    words = ["compared with the best"]
    count = f"{min(top_k, len(found.ranked))} of {len(found.ranked)}"
    caption = f"The {count} configurations with the {way} mean; {spread}."
    return [Section("Best configurations"), Table(columns, rows, caption, words) if rows else Text(found.headline)]


def shortest(analyzer: HyperparameterAnalyzer, runs: Sequence[int]) -> str:
    """Return the name of the first run and how many more there are."""
    more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    return analyzer.runs[runs[0]].name + more


def _importance(found: Overview, evaluator: str) -> list[Block]:
    assert found.metric is not None
    blocks: list[Block] = [Section("What mattered")]
    if not found.shares:
        return [*blocks, Text(found.unknown)]
    told = "for a run to be among the best" if evaluator == "ped-anova" else "for how runs differ"
    method = f"Shares of the importance {told} by {found.metric.name}: {EVALUATORS[evaluator]}, as Optuna computes it."
    unknown = " It tells what went along with good runs here; with few runs it is a guess."
    bars, rest = dict(list(found.shares.items())[:_BARS]), list(found.shares.values())[_BARS:]
    more = f" {len(rest)} more parameters have {sum(rest):.0%} together." if rest else ""
    return [*blocks, Bars(bars), Text(method + more + unknown, soft=True)]


def _partner(analyzer: HyperparameterAnalyzer, metric: Column) -> str | None:
    """A metric to set against another: one of cost, else the one to look at first among those that are left."""
    table = analyzer.table
    finite = {name: len(table.finite(column)) for name, column in table.metrics.items() if column is not metric}
    finite = {name: count for name, count in finite.items() if count > 1 and table.metrics[name].varied}
    if not finite:
        return None
    return names.cost_metric(metric.name, finite) or names.default_metric(finite)


def _figures(analyzer: HyperparameterAnalyzer, found: Overview, lambda_value: float | None) -> list[Block]:
    """Heat maps of the most important parameters, the first of them for each lambda, the front of two metrics."""
    assert found.metric is not None
    name, up = found.metric.name, found.maximize
    first = analyzer.by_importance(name, lambda_value, up)[:3]
    many = analyzer.table.lam is not None and analyzer.table.lam.varied and lambda_value is None
    over = f" over all values of {analyzer.table.lam.name}" if many and analyzer.table.lam else ""
    kinds: dict[str, Any] = {}
    for one, other in [(one, other) for place, one in enumerate(first) for other in first[place + 1 :]]:
        caption = f"{one} and {other}: mean {name} of the runs{over}; a dash: no run has the pair. The best is framed."
        kinds[caption] = lambda one=one, other=other: analyzer.plot_heatmap(one, other, name, lambda_value, maximize=up)
    if first:
        caption = (
            f"{name} of every run by {first[0]}, with the mean over the runs of a value: a bar is its 95% interval, "
            "small dots are both of two runs."
        )
        kinds[caption] = lambda: analyzer.plot_comparison(first[0], name, lambda_value=lambda_value, maximize=up)
    if partner := _partner(analyzer, found.metric):
        caption = f"{name} against {partner}: a point a configuration; none beats those on the front in both."
        kinds[caption] = lambda: analyzer.plot_pareto(partner, name, lambda_value=lambda_value, maximize=(None, up))
    images = render({caption: figure for caption, draw in kinds.items() if (figure := _drawn(draw)) is not None})
    pictures: list[Block] = [Picture(image, caption) for caption, image in images.items()]
    return [Section("Pictures"), *pictures] if pictures else []


def _drawn(draw: Any) -> Figure | None:
    try:
        figure: Figure = draw()
    except BitdialError:  # nothing to draw, such as runs that have one of two metrics each
        return None
    return figure


def _left_out(analyzer: HyperparameterAnalyzer) -> list[Block]:
    blocks: list[Block] = []
    if failed := analyzer.table.left_out():
        rows = [Row(run.name, [run.state, run.source, why(run)]) for run in failed]
        words = ["state", "kind", "why"]
        blocks.append(Section("Failed and pruned runs"))
        blocks.append(
            Table(["run", *words], rows[:_LISTED], _counted(len(rows), "They are in no mean and no picture."), words)
        )
    if unread := analyzer.unread:
        rows = [Row(_relative(analyzer, each.path), [each.reason]) for each in unread]
        blocks.append(Section("Files that could not be read"))
        blocks.append(Table(["file", "why"], rows[:_LISTED], _counted(len(rows)), ["why"]))
    return blocks


def _relative(analyzer: HyperparameterAnalyzer, path: Any) -> str:
    return str(path.relative_to(analyzer.results_dir)) if path.is_relative_to(analyzer.results_dir) else str(path)


def _counted(count: int, words: str = "") -> str:
    return f"The first {_LISTED} of {count}. {words}".strip() if count > _LISTED else words


def _constant(analyzer: HyperparameterAnalyzer) -> list[Block]:
    constant = analyzer.constant
    if not constant:
        return []
    facts = Facts({name: shown(value, 400) for name, value in constant.items()})
    return [Details(f"The same in all runs that have them: {len(constant)} parameters", [facts])]
