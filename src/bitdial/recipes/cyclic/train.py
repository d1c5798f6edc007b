"""Training with cyclic precision, and with static precision, as functions for a script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

from torch import nn

from bitdial.errors import BitdialError
from bitdial.evaluation import WidthScore
from bitdial.evaluation.sweep import sweep
from bitdial.layers import BitDial, Ledger, PrecisionScheduler, QuantizedLayer, cost, quantize
from bitdial.recipes.cyclic.config import (
    CyclicPrecisionConfig,
    CyclicTrainingConfig,
    ModelConfig,
    StaticBits,
    StaticPrecisionConfig,
)
from bitdial.recipes.cyclic.phase import Loaders, PhaseResult, PhaseSetup, release_memory, train_phase
from bitdial.recipes.cyclic.scheduler import CyclicPrecisionScheduler
from bitdial.recipes.cyclic.static import final_widths, static_schedule
from bitdial.schedules import LayerSchedule
from bitdial.training import Task
from bitdial.training.batches import to_device


def prepare_model(model: nn.Module, options: ModelConfig, gradient_bits: float = 32) -> nn.Module:
    """Quantize a model as the configuration says, unless it is quantized already.

    Args:
        model: any network.
        options: skipped layers, quantizer, granularity, default width.
        gradient_bits: width of the gradients; at 32 the layers are built without gradient quantization.
    """
    if any(isinstance(module, QuantizedLayer) for module in model.modules()):
        return model
    return quantize(
        model,
        options.default_bit_width,
        options.default_bit_width,
        None if gradient_bits == 32 else gradient_bits,
        quantizer=options.quantizer,
        granularity=options.granularity,
        skip=options.skip_layers,
    )


def ledger_of(model: nn.Module, batches: Iterable[Any]) -> Ledger:
    """The ledger of a model that takes the first element of a batch.

    Raises:
        BitdialError: there is no batch.
    """
    for batch in islice(batches, 1):
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        device = next(model.parameters()).device
        return cost(model, to_device(inputs[:1], device))
    raise BitdialError("loader must give at least one batch, got none; is the training split empty?")


def as_loaders(loaders: Loaders | Sequence[Iterable[Any]]) -> Loaders:
    """Take ``(train, test)`` or ``(train, test, recalibration)`` for `Loaders`.

    Raises:
        BitdialError: it is neither.
    """
    if isinstance(loaders, Loaders):
        return loaders
    if not isinstance(loaders, Sequence) or len(loaders) not in (2, 3):
        raise BitdialError("loaders must be (train, test) or (train, test, recalibration), each giving batches again")
    train, test, *rest = loaders
    return Loaders(train, test, rest[0] if rest else train)


def train_with_cpt(
    model: nn.Module,
    loaders: Loaders | Sequence[Iterable[Any]],
    training: CyclicTrainingConfig | None = None,
    precision: CyclicPrecisionConfig | None = None,
    model_config: ModelConfig | None = None,
    *,
    teacher: nn.Module | None = None,
    schedule: LayerSchedule | None = None,
    setup: PhaseSetup | None = None,
) -> PhaseResult:
    """Train a model while its precision cycles (Fu et al., CPT, ICLR 2021, arXiv 2101.09868).

    Warm-up and a cosine for the learning rate, clipping, accumulation, mixed precision, distillation as configured.

    Args:
        model: any network; quantized in place as `model_config` says, unless it is already.
        loaders: ``(train, test)``, or with a third loader of training batches to re-estimate statistics from.
        training, precision, model_config: the configuration; defaults if None.
        teacher: an unquantized model to follow when ``training.distillation_alpha`` is above 0.
        schedule: widths other than those of `precision`, ``(step, layer) -> width`` (an ablation, say); all else in
            `precision` still holds.
        setup: devices, logs, checkpoints, resume; by default one process that writes nothing.

    Returns:
        The trained model, its history and what it cost.

    Raises:
        BitdialError: what `bitdial.quantize`, the data or the configuration got wrong; a loss that is not finite.
        RunInterrupted: stopped on request, after saving.
    """
    training, precision = training or CyclicTrainingConfig(), precision or CyclicPrecisionConfig()
    options = model_config or ModelConfig()
    data = as_loaders(loaders)
    model = prepare_model(model, options, precision.gradient_bits)
    return train_phase(
        model,
        data,
        CyclicPrecisionScheduler(model, precision, schedule=schedule),
        training.num_cpt_iterations,
        training,
        setup or PhaseSetup(),
        ledger=ledger_of(model, data.train),
        warmup_steps=training.warmup_steps,
        teacher=teacher,
        target_bits=options.default_bit_width,
    )


def train_with_static_precision(
    model: nn.Module,
    width_or_list: StaticBits,
    loaders: Loaders | Sequence[Iterable[Any]],
    training: CyclicTrainingConfig | None = None,
    static: StaticPrecisionConfig | None = None,
    model_config: ModelConfig | None = None,
    *,
    iterations: int | None = None,
    learning_rate: float | None = None,
    warmup_steps: int = 0,
    gradient_bits: float = 32,
    teacher: nn.Module | None = None,
    setup: PhaseSetup | None = None,
) -> PhaseResult:
    """Train, usually fine-tune, a model at a precision that does not cycle.

    Args:
        model: quantized in place as `model_config` says, unless it is already.
        width_or_list: one width for every layer; a list that alternates over the layers; or ``"progressive"``, which
            steps down ``model_config.bit_widths`` over the iterations.
        loaders: as for `train_with_cpt`.
        training, static, model_config: the configuration; defaults if None.
        iterations: optimizer steps; ``training.num_static_iterations`` if None.
        learning_rate: full rate; ``training.learning_rate * static.finetune_lr_scale`` if None.
        warmup_steps: steps of linear rise at the start.
        gradient_bits: width of the gradients.
        teacher, setup: as for `train_with_cpt`.

    Returns:
        The trained model, its history and what it cost; its dial stands at the final widths.

    Raises:
        BitdialError: as `train_with_cpt`.
        RunInterrupted: stopped on request, after saving.
    """
    training, static = training or CyclicTrainingConfig(), static or StaticPrecisionConfig()
    options, data = model_config or ModelConfig(), as_loaders(loaders)
    if isinstance(width_or_list, list) and not width_or_list:
        raise BitdialError("width_or_list must have at least one width, got an empty list")
    release_memory()
    model = prepare_model(model, options, gradient_bits)
    steps = training.num_static_iterations if iterations is None else iterations
    layers = len(BitDial(model))
    schedule = static_schedule(width_or_list, layers, steps, options.bit_widths)
    result = train_phase(
        model,
        data,
        PrecisionScheduler(model, schedule, gradients=gradient_bits),
        steps,
        training,
        setup or PhaseSetup(),
        ledger=ledger_of(model, data.train),
        learning_rate=training.learning_rate * static.finetune_lr_scale if learning_rate is None else learning_rate,
        warmup_steps=warmup_steps,
        teacher=teacher,
        target_bits=options.default_bit_width,
    )
    BitDial(model).set(final_widths(width_or_list, layers, options.bit_widths))
    return result


def evaluate_cyclic_training(
    model: nn.Module,
    loader: Iterable[Any],
    bit_widths: Sequence[float | Sequence[float]] = (2, 4, 8, 16, 32),
    *,
    recalibration_batches: Iterable[Any] | None = None,
    reestimate: bool = True,
    task: Task | None = None,
    perplexity: bool = False,
) -> list[WidthScore]:
    """Accuracy and loss (for text also perplexity) of a trained model at each target width.

    Args:
        model: quantized; comes back exactly as it was.
        loader: batches to measure on.
        bit_widths: target widths; a list inside gives one width to each layer.
        recalibration_batches: training batches that batch-norm statistics are re-estimated from at each width.
        reestimate: False leaves the statistics as they are.
        task: how a batch is scored; classification if None.
        perplexity: whether to add exp(loss).

    Raises:
        BitdialError: as `bitdial.sweep`.
    """
    return sweep(
        model,
        loader,
        bit_widths,
        reestimate=reestimate,
        recalibration_batches=recalibration_batches,
        task=task,
        perplexity=perplexity,
    )
