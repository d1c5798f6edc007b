"""The page and the figures of a run of ternary training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bitdial.evaluation import page as pages
from bitdial.evaluation import wording
from bitdial.evaluation.confusion import confusion_caption, confusion_matrix
from bitdial.evaluation.curves import FLIPS_TOLD, Panels, panels_of_log, training_curves
from bitdial.evaluation.drawing import COLOURS, INK, Drawing
from bitdial.evaluation.page import Block, Items, Page, Row, Section, Table, Text
from bitdial.evaluation.plot_style import legend_name, new_figure, quiet, render
from bitdial.evaluation.svg import tell
from bitdial.evaluation.wording import bytes_text
from bitdial.numerics import UNQUANTIZED
from bitdial.recipes.ternary.answer import answer_of
from bitdial.recipes.ternary.results import NetworkResult, Summary, TernaryResults, difference_text

ZEROS_CAPTION = "Share of weights that are exactly zero, layer by layer from the input to the output, as shipped."

CLOSE_UP = 6
"""From so many epochs on, the last ones are drawn once more."""


def captions(networks: Sequence[NetworkResult]) -> dict[str, str]:
    """What each figure shows, of these very networks."""
    harder = "on the augmented training batches, which CutMix, MixUp and the like make harder"
    if not any(value is not None for network in networks for value in network.curve.validation_accuracy):
        accuracy = f"Accuracy epoch by epoch {harder}. No images were held out."
    elif len(networks) == 1:
        accuracy = f"Accuracy epoch by epoch on the images held out; a dot marks the shipped weights. Dotted: {harder}."
    else:
        accuracy = (
            "Accuracy epoch by epoch on the images held out, a line for each seed; a dot marks the shipped weights."
        )
    ternary = any(network.quantizer != "none" for network in networks)
    flips = f"; {FLIPS_TOLD}" if ternary else ""
    training = f"Training loss and learning rate over the steps of the first seed{flips}.{_widths(networks)}"
    return {"accuracy": accuracy, "zeros": ZEROS_CAPTION, "training": training}


def _widths(networks: Sequence[NetworkResult]) -> str:
    """The widths, which stay what they are over the whole run, in a sentence."""
    ternary = [network for network in networks if network.quantizer != "none"]
    if not ternary:
        return " Nothing is quantized."
    inputs = sorted({network.activation_bits for network in ternary})
    wide = "unquantized" if inputs == [UNQUANTIZED] else f"at {' or '.join(map(wording.bits, inputs))}"
    return f" Widths do not move: weights are ternary from the first step on, activations {wide}."


def accuracy_curves(networks: Sequence[NetworkResult]) -> Figure | None:
    """Accuracy over the epochs: a colour for each experiment, a line for each seed; None where none was logged.

    Training accuracy is drawn where there is one network, or where no images were held out. Of several networks the
    last epochs are drawn once more, close up.
    """
    curves = [(network, network.curve.validation_accuracy + network.curve.train_accuracy) for network in networks]
    drawn = [network for network, values in curves if any(value is not None for value in values)]
    if not drawn:
        return None
    last = max(network.curve.epoch[-1] for network in drawn)
    close = len(drawn) > 1 and last >= CLOSE_UP
    figure = new_figure(10.5, 4.4)
    panels = list(figure.subplots(1, 2 if close else 1, squeeze=False).flat)
    for axes, title in zip(panels, ("Accuracy over the epochs", "The last epochs, close up"), strict=False):
        first = 0 if axes is panels[0] else last - max(2, last // 3)
        shown = [value for network in drawn for value in _accuracy(axes, network, drawn, first)]
        quiet(axes, title=title, x="epoch", y="accuracy (%)")
        if first and shown:
            room = 0.08 * (max(shown) - min(shown)) + 0.05
            axes.set(xlim=(first - 0.3, last + 0.3), ylim=(min(shown) - room, max(shown) + room))
            axes.set_ylabel(f"accuracy (%), from {axes.get_ylim()[0]:.3g} on")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def _accuracy(axes: Axes, network: NetworkResult, drawn: Sequence[NetworkResult], first: int) -> list[float]:
    """Draw the curve of one network; return its values from an epoch on."""
    curve, colour, alone = network.curve, _colours(drawn)[network.experiment], len(drawn) == 1
    lines = [(curve.validation_accuracy, "-", "held out"), (curve.train_accuracy, ":", "training")]
    measured = [line for line in lines if any(value is not None for value in line[0])]
    found = []
    for values, style, what in measured if alone else measured[:1]:
        points = [float("nan") if value is None else 100 * value for value in values]
        label = what if alone else legend_name(network.experiment)
        known = label in axes.get_legend_handles_labels()[1]  # a second seed
        look: dict[str, Any] = {"color": colour, "marker": "." if len(points) < 3 else None, "lw": 1.4}
        (line,) = axes.plot(curve.epoch, points, style, label=None if known else label, **look)
        tell(line, what if alone else f"{network.experiment}, seed {network.seed}")
        found += [y for epoch, y in zip(curve.epoch, points, strict=True) if epoch >= first and math.isfinite(y)]
    if network.shipped_epoch in curve.epoch:
        at = curve.validation_accuracy[curve.epoch.index(network.shipped_epoch)]
        if at is not None:
            (dot,) = axes.plot([network.shipped_epoch], [100 * at], "o", color=colour)
            tell(dot, f"{network.experiment}, seed {network.seed}: shipped")
    return found


def zeros_by_layer(networks: Sequence[NetworkResult]) -> Figure | None:
    """Share of zeros of every layer, a bar for each experiment (the mean of its seeds); None where none is ternary."""
    groups: dict[str, list[NetworkResult]] = {}
    for network in networks:
        if network.zeros:
            groups.setdefault(network.experiment, []).append(network)
    if not groups:
        return None
    names = list(next(iter(groups.values()))[0].zeros)
    figure = new_figure(10.5, 4.0)
    axes, width = figure.subplots(), 0.82 / len(groups)
    colours = _colours(networks)
    for number, (experiment, group) in enumerate(groups.items()):
        shares = [[100 * network.zeros.get(name, 0.0) for network in group] for name in names]
        values = [sum(each) / len(each) for each in shares]
        places = [place + (number - (len(groups) - 1) / 2) * width for place in range(len(names))]
        bars = axes.bar(places, values, 0.94 * width, color=colours[experiment], label=legend_name(experiment))
        told = [f"{name}: {value:.1f}% zeros" for name, value in zip(names, values, strict=True)]
        tell(bars.patches[0], experiment, told)
    stride = -(-len(names) // 40)
    turned: dict[str, Any] = {"rotation": 60, "rotation_mode": "anchor", "ha": "right", "va": "center", "fontsize": 8}
    axes.set_xticks(range(0, len(names), stride), names[::stride], parse_math=False, **turned)
    axes.set_xlim(-0.6, len(names) - 0.4)
    quiet(axes, title="Share of zeros", x="", y="zeros (%)")
    axes.grid(visible=False, axis="x")
    axes.tick_params(axis="x", labelsize=8)
    if len(groups) > 1:
        figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    return figure


def training(networks: Sequence[NetworkResult], log: Path) -> Figure | None:
    """Loss, learning rate and flips over the steps, of every experiment with its first seed, from the run's log."""
    first = {network.experiment: network for network in reversed(networks)}
    runs, colours = dict[str, Panels](), dict[str, str]()
    for name, network in reversed(first.items()):
        told = f"{name}, seed {network.seed}"
        runs[told] = panels_of_log(log, {"experiment": name, "seed": str(network.seed)})
        colours[told] = _colours(networks)[name]
    return training_curves({name: panels for name, panels in runs.items() if panels}, colours=colours)


