"""The comparison as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from bitdial.evaluation.results import ArmSummary, Comparison, Interval, WidthScore
from bitdial.evaluation.wording import MISSING, engineering, seconds, spread_note, two_values

WIDE = 100
"""From this many columns on, an interval stands beside its mean; below, under it."""


def target_widths(comparison: Comparison) -> list[str]:
    """Return every target width that some arm was measured at, narrowest first, as keys of ``ArmSummary.accuracy``."""
    return sorted({key for row in comparison.summaries for key in row.accuracy}, key=float)


def comparison_table(comparison: Comparison, *, width: int = WIDE) -> Table:
    """Return one row an arm, in the order of the ranking: accuracy at each target width, its own width, and the cost.

    The recommended arm and its accuracy at the recommended width are marked with ``>``. In a terminal of less than 100
    columns (`width`) an interval stands not beside its mean but on a second line.
    """
    stacked = width < WIDE
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        title="Accuracy (%) at each width, and what it cost",
        caption=_caption(comparison),
        caption_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title_style="bold",
    )
    # The name is the one column that may shrink: its cells end in an ellipsis, and no number is ever cut.
    table.add_column(" arm", min_width=8)
    widths = target_widths(comparison)
    for key in widths:
        table.add_column(f"{key}\nbit", justify="right", no_wrap=True)
    for heading in ("own\nbits", "avg\nbits", "BitOps\n(sim.)", "wall\nsec."):
        table.add_column(heading, justify="right", no_wrap=True)
    chosen = comparison.chosen
    for row in comparison.summaries:
        best = row.name == chosen.arm
        framed = chosen.label if best else None
        table.add_row(
            Text(f"{'>' if best else ' '}{row.name}", no_wrap=True, overflow="ellipsis"),
            *(_accuracy(row.accuracy.get(key), stacked=stacked, framed=key == framed) for key in widths),
            _own(row, stacked=stacked, framed=row.own_label == framed),
            f"{row.average_bits if row.dial_bits is None else row.dial_bits:.3g}",
            engineering(row.bitops).replace(" ", "" if stacked else " "),
            seconds(row.seconds),
            style="bold green" if best else None,
        )
    return table


def _accuracy(value: Interval | None, *, stacked: bool, framed: bool) -> Text:
    if value is None or not math.isfinite(value.mean):
        return Text(MISSING, style="dim")
    text = _number(f"{100 * value.mean:.1f}", framed=framed)
    if (both := two_values(value)) is not None:
        low, high = (f"{100 * each:.1f}" for each in both)
        text.append(f"\n{low}\u2013{chr(10) if stacked else ''}{high}", style="dim")
    elif value.half is not None:
        half = 100 * value.half
        text.append(f"{chr(10) if stacked else ''}±{half:.{1 if half < 9.95 else 0}f}", style="dim")
    return text


def _own(row: ArmSummary, *, stacked: bool, framed: bool) -> Text:
    label = row.own_label.replace(" alternating", "")
    if row.own_label in row.accuracy:
        return Text(label)  # its accuracy stands in that width's column
    mean = MISSING if not math.isfinite(row.own.mean) else f"{100 * row.own.mean:.1f}"
    return Text(f"{label}:{chr(10) if stacked else ' '}").append(_number(mean, framed=framed))


def _number(text: str, *, framed: bool) -> Text:
    return Text.assemble((f">{text}", "underline")) if framed else Text(text)


def _caption(comparison: Comparison) -> str:
    spread = spread_note(row.seeds for row in comparison.summaries)
    told = f"{spread[0].upper()}{spread[1:]}.  BitOps are simulated; seconds count the same steps."
    return f"> recommended, and at which width.  {told}"


def width_table(scores: Sequence[WidthScore]) -> Table:
    """Return one row a width: accuracy, loss, and what else the task scores."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    metrics = list(scores[0].metrics)
    for heading in ("bits", "accuracy", "loss", *metrics):
        table.add_column(Text(heading), justify="right")
    for score in scores:
        accuracy = MISSING if math.isnan(score.accuracy) else f"{score.accuracy:.2%}"
        more = [f"{score.metrics[name]:.4f}" for name in metrics]
        table.add_row(f"{score.bits:.3g}", accuracy, f"{score.loss:.4f}", *more)
    return table
