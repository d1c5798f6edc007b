"""One HTML file that tells what a run found: no network, no scripts, the plots inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from bitdial.evaluation import wording
from bitdial.evaluation.cycles import TOLERANCE
from bitdial.evaluation.files import write_atomically
from bitdial.evaluation.plots import render
from bitdial.evaluation.results import CyclicResults
from bitdial.evaluation.table import target_widths

CAPTIONS = {
    "bits_and_loss": (
        "Training loss and the width of the forward pass over the steps of the cyclic arm. Dotted lines mark where a "
        "cycle starts; on the right, a few cycles from the middle of the run."
    ),
    "accuracy_by_width": (
        "Accuracy of every arm when its model is dialled to each width, batch-norm statistics re-estimated there "
        "unless that was switched off. Bars are 95% intervals over seeds; a ring marks the width that would ship."
    ),
    "cycle_statistics": (
        "Left: training loss within each cycle. Right: change of the mean from one complete cycle to the next; "
        f"the band is ±{100 * TOLERANCE:g}%."
    ),
    "accuracy_by_cost": (
        "Accuracy as shipped against the simulated cost of training, and against the wall-clock seconds that the same "
        "steps took. The line joins the arms that no other arm beats in accuracy for the same cost or less."
    ),
}


def render_report(results: CyclicResults, *, images: Mapping[str, bytes] | None = None) -> str:
    """Return the report as one HTML page; every string of the results is escaped.

    Args:
        results: what is reported.
        images: what `bitdial.evaluation.plots.render` gave, if the figures are drawn already.
    """
    source = resources.files("bitdial.evaluation").joinpath("report.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(
        percent=lambda value: wording.percent(value, sign=""),
        points=wording.points,
        breakable=lambda name: escape(name).replace("_", Markup("_<wbr>")),
        span=wording.span,
        engineering=wording.engineering,
        seconds=wording.seconds,
        change=wording.change,
    )
    drawn = render(results) if images is None else images
    return environment.from_string(source).render(
        results=results,
        comparison=results.comparison,
        best=results.comparison.summary(results.comparison.recommended),
        widths=target_widths(results.comparison),
        several=max(row.seeds for row in results.comparison.summaries) > 1,
        text_task=any(row.own_perplexity for row in results.comparison.summaries),
        images={name: base64.b64encode(image).decode("ascii") for name, image in drawn.items()},
        minus=wording.MINUS,
        captions=CAPTIONS,
        config=_yaml(results.model_dump(mode="json", include={"config"})["config"]),
    )


def write_report(results: CyclicResults, path: str | Path, *, images: Mapping[str, bytes] | None = None) -> Path:
    """Write the report to `path` atomically and return it; `images` as in `render_report`."""
    return write_atomically(path, render_report(results, images=images))


def _yaml(config: dict[str, Any]) -> str:
    return (
        yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
        if config
        else ""
    )
