"""Batch-norm statistics belong to a width: another grid shifts every layer's mean and variance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.lazy import LazyModuleMixin

from bitdial.errors import BitdialError
from bitdial.layers.convert import REPORT
from bitdial.layers.names import check_model, evaluating, plain_names, uncompiled, unwrapped
from bitdial.layers.norm_rows import (
    ROW,
    BatchNorm1dPerWidth,
    BatchNorm2dPerWidth,
    BatchNorm3dPerWidth,
    NormRow,
    PerWidth,
)
from bitdial.layers.quantized import QuantizedLayer
from bitdial.layers.swapping import take_place
from bitdial.numerics import check_bits
from bitdial.numerics.learned_step import LearnsPerWidth

_KINDS: dict[type, type[PerWidth]] = {
    nn.BatchNorm1d: BatchNorm1dPerWidth,
    nn.BatchNorm2d: BatchNorm2dPerWidth,
    nn.BatchNorm3d: BatchNorm3dPerWidth,
}


def batch_norm_per_width(model: nn.Module, widths: Sequence[float]) -> nn.Module:
    """Give each batch norm of a quantized model parameters and statistics of its own for each width, in place.

    Every row begins as the norm is. In force is the row nearest to the width of the weights (where these are ternary:
    of the activations) of the quantized layer that was defined just before the norm, or of the first one where none
    was; of two as near, the wider. So a `BitDial` turns norms along with layers, skip connections' included. Norms stay
    the same objects; their parameters are new ones, so make the optimizer afterwards.

    Other norms (of classes of their own, synchronised, over groups or layers) serve every width as before;
    `skipped_layers` names them.

    Args:
        model: what `quantize` gave, bare or wrapped.
        widths: those that get a row, in [1, 32], in any order.

    Returns:
        The model.

    Raises:
        BitdialError: no widths, one that is none or comes twice; a model without quantized layers or batch norms, or
            whose batch norms have rows already.
    """
    check_model(model)
    modules = plain_names(model)
    layers = [module for module in modules.values() if isinstance(module, QuantizedLayer)]
    if not layers:
        raise BitdialError("model must have quantized layers, got none; call bitdial.quantize(model) first")
    if any(isinstance(module, PerWidth) for module in modules.values()):
        raise BitdialError("model must have ordinary batch norms, got some with rows already; call this once")
    rising = _checked(widths)
    left = {module: reason for module in modules.values() if (reason := _reason_against(module))}
    found: list[tuple[nn.Module, QuantizedLayer]] = []
    followed = layers[0]
    for module in modules.values():
        if isinstance(module, QuantizedLayer):
            followed = module
        elif type(module) in _KINDS and module not in left:
            found.append((module, followed))
    if not found:
        norms = ", ".join(dict.fromkeys(type(module).__name__ for module in left)) or "no norm at all"
        raise BitdialError(f"model must have BatchNorm1d, 2d or 3d to give rows to, got {norms}; leave this call out")
    for norm, layer in found:
        take_place(_KINDS[type(norm)].like(norm, rising, layer), norm)
        for store in (norm._parameters, norm._buffers):
            for name in ROW:
                store.pop(name, None)
    for module in modules.values():
        if REPORT in vars(module):
            vars(module)[REPORT] |= {name: left[m] for name, m in plain_names(module).items() if m in left}
    return model


def _checked(widths: Any) -> tuple[float, ...]:
    if isinstance(widths, str) or not isinstance(widths, Sequence) or not widths:
        raise BitdialError(f"widths must be a list of widths such as [2, 4, 8], got {widths!r}; give one or more")
    rising = sorted(check_bits(width, "widths") for width in widths)
    if len({f"{width:g}" for width in rising}) < len(rising):
        raise BitdialError(
            f"widths must be unlike each other, got {', '.join(f'{w:g}' for w in rising)}; give each once"
        )
    return tuple(rising)


def _reason_against(module: nn.Module) -> str | None:
    kind = type(module)
    if kind in _KINDS:
        if not {*module._parameters, *module._buffers}.issuperset(ROW):
            return "one of its tensors is computed by a hook (pruning)"
        return "its forward was replaced by another function" if "forward" in vars(module) else None
    if not isinstance(module, (_NormBase, nn.GroupNorm, nn.LayerNorm)) and (
        "Norm" not in kind.__name__ or module._modules
    ):
        return None
    if isinstance(module, LazyModuleMixin):
        return f"{kind.__name__} has no shape yet: run a batch through the model first"
    return f"{kind.__name__} serves every width: rows are for BatchNorm1d, 2d and 3d"


@torch.no_grad()
def rest_idle_rows(model: nn.Module) -> None:
    """Drop gradients that are all zero of what belongs to one width, so that an optimizer leaves it as it is.

    That is the rows of batch norms and what quantizers learn for each width. One that no forward pass of a step has
    used gets no gradient at all, and no optimizer moves it. But it gets zeros
    in a compiled model, from DistributedDataParallel and from ``zero_grad(set_to_none=False)``, and momentum and weight
    decay would move it; call this before ``optimizer.step()`` then. (`bitdial.training.fit` does so.)
    """
    rows = [module for module in model.modules() if isinstance(module, (NormRow, LearnsPerWidth))]
    given = [p for row in rows for p in row.parameters(recurse=False) if p.grad is not None]
    if not given:
        return
    gradients: list[Any] = [p.grad for p in given]
    parts = [gradient.to_local() if hasattr(gradient, "to_local") else gradient for gradient in gradients]
    sizes = torch.stack([size.to(parts[0].device) for size in torch._foreach_norm(parts, 1)])
    if any(part is not gradient for part, gradient in zip(parts, gradients, strict=True)):  # weights in shards
        torch.distributed.all_reduce(sizes)
    for parameter, size in zip(given, sizes.tolist(), strict=True):
        if size == 0:
            parameter.grad = None


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

    Example:
        >>> import torch
        >>> import bitdial as bd
        >>> net = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8))
        >>> bd.reestimate_batch_norm(net, [torch.randn(16, 8), torch.randn(16, 8)])
        2
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
    before = [
        (module, buffer, buffer.clone())
        for module in modules
        for buffer in module.buffers(recurse=isinstance(module, PerWidth))
    ]
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
            with uncompiled():
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
