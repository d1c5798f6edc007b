"""What a run of joint training shows: accuracy at each width, as a table, figures and a page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table as Terminal

from bitdial.evaluation import WidthValidation, plot_bitwidth_vs_accuracy, plot_layer_sensitivity, wording
from bitdial.evaluation import page as pages
from bitdial.evaluation.confusion import confusion_caption, confusion_matrix
from bitdial.evaluation.curves import FLIPS_TOLD, flips_of_log, history_curves
from bitdial.evaluation.drawing import COLOURS, Drawing
from bitdial.evaluation.page import Block, Page, Pre, Row, Section, Table, Text
from bitdial.evaluation.plot_style import draw_spread, new_figure, quiet, render
from bitdial.evaluation.svg import tell
from bitdial.recipes.joint.answer import answer_of
from bitdial.recipes.joint.results import JointResults

COLUMNS = ("bits", "accuracy", "loss", "BitOps", "size")


def captions(results: JointResults) -> dict[str, str]:
    """What each figure shows, of these very results."""
    note = wording.bars_note([len(results.networks)])
    bars = f"; {note}" if note else ""
    of = "the network" if results.ship_bits is None else f"the network at {results.ship_bits:g} bits"
    return {
        "accuracy_by_width": f"Accuracy on the test data with every layer at one width{bars}.",
        "bitwidth_vs_accuracy": "The last validation: a configuration has a width for every layer; first seed.",
        "validation": "Accuracy of the drawn configurations after each epoch: mean, worst and best; first seed.",
        "layer_sensitivity": (
            "Loss that one layer alone at the narrowest width adds, all others at the widest; first seed."
        ),
        "bits_and_loss": (
            "Training loss, learning rate and the mean of the widths of the passes, over the steps of the first seed"
            f"{f'; {FLIPS_TOLD}' if results.config.get('quantize', True) else ''}."
        ),
        "confusion": confusion_caption(of),
    }


def rows_of(results: JointResults) -> list[tuple[str, ...]]:
    """The table: width, accuracy, loss, simulated BitOps of a forward pass against 32 bits, packed size."""
    first, losses = results.networks[0], results.loss()
    sizes = dict(zip(results.accuracy(), zip(first.relative_bitops, first.size_bytes, strict=True), strict=False))
    rows: list[tuple[str, ...]] = []
    for bits, accuracy in results.accuracy().items():
        bitops, size = sizes.get(bits, (None, None))
        rows.append(
            (
                f"{bits:g}",
                wording.percent(accuracy),
                f"{losses[bits].mean:.3f}",
                wording.MISSING if bitops is None else f"{100 * bitops:.1f}%",
                wording.MISSING if size is None else wording.bytes_text(size),
            )
        )
    return rows


def width_table(results: JointResults) -> Terminal:
    """What the network scores and costs at each width, for the terminal."""
    note = wording.spread_note([len(results.networks)])
    table = Terminal(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, caption=note, caption_justify="left")
    for heading in COLUMNS:
        table.add_column(heading, justify="right")
    for row in rows_of(results):
        table.add_row(
            *row, style="bold" if results.ship_bits is not None and row[0] == f"{results.ship_bits:g}" else None
        )
    return table


def draw(results: JointResults, log: Path | None = None) -> dict[str, Drawing]:
    """Accuracy against width, at one width and at drawn ones, and training itself, with the run's ``metrics.csv``."""
    first, last = results.networks[0], results.networks[0].validation
    drawn = last is not None and last.accuracy.mean == last.accuracy.mean
    flips = None if log is None else flips_of_log(log, {"arm": first.name, "seed": str(first.seed)})
    figures = {
        "accuracy_by_width": _by_width(results) if len(results.accuracy()) > 1 else None,
        "bitwidth_vs_accuracy": _configurations(last, first.epochs[-1].epoch) if last is not None and drawn else None,
        "validation": _validations(results) if drawn and len(first.epochs) > 1 else None,
        "layer_sensitivity": plot_layer_sensitivity(first.sensitivity, measure="loss") if first.sensitivity else None,
        "bits_and_loss": history_curves(first.history, f"{first.name}, seed {first.seed}", flips),
        "confusion": _confusion(results),
    }
    return render(figures)


