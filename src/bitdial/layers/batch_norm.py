"""Batch-norm statistics belong to a width: another grid shifts every layer's mean and variance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitdial.errors import BitdialError
from bitdial.layers.quantized import QuantizedLayer


def _first_of(model: nn.Module, batch: Any) -> Any:
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


@torch.no_grad()
def reestimate_batch_norm(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    limit: int | None = None,
    forward: Callable[[nn.Module, Any], Any] = _first_of,
) -> int:
    """Recompute running statistics at the widths that the model has now, in place.

    Means and variances of batch norms, and the activation ranges of quantized layers, become the plain average over the
    given batches. Parameters are untouched; dropout and the like stay off; every module's mode is put back.

    Args:
        model: bare or wrapped.
        batches: training batches; a tuple or list is taken for ``(input, ...)``.
        limit: how many of them to use at most; all if None.
        forward: ``(model, batch) -> ignored``, for batches of another form.

    Returns:
        The number of batches used.

    Raises:
        BitdialError: there was not one batch (the statistics are then as before).
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    ranged = [m for m in model.modules() if isinstance(m, QuantizedLayer)]
    iterator = islice(batches, limit)
    first = next(iter(iterator), None)
    if first is None:
        raise BitdialError("batches must hold at least one batch to estimate statistics from, got none")
    modes = {module: module.training for module in model.modules()}
    momenta = {norm: norm.momentum for norm in norms}
    model.eval()
    used = 0
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average
            norm.train()
        for layer in ranged:
            layer.reset_range()
            layer.train()
        for batch in (first, *iterator):
            forward(model, batch)
            used += 1
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
    return used
