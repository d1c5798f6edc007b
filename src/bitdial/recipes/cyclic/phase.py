"""One phase of training at a schedule of precision: what every arm of the comparison goes through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from torch import nn

from bitdial.errors import BitdialError
from bitdial.evaluation.equal_cost import ledger_of
from bitdial.evaluation.sweep import sweep
from bitdial.layers import PrecisionScheduler
from bitdial.layers.cycling import CyclicPrecisionScheduler
from bitdial.options import part
from bitdial.recipes.cyclic.options import CyclicTrainingConfig, ModelConfig
from bitdial.recipes.options import autocast_format
from bitdial.recipes.recipe import Loaders
from bitdial.training import (
    Classification,
    Distillation,
    EarlyStopping,
    LearningRateConfig,
    LoopConfig,
    MixedPrecisionConfig,
    OptimizerConfig,
    Setup,
    Task,
    TrainingState,
    WeightStatistics,
    build_optimizer,
    learning_rate_factor,
    make_fabric,
)
from bitdial.training.knobs import BitOpsCounter, Knob, Widths, mean_width


def quantization(options: ModelConfig, gradient_bits: float = 32) -> dict[str, Any]:
    """What `bitdial.quantize` is called with; at 32 bits the layers are built without gradient quantization."""
    return {
        "weights": options.default_bit_width,
        "activations": options.default_bit_width,
        "gradients": None if gradient_bits == 32 else gradient_bits,
        "quantizer": options.quantizer,
        "granularity": options.granularity,
        "skip": options.skip_layers,
    }


def train_phase(
    model: nn.Module,
    loaders: Loaders,
    scheduler: PrecisionScheduler,
    iterations: int,
    training: CyclicTrainingConfig,
    setup: Setup,
    *,
    learning_rate: float | None = None,
    warmup_steps: int = 0,
    teacher: nn.Module | None = None,
    target_bits: float | Sequence[float] = 8,
) -> TrainingState:
    """Train a quantized model in place for a number of steps while a schedule turns its dial.

    Args:
        model: quantized.
        loaders: the data.
        scheduler: whose schedule turns the dial.
        iterations: optimizer steps.
        training: batch size, decay, accumulation, clipping, distillation.
        setup: devices and files.
        learning_rate: full rate; ``training.learning_rate`` if None.
        warmup_steps: steps of linear rise at the start.
        teacher: an unquantized model to follow when ``training.distillation_alpha`` is above 0.
        target_bits: width (or that of each layer) of the evaluations during training, which only go to the log and to
            early stopping. They are of what is held out; where nothing is, of the test data.

    Raises:
        BitdialError: no data, nothing held out for early stopping, or a loss that is not finite.
        RunInterrupted: stopped on request, after saving.
    """
    fabric = setup.fabric or make_fabric()
    if setup.precision is None and training.use_amp:
        setup = replace(setup, precision=MixedPrecisionConfig(dtype=autocast_format(fabric.device.type)))
    task: Task = setup.task or Classification()
    scored = task
    if training.distillation_alpha > 0:
        if teacher is None:
            raise BitdialError(
                f"distillation_alpha is {training.distillation_alpha:g}, expected a teacher with it; "
                "pass teacher=..., or set distillation_alpha to 0"
            )
        task = Distillation(
            task, fabric.to_device(teacher), training.distillation_alpha, training.distillation_temperature
        )
    rate = training.learning_rate if learning_rate is None else learning_rate
    optimizer = build_optimizer(model, part(training, OptimizerConfig, learning_rate=rate))
    ledger, layers = ledger_of(model, loaders.train), range(len(scheduler.dial))

    @lru_cache(maxsize=2)  # asked for twice in every step
    def widths(step: int) -> Widths:
        return tuple(float(scheduler.schedule(step, layer)) for layer in layers)

    held_out = loaders.validation
    looked_at, of = (loaders.test, "test_loss") if held_out is None else (held_out, "loss")
    by_accuracy = scored.metric == "accuracy" or held_out is None
    monitor: dict[str, Any] = {
        "monitor": "accuracy" if by_accuracy else "loss",
        "monitor_mode": "max" if by_accuracy else "min",
    }
    stopping = EarlyStopping.of(training, monitor["monitor_mode"], held_out)
    factor = scheduler.factor if isinstance(scheduler, CyclicPrecisionScheduler) else None
    hooks = [
        Knob("bits", widths, scheduler.dial.set, shown=mean_width, rate=factor),
        BitOpsCounter(widths, ledger, scheduler.dial.gradients),
        WeightStatistics(latent=True),
    ]

    def evaluate(network: nn.Module) -> dict[str, float]:
        (score,) = sweep(
            network,
            looked_at,
            [target_bits],
            recalibration_batches=loaders.recalibration,
            recalibration_limit=8,
            task=scored,
        )
        return {**score.metrics, "accuracy": score.accuracy, of: score.loss}

    return replace(setup, fabric=fabric).fit(
        model,
        optimizer,
        task,
        loaders.train,
        part(
            training,
            LoopConfig,
            steps=iterations,
            checkpoint_interval=setup.checkpoint_interval,
            checkpoint_epochs=None,
            checkpoint_best=False,
            compile=setup.compile,
            **monitor,
        ),
        learning_rate=learning_rate_factor(
            LearningRateConfig(warmup_steps=min(warmup_steps, iterations // 2)), iterations
        ),
        evaluate=evaluate if training.eval_interval is not None or stopping is not None else None,
        hooks=hooks,
        early_stopping=stopping,
    )
