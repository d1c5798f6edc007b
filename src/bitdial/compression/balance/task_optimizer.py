"""What optimizers of several losses share: they wrap one, agree over processes, skip what is not finite."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from bitdial.errors import BitdialError, as_bitdial_errors
from bitdial.schedules._checks import check_count, check_number
from bitdial.training.devices import is_distributed
from bitdial.training.optimizers import check_step
from bitdial.training.recorder import TrainingDiverged
from bitdial.training.sharding import whole

Losses = Callable[[], Tensor]
"""Runs the model on a batch and returns its losses, ``[num_tasks]``."""

PATIENCE = 25
"""Steps in a row that may be skipped before training stops."""


class TaskOptimizer(Optimizer):
    """A wrapper of an optimizer, whose groups and states are its own, so that learning-rate schedules take either.

    Args:
        optimizer: any that steps on one gradient.
        num_tasks: how many losses there are.
        max_norm: 2-norm to which a longer gradient is scaled down; None: never.

    Attributes:
        steps: how often the weights were moved.
        skipped_steps: how often they were not, because a loss or the gradient was not finite.
    """

    def __init__(self, optimizer: Optimizer, num_tasks: int, max_norm: float | None) -> None:
        if not isinstance(optimizer, Optimizer):
            raise BitdialError(
                f"optimizer must be a torch optimizer, got {type(optimizer).__name__}; "
                "pass for example torch.optim.Adam(model.parameters())"
            )
        check_step(optimizer)
        with as_bitdial_errors():
            self.num_tasks = check_count(num_tasks, "num_tasks", least=2)
            if max_norm is not None and check_number(max_norm, "max_norm", least=0) == 0:
                raise BitdialError("max_norm must be above 0, got 0; None is for no clipping")
        super().__init__(optimizer.param_groups, {})
        self.optimizer, self.max_norm = optimizer, max_norm
        self.steps = self.skipped_steps = self.skipped_in_a_row = 0
        self._share()

    def _share(self) -> None:
        inner = self.optimizer
        self.param_groups, self.state, self.defaults = inner.param_groups, inner.state, inner.defaults

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients."""
        self.optimizer.zero_grad(set_to_none)

    def _ask(self, losses: Losses) -> Tensor:
        """Return the losses of the batch, ``[num_tasks]``."""
        if not callable(losses):
            raise BitdialError(
                f"step takes a function that returns the losses, got {type(losses).__name__}; "
                "write step(lambda: torch.stack([...]))"
            )
        found = losses()
        if isinstance(found, Tensor) and found.shape == (self.num_tasks,) and found.is_floating_point():
            return found
        got = f"{found.dtype} of shape {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise BitdialError(
            f"losses must be one floating-point tensor of shape [{self.num_tasks}], got {got}; torch.stack them"
        )

    def _ask_with_graph(self, losses: Losses) -> Tensor:
        self.zero_grad()
        with torch.enable_grad():
            found = self._ask(losses)
        if not found.requires_grad:
            raise BitdialError(
                "losses must depend on the model's weights, got some without a graph; do not detach them"
            )
        return found

    def _move(self) -> bool:
        """Clip and step where the gradient is finite in every process; return whether it was."""
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        if not parameters:
            raise BitdialError("no parameter of the optimizer got a gradient; do the losses depend on the model?")
        norm = get_total_norm([p.grad for p in parameters])
        if not everywhere(whole(norm).isfinite()):
            self._skip("the gradient")
            return False
        if self.max_norm is not None:
            clip_grads_with_norm_(parameters, self.max_norm, norm)
        self.optimizer.step()
        self.steps += 1
        self.skipped_in_a_row = 0
        return True

    def _skip(self, what: str) -> None:
        self.zero_grad()
        self.skipped_steps += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= PATIENCE:
            raise TrainingDiverged(
                f"{what} was not a finite number in {PATIENCE} steps in a row, the last after {self.steps} good ones; "
                "expected a finite number: lower the learning rate, or look for bad values in the data"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the counters, and the state of the wrapped optimizer."""
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return {"optimizer": self.optimizer.state_dict(), **counters}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            BitdialError: the state is of another kind of optimizer.
        """
        lacking = [name for name in self.state_dict() if name not in state_dict]
        if lacking:
            raise BitdialError(
                f"expected the state of {type(self).__name__}, got one without {', '.join(lacking)}; "
                "load a plain optimizer's state before wrapping it"
            )
        with as_bitdial_errors():
            self.optimizer.load_state_dict(state_dict["optimizer"])
        self._share()  # loading replaced the groups
        for name in _COUNTERS:
            setattr(self, name, int(state_dict[name]))


_COUNTERS = ("steps", "skipped_steps", "skipped_in_a_row")


def mean_over_processes(losses: Tensor) -> Tensor:
    """Return losses, averaged over the processes, in float64 on the host."""
    losses = losses.detach()
    if is_distributed():
        losses = losses.to(torch.float64, copy=True)
        torch.distributed.all_reduce(losses)
        losses /= torch.distributed.get_world_size()
    return losses.cpu().double()


def everywhere(true: Tensor) -> bool:
    """Whether something is true in every process: all must ask, and all then act alike."""
    if is_distributed():
        true = true.to(torch.int32)
        torch.distributed.all_reduce(true, torch.distributed.ReduceOp.MIN)
    return bool(true)
