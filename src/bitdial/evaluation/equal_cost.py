"""What training costs at a schedule of bits, and how long another training must be to cost the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import nn

from bitdial.errors import BitdialError
from bitdial.layers import Ledger, cost
from bitdial.schedules import LayerSchedule
from bitdial.training.batches import length_of, to_device
from bitdial.trees import map_tensors


def ledger_of(model: nn.Module, batches: Iterable[Any]) -> Ledger:
    """The ledger of a model that takes the first element of a batch.

    Raises:
        BitdialError: there is no batch.
    """
    for batch in batches:
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        one = to_device(map_tensors(lambda tensor: tensor[:1], inputs), next(model.parameters()).device)
        return cost(model, one if isinstance(batch, Mapping) else (one,))
    raise BitdialError("loader must give at least one batch, got none; is the training split empty?")


def schedule_bitops(
    ledger: Ledger,
    schedule: LayerSchedule,
    layers: int,
    iterations: int,
    gradient_bits: float = 32,
    *,
    examples: Callable[[int], float] = lambda step: 1,
) -> float:
    """Simulated BitOps of training at a schedule, ``(step, layer) -> width``; `examples`: step -> examples in it."""
    known: dict[tuple[float, ...], float] = {}
    total = 0.0
    for step in range(iterations):
        widths = tuple(schedule(step, layer) for layer in range(layers))
        if widths not in known:
            known[widths] = ledger.step_bitops(widths, widths, gradient_bits).total
        total += known[widths] * examples(step)
    return total


def matched_steps(bitops: float, step_bitops: float, examples: Callable[[int], float] = lambda step: 1) -> int:
    """The number of steps whose BitOps come nearest to a sum: within half a step; at least one.

    `step_bitops` are those of one example; `examples`: step -> examples in it.
    """
    steps, spent = 0, 0.0
    while spent + step_bitops * examples(steps) / 2 <= bitops:
        spent += step_bitops * examples(steps)
        steps += 1
    return max(1, steps)


def batches_in_step(loader: Any, accumulation: int) -> Callable[[int], int]:
    """How many batches each optimizer step takes: `accumulation`, and at an epoch's end what is left of it."""
    size = length_of(loader) or 0
    rest = size % accumulation
    if not rest:
        return lambda step: accumulation
    whole = size // accumulation
    return lambda step: rest if step % (whole + 1) == whole else accumulation