def confusion(results: TernaryResults) -> Figure | None:
    """The mistakes of the most accurate ternary experiment, over its seeds."""
    tables = [network.test.confusion for network in results.networks if network.experiment == _best(results)]
    return confusion_matrix(tables, results.class_names, f"{_best(results)}: confusion (%)")


def _best(results: TernaryResults) -> str:
    return results.ships()[0].what


def render_plots(results: TernaryResults, log: Path | None = None) -> dict[str, Drawing]:
    """Return every figure that the results, and the run's log ``metrics.csv``, hold data for."""
    return render(
        {
            "accuracy": accuracy_curves(results.networks),
            "training": None if log is None else training(results.networks, log),
            "zeros": zeros_by_layer(results.networks),
            "confusion": confusion(results),
        }
    )


def report_page(results: TernaryResults, images: Mapping[str, Drawing]) -> Page:
    """Return the report as a page of blocks; `images` is what `render_plots` gave."""
    answer = answer_of(results)
    return Page(
        title="Ternary training",
        meta=[pages.made(results.created), f"{results.config['model']} on {results.config['dataset']}"],
        headline=answer.headline,
        lines=answer.lines,
        tiles=answer.tiles,
        blocks=[
            *_accuracy_section(results),
            *pages.pictures(images, {**captions(results.networks), "confusion": confusion_caption(_best(results))}),
            *_size_section(results.networks),
            *_unquantized_section(results.networks),
            *pages.notes_section(results.notes),
            *pages.reproduction_section(
                results.command, results.config, file="results.json", schema_version=results.schema_version
            ),
            *pages.machine_section(results.machine),
        ],
    )


