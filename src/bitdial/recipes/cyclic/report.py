"""The page and the figures of a run of cyclic precision training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bitdial.evaluation import page as pages
from bitdial.evaluation import plot_style, plots, report, wording
from bitdial.evaluation.confusion import confusion_caption, confusion_matrix
from bitdial.evaluation.curves import FLIPS_TOLD, flips_of_log, history_curves
from bitdial.evaluation.drawing import COLOURS, FAINT, INK, PAPER, Drawing
from bitdial.evaluation.page import Block, Page, Row, Section, Table, Text
from bitdial.evaluation.recommendation import name_of
from bitdial.recipes.cyclic.answer import answer_of
from bitdial.recipes.cyclic.cycles import TOLERANCE, CycleAnalysis
from bitdial.recipes.cyclic.results import CyclicResults

BLUE, ORANGE = COLOURS[:2]


def cyclic_curves(results: CyclicResults, log: Path | None = None) -> Figure | None:
    """Draw loss, learning rate and bits of the first CPT arm (any arm when there is none) over its steps.

    Args:
        results: of a run.
        log: its ``metrics.csv``, for the flips of its weights.
    """
    logged = [arm for arm in results.arms if arm.history.step]
    arm = next((arm for arm in logged if arm.kind == "cpt"), logged[0] if logged else None)
    if arm is None:
        return None
    flips = None if log is None else flips_of_log(log, {"phase": arm.name, "seed": str(arm.seed)})
    return history_curves(arm.history, f"{arm.name}, seed {arm.seed}", flips)


def cycle_statistics(results: CyclicResults) -> Figure | None:
    """Draw mean, spread and range of the loss in each cycle, and its change from cycle to cycle; None without cycles.

    The right panel shows the band within which the mean counts as standing still.
    """
    if not results.cycles:
        return None
    shown = next((a for a in results.cycles if a.arm == "cpt"), results.cycles[0])
    same_arm = [a for a in results.cycles if a.arm == shown.arm]
    figure = plot_style.new_figure(10.5, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    _cycle_bands(left, shown, others=[a for a in same_arm if a is not shown])
    _changes(right, shown)
    moved = "" if shown.change is None else f" ({wording.change(shown.change)})"
    score = f"stability {shown.stability_score:.2f}, {shown.convergence}{moved}"
    plot_style.quiet(left, title=f"{shown.arm}, seed {shown.seed}: {score}", x="cycle", y="training loss (nats)")
    plot_style.quiet(
        right, title=f"Change of the mean (band: ±{100 * TOLERANCE:g}%)", x="cycle", y="against the cycle before (%)"
    )
    for axes in (left, right):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def confusion(results: CyclicResults) -> Figure | None:
    """Draw the mistakes of what is recommended, over all seeds; None of more than a few classes, or none."""
    chosen = results.comparison.chosen
    scores = [
        arm.own if arm.own_label == chosen.label else arm.at(chosen.bits)
        for arm in results.arms
        if arm.name == chosen.arm
    ]
    return confusion_matrix([score.confusion for score in scores if score], results.class_names, "Confusion (%)")


def captions(results: CyclicResults) -> dict[str, str]:
    """Return what each figure shows, of these very results."""
    return {
        "bits_and_loss": (
            "Training loss, learning rate and the width of the forward pass over the steps of one arm, as far as they "
            f"were logged; {FLIPS_TOLD}."
        ),
        "accuracy_by_width": plots.width_caption(results.comparison),
        "cycle_statistics": (
            "Left: training loss within each cycle. Right: change of the mean from one complete cycle to the next; "
            f"the band is ±{100 * TOLERANCE:g}%."
        ),
        "accuracy_by_cost": plots.cost_caption(results.comparison),
        "confusion": confusion_caption(name_of(results.comparison.chosen)),
    }


def render(results: CyclicResults, log: Path | None = None) -> dict[str, Drawing]:
    """Return every figure that the results, and the run's log ``metrics.csv``, hold data for, in reading order."""
    return plot_style.render(
        {
            "bits_and_loss": cyclic_curves(results, log),
            "accuracy_by_width": plots.accuracy_against_width(results.comparison),
            "cycle_statistics": cycle_statistics(results),
            "accuracy_by_cost": plots.accuracy_against_cost(results.comparison),
            "confusion": confusion(results),
        }
    )


