"""The page and the figures of a run of ternary training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bitdial.evaluation import page as pages
from bitdial.evaluation import wording
from bitdial.evaluation.drawing import COLOURS, INK, Drawing
from bitdial.evaluation.page import Block, Items, Page, Row, Section, Table, Text
from bitdial.evaluation.plot_style import legend_name, new_figure, quiet, render
from bitdial.recipes.ternary.results import NetworkResult, Summary, TernaryResults, bytes_text, difference_text

ZEROS_CAPTION = "Share of weights that are exactly zero, layer by layer from the input to the output, as shipped."


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
    return {"accuracy": accuracy, "zeros": ZEROS_CAPTION}


def accuracy_curves(networks: Sequence[NetworkResult]) -> Figure | None:
    """Accuracy over the epochs: a colour for each experiment, a line for each seed; None where none was logged.

    Training accuracy is drawn where there is one network, or where no images were held out.
    """
    curves = [(network, network.curve.validation_accuracy + network.curve.train_accuracy) for network in networks]
    drawn = [network for network, values in curves if any(value is not None for value in values)]
    if not drawn:
        return None
    colours = _colours(drawn)
    figure = new_figure(9.5, 4.4)
    axes = figure.subplots()
    for network in drawn:
        curve, colour = network.curve, colours[network.experiment]
        lines = [(curve.validation_accuracy, "-", "held out"), (curve.train_accuracy, ":", "training")]
        measured = [line for line in lines if any(value is not None for value in line[0])]
        for values, line, what in measured if len(drawn) == 1 else measured[:1]:
            points = [float("nan") if value is None else 100 * value for value in values]
            label = what if len(drawn) == 1 else legend_name(network.experiment)
            known = label in axes.get_legend_handles_labels()[1]  # a second seed
            marker = "." if len(points) < 3 else None
            axes.plot(curve.epoch, points, line, color=colour, label=None if known else label, marker=marker)
        if network.shipped_epoch in curve.epoch:
            at = curve.validation_accuracy[curve.epoch.index(network.shipped_epoch)]
            if at is not None:
                axes.plot([network.shipped_epoch], [100 * at], "o", color=colour)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    quiet(axes, title="Accuracy over the epochs", x="epoch", y="accuracy (%)")
    figure.legend(loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def zeros_by_layer(networks: Sequence[NetworkResult]) -> Figure | None:
    """Share of zeros of every layer; None where nothing is ternary."""
    drawn = [network for network in networks if network.zeros]
    if not drawn:
        return None
    names = list(drawn[0].zeros)
    figure = new_figure(9.5, 3.8)
    axes = figure.subplots()
    colours = _colours(networks)
    for network in drawn:
        values = [100 * network.zeros[name] for name in network.zeros]
        label = legend_name(network.experiment)
        known = label in axes.get_legend_handles_labels()[1]  # a second seed
        colour = colours[network.experiment]
        axes.plot(range(len(values)), values, "o-", color=colour, label=None if known else label, markersize=4)
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axes.set_ylim(0, 100)
    quiet(axes, title="Share of zeros", x="", y="zeros (%)")
    axes.tick_params(axis="x", labelsize=8)
    if len(drawn) > 1:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def render_plots(results: TernaryResults) -> dict[str, Drawing]:
    """Return every figure that the results hold data for."""
    return render({"accuracy": accuracy_curves(results.networks), "zeros": zeros_by_layer(results.networks)})


def report_page(results: TernaryResults, images: Mapping[str, Drawing]) -> Page:
    """Return the report as a page of blocks; `images` is what `render_plots` gave."""
    return Page(
        title="Ternary training",
        meta=[pages.made(results.created), f"{results.config['model']} on {results.config['dataset']}"],
        blocks=[
            *_accuracy_section(results),
            *pages.pictures(images, captions(results.networks)),
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
    columns = ["experiment", "weights", "held out\n(%)", "test\n(%)", *reference, "zeros", "epochs", "seconds"]
    rows = [
        Row(
            row.experiment,
            [
                "float32" if row.quantizer == "none" else row.quantizer,
                wording.MISSING if row.validation is None else wording.percent(row.validation, sign=""),
                wording.percent(row.test, sign=""),
                *([_difference(row)] if reference else []),
                wording.MISSING if row.zeros is None else f"{row.zeros:.1%}",
                f"{row.epochs:g}",
                wording.seconds(row.seconds),
            ],
        )
        for row in results.summaries
    ]
    return [Section("Accuracy"), Table(columns, rows, words=["weights"])]


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
