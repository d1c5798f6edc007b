"""What a codec learns: little distortion for few bits; and the hook that keeps the two in balance while it trains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bitdial.compression.balance.gamma import AdaptiveGammaScheduler
from bitdial.compression.balance.task_optimizer import mean_over_processes
from bitdial.compression.balance.task_weights import TaskWeights
from bitdial.compression.models import Coded
from bitdial.errors import BitdialError, as_bitdial_errors
from bitdial.schedules._checks import check_count, check_number
from bitdial.training import Hook, Scored, StepResult, Task, TaskOutput, TrainingState
from bitdial.training.seeding import random_state, restore_random_state
from bitdial.training.step.memory import Snapshot

TASKS = ("distortion", "rate")
"""The two losses, in their order: ``lambda * 255^2 * MSE`` and bits per pixel."""
_PEAK = 255.0**2


class RateDistortion(Task):
    """The cost of pictures: ``lambda * 255^2 * MSE + bpp``, for values of 0..1; batches are images `[B, 3, H, W]`.

    The logged loss is the cost, however the gradients of its two parts are weighted.

    Args:
        lambda_value: what distortion costs, in bits per pixel for an MSE of 1 of values of 0..255.

    Attributes:
        balance: weighs the gradients of the two losses; None: both count once.

    Raises:
        BitdialError: a lambda that is not above 0.
    """

    metric = "loss"
    higher_is_better = False
    checks = True

    balance: Balance | None = None

    def __init__(self, lambda_value: float) -> None:
        with as_bitdial_errors():
            self.lambda_value = check_number(lambda_value, "lambda", least=0)
        if self.lambda_value == 0:
            raise BitdialError("lambda must be above 0, got 0, at which distortion costs nothing; .0067 is usual")

    def losses(self, coded: Coded, images: Tensor) -> Tensor:
        """``[lambda * 255^2 * MSE, bpp]`` of a batch, with a graph."""
        error = (coded.images.float() - images.float()).square().mean()
        return torch.stack([self.lambda_value * _PEAK * error, coded.bits_per_pixel.float()])

    def examples(self, batch: Any) -> int:
        """The number of images."""
        return len(batch)

    def logits(self, model: nn.Module, batch: Any) -> Any:
        """The images through the codec: `Coded`."""
        return model(batch)

    def loss(self, model: nn.Module, batch: Any) -> TaskOutput:
        """Run `model` on `batch` and return the cost."""
        if self.balance is not None:
            self.balance.begin(batch)
        return self.loss_of(self.logits(model, batch), batch)

    def loss_of(self, logits: Any, batch: Any) -> TaskOutput:
        """The cost; its gradient is that of the weighted losses."""
        found = self.losses(logits, batch)
        loss = found.sum()
        if self.balance is not None:
            weighted = (found * self.balance.weigh(found)).sum()
            loss = weighted + (loss - weighted).detach()
        return TaskOutput(loss, len(batch), dict(zip(("distortion", "bpp"), found.detach(), strict=True)))

    @torch.no_grad()
    def score(self, model: nn.Module, batch: Any) -> Scored:
        """Sums of cost, bits per pixel and PSNR (dB) over the images, with values cut to 0..1."""
        coded = self.logits(model, batch)
        height, width = batch.shape[-2:]
        bpp = (coded.z_bits + coded.y_bits.sum(1)).double() / (height * width)
        error = (coded.images.clamp(0, 1).double() - batch.double()).square().flatten(1).mean(1)
        cost = self.lambda_value * _PEAK * error + bpp
        return {"loss": cost.sum(), "bpp": bpp.sum(), "psnr": (-10 * error.clamp(min=1e-10).log10()).sum()}, len(batch)


class Balance(Hook):
    """Balances the two losses of a `RateDistortion` while `fit` trains, as `BalancedOptimizer` does in a loop by hand.

    It goes forward over the batch of a step once more after it, sees what became of each loss, and moves the weights.
    The buffers of the model are then put back to what the step left, and so are the random numbers, unless fresh noise
    was asked for. Where a step has several
    batches, or a batch is cut for want of memory, each has weights of its own, and the last is looked at again.

    Args:
        task: gets its weights from here.
        weights: w and its Adam.
        warmup_steps: applied steps on the plain sum at first: while losses are far above 1, lambda has no effect on
            balanced training.
        every: w is moved after every so many steps, and only these go forward twice.
        same_noise: the second forward draws the random numbers of the first; False: fresh ones, as published.
        gamma: moves the gamma of `weights` after every epoch, by its number and its mean cost; None: it stays.

    Attributes:
        second_forwards: how many there were.
        skipped_updates: how often w was not moved because a loss was not finite after the step.
    """

    def __init__(
        self,
        task: RateDistortion,
        weights: TaskWeights,
        *,
        warmup_steps: int = 0,
        every: int = 1,
        same_noise: bool = True,
        gamma: AdaptiveGammaScheduler | None = None,
    ) -> None:
        with as_bitdial_errors():
            self.warmup_steps = check_count(warmup_steps, "warmup_steps", least=0)
            self.every = check_count(every, "second_forward_every")
        self.task, self.weights, self.same_noise, self.gamma = task, weights, same_noise, gamma
        self.second_forwards = self.skipped_updates = 0
        self._active = self._looks = False
        self._images: Tensor | None = None
        self._noise: dict[str, Any] | None = None
        self._before = self._p = torch.ones(len(TASKS), dtype=torch.float64)
        self._epoch = [0.0, 0]  # sum of the costs of its steps, and their number
        task.balance = self

    def begin(self, images: Tensor) -> None:
        """Note a batch, and where its random numbers begin, if it is to be looked at again."""
        if self._looks:
            self._images, self._noise = images, random_state() if self.same_noise else None

    def weigh(self, losses: Tensor) -> Tensor:
        """The weights of two losses: ones in the warm-up, and where one is not finite (the step is skipped then)."""
        self._before = mean_over_processes(losses)
        ready = self._active and bool(self._before.isfinite().all())
        self._p = self.weights.p(self._before) if ready else torch.ones_like(self._before)
        return self._p.to(losses)

    def before_step(self, state: TrainingState) -> None:
        """Know whether this step is balanced, and one to look at again."""
        done = state.applied_steps - self.warmup_steps
        self._active = done >= 0
        self._looks = self._active and (done + 1) % self.every == 0
        if isinstance(self.weights.gamma, float):
            state.values["gamma"] = self.weights.gamma

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        """Move w by what the step did to the losses of its batch."""
        if result.applied:
            self._epoch[0] += float(self._before.sum())
            self._epoch[1] += 1
            if self._looks:
                self._look_again(state)
        self._images = self._noise = None
        for name, p, w in zip(TASKS, self._p.tolist(), self.weights.w.tolist(), strict=True):
            state.values |= {f"p_{name}": p, f"w_{name}": w}
        state.values |= dict(zip(("distortion", "bpp"), self._before.tolist(), strict=True))

    def _look_again(self, state: TrainingState) -> None:
        images, now = self._images, random_state() if self._noise is not None else None
        assert images is not None, "the step began with begin"
        buffers = Snapshot(state.model, state.fabric.device)
        buffers.take()
        if self._noise is not None:
            restore_random_state(self._noise)
        try:
            with torch.no_grad(), state.control.autocast():
                after = mean_over_processes(self.task.losses(state.model(images), images))
        finally:
            if now is not None:
                restore_random_state(now)
            buffers.restore_buffers()
        self.second_forwards += 1
        if bool(after.isfinite().all()):
            self.weights.update(self._before, after)
        else:
            self.skipped_updates += 1

    def after_epoch(self, state: TrainingState) -> None:
        """Move gamma."""
        total, steps = self._epoch
        if self.gamma is not None and state.epoch <= self.gamma.total_epochs:
            self.gamma.step(state.epoch, total / steps if steps else math.nan)
        self._epoch = [0.0, 0]

    def state_dict(self) -> dict[str, Any]:
        """W with its Adam, the counters, the sums of the epoch, and what moves gamma."""
        gamma = {} if self.gamma is None else {"gamma": self.gamma.state_dict()}
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return {**counters, "epoch": list(self._epoch), "weights": self.weights.state_dict(), **gamma}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.weights.load_state_dict(state["weights"])
        self._epoch = list(state["epoch"])
        for name in _COUNTERS:
            setattr(self, name, int(state[name]))
        if self.gamma is not None and "gamma" in state:
            self.gamma.load_state_dict(state["gamma"])


_COUNTERS = ("second_forwards", "skipped_updates")
