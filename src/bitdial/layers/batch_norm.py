"""Batch-norm statistics belong to a width: another grid shifts every layer's mean and variance."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bitdial.errors import BitdialError
from bitdial.layers.names import check_model, evaluating, unwrapped
from bitdial.layers.quantized import QuantizedLayer


def _first_of(model: nn.Module, batch: Any) -> Any:
    return model(batch[0] if isinstance(batch, (tuple, list)) else batch)


def _count_examples(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Have a batch norm leave out batches without an example, as an expert of a mixture gets them."""
    norm.train(not inputs or inputs[0].numel() > 0)


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
    given batches; a module that none of their examples reaches keeps its own. Parameters are untouched; dropout and the
    like stay off; every module's mode is put back. Modules in evaluation mode in a model that is in training mode are
    frozen, and keep theirs.

    Args:
        model: bare or wrapped.
        batches: training batches; a tuple or list is taken for ``(input, ...)``.
        limit: how many of them to use at most; all if None.
        forward: ``(model, batch) -> ignored``, for batches of another form.

    Returns:
        The number of batches used.

    Raises:
        BitdialError: there was not one batch, or an argument is of another kind than said above.

    Whatever goes wrong, also in `forward`, the statistics are then as before.
    """
    check_model(model)
    if isinstance(batches, (Tensor, str, bytes)) or not isinstance(batches, Iterable):
        raise BitdialError(
            f"batches must be an iterable of batches, got {type(batches).__name__}; pass a loader or a list of batches"
        )
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise BitdialError(f"limit must be a whole number from 1 up, or None for all batches, got {limit!r}")
    awake = [m for m in model.modules() if m.training or not unwrapped(model).training]
    norms = [m for m in awake if isinstance(m, _BatchNorm) and m.track_running_stats]
    ranged = [m for m in awake if isinstance(m, QuantizedLayer)]
    momenta = [norm.momentum for norm in norms], [layer.range_momentum for layer in ranged]
    modules: list[nn.Module] = [*norms, *ranged]
    before = [(module, buffer, buffer.clone()) for module in modules for buffer in module.buffers(recurse=False)]
    counts: dict[nn.Module, Tensor | None] = {norm: norm.num_batches_tracked for norm in norms}
    counts |= {layer: layer.range_batches for layer in ranged}
    hooks = [norm.register_forward_pre_hook(_count_examples) for norm in norms]
    used = 0
    try:
        with evaluating(model):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a plain average
                norm.train()
            for layer in ranged:
                layer.reset_range()
                layer.range_momentum = 0.0
                layer.train()
            # Uncompiled: this mixture of modes would be one more graph, for a few batches.
            with torch.compiler.set_stance("force_eager"):
                for batch in islice(batches, limit):
                    forward(model, batch)
                    used += 1
        if not used:
            raise BitdialError(
                "batches must hold at least one batch to estimate statistics from, got none; "
                "a generator gives its batches only once"
            )
        for module, buffer, value in before:
            count = counts[module]
            if count is not None and not count.any():  # no example came by: what was known is better than nothing
                buffer.copy_(value)
    except BaseException:
        for _, buffer, value in before:
            buffer.copy_(value)
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in zip(norms, momenta[0], strict=True):
            norm.momentum = momentum
        for layer, share in zip(ranged, momenta[1], strict=True):
            layer.range_momentum = share
    return used
