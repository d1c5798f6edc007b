"""Scales learning rates for the length of an optimizer step, out of sight of whoever schedules them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from bitdial.errors import BitdialError

_BASE = "learning_rate_before_bits"


class StepRate:
    """Multiplies the learning rates of optimizers with a factor while they step, and puts the exact values back.

    It hangs on the optimizer's own step hooks: whatever happens between two steps (a scheduler, a log, a checkpoint)
    sees the unscaled rate, and a step that a loss scaler skips is never scaled. Several on one optimizer multiply.

    Args:
        optimizers: what to scale.
        factor: asked at every step.

    Raises:
        BitdialError: an optimizer without step hooks.
    """

    def __init__(self, optimizers: Iterable[Any], factor: Callable[[], float]) -> None:
        self._optimizers = [_innermost(optimizer) for optimizer in optimizers]
        self._factor = factor
        self._handles: list[RemovableHandle] = []
        for optimizer in self._optimizers:
            _put_back(optimizer)  # a step that raised may have left its rate scaled
            self._handles.append(optimizer.register_step_pre_hook(self._scale))
            self._handles.append(optimizer.register_step_post_hook(lambda stepped, *_: _put_back(stepped)))

    def detach(self) -> None:
        """Take the hooks off, and put back what a step that raised has left scaled."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for optimizer in self._optimizers:
            _put_back(optimizer)

    def _scale(self, optimizer: Optimizer, *_: Any) -> None:
        factor = self._factor()
        for group in optimizer.param_groups:
            rate = group["lr"]
            # A tensor keeps its identity: captured graphs and schedulers hold on to it.
            if isinstance(rate, Tensor):
                group.setdefault(_BASE, rate.detach().clone())
                rate.mul_(factor)
            else:
                group.setdefault(_BASE, rate)
                group["lr"] = rate * factor


def _put_back(optimizer: Optimizer) -> None:
    for group in optimizer.param_groups:
        base = group.pop(_BASE, None)
        if isinstance(base, Tensor):
            group["lr"].copy_(base)
        elif base is not None:
            group["lr"] = base


def _innermost(optimizer: Any) -> Optimizer:
    """Find the torch optimizer in its wrappers (accelerate's claims to be one, but has no hooks)."""
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, Optimizer):
        raise BitdialError(
            f"adjust_lr_with_bits must have a torch optimizer whose rate it can scale, got {type(optimizer).__name__}; "
            "set adjust_lr_with_bits=False, or train without the plugin that replaces the optimizer"
        )
    return optimizer
