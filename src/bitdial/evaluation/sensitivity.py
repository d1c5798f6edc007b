"""Which layer's width moves accuracy most: each layer alone at a low width, all others at a high one."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from pydantic import ConfigDict
from torch import nn

from bitdial.errors import BitdialError, suggest
from bitdial.evaluation.arguments import Criterion, check_device, nothing_drawn, task_for
from bitdial.evaluation.results import Measured, Record, WidthScore
from bitdial.evaluation.sweep import RECALIBRATION_LIMIT, sweep
from bitdial.layers import BitDial
from bitdial.layers.names import plain_names
from bitdial.numerics import check_bits
from bitdial.training.tasks import Task

MEASURES = ("accuracy", "loss")


class LayerSensitivity(Record):
    """What it costs to have one layer at the low width."""

    model_config = ConfigDict(frozen=True)

    layer: str
    """The layer."""
    accuracy_drop: Measured
    """Accuracy (a fraction) that is lost: with all layers at the high width, minus with this one at the low width."""
    loss_rise: Measured
    """Loss that is added by it."""
    low: float
    """The low width, in bits."""
    high: float
    """The width of all other layers, in bits."""
    weights: int
    """Number of weights of the layer."""


def layer_sensitivity(
    model: nn.Module,
    loader: Iterable[Any],
    loss_fn: Criterion | None = None,
    device: torch.device | str | None = None,
    *,
    low: float = 2,
    high: float = 8,
    measure: Literal["accuracy", "loss"] = "accuracy",
    task: Task | None = None,
    reestimate: bool = True,
    recalibration_batches: Iterable[Any] | None = None,
    recalibration_limit: int | None = RECALIBRATION_LIMIT,
) -> list[LayerSensitivity]:
    """Score the model with each quantized layer alone at `low` and all others at `high`, and with all at `high`.

    With L layers that is L + 1 scores, each exact for its layer, where a regression over random configurations shares
    its noise among all. The model and every random state come back as they were, as in `validate_random_bitwidths`,
    which also describes the arguments that are not named here.

    Args:
        model, loader, loss_fn, device, task, reestimate, recalibration_batches, recalibration_limit: as there. Do not
            give test batches where widths are chosen by what comes out.
        low, high: the two widths, ``low < high``, of weights and activations.
        measure: what the layers are sorted by: the drop in ``"accuracy"``, a coarse one on few examples, where equal
            drops are sorted by the rise in loss; or the rise in ``"loss"``.

    Returns:
        A record for each quantized layer, the most sensitive first; one whose loss is not a number is most sensitive.

    Raises:
        BitdialError: as in `validate_random_bitwidths`; widths in the wrong order; an unknown measure.
    """
    if measure not in MEASURES:
        hint = suggest(str(measure), MEASURES)
        raise BitdialError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}{hint}")
    if check_bits(low, "low") >= check_bits(high, "high"):
        raise BitdialError(f"low must be below high, got low={low:g} and high={high:g}; for instance low=2, high=8")
    check_device(model, device)
    names = BitDial(model).names
    modules = plain_names(model)
    with nothing_drawn(0, loader, recalibration_batches):
        whole, *alone = sweep(
            model,
            loader,
            [[high] * len(names), *one_at_a_time(len(names), low, high)],
            reestimate=reestimate,
            recalibration_batches=recalibration_batches,
            recalibration_limit=recalibration_limit,
            task=task_for(loss_fn, task),
        )
    found = [
        LayerSensitivity(
            layer=name,
            accuracy_drop=whole.accuracy - score.accuracy,
            loss_rise=loss_rise(whole, score),
            low=float(low),
            high=float(high),
            weights=modules[name].weight.numel(),  # type: ignore[operator]
        )
        for name, score in zip(names, alone, strict=True)
    ]
    return sorted(found, key=lambda each: _rank(each, measure), reverse=True)


def one_at_a_time(layers: int, low: float, high: float) -> list[list[float]]:
    """Return the configurations in which one layer stands at `low` and all others at `high`."""
    return [[low if layer == one else high for layer in range(layers)] for one in range(layers)]


def loss_rise(before: WidthScore, after: WidthScore) -> float:
    """Return how much higher the loss is; infinite where it is no longer a number."""
    rise = after.loss - before.loss
    return math.inf if math.isnan(rise) else rise


def _rank(found: LayerSensitivity, measure: str) -> tuple[float, ...]:
    drop, rise = found.accuracy_drop, found.loss_rise
    return rise == math.inf, 0.0 if measure == "loss" or math.isnan(drop) else drop, rise
