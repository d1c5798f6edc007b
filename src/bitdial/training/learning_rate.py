"""How the learning rate moves: functions of the number of applied optimizer steps, and a hook that looks at scores.

Each function is pure and gives ``step -> factor``; the rate is the optimizer's own rate times the factor. A `LambdaLR`
over such a function has no state but its counter, so that a resumed run can never disagree with its schedule. The
curves are those of `bitdial.schedules`; here is what they mean for a rate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from bitdial.errors import BitdialError
from bitdial.schedules import join
from bitdial.schedules._curves import blend, falling_cosine
from bitdial.schedules._stairs import Stairs
from bitdial.training.hooks import Hook
from bitdial.training.options import ScheduleOptions

if TYPE_CHECKING:
    from bitdial.training.state import TrainingState

LearningRateFactor = Callable[[int], float]


class LearningRateConfig(ScheduleOptions):
    """The shape of the learning rate over a run."""

    warmup_steps: int = Field(default=0, ge=0)
    """Applied steps over which the rate rises linearly at the start (for onecycle: the length of its rise)."""
    final_factor: float = Field(default=0.0, ge=0.0, le=1.0)
    """cosine: where the rate ends, as a share of the full rate."""
    decay: float = Field(default=0.1, gt=0.0, le=1.0)
    """step: what the rate is multiplied with at each milestone."""


def onecycle(total_steps: int, rise_steps: int) -> LearningRateFactor:
    """Rise along a half cosine from 1/25 to 1, then fall along another to 1/250000.

    The rise takes `rise_steps` steps, or 30% of the run where that is 0. Source: Smith & Topin, arXiv 1708.07120, in
    the form of ``torch.optim.lr_scheduler.OneCycleLR``.
    """
    peak = float(rise_steps) if rise_steps else 0.3 * total_steps - 1
    last = total_steps - 1

    def factor(step: int) -> float:
        if step <= peak:
            return blend(1.0, 1 / 25, falling_cosine(step / peak if peak > 0 else 1.0))
        return blend(1 / 250_000, 1.0, falling_cosine(min((step - peak) / max(last - peak, 1e-9), 1.0)))

    return factor


def with_warmup(schedule: LearningRateFactor, warmup_steps: int) -> LearningRateFactor:
    """Rise linearly to 1 over `warmup_steps`, then follow `schedule` from its beginning.

    Step t of the warm-up has the factor (t + 1) / warmup_steps times the schedule's first: never 0, so that no step is
    wasted. (`schedules.warmup` starts at its first step at the value that it is given, and so is another curve.)
    """
    if warmup_steps == 0:
        return schedule
    return join([lambda step: schedule(0) * (step + 1) / warmup_steps, schedule], [warmup_steps])


def learning_rate_factor(config: LearningRateConfig, total_steps: int) -> LearningRateFactor:
    """Build the factor that `config` describes, for a run of `total_steps` applied steps.

    A run without steps or as short as its warm-up, and a milestone below 0, are `BitdialError`s.
    """
    if total_steps < 1:
        raise BitdialError(f"a learning-rate schedule needs a run of at least 1 step, got {total_steps}")
    warmup = config.warmup_steps
    if warmup >= total_steps and config.scheduler != "none":
        raise BitdialError(f"warmup_steps must be below the run's {total_steps} steps, got {warmup}")
    if config.scheduler == "onecycle":
        return onecycle(total_steps, warmup)
    if config.scheduler == "cosine":
        # f + (1 - f) (1 + cos(pi t / T)) / 2 (arXiv 1608.03983, equation 5)
        length = total_steps - warmup
        return with_warmup(lambda t: blend(config.final_factor, 1.0, falling_cosine(min(t / length, 1.0))), warmup)
    if config.scheduler == "none":
        return with_warmup(lambda _: 1.0, warmup)
    if any(milestone < 0 for milestone in config.milestones):
        raise BitdialError(f"milestones must be 0 or more, got {list(config.milestones)}")
    # Milestones are points of the run; with_warmup counts from the warm-up's end.
    steps = [round(m * total_steps) if m < 1 else round(m) for m in config.milestones]
    drops = sorted(max(0, step - warmup) for step in steps)
    factors = tuple(config.decay**number for number in range(len(drops) + 1))
    return with_warmup(Stairs(factors, (0, *drops)), warmup)


def make_scheduler(optimizer: Optimizer, factor: LearningRateFactor | None) -> LambdaLR:
    """Attach `factor` (None: constant) to every parameter group of `optimizer`."""
    chosen = factor if factor is not None else lambda _: 1.0
    # A plain function: LambdaLR would save the attributes of a callable object and, on load, undo a changed run length.
    return LambdaLR(optimizer, lambda step: chosen(step))


class PlateauRate(Hook):
    """Multiplies the scheduled rate with `decay` whenever `patience` evaluations brought no better score.

    As ``torch.optim.lr_scheduler.ReduceLROnPlateau``, which it asks.

    Args:
        monitor: the score.
        mode: whether a smaller ("min") or a larger one ("max") is better.
        decay: in (0, 1).
        patience: evaluations without a better one that are let pass.
    """

    def __init__(self, monitor: str, mode: Literal["min", "max"], decay: float, patience: int) -> None:
        self.monitor = monitor
        self._scale = SGD([torch.zeros(1)], lr=1.0)  # whose rate is the factor
        self._plateau = ReduceLROnPlateau(self._scale, mode, factor=decay, patience=patience)

    def before_step(self, state: TrainingState) -> None:
        """Stand at the factor."""
        state.lr_scale = float(self._scale.param_groups[0]["lr"])

    def after_evaluation(self, state: TrainingState) -> None:
        """Look at the score."""
        self._plateau.step(state.scores[self.monitor])

    def state_dict(self) -> dict[str, Any]:
        """The factor, and what the best score was, how long ago."""
        scale = float(self._scale.param_groups[0]["lr"])
        return {"scale": scale, "best": float(self._plateau.best), "waited": self._plateau.num_bad_epochs}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._scale.param_groups[0]["lr"] = float(state["scale"])
        self._plateau.best, self._plateau.num_bad_epochs = float(state["best"]), int(state["waited"])
