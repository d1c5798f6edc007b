"""A whole training in mixed precision, in one call."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from bitdial.errors import BitdialError
from bitdial.training.batches import to_device
from bitdial.training.mixed_precision.adaptive import AdaptiveMixedPrecisionTrainer
from bitdial.training.mixed_precision.config import MixedPrecisionConfig
from bitdial.training.mixed_precision.trainer import Criterion, MixedPrecisionTrainer


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
        model: on the device that trains.
        train_loader: pairs ``(data, target)``, the same number of times again; moved to the model's device.
        optimizer: over the model's parameters.
        criterion: ``(output, target) -> loss``.
        num_epochs: passes over the loader.
        config: the settings; defaults if None.
        adaptive: take a wider format where numbers overflow again and again.
        scheduler: a learning-rate schedule, counted in applied steps.

    Returns:
        ``total_training_time`` (seconds), ``final_loss`` (mean of the last epoch), ``epochs`` (one mapping each:
        ``epoch, loss, seconds, scale, skipped_steps, format``), ``scale_history`` (the scale after each optimizer
        step), ``skipped_steps`` (numbers of the steps that were lost), and ``summary`` (`get_performance_summary`).

    Raises:
        BitdialError: no epoch, no batch, a batch that is no pair.
        TrainingDiverged: too many lost steps in a row.
    """
    if isinstance(num_epochs, bool) or not isinstance(num_epochs, int) or num_epochs < 1:
        raise BitdialError(f"num_epochs must be a whole number of at least 1, got {num_epochs!r}")
    kind = AdaptiveMixedPrecisionTrainer if adaptive else MixedPrecisionTrainer
    trainer = kind(config)
    model = trainer.prepare_model(model)
    device = next(model.parameters()).device
    try:
        return _epochs(trainer, model, device, train_loader, optimizer, criterion, num_epochs, scheduler)
    finally:
        if trainer.control.layers is not None:
            trainer.control.layers.remove()  # the handle ends here, and nobody else could take them off or turn them


def _epochs(
    trainer: MixedPrecisionTrainer,
    model: nn.Module,
    device: torch.device,
    train_loader: Iterable[Any],
    optimizer: Optimizer,
    criterion: Criterion,
    num_epochs: int,
    scheduler: LRScheduler | None,
) -> dict[str, Any]:
    model.train()
    began = time.perf_counter()
    epochs: list[dict[str, Any]] = []
    scales: list[float] = []
    skipped: list[int] = []
    for epoch in range(num_epochs):
        start = time.perf_counter()
        losses: list[Tensor] = []
        for batch in train_loader:
            data, target = _pair(batch, device)
            outcome = trainer.train_step(model, optimizer, criterion, data, target, scheduler=scheduler)
            losses.append(outcome.loss_tensor)
            _note(trainer, outcome.stepped, outcome.skipped, scales, skipped)
        if not losses:
            raise BitdialError(f"train_loader gave no batch in epoch {epoch}; is it empty, or gone through already?")
        before = trainer.control.steps
        stepped = trainer.finish_step(scheduler)
        _note(trainer, stepped, trainer.control.steps > before and not stepped, scales, skipped)
        numbers = [loss for loss in torch.stack([each.float() for each in losses]).tolist() if math.isfinite(loss)]
        epochs.append(
            {
                "epoch": epoch,
                "loss": math.fsum(numbers) / len(numbers) if numbers else math.nan,
                "seconds": time.perf_counter() - start,
                "scale": trainer.control.scaler.scale,
                "skipped_steps": trainer.control.skipped_steps,
                "format": trainer.get_performance_summary()["precision"],
            }
        )
    return {
        "total_training_time": time.perf_counter() - began,
        "final_loss": epochs[-1]["loss"],
        "epochs": epochs,
        "scale_history": scales,
        "skipped_steps": skipped,
        "summary": trainer.get_performance_summary(),
    }


def _note(trainer: MixedPrecisionTrainer, stepped: bool, lost: bool, scales: list[float], skipped: list[int]) -> None:
    if stepped or lost:
        scales.append(trainer.control.scaler.scale)
    if lost:
        skipped.append(trainer.control.steps)


def _pair(batch: Any, device: torch.device) -> tuple[Any, Any]:
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        got = f"{len(batch)} parts" if isinstance(batch, tuple | list) else type(batch).__name__
        raise BitdialError(f"train_loader must give pairs (data, target), got {got}")
    return to_device(batch[0], device), to_device(batch[1], device)
