"""The page and the figures of a run of cyclic precision training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from bitdial.evaluation import page as pages
from bitdial.evaluation import plot_style, plots, report, wording
from bitdial.evaluation.page import Block, Page, Row, Section, Table, Text
from bitdial.evaluation.results import CycleAnalysis, CyclicResults
from bitdial.recipes.cyclic.cycle_plots import cycle_statistics, training_curves
from bitdial.recipes.cyclic.cycles import TOLERANCE

FIGURES: dict[str, Callable[[CyclicResults], Figure | None]] = {
    "bits_and_loss": training_curves,
    "accuracy_by_width": lambda results: plots.accuracy_against_width(results.comparison),
    "cycle_statistics": cycle_statistics,
    "accuracy_by_cost": lambda results: plots.accuracy_against_cost(results.comparison),
}
"""File name (without ``.png``) and drawing function of each figure, in reading order."""

CAPTIONS = {
    "bits_and_loss": (
        "Training loss and the width of the forward pass over the steps of the cyclic arm. Dotted lines mark where a "
        "cycle starts; on the right, a few cycles from the middle of the run."
    ),
    "accuracy_by_width": plots.WIDTH_CAPTION,
    "cycle_statistics": (
        "Left: training loss within each cycle. Right: change of the mean from one complete cycle to the next; "
        f"the band is ±{100 * TOLERANCE:g}%."
    ),
    "accuracy_by_cost": plots.COST_CAPTION,
}


def render(results: CyclicResults) -> dict[str, bytes]:
    """Return every figure that the results hold data for, as PNG."""
    return plot_style.render({name: draw(results) for name, draw in FIGURES.items()})


def save_plots(results: CyclicResults, folder: str | Path, *, images: Mapping[str, bytes] | None = None) -> list[Path]:
    """Write the figures as PNG files into `folder` (made when missing) and return their paths.

    A figure without data (cycle statistics of a run that did not cycle) is not written.

    Args:
        results: what to draw.
        folder: where to.
        images: what `render` gave, if the figures are drawn already.
    """
    return plot_style.save_plots(render(results) if images is None else images, folder)


def report_page(results: CyclicResults, images: Mapping[str, bytes]) -> Page:
    """Return the report as a page of blocks; `images` is what `render` gave."""
    comparison = results.comparison
    blocks = [
        *report.comparison_section(comparison),
        *report.cost_section(comparison),
        *report.difference_section(comparison, title="Cyclic training against each other arm", arm="CPT"),
        Section("Plots"),
        *pages.pictures(images, CAPTIONS),
    ]
    if "bits_and_loss" not in images:
        blocks.append(Text("No arm has a history, so its loss over steps is not drawn."))
    blocks += _cycles_section(results.cycles)
    blocks += pages.notes_section(results.notes)
    blocks += pages.reproduction_section(
        results.command,
        results.model_dump(mode="json", include={"config"})["config"],
        file="cyclic_precision_results.json",
        schema_version=results.schema_version,
    )
    blocks += pages.machine_section(results.machine)
    return Page(
        title=f"{results.experiment}: which precision is worth shipping",
        meta=[report.size(comparison), pages.made(results.created)],
        headline=comparison.reason,
        tiles=report.tiles(comparison),
        blocks=blocks,
    )


def write_report(results: CyclicResults, path: str | Path, *, images: Mapping[str, bytes] | None = None) -> Path:
    """Write the report to `path` atomically and return it.

    Args:
        results: what is reported.
        path: where to.
        images: what `render` gave, if the figures are drawn already.
    """
    return pages.write_page(report_page(results, render(results) if images is None else images), path)


def _cycles_section(cycles: list[CycleAnalysis]) -> list[Block]:
    if not cycles:
        return [Section("Cycles"), Text("No arm cycled its precision, or the analysis was switched off.")]
    return [
        Section("Cycles"),
        Table(
            columns=[
                "arm",
                "seed",
                "cycles",
                "loss, first → last",
                "slope per cycle",
                "last quarter",
                "state",
                "stability score",
            ],
            rows=[_cycles_row(item) for item in cycles],
            words=["state"],
        ),
        Text(
            f"State: {cycles[0].criterion}. The stability score is F / (1 + C + R): F the fraction of finite losses, C "
            "the mean spread within a cycle and R the mean rise from a cycle to the next, both relative to the mean "
            "loss; 1 is perfectly steady.",
            soft=True,
        ),
    ]


def _cycles_row(item: CycleAnalysis) -> Row:
    slope = wording.MISSING if item.slope is None else f"{item.slope:+.4f}".replace("-", wording.MINUS)
    return Row(
        item.arm or "",
        [
            str(item.seed),
            str(len(item.cycles)),
            f"{item.cycles[0].mean:.3f} → {item.cycles[-1].mean:.3f}",
            slope,
            wording.MISSING if item.change is None else wording.change(item.change),
            item.convergence,
            f"{item.stability_score:.2f}",
        ],
    )