def _accuracy_section(results: TernaryResults) -> list[Block]:
    reference = [] if results.reference is None else [f"vs {results.reference}\n(points)"]
    columns = ["experiment", "test\n(%)", *reference, "held out\n(%)", "zeros", "epochs", "seconds", "weights"]
    spread = wording.spread_note(row.test.n for row in results.summaries)
    caption = f"Accuracy on test images and on those held out of training; {spread}."
    rows = [
        Row(
            row.experiment,
            [
                wording.percent(row.test, sign=""),
                *([_difference(row)] if reference else []),
                wording.MISSING if row.validation is None else wording.percent(row.validation, sign=""),
                wording.MISSING if row.zeros is None else f"{row.zeros:.1%}",
                f"{row.epochs:g}",
                wording.seconds(row.seconds),
                "float32" if row.quantizer == "none" else row.quantizer,
            ],
        )
        for row in results.summaries
    ]
    why = [Text(results.sentence)] if results.sentence else []
    return [Section("Accuracy"), *why, Table(columns, rows, caption, words=["weights"])]


def _difference(row: Summary) -> str:
    return wording.MISSING if row.difference is None else difference_text(row.difference)


def _size_section(networks: Sequence[NetworkResult]) -> list[Block]:
    packed = [(network.key, network.sizes) for network in networks if network.sizes is not None]
    if not packed:
        return []
    columns = [
        "network",
        "packed\nweights",
        "the same\nas float32",
        "whole\nfile",
        "network\nas float32",
        "ratio of\nthe files",
        "memory at\nrun time",
    ]
    rows = [
        Row(
            key,
            [
                *map(bytes_text, (sizes.weights, sizes.float32_weights, sizes.file, sizes.float32)),
                f"{sizes.float32 / sizes.file:.1f}x",
                bytes_text(sizes.memory),
            ],
        )
        for key, sizes in packed
    ]
    memory = "Packing makes files small. Loaded again, the weights are floating-point values: memory stays as it was."
    return [Section("Size"), Table(columns, rows), Text(memory, soft=True)]


def _unquantized_section(networks: Sequence[NetworkResult]) -> list[Block]:
    """The layers left alone, of the first network of which a part was quantized."""
    network = next((network for network in networks if network.sizes is not None), None)
    if network is None:
        lines = ["all: nothing was quantized"]
    else:
        lines = [f"{name}: {reason}" for name, reason in network.unquantized.items()] or ["none"]
    return [Section("Layers left unquantized"), Items(lines)]


def _colours(networks: Sequence[NetworkResult]) -> dict[str, str]:
    """A colour for each experiment, the same in every figure; black for unquantized ones."""
    ternary = list(dict.fromkeys(network.experiment for network in networks if network.quantizer != "none"))
    chosen = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(ternary)}
    return {network.experiment: chosen.get(network.experiment, INK) for network in networks}
