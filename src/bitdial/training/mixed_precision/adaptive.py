"""The trainer that changes its format by itself, and explains every change."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch

from bitdial.errors import BitdialError
from bitdial.training.mixed_precision.control import narrower
from bitdial.training.mixed_precision.formats import WIDER, format_name
from bitdial.training.mixed_precision.trainer import MixedPrecisionTrainer

TOLERANCE = 0.02
"""How much worse than the baseline, as a share of it, a run may be before its format is held to be the reason."""

Measured = float | Mapping[str, float]


class AdaptiveMixedPrecisionTrainer(MixedPrecisionTrainer):
    """A `MixedPrecisionTrainer` that takes a wider format where numbers overflow again and again, and comes back.

    float16 -> bfloat16 -> float32 after ``config.overflow_patience`` lost steps in a row at the lowest loss scale (or
    of values that are not finite, if the same step is finite in float32: else no format would help, and training stops
    with the layer's name). After ``config.recovery_interval`` applied steps in a row the next narrower format is tried
    again, twice that after a further fall, and so on. Never narrower than ``config.dtype``.
    """

    _adaptive = True

    def adapt_config(self, current_performance: Measured, baseline_performance: Measured) -> str:
        """Compare a run with its float32 baseline, and change the format where that is called for.

        Args:
            current_performance, baseline_performance: a number of which more is better (accuracy), or a mapping with
                any of ``accuracy`` (more is better), ``loss`` and ``step_time`` (less is better; seconds).

        Returns:
            What was done and why, in a sentence.

        Raises:
            BitdialError: nothing to compare, values that are not finite numbers, or a step under way.
        """
        current, baseline = _measured(current_performance), _measured(baseline_performance)
        shared = [name for name in current if name in baseline]
        if not shared:
            raise BitdialError(
                f"current and baseline performance must share one of {', '.join(_SIGNS)}, got "
                f"{', '.join(current) or 'nothing'} and {', '.join(baseline) or 'nothing'}"
            )
        for name in shared:
            before, now = baseline[name], current[name]
            worse = (before - now) * _SIGNS[name]
            allowed = TOLERANCE * abs(before) if name != "step_time" else 0.0
            if worse > allowed:
                return self._reduce_mixed_precision_aggressiveness(
                    f"{name} is {now:.4g}, against {before:.4g} of the baseline"
                )
        kept = " and ".join(f"{name} {current[name]:.4g} (baseline {baseline[name]:.4g})" for name in shared)
        return self._increase_mixed_precision_aggressiveness(f"nothing is lost: {kept}")

    def get_adaptation_summary(self) -> dict[str, Any]:
        """Return ``total_adaptations``, ``current_config`` (the settings, with the format in force) and ``history``.

        The history has, for each change, ``step``, ``from``, ``to`` and ``reason``.
        """
        history = self.get_performance_summary()["format_changes"]
        current = {**self.config.model_dump(), "dtype": format_name(self.control.format)}
        return {"total_adaptations": len(history), "current_config": current, "history": history}

    def _reduce_mixed_precision_aggressiveness(self, reason: str = "asked for") -> str:
        """Take the next wider format."""
        control = self.control
        if control.format not in WIDER:
            return f"stays in {format_name(control.format)}, the widest format: {reason}"
        self._check_between_steps()
        control.change_format(WIDER[control.format], reason)
        return f"now in {format_name(control.format)}: {reason}"

    def _increase_mixed_precision_aggressiveness(self, reason: str = "asked for") -> str:
        """Take the next narrower format, down to the one asked for."""
        control = self.control
        if control.format == self.config.format:
            return f"stays in {format_name(control.format)}, the format asked for: {reason}"
        self._check_between_steps()
        control.change_format(narrower(control.format, self.config.format), reason)
        return f"now in {format_name(control.format)}: {reason}"

    def _check_between_steps(self) -> None:
        """The gradients of a step are scaled alike, so its format stays to its end."""
        if self._batches_under_way:
            raise BitdialError(
                "the format must stay the same while gradients are accumulated, got a change after "
                f"{self._batches_under_way} of {self.config.accumulation_steps} batches; call finish_step first"
            )


_SIGNS = {"accuracy": 1.0, "loss": -1.0, "step_time": -1.0}
"""What is compared, and whether more (1) or less (-1) is better."""


def _measured(value: Measured) -> dict[str, float]:
    named = dict(value) if isinstance(value, Mapping) else {"accuracy": value}
    for name, number in named.items():
        if name not in _SIGNS:
            raise BitdialError(f"performance must be given as {', '.join(_SIGNS)}, got {name!r}")
        one_number = number.numel() == 1 if isinstance(number, torch.Tensor) else isinstance(number, Real)
        if isinstance(number, bool) or not one_number or not math.isfinite(number):
            raise BitdialError(f"the performance {name} must be a finite number, got {number!r}")
    return {name: float(number) for name, number in named.items()}
