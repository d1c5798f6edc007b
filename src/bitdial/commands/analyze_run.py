"""What ``bitdial analyze`` does: runs are read, ranked, assessed, printed, and written as a page."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bitdial.commands.picture_paths import printable
from bitdial.errors import BitdialError
from bitdial.evaluation.wording import spread_note
from bitdial.search import HyperparameterAnalyzer
from bitdial.search.columns import shown
from bitdial.search.groups import written
from bitdial.search.importance import EVALUATORS
from bitdial.search.overview import Overview, counted, overview_of, why
from bitdial.search.readers import Unread
from bitdial.terminal import terminal

if TYPE_CHECKING:
    from bitdial.commands.analyze import AnalyzeConfig

_SETTINGS = 6
"""How many parameters the table has in the terminal at most; fewer where they have no room."""
_VERDICT, _GAP = 22, 3
"""Columns for what is said of a row, and between two."""
_LISTED = 10
"""How many of what failed or could not be read is listed there."""
_NAME = 28


def analyze(options: AnalyzeConfig, report: Path | None) -> int:
    """Do it; return the exit status."""
    analyzer = HyperparameterAnalyzer(options.dir, parameters=options.param, lambda_name=options.lambda_name)
    console = terminal()
    if not analyzer.runs:
        _print_unread(terminal(stderr=True), analyzer.unread, options.dir)
        raise BitdialError(f"expected finished runs in {printable(options.dir)}, got none; name a folder that has some")
    maximize = None if options.minimize is None else not options.minimize
    how: dict[str, Any] = {"lambda_value": options.lambda_value, "maximize": maximize, "evaluator": options.evaluator}
    found = overview_of(analyzer, options.metric, **how)
    _say(console, f"{counted(analyzer)} in {options.dir}")
    _say(console, found.headline, style="bold")
    if found.ranked:
        console.print(_best(analyzer, found, options.top_k, console.width))
    _print_importance(console, found, options.evaluator)
    for note in found.notes:
        _say(console, note)
    failed = [": ".join(filter(None, (run.name, run.state, why(run)))) for run in analyzer.table.left_out()]
    _list(console, "Failed or pruned, and in no mean:", failed)
    _print_unread(console, analyzer.unread, options.dir)
    if report is not None:
        metric = None if found.metric is None else options.metric
        _say(console, f"Page: {_write(analyzer, report, options, metric, how)}")
    return 0


def _write(
    analyzer: HyperparameterAnalyzer, report: Path, options: AnalyzeConfig, metric: str | None, how: dict[str, Any]
) -> Path:
    there = next(each for each in (report.parent, *report.absolute().parent.parents) if each.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise BitdialError(
            f"the page must go where it can be written, got {printable(there)}, which cannot; name another file with "
            "--report FILE.html, or none with --report none"
        )
    return analyzer.report(report, metric, top_k=max(options.top_k, 10), **how)


def _best(analyzer: HyperparameterAnalyzer, found: Overview, top_k: int, room: int) -> Table:
    assert found.metric is not None
    settings = sorted((c.name for c in analyzer.table.settings), key=lambda name: -found.shares.get(name, 0.0))
    rows = found.ranked[:top_k]
    cells = {
        name: [printable(shown(each.configuration.settings[name], _NAME)) for each in rows]
        for name in settings[:_SETTINGS]
    }
    heads = {name: printable(shown(name, _NAME)) for name in cells}
    scores = [written(each.value) for each in rows]
    metric = printable(found.metric.name)
    room -= max(map(len, [metric, *scores])) + len("seeds") + _VERDICT + 3 * _GAP
    while len(cells) > 1 and sum(max(map(len, [heads[n], *column])) + _GAP for n, column in cells.items()) > room:
        cells.popitem()  # the last ones matter least
    more = f"; {len(settings) - len(cells)} more parameters on the page" if len(settings) > len(cells) else ""
    told = spread_note(each.value.n for each in found.ranked) + more
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption=told, caption_justify="left")
    table.add_column(Text(metric), justify="right", no_wrap=True)
    table.add_column("seeds", justify="right", no_wrap=True)
    for name in cells:
        table.add_column(Text(heads[name]), overflow="fold")
    table.add_column("compared with the best", overflow="fold")
    for place, each in enumerate(rows):
        values = [Text(column[place]) for column in cells.values()]
        table.add_row(scores[place], str(each.value.n), *values, each.verdict, style="bold" if place == 0 else None)
    return table


def _print_importance(console: Console, found: Overview, evaluator: str) -> None:
    if not found.shares:
        _say(console, found.unknown)
        return
    shares = list(found.shares.items())
    told = ", ".join(f"{shown(name, _NAME)} {100 * share:.0f}%" for name, share in shares[:_LISTED])
    more = f" and {len(shares) - _LISTED} more" if len(shares) > _LISTED else ""
    _say(console, f"What mattered ({EVALUATORS[evaluator]}): {told}{more}.")


def _print_unread(console: Console, unread: list[Unread], folder: Path) -> None:
    lines = [
        f"{each.path.relative_to(folder) if each.path.is_relative_to(folder) else each.path}: {each.reason}"
        for each in unread
    ]
    _list(console, "Could not be read:", lines)


def _list(console: Console, heading: str, lines: list[str]) -> None:
    if lines:
        _say(console, heading)
    for line in lines[:_LISTED]:
        _say(console, f"  {line}")
    if len(lines) > _LISTED:
        _say(console, f"  and {len(lines) - _LISTED} more, on the page")


def _say(console: Console, words: str, style: str = "") -> None:
    console.print(Text(printable(words), style=style), soft_wrap=True)
