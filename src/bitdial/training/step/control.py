"""What a run knows about its floating-point format: the format in force, the scale, what was lost, what was changed."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bitdial.errors import BitdialError
from bitdial.training.devices import is_distributed
from bitdial.training.recorder import TrainingDiverged
from bitdial.training.step.config import MixedPrecisionConfig
from bitdial.training.step.diagnosis import Culprit
from bitdial.training.step.formats import WIDER, autocast_dtype, format_name, to_dtype
from bitdial.training.step.policies import AppliedPolicies
from bitdial.training.step.scaler import LossScaler, checked

logger = logging.getLogger("bitdial.training.mixed_precision")


@dataclass(frozen=True, slots=True)
class Adaptation:
    """One change of format, and why."""

    step: int
    """Optimizer steps done before it, lost ones included."""
    before: str
    after: str
    reason: str


class PrecisionControl:
    """Decides, step by step, in which format a run computes and whether a step counts.

    Where `adaptive`, the format may change by itself: to a wider one where numbers overflow again and again, and back
    after a stable stretch.

    Attributes:
        format: the dtype in force.
        steps, applied_steps: optimizer steps, lost ones included; those that moved the weights.
        overflows, not_finite: steps lost because a scaled gradient overflowed; or whatever the scale.
        memory_retries: how often a step was tried again at half the micro-batch.
        parts: into how many parts every batch is cut since memory ran out; 1: whole.
        lost_in_a_row: lost steps since the last applied one that a lower scale could not have mended.
        history: every change of format.
        layers: layers with formats of their own, turned at the beginning of every step.
        tell: takes the few sentences that a user should read; at first the log ``bitdial.training.mixed_precision``.
    """

    def __init__(self, config: MixedPrecisionConfig, device: torch.device | str, *, adaptive: bool = False) -> None:
        self.config, self.device, self.adaptive = config, torch.device(device), adaptive
        self.tell: Callable[[str], None] = logger.warning if config.log_scaling else logger.debug
        self.format = config.format
        self.layers: AppliedPolicies | None = None
        self.steps = self.applied_steps = self.overflows = self.not_finite = self.memory_retries = 0
        self.lost_in_a_row = self.stable_steps = 0
        self.parts = 1
        self.history: list[Adaptation] = []
        self.scaler = self._make_scaler(self.format)
        self._culprit: Culprit | None = None

    @property
    def skipped_steps(self) -> int:
        """Steps that did not move the weights."""
        return self.overflows + self.not_finite

    @property
    def recovery_wait(self) -> int:
        """How many `stable_steps` in a row it takes to try a narrower format again; each failure doubles it."""
        widened = [(e.before, e.after) for e in self.history if WIDER.get(to_dtype(e.before)) == to_dtype(e.after)]
        failed_before = widened.count(widened[-1]) - 1 if widened else 0
        return self.config.recovery_interval << min(failed_before, 20)

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context that forward pass and loss belong into."""
        if self.format == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=autocast_dtype(self.format))

    def beyond_scaling(self, *, loss_is_finite: bool) -> bool:
        """Whether a lost step is one that a lower scale cannot mend."""
        return not loss_is_finite or self.scaler.at_floor

    def move(self, device: torch.device) -> None:
        """Go on on another device."""
        self.device = device
        self.scaler.move(device)

    def applied(self) -> None:
        """Take notice of a step whose loss and gradients were finite."""
        self.steps += 1
        self.applied_steps += 1
        self.scaler.applied()
        self.lost_in_a_row, self._culprit = 0, None
        self.stable_steps += 1
        if self.adaptive and self.format != self.config.format and self.stable_steps >= self.recovery_wait:
            reason = f"{self.stable_steps} steps in a row were stable"
            self.change_format(narrower(self.format, self.config.format), reason)

    def lost(self, *, loss_is_finite: bool, culprit: Culprit | None = None) -> None:
        """Take notice of a step that was not applied, because loss or gradients were not finite.

        Raises:
            TrainingDiverged: too many in a row, and no wider format would help.
        """
        self.steps += 1
        self.stable_steps = 0
        self._culprit = culprit or self._culprit
        if not self.beyond_scaling(loss_is_finite=loss_is_finite):
            before = self.scaler.scale
            self.overflows += 1
            self.scaler.overflowed()
            if self.overflows == 1:
                self.tell(
                    f"step {self.steps}: a gradient was too large for float16 at the loss scale {before:g}; the step "
                    f"is skipped and the scale is now {self.scaler.scale:g}. A few of these are normal while the scale "
                    "settles; further ones are only counted"
                )
            return
        overflowed = loss_is_finite and self.scaler.dynamic
        self.overflows += overflowed
        self.not_finite += not overflowed
        self.scaler.forget()
        self.lost_in_a_row += 1
        name, what = format_name(self.format), "a gradient" if loss_is_finite else "the loss"
        where = f", first seen in {self._culprit.what}" if self._culprit is not None else ""
        patience = self.config.overflow_patience
        may_widen = self.adaptive and self.format in WIDER and (self._culprit is None or self._culprit.curable)
        if self.lost_in_a_row == 1:
            self.tell(
                f"step {self.steps}: {what} is not a finite number in {name}{where}; the step is skipped, {patience} "
                f"in a row {'change the format' if may_widen else 'stop the run'}"
            )
        if self.lost_in_a_row < patience:
            return
        if may_widen:
            at = f" at the lowest loss scale, {self.scaler.scale:g}" if overflowed else ""
            reason = f"{self.lost_in_a_row} steps in a row were lost in {name}{at}{where}"
            self.change_format(WIDER[self.format], reason)
            return
        curable = self._culprit is not None and self._culprit.curable
        wider_one = "take a wider format, in which the same step is finite; or " if curable else ""
        raise TrainingDiverged(
            f"{what} was not a finite number in {self.lost_in_a_row} steps in a row, the last of them step "
            f"{self.steps}, in {name}{where}; expected a finite number: {wider_one}lower the learning rate, clip "
            "gradients with max_grad_norm, or look for bad values in the data"
        )

    def change_format(self, dtype: torch.dtype, reason: str) -> None:
        """Compute in another format from now on."""
        before, after = format_name(self.format), format_name(dtype)
        self.history.append(Adaptation(self.steps, before, after, reason))
        self.format, self.scaler = dtype, self._make_scaler(dtype)
        self.lost_in_a_row = self.stable_steps = 0
        self._culprit = None
        self.tell(f"step {self.steps}: the format changes from {before} to {after}: {reason}")

    def _make_scaler(self, dtype: torch.dtype) -> LossScaler:
        return LossScaler(self.config, self.device, scaling=dtype == torch.float16 or self.config.has_float16_layers)

    def are_finite(self, losses: list[Tensor], gradients_overflow: Tensor) -> tuple[bool, bool]:
        """Return whether all losses, and whether all gradients, are finite: in every process, so that all act alike.

        Looks at the device once (and once more where there are several processes).
        """
        overflow, *numbers = torch.stack([gradients_overflow, *(loss.float() for loss in losses)]).tolist()
        flags = [float(not all(map(math.isfinite, numbers))), overflow]
        if is_distributed():
            everywhere = torch.tensor(flags, device=gradients_overflow.device)
            torch.distributed.all_reduce(everywhere)
            flags = everywhere.tolist()
        return flags[0] == 0, flags[1] == 0

    def trouble(self) -> str | None:
        """Return in a sentence which steps were lost, and where the format changed; None where all went well."""
        parts = []
        if self.skipped_steps:
            kinds = ((self.overflows, "to overflows"), (self.not_finite, "to values that are not finite"))
            told = ", ".join(f"{count} {what}" for count, what in kinds if count)
            parts.append(f"{self.skipped_steps} of {self.steps} steps were skipped ({told})")
        parts += [f"from step {each.step} on {each.after} instead of {each.before}" for each in self.history]
        if self.memory_retries:
            parts.append(f"out of memory {self.memory_retries} times, batches were cut into {self.parts} parts")
        return f"{format_name(self.config.format)}: {'; '.join(parts)}" if parts else None

    def metrics(self) -> dict[str, Any]:
        """Return what belongs into a row of a run's log."""
        scale = {"loss_scale": self.scaler.scale} if self.config.needs_scale else {}
        return {"format": format_name(self.format), **scale, "skipped_steps": self.skipped_steps}

    def state_dict(self) -> dict[str, Any]:
        """Return format, scale, growth tracker, counters and adaptations, as plain numbers and strings."""
        if not self.config.save_scaler_state:
            return {}
        return {
            "format": format_name(self.format),
            "asked_format": format_name(self.config.format),
            "scaler": self.scaler.state_dict(),
            **{name: getattr(self, name) for name in _COUNTERS},
            "culprit": None if self._culprit is None else asdict(self._culprit),
            "history": [asdict(each) for each in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> list[str]:
        """Restore what `state_dict` gave, or the state of a `torch.amp.GradScaler`; return what a user should know.

        Raises:
            BitdialError: a state that no run can have had.
        """
        if "format" not in state:
            if state and not state.keys() & {"scale", "_growth_tracker", "growth_tracker"}:
                raise BitdialError(
                    "expected the state of mixed precision or of a torch.amp.GradScaler, got the keys "
                    f"{', '.join(map(str, list(state)[:8]))}"
                )
            return self.scaler.load_state_dict(state)
        try:
            dtype, asked = to_dtype(state["format"]), to_dtype(state["asked_format"])
            counters = {n: int(checked("mixed precision", n, state[n], least)) for n, least in _COUNTERS.items()}
            history = [Adaptation(**each) for each in state["history"]]
            culprit = Culprit(**state["culprit"]) if state.get("culprit") is not None else None
            scaler = dict(state["scaler"])
        except (KeyError, TypeError) as error:
            raise BitdialError(f"the state of mixed precision is damaged: {error}; start without it") from error
        if asked != self.config.format:
            before, now = format_name(asked), format_name(self.config.format)
            notes = [f"the run was to compute in {before} before, now in {now}: it does not go on bit for bit"]
        else:
            fresh = self._make_scaler(dtype)
            notes = fresh.load_state_dict(scaler)  # may refuse: then nothing is taken
            self.format, self.scaler = dtype, fresh
        vars(self).update(counters)
        self.history, self._culprit = history, culprit
        return notes


_COUNTERS = {
    "steps": 0, "applied_steps": 0, "overflows": 0, "not_finite": 0, "memory_retries": 0, "parts": 1,
    "lost_in_a_row": 0, "stable_steps": 0,
}  # fmt: skip
"""What of a control is a whole number and saved, with the least that it can be."""


def narrower(dtype: torch.dtype, wanted: torch.dtype) -> torch.dtype:
    """Return the next format on the way back from `dtype` to `wanted`."""
    return next((narrow for narrow in (wanted, torch.bfloat16) if WIDER.get(narrow) == dtype), wanted)
