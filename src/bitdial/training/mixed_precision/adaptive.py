"""The trainer that changes its format by itself and explains every change, and a whole training with it in one call."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bitdial.errors import BitdialError
from bitdial.layers.names import train_mode
from bitdial.training.batches import to_device
from bitdial.training.mixed_precision.criterion import Criterion, counted, is_sum
from bitdial.training.mixed_precision.trainer import MixedPrecisionTrainer
from bitdial.training.step.config import MixedPrecisionConfig
from bitdial.training.step.control import narrower
from bitdial.training.step.formats import WIDER, format_name

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
        """Compare a run with its float32 baseline, change the format where called for, and say in a sentence why.

        Args:
            current_performance, baseline_performance: a number of which more is better (accuracy), or a mapping with
                any of ``accuracy`` (more is better), ``loss`` and ``step_time`` (less is better; seconds).

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
            allowed = TOLERANCE * abs(before) if name != "step_time" else 0.0
            if (before - now) * _SIGNS[name] > allowed:
                reason = f"{name} is {now:.4g}, against {before:.4g} of the baseline"
                return self._reduce_mixed_precision_aggressiveness(reason)
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
        return self._take(WIDER.get(self.control.format), "the widest format", reason)

    def _increase_mixed_precision_aggressiveness(self, reason: str = "asked for") -> str:
        """Take the next narrower format, down to the one asked for."""
        now, wanted = self.control.format, self.config.format
        return self._take(None if now == wanted else narrower(now, wanted), "the format asked for", reason)

    def _take(self, dtype: torch.dtype | None, last: str, reason: str) -> str:
        if dtype is None:
            return f"stays in {format_name(self.control.format)}, {last}: {reason}"
        if self._batches_under_way:  # the gradients of a step are scaled alike, so its format stays to its end
            raise BitdialError(
                "the format must stay the same while gradients are accumulated, got a change after "
                f"{self._batches_under_way} of {self.config.accumulation_steps} batches; call finish_step first"
            )
        self.control.change_format(dtype, reason)
        return f"now in {format_name(dtype)}: {reason}"


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


def train_with_mixed_precision(
    model: nn.Module,
    train_loader: Iterable[Any],
    optimizer: Optimizer,
    criterion: Criterion,
    num_epochs: int = 10,
    config: MixedPrecisionConfig | None = None,
    adaptive: bool = True,
    *,
    scheduler: LRScheduler | None = None,
) -> dict[str, Any]:
    """Train a model, in place, for some epochs.

    Args:
        model: on the device that trains. Parts in evaluation mode in a model that is not (frozen norms) stay in it.
        train_loader: pairs ``(data, target)``, the same number of times again; moved to the model's device.
        optimizer: over the model's parameters.
        criterion: ``(output, target) -> loss``.
        num_epochs: passes over the loader.
        config: the settings; defaults if None.
        adaptive: take a wider format where numbers overflow again and again.
        scheduler: a learning-rate schedule, counted in applied steps.

    Returns:
        ``total_training_time`` (seconds), ``final_loss`` (mean of the last epoch, over all that the criterion averages
        over; its rows where that is not known), ``epochs`` (one mapping each:
        ``epoch, loss, seconds, scale, skipped_steps, format``), ``scale_history`` (the scale after each optimizer
        step), ``skipped_steps`` (numbers of the steps that were lost), and ``summary`` (`get_performance_summary`).

    Raises:
        BitdialError: no epoch, no batch, a batch that is no pair.
        TrainingDiverged: too many lost steps in a row.
    """
    if isinstance(num_epochs, bool) or not isinstance(num_epochs, int) or num_epochs < 1:
        raise BitdialError(f"num_epochs must be a whole number of at least 1, got {num_epochs!r}")
    trainer = (AdaptiveMixedPrecisionTrainer if adaptive else MixedPrecisionTrainer)(config)
    model = trainer.prepare_model(model)
    control = trainer.control
    epochs: list[dict[str, Any]] = []
    scales: list[float] = []
    skipped: list[int] = []

    def note() -> None:
        if control.steps > len(scales):
            scales.append(control.scaler.scale)
        if control.skipped_steps > len(skipped):
            skipped.append(control.steps)

    def one_epoch(epoch: int) -> None:
        start = time.perf_counter()
        losses: list[Tensor] = []
        counts: list[Any] = []
        for batch in train_loader:
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                got = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
                raise BitdialError(f"train_loader must give pairs (data, target), got {got}")
            data, target = to_device(batch, control.device)
            outcome = trainer.train_step(model, optimizer, criterion, data, target, scheduler=scheduler)
            losses.append(outcome.loss_tensor)
            counts.append(1 if is_sum(criterion) else counted((data, target, criterion)))
            note()
        if not losses:
            raise BitdialError(f"train_loader gave no batch in epoch {epoch}; is it empty, or gone through already?")
        trainer.finish_step(scheduler)
        note()
        numbers = torch.stack([each.float() for each in losses]).tolist()
        sums = [(loss * float(count), float(count)) for loss, count in zip(numbers, counts, strict=True)]
        finite = [(total, count) for total, count in sums if math.isfinite(total) and count > 0]
        epochs.append(
            {
                "epoch": epoch,
                "loss": math.fsum(t for t, _ in finite) / math.fsum(c for _, c in finite) if finite else math.nan,
                "seconds": time.perf_counter() - start,
                "scale": control.scaler.scale,
                "skipped_steps": control.skipped_steps,
                "format": format_name(control.format),
            }
        )

    try:
        train_mode(model)
        began = time.perf_counter()
        for epoch in range(num_epochs):
            one_epoch(epoch)
        seconds = time.perf_counter() - began
    finally:
        if control.layers is not None:
            control.layers.remove()  # the handle ends here, and nobody else could take them off or turn them
    return {
        "total_training_time": seconds,
        "final_loss": epochs[-1]["loss"],
        "epochs": epochs,
        "scale_history": scales,
        "skipped_steps": skipped,
        "summary": trainer.get_performance_summary(),
    }