def save_plots(results: CyclicResults, folder: str | Path) -> list[Path]:
    """Write the figures as PNG files into `folder` (made when missing) and return their paths.

    A figure without data (cycle statistics of a run that did not cycle) is not written.
    """
    return plot_style.save_plots(render(results), folder)


def write_report(results: CyclicResults, path: str | Path) -> Path:
    """Write the report to `path` atomically and return it."""
    return pages.write_page(report_page(results, render(results)), path)


def report_page(results: CyclicResults, images: Mapping[str, Drawing]) -> Page:
    """Return the report as a page of blocks; `images` is what `render` gave."""
    comparison, answer = results.comparison, answer_of(results.arms, results.comparison)
    blocks = [
        *report.comparison_section(comparison),
        *report.cost_section(comparison),
        *report.difference_section(comparison, title="Cyclic training against each other arm", arm="CPT"),
        Section("Plots"),
        *pages.pictures(images, captions(results)),
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
        headline=answer.headline,
        lines=answer.lines,
        tiles=answer.tiles,
        blocks=blocks,
    )


def _cycles_section(cycles: list[CycleAnalysis]) -> list[Block]:
    if not cycles:
        return [Section("Cycles"), Text("No arm cycled its precision, or the analysis was switched off.")]
    return [
        Section("Cycles"),
        Table(
            columns=[
                "arm",
                "state",
                "seed",
                "cycles",
                "loss, first → last",
                "slope per cycle",
                "last quarter",
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
            item.convergence,
            str(item.seed),
            str(len(item.cycles)),
            f"{item.cycles[0].mean:.3f} → {item.cycles[-1].mean:.3f}",
            slope,
            wording.MISSING if item.change is None else wording.change(item.change),
            f"{item.stability_score:.2f}",
        ],
    )


def _cycle_bands(axes: Axes, shown: CycleAnalysis, others: list[CycleAnalysis]) -> None:
    cycles = shown.cycles
    index = [cycle.index for cycle in cycles]
    mean, std = np.array([cycle.mean for cycle in cycles]), np.array([cycle.std for cycle in cycles])
    low, high = [cycle.min for cycle in cycles], [cycle.max for cycle in cycles]
    axes.fill_between(index, low, high, color=BLUE, alpha=0.12, lw=0, label="lowest to highest")
    axes.fill_between(index, mean - std, mean + std, color=BLUE, alpha=0.3, lw=0, label="± standard deviation")
    axes.plot(index, mean, color=BLUE, lw=1.8, marker="o" if len(cycles) < 40 else "", ms=4, label="mean")
    for number, other in enumerate(others):
        axes.plot(
            [cycle.index for cycle in other.cycles],
            [cycle.mean for cycle in other.cycles],
            color=FAINT,
            lw=0.9,
            label="mean of the other seeds" if number == 0 else None,
        )
    unfinished = [cycle for cycle in cycles if not cycle.complete]
    if unfinished:
        axes.plot(
            [cycle.index for cycle in unfinished],
            [cycle.mean for cycle in unfinished],
            "o",
            ms=6,
            mfc=PAPER,
            mec=BLUE,
            label="incomplete cycle",
        )
    if len(cycles) == 1:
        axes.vlines(index, low, high, color=BLUE, alpha=0.4)
    axes.set_ylim(bottom=0)


def _changes(axes: Axes, shown: CycleAnalysis) -> None:
    whole = [cycle for cycle in shown.cycles if cycle.complete]
    pairs = [(a, b) for a, b in pairwise(whole) if a.mean and math.isfinite(a.mean + b.mean)]
    change = [100 * (b.mean - a.mean) / abs(a.mean) for a, b in pairs]
    colours = [ORANGE if value > 0 else BLUE for value in change]
    axes.bar([b.index for _, b in pairs], change, color=colours, width=0.75, zorder=2)
    limit = 100 * TOLERANCE
    axes.axhspan(-limit, limit, color=COLOURS[2], alpha=0.18, lw=0)
    axes.axhline(0, color=INK, lw=0.8)
    if not pairs:
        axes.text(0.5, 0.6, "too few complete cycles", ha="center", transform=axes.transAxes, color=INK)
