"""One HTML page that tells what a run of ternary training found, and its plots."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import yaml
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bitdial.evaluation import wording
from bitdial.evaluation.files import write_atomically
from bitdial.evaluation.plot_style import COLOURS, INK, legend_name, new_figure, quiet
from bitdial.recipes.ternary.results import NetworkResult, TernaryResults
from bitdial.recipes.ternary.table import bytes_text, difference_text

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
    """Accuracy over the epochs: a colour for each experiment, a line for each seed; None where nothing was logged.

    Training accuracy is drawn where there is one network, or where no images were held out.
    """
    drawn = [network for network in networks if network.curve.epoch]
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


def render_plots(results: TernaryResults) -> dict[str, bytes]:
    """Name -> PNG."""
    figures = {"accuracy": accuracy_curves(results.networks), "zeros": zeros_by_layer(results.networks)}
    return {name: _png(figure) for name, figure in figures.items() if figure is not None}


def save_plots(images: Mapping[str, bytes], folder: Path) -> list[Path]:
    """Write every plot as ``NAME.png``."""
    return [write_atomically(folder / f"{name}.png", image) for name, image in images.items()]


def render_report(results: TernaryResults, images: Mapping[str, bytes]) -> str:
    """The report as one page without scripts and without the network; every text in it is escaped."""
    source = resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        percent=lambda value: wording.percent(value, sign=""),
        difference=difference_text,
        seconds=wording.seconds,
        size=bytes_text,
    )
    encoded = {name: base64.b64encode(image).decode("ascii") for name, image in images.items()}
    return environment.from_string(source).render(
        results=results,
        images=encoded,
        captions=captions(results.networks),
        missing=wording.MISSING,
        packed=[network for network in results.networks if network.sizes is not None],
        unquantized=next((network.unquantized for network in results.networks if network.sizes is not None), {}),
        config=yaml.safe_dump(results.config, sort_keys=False, allow_unicode=True, width=100),
    )


def write_report(results: TernaryResults, images: Mapping[str, bytes], path: Path) -> Path:
    """Write the report atomically."""
    return write_atomically(path, render_report(results, images))


def _colours(networks: Sequence[NetworkResult]) -> dict[str, str]:
    """A colour for each experiment, the same in every figure; black for unquantized ones."""
    ternary = list(dict.fromkeys(network.experiment for network in networks if network.quantizer != "none"))
    chosen = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(ternary)}
    return {network.experiment: chosen.get(network.experiment, INK) for network in networks}


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
