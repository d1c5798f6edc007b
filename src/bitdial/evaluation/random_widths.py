"""Validation of a network that works at many widths: as it stands, at one width, and at widths drawn at random.

All three return `WidthValidation`, so that whatever logs one can log the others.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterable, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from bitdial.errors import BitdialError
from bitdial.evaluation.arguments import Criterion, check_device, check_options, nothing_drawn, task_for
from bitdial.evaluation.sweep import RECALIBRATION_LIMIT, evaluate_loss_accuracy, sweep, unchanged
from bitdial.evaluation.width_validation import ConfigurationScore, Spread, WidthValidation
from bitdial.layers import BitDial, Ledger, QuantizedLayer
from bitdial.layers.names import plain_names
from bitdial.numerics import UNQUANTIZED, check_bits
from bitdial.terminal import terminal
from bitdial.training.tasks import Task


def validate_random_bitwidths(
    model: nn.Module,
    loader: Iterable[Any],
    loss_fn: Criterion | None = None,
    device: torch.device | str | None = None,
    num_configs: int = 4,
    bitwidth_options: Sequence[float] = (2, 4, 8),
    *,
    seed: int = 0,
    task: Task | None = None,
    reestimate: bool = True,
    recalibration_batches: Iterable[Any] | None = None,
    recalibration_limit: int | None = RECALIBRATION_LIMIT,
    ledger: Ledger | None = None,
    verbose: bool = True,
) -> WidthValidation:
    """Score a model at widths drawn at random: in each configuration every quantized layer gets a width of its own.

    The draws are a function of `seed`, the number of layers and `bitwidth_options` alone. Each width is that of a
    layer's weights and of its input activations. The model comes back as it was, also when something raises: widths,
    parameters, buffers, modes; so do the random states of torch, NumPy and Python and the generators of the loaders.

    Args:
        model: a model that went through ``bitdial.quantize``, bare or wrapped.
        loader: batches to score, ``(x, targets)`` or what `task` takes; iterated for each configuration.
        loss_fn: what is reported as the loss; None: that of `task`.
        device: where the model is, as a check; None: wherever it is. Batches are brought there.
        num_configs: how many configurations to draw, 1 or more.
        bitwidth_options: widths to draw from, in [1, 32], evenly; one is legal. Repeat one to draw it more often.
        seed: of the draws, and of what the loaders draw from torch's CPU generator.
        task: how a batch is scored, for data of other shapes; `Classification` when left out. It brings its own loss.
        reestimate: whether to re-estimate batch-norm statistics (and activation ranges) at each configuration, which
            costs a little more than scoring the batches it takes. Without, they stay as they are: after joint training
            they are an average over the widths, which is right for none of them.
        recalibration_batches: training batches to re-estimate from; None: the inputs of `loader`.
        recalibration_limit: how many of them to take at most; None for all.
        ledger: what `bitdial.layers.cost` gave for this model, for relative BitOps.
        verbose: whether to print a line for each configuration and the statistics.

    Returns:
        Every configuration, the statistics over all, and the correlation of width and accuracy.

    Raises:
        BitdialError: an argument out of range, a loader that gives its batches only once or none at all, a device on
            which the model is not, a loss that is no mean, or a model without quantized layers.
    """
    if isinstance(num_configs, bool) or not isinstance(num_configs, int) or num_configs < 1:
        raise BitdialError(f"num_configs must be a whole number of 1 or more, got {num_configs!r}; 4 is usual")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise BitdialError(f"seed must be a whole number, got {seed!r}; give for instance seed=0")
    options = check_options(bitwidth_options)
    layers = len(BitDial(model))
    draw = random.Random(seed)
    found = _validate(
        model,
        loader,
        [[draw.choice(options) for _ in range(layers)] for _ in range(num_configs)],
        loss_fn=loss_fn,
        device=device,
        task=task,
        reestimate=reestimate,
        recalibration_batches=recalibration_batches,
        recalibration_limit=recalibration_limit,
        ledger=ledger,
        seed=seed,
        verbose=verbose,
    )
    if verbose:
        terminal().print(found.text(), soft_wrap=True)
    return found


def validate_fixed_bitwidth(
    model: nn.Module,
    loader: Iterable[Any],
    loss_fn: Criterion | None = None,
    device: torch.device | str | None = None,
    bitwidth: float = 8,
    *,
    task: Task | None = None,
    reestimate: bool = True,
    recalibration_batches: Iterable[Any] | None = None,
    recalibration_limit: int | None = RECALIBRATION_LIMIT,
    ledger: Ledger | None = None,
    verbose: bool = True,
) -> WidthValidation:
    """Score a model with every quantized layer at `bitwidth`; all else is as in `validate_random_bitwidths`."""
    widths = [check_bits(bitwidth, "bitwidth")] * len(BitDial(model))
    return _validate(
        model,
        loader,
        [widths],
        loss_fn=loss_fn,
        device=device,
        task=task,
        reestimate=reestimate,
        recalibration_batches=recalibration_batches,
        recalibration_limit=recalibration_limit,
        ledger=ledger,
        verbose=verbose,
    )


def validate_simple(
    model: nn.Module,
    loader: Iterable[Any],
    loss_fn: Criterion | None = None,
    device: torch.device | str | None = None,
    *,
    task: Task | None = None,
    ledger: Ledger | None = None,
    verbose: bool = True,
) -> WidthValidation:
    """Score a model as it stands: at the widths and with the statistics that it has.

    All else is as in `validate_random_bitwidths`.
    """
    return _validate(model, loader, [None], loss_fn=loss_fn, device=device, task=task, ledger=ledger, verbose=verbose)


VALIDATION_FUNCTIONS = MappingProxyType(
    {
        "simple": validate_simple,
        "fixed_bitwidth": validate_fixed_bitwidth,
        "random_bitwidths": validate_random_bitwidths,
    }
)
"""The name of a validation function in a configuration file -> the function."""


def _validate(
    model: nn.Module,
    loader: Iterable[Any],
    configurations: Sequence[Sequence[float] | None],
    *,
    loss_fn: Criterion | None,
    device: Any,
    task: Task | None,
    ledger: Ledger | None,
    verbose: bool,
    reestimate: bool = False,
    recalibration_batches: Iterable[Any] | None = None,
    recalibration_limit: int | None = None,
    seed: int = 0,
) -> WidthValidation:
    how, dial = task_for(loss_fn, task), BitDial(model)
    check_device(model, device)
    layers = [m for m in plain_names(model).values() if isinstance(m, QuantizedLayer)]
    console = terminal() if verbose else None
    scores: list[ConfigurationScore] = []
    with nothing_drawn(seed, loader, recalibration_batches):
        for number, drawn in enumerate(configurations, 1):
            weights, activations = (drawn, drawn) if drawn is not None else (dial.weights, dial.activations)
            if drawn is None:
                with unchanged(model):
                    loss, accuracy = evaluate_loss_accuracy(model, loader, task=how)
            else:
                (score,) = sweep(
                    model,
                    loader,
                    [drawn],
                    reestimate=reestimate,
                    recalibration_batches=recalibration_batches,
                    recalibration_limit=recalibration_limit,
                    task=how,
                )
                loss, accuracy = score.loss, score.accuracy
            real = [layer.quantizer.weight_width(w) for layer, w in zip(layers, weights, strict=True)]
            scores.append(
                ConfigurationScore(
                    widths=tuple(weights),
                    average_bits=statistics.fmean(real),
                    accuracy=accuracy,
                    loss=loss,
                    relative_bitops=_relative_bitops(ledger, dial.names, weights, activations),
                )
            )
            if console:
                line = f"Acc={accuracy:.4f}, Loss={loss:.4f}, Avg Bitwidth={scores[-1].average_bits:.2f}"
                console.print(f"Config {number}/{len(configurations)}: {line}", soft_wrap=True)
    return WidthValidation(
        layers=dial.names,
        configurations=tuple(scores),
        accuracy=Spread.of([each.accuracy for each in scores]),
        loss=Spread.of([each.loss for each in scores]),
        bits=Spread.of([each.average_bits for each in scores]),
        relative_bitops=None if ledger is None else Spread.of([each.relative_bitops or 0.0 for each in scores]),
        correlation=_correlation([each.average_bits for each in scores], [each.accuracy for each in scores]),
        reestimated=reestimate,
    )


def _relative_bitops(
    ledger: Ledger | None, names: Sequence[str], weights: Sequence[float], activations: Sequence[float]
) -> float | None:
    if ledger is None:
        return None
    quantized = [row.name for row in ledger.rows if row.quantized] if isinstance(ledger, Ledger) else []
    if not quantized or not set(quantized) <= set(names):
        raise BitdialError(
            "ledger must be that of this model, bitdial.layers.cost(model, example_input), "
            f"got {'one of another model' if isinstance(ledger, Ledger) else type(ledger).__name__}"
        )
    w, a = ([dict(zip(names, part, strict=True))[name] for name in quantized] for part in (weights, activations))
    return ledger.step_bitops(w, a).forward / ledger.step_bitops(UNQUANTIZED, UNQUANTIZED).forward


def _correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Pearson's correlation; NaN where one of them is constant or has something that is not finite."""
    if not all(map(math.isfinite, (*one, *other))) or min(one) == max(one) or min(other) == max(other):
        return math.nan
    return statistics.correlation(one, other)