def _configurations(last: WidthValidation, epoch: int) -> Any:
    """The figure that TensorBoard has, as large as the others here."""
    figure = plot_bitwidth_vs_accuracy(last.bitwidths, last.accuracies, epoch=epoch)
    figure.set_size_inches(8.0, 4.2)
    figure.set_dpi(160)
    return figure


def _confusion(results: JointResults) -> Any:
    bits = max(results.accuracy()) if results.ship_bits is None else results.ship_bits
    tables = [score.confusion for network in results.networks for score in network.scores if score.bits == bits]
    return confusion_matrix(tables, results.class_names, "Confusion (%)")


def _by_width(results: JointResults) -> Any:
    figure, values = new_figure(8.0, 4.2), results.accuracy()
    axes = figure.subplots()
    means = [100 * value.mean for value in values.values()]
    (line,) = axes.plot(list(values), means, "o-", color=COLOURS[0])
    draw_spread(axes, list(values), list(values.values()), COLOURS[0], scale=100)
    tell(line, "", [f"{bits:g} bits: {wording.percent(value)}" for bits, value in values.items()])
    if results.ship_bits in values:
        best = 100 * values[results.ship_bits].mean
        axes.plot(
            [results.ship_bits], [best], "o", markersize=14, fillstyle="none", color=COLOURS[1], label="worth shipping"
        )
        figure.legend(loc="outside lower center", frameon=False, fontsize=9)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(values), [f"{bits:g}" for bits in values])
    axes.minorticks_off()
    axes.set_ylim(top=min(101.0, axes.get_ylim()[1]))
    quiet(axes, title="Accuracy at each width", x="width of weights and activations (bits)", y="accuracy (%)")
    return figure


def _validations(results: JointResults) -> Any:
    """Accuracy of the configurations after each epoch."""
    epochs = results.networks[0].epochs
    figure = new_figure(8.0, 3.6)
    axes, steps = figure.subplots(), [scores.step for scores in epochs]
    low, high, mean = ([100 * getattr(scores.accuracy, part) for scores in epochs] for part in ("min", "max", "mean"))
    axes.fill_between(steps, low, high, color=COLOURS[0], alpha=0.2, linewidth=0, label="worst to best configuration")
    axes.plot(steps, mean, "o-", color=COLOURS[0], markersize=3, label="mean")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    quiet(axes, title="Validation after each epoch", x="step", y="accuracy (%)")
    return figure


def validation_section(results: JointResults) -> list[Block]:
    """The numbers of the last validation."""
    last, networks = results.networks[0].validation, results.networks
    if last is None:
        return []
    took, whole = sum(each.seconds_validation for each in networks), sum(each.seconds for each in networks)
    share = f"All validations took {wording.seconds(took)} s, {took / max(whole, took, 1e-9):.0%} of training."
    return [Section("Validation"), Text("The last one of the first seed:"), Pre(last.text()), Text(share)]


def report_page(results: JointResults, images: Mapping[str, Drawing]) -> Page:
    """The report of `JointResults`, as a page of blocks."""
    rows = [
        Row(row[0], row[1:], best=results.ship_bits is not None and row[0] == f"{results.ship_bits:g}")
        for row in rows_of(results)
    ]
    caption = (
        "Every layer at the width, on the test data. BitOps of a forward pass against those at 32 bits, simulated; "
        "size with packed weights."
    )
    answer = answer_of(results)
    return Page(
        title="One network for many widths",
        meta=[
            pages.made(results.created),
            f"{results.config['model']} on {results.config['dataset']}",
            results.config.get("training_method", "joint_quantization"),
        ],
        headline=answer.headline,
        lines=answer.lines,
        tiles=answer.tiles,
        blocks=[
            Section("Accuracy"),
            *([Text(results.sentence)] if results.sentence else []),
            Table(COLUMNS, rows, caption),
            *pages.pictures(images, captions(results)),
            *validation_section(results),
            *pages.notes_section(results.notes),
            *pages.reproduction_section(
                results.command, results.config, file="results.json", schema_version=results.schema_version
            ),
            *pages.machine_section(results.machine),
        ],
    )
