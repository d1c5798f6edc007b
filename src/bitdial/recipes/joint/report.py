"""What a run of joint training shows: accuracy at each width, as a table, a figure and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table as Terminal

from bitdial.evaluation import Interval, WidthScore, interval, wording
from bitdial.evaluation import page as pages
from bitdial.evaluation.curves import training_curves
from bitdial.evaluation.page import Page, Row, Section, Table
from bitdial.evaluation.plot_style import COLOURS, new_figure, quiet, render

CAPTIONS = {
    "accuracy_by_width": "Accuracy of one network with every layer at each width; bars are 95% intervals over seeds.",
    "bits_and_loss": "Training loss, and the mean of the widths that were drawn, over the steps of the first seed.",
}


def over_seeds(scores: Sequence[Sequence[WidthScore]]) -> dict[float, Interval]:
    """Width -> accuracy over the seeds."""
    return {row[0].bits: interval([score.accuracy for score in row]) for row in zip(*scores, strict=True)}


def width_table(scores: Sequence[Sequence[WidthScore]]) -> Terminal:
    """Accuracy at each width, for the terminal."""
    table = Terminal(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("bits", "accuracy"):
        table.add_column(heading, justify="right")
    for bits, value in over_seeds(scores).items():
        table.add_row(f"{bits:g}", wording.percent(value))
    return table


def draw(results: Any) -> dict[str, bytes]:
    """Accuracy against width, and training itself, as PNG."""
    figure, first = new_figure(8.0, 4.2), results.networks[0]
    axes, values = figure.subplots(), over_seeds([network.scores for network in results.networks])
    means = [100 * value.mean for value in values.values()]
    halves = [100 * (value.half or 0.0) for value in values.values()]
    axes.errorbar(list(values), means, yerr=halves, fmt="o-", color=COLOURS[0], capsize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(values), [f"{bits:g}" for bits in values])
    axes.minorticks_off()
    axes.set_ylim(top=min(101.0, axes.get_ylim()[1]))
    quiet(axes, title="Accuracy at each width", x="width of weights and activations (bits)", y="accuracy (%)")
    curves = training_curves(first.history, f"{first.name}, seed {first.seed}")
    return render({"accuracy_by_width": figure, "bits_and_loss": curves})


def report_page(results: Any, images: Mapping[str, bytes]) -> Page:
    """The report of `JointResults`, as a page of blocks."""
    values = over_seeds([network.scores for network in results.networks])
    rows = [Row(f"{bits:g}", [wording.percent(value, sign="")]) for bits, value in values.items()]
    return Page(
        title="One network for many widths",
        meta=[pages.made(results.created), f"{results.config['model']} on {results.config['dataset']}"],
        blocks=[
            Section("Accuracy"),
            Table(["bits", "accuracy (%)"], rows),
            *pages.pictures(images, CAPTIONS),
            *pages.notes_section(results.notes),
            *pages.reproduction_section(
                results.command, results.config, file="results.json", schema_version=results.schema_version
            ),
            *pages.machine_section(results.machine),
        ],
    )
