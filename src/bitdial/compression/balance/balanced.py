"""Balanced rate-distortion training, solution 1: weights of the losses that learn from what every step did to each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bitdial.compression.balance.task_optimizer import Losses, TaskOptimizer, mean_over_processes
from bitdial.compression.balance.task_weights import TaskWeights
from bitdial.errors import as_bitdial_errors
from bitdial.schedules._checks import check_count
from bitdial.training.devices import is_distributed
from bitdial.training.seeding import random_state, restore_random_state
from bitdial.training.step.memory import Snapshot


class BalancedOptimizer(TaskOptimizer):
    """Steps on ``sum p_i grad L_i``, with the weights p of `TaskWeights`, which also has equations and sources.

    A step goes forward, backward, clips, moves the model, and goes forward over the same batch again, without a
    gradient, to see what became of each loss. The host waits for the device after each forward and after the backward.

    In several processes the losses are averaged over all of them before anything is made of them, so that each has
    the same w; gradients are for `DistributedDataParallel` to average.

    While losses are far above 1, a factor on one of them (lambda) drops out of the method: a multiple of a loss has
    the same gradient of its logarithm. Then train with the plain sum for `warmup_steps` first.

    Args:
        optimizer: any torch optimizer, over the model's weights.
        num_tasks: number of losses.
        gamma: decay of w; one for all tasks or one for each. May be set at any time, see `AdaptiveGammaScheduler`.
        w_lr: rate of the Adam that moves w.
        min_losses: a lower bound m of each loss, which it never reaches; None: -1 each.
        max_norm: 2-norm to which a longer gradient of the model is scaled down; None: never.
        warmup_steps: applied steps on the plain sum of the losses, at first; w rests.
        second_forward_every: w is moved after every so many steps, and only these go forward twice.
        same_noise: the second forward draws the random numbers of the first (from torch on every device, NumPy and
            Python), and leaves the generators where the first forward, and the backward, did. False: fresh ones, as
            published.
        model: where given, its buffers (running statistics, ranges) see each batch once, and no batch of a step that is
            skipped. Else both forwards change them.

    Attributes:
        p: weights of the last step that was applied, ``[num_tasks]``; ones where it was a plain sum.
        second_forwards: how many there were: what the method costs.
        skipped_updates: how often w was not moved because a loss was not finite after the step.

    Raises:
        BitdialError: an optimizer whose step needs a closure, or a number out of bounds.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        num_tasks: int = 2,
        gamma: float | Sequence[float] = 0.003,
        w_lr: float = 0.025,
        min_losses: Sequence[float] | None = None,
        max_norm: float | None = 1.0,
        warmup_steps: int = 0,
        *,
        second_forward_every: int = 1,
        same_noise: bool = True,
        model: nn.Module | None = None,
    ) -> None:
        super().__init__(optimizer, num_tasks, max_norm)
        self.task_weights = TaskWeights(num_tasks, gamma, w_lr, min_losses)
        with as_bitdial_errors():
            self.warmup_steps = check_count(warmup_steps, "warmup_steps", least=0)
            self.second_forward_every = check_count(second_forward_every, "second_forward_every")
        self.same_noise, self.model = same_noise, model
        self.p = torch.ones(num_tasks, dtype=torch.float64)
        self.second_forwards = self.skipped_updates = 0

    @property
    def w(self) -> Tensor:
        """The logits of the weights, ``[num_tasks]``, in float64 on the host."""
        return self.task_weights.w

    @property
    def gamma(self) -> float | tuple[float, ...]:
        """The decay of w: one for all tasks, or one for each."""
        return self.task_weights.gamma

    @gamma.setter
    def gamma(self, value: float | Sequence[float]) -> None:
        self.task_weights.gamma = value

    def step(self, losses: Losses) -> Tensor:  # type: ignore[override]
        """Do one step; return the losses ``[num_tasks]`` before it, averaged over the processes.

        Args:
            losses: runs the model on the batch and returns its losses, one tensor ``[num_tasks]``. Called once more
                after the model's step where w is due. It must not call ``backward``.

        Raises:
            BitdialError: `losses` is no such function, or a loss is not above its lower bound.
            TrainingDiverged: too many steps in a row were not finite.
        """
        done = self.steps - self.warmup_steps
        looks = done >= 0 and (done + 1) % self.second_forward_every == 0
        noise = random_state() if looks and self.same_noise else None
        buffers = self._buffers()
        found = self._ask_with_graph(losses)
        before = mean_over_processes(found)
        if not bool(before.isfinite().all()):
            self._skip("a loss")
        else:
            p = torch.ones_like(before) if done < 0 else self.task_weights.p(before)
            torch.autograd.backward(found, p.to(found.dtype).to(found.device))
            del found  # the graph is not held while the model goes forward again
            if self._move():
                self.p = p
                if looks:
                    self._look_again(losses, before, noise)
                return before
        if buffers is not None:
            buffers.restore_buffers()
        return before

    def _look_again(self, losses: Losses, before: Tensor, noise: dict[str, Any] | None) -> None:
        """Move w by what the step did to the losses of the batch."""
        now, buffers = random_state() if noise is not None else None, self._buffers()
        if noise is not None:
            restore_random_state(noise)
        try:
            with torch.no_grad():
                after = mean_over_processes(self._ask(losses))
        finally:
            if now is not None:
                restore_random_state(now)
            if buffers is not None:
                buffers.restore_buffers()
        self.second_forwards += 1
        if bool(after.isfinite().all()):
            self.task_weights.update(before, after)
        else:
            self.skipped_updates += 1

    def _buffers(self) -> Snapshot | None:
        if self.model is None:
            return None
        taken = Snapshot(self.model, torch.device("cpu"))
        taken.take()
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs besides the model's weights.

        w with its Adam, gamma, the counters, the wrapped optimizer, and the random numbers that come next in this
        process. In several processes each has its own of these.
        """
        mine = {"rank": _rank(), "state": random_state()}
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return {**super().state_dict(), **counters, "p": self.p, "task_weights": self.task_weights.state_dict(),
                "noise": mine}  # fmt: skip

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave, all random generators of this process among it (where the state is its own).

        Raises:
            BitdialError: the state is of another kind of optimizer, or of another number of losses.
        """
        super().load_state_dict(state_dict)
        self.task_weights.load_state_dict(state_dict["task_weights"])
        self.p = state_dict["p"].cpu()
        for name in _COUNTERS:
            setattr(self, name, int(state_dict[name]))
        if state_dict["noise"]["rank"] == _rank():  # of another process: its noise would be drawn twice
            restore_random_state(state_dict["noise"]["state"])


_COUNTERS = ("second_forwards", "skipped_updates")


def _rank() -> int:
    return torch.distributed.get_rank() if is_distributed() else 0
