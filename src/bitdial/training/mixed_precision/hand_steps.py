"""A caller who calls ``optimizer.step()`` beside a trainer that steps by itself, and what is made of that."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from bitdial.training.step.optimizer_step import MicroBatches


class HandSteps:
    """Watches an optimizer for steps that neither the trainer nor a backward pass of the caller's own asked for.

    A loop that calls `train_step` for every batch and ``optimizer.step()`` for every fourth means to accumulate four.
    From the first such call on the caller drives: `train_step` collects, and ``optimizer.step()`` steps on the mean of
    what was collected. Where the trainer has stepped already, the caller's step moves nothing.
    """

    def __init__(self) -> None:
        self.drives = False
        """Whether the caller decides when there is a step."""
        self.calls = 0
        """Calls of `train_step` since the caller's last step."""
        self._told = False
        self._handle: RemovableHandle | None = None

    def watch(self, micro: MicroBatches, accumulates: bool, finish: Callable[[], object]) -> None:
        """Watch the optimizer of a step, and no other any more.

        Args:
            micro: the step's batches.
            accumulates: whether the trainer was told to accumulate.
            finish: steps on what was collected so far.
        """
        if self._handle is not None:
            self._handle.remove()
        stepping = False

        def before(optimizer: Optimizer, *_: Any) -> None:
            nonlocal stepping
            if stepping or not micro.is_untouched:
                return  # the trainer's own step, or one on gradients of the caller's
            calls, self.calls = self.calls, 0
            if len(micro):
                stepping = True
                try:
                    finish()
                finally:
                    stepping = False
            optimizer.zero_grad(set_to_none=True)  # zeros would move the weights by momentum and decay
            if accumulates or calls < 1:
                return
            self.drives = self.drives or calls > 1
            if not self._told:
                self._told = True
                did = (
                    f"each of the {calls} batches before it was a step of its own; from here on train_step collects, "
                    "and optimizer.step() steps on the mean: set "
                    f"MixedPrecisionConfig(accumulation_steps={calls}) and leave optimizer.step() out"
                    if calls > 1
                    else "this call moved nothing: leave it out"
                )
                warnings.warn(f"train_step steps by itself, got a call of optimizer.step(); {did}", stacklevel=3)

        self._handle = micro.optimizer.register_step_pre_hook(before)
