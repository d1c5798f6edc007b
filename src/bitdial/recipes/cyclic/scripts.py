"""Cyclic precision training from a script: train, measure, compare, load."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from bitdial.errors import BitdialError
from bitdial.evaluation import WidthScore
from bitdial.evaluation.sweep import sweep
from bitdial.evaluation.trained import PhaseResult
from bitdial.layers import BitDial, PrecisionScheduler
from bitdial.layers.cycling import CyclicPrecisionScheduler
from bitdial.layers.options import CyclicPrecisionConfig
from bitdial.options import part
from bitdial.recipes.cyclic.arms import final_widths, static_schedule
from bitdial.recipes.cyclic.options import (
    CyclicConfig,
    CyclicTrainingConfig,
    ExperimentConfig,
    ExperimentOptions,
    ModelConfig,
    ModelOptions,
    StaticBits,
    StaticPrecisionConfig,
)
from bitdial.recipes.cyclic.phase import quantization, train_phase
from bitdial.recipes.cyclic.recipe import BEST_MODEL_FILE, CYCLIC
from bitdial.recipes.cyclic.results import CyclicResults
from bitdial.recipes.recipe import Loaders
from bitdial.recipes.run import Run, release_memory
from bitdial.recipes.saved_model import load_saved, quantized
from bitdial.recipes.work import OwnWork, maker
from bitdial.schedules import LayerSchedule
from bitdial.training import Setup, Task


def train_with_cpt(
    model: nn.Module,
    loaders: Loaders | Sequence[Iterable[Any]],
    training: CyclicTrainingConfig | None = None,
    precision: CyclicPrecisionConfig | None = None,
    model_config: ModelConfig | None = None,
    *,
    teacher: nn.Module | None = None,
    schedule: LayerSchedule | None = None,
    setup: Setup | None = None,
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

    Example:
        >>> import torch
        >>> from bitdial.recipes.cyclic import CyclicTrainingConfig, train_with_cpt
        >>> net = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(4)])
        >>> batches = [(torch.randn(16, 8), torch.randint(8, (16,))) for _ in range(2)]
        >>> phase = train_with_cpt(net, (batches, batches), CyclicTrainingConfig(num_cpt_iterations=4, warmup_steps=1))
        >>> phase.iterations
        4
    """
    training, precision = training or CyclicTrainingConfig(), precision or CyclicPrecisionConfig()
    options = model_config or ModelConfig()
    model = quantized(model, quantization(options, precision.gradient_bits))
    state = train_phase(
        model,
        Loaders.of(loaders),
        CyclicPrecisionScheduler(model, precision, schedule=schedule),
        training.num_cpt_iterations,
        training,
        setup or Setup(),
        warmup_steps=training.warmup_steps,
        teacher=teacher,
        target_bits=options.default_bit_width,
    )
    return PhaseResult.of(state, precision.cycle_length if schedule is None else None)


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
    setup: Setup | None = None,
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
    options = model_config or ModelConfig()
    if isinstance(width_or_list, list) and not width_or_list:
        raise BitdialError("width_or_list must have at least one width, got an empty list")
    release_memory()
    model = quantized(model, quantization(options, gradient_bits))
    steps = training.num_static_iterations if iterations is None else iterations
    layers = len(BitDial(model))
    schedule = static_schedule(width_or_list, layers, steps, options.bit_widths)
    state = train_phase(
        model,
        Loaders.of(loaders),
        PrecisionScheduler(model, schedule, gradients=gradient_bits),
        steps,
        training,
        setup or Setup(),
        learning_rate=training.learning_rate * static.finetune_lr_scale if learning_rate is None else learning_rate,
        warmup_steps=warmup_steps,
        teacher=teacher,
        target_bits=options.default_bit_width,
    )
    BitDial(model).set(final_widths(width_or_list, layers, options.bit_widths))
    return PhaseResult.of(state)


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
    """Accuracy and loss (for text also perplexity) of a trained model at each target width; see `bitdial.sweep`.

    Batch-norm statistics are re-estimated at each width unless `reestimate` is False; the model comes back as it was.
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


def compare_bit_configurations(
    make_model: nn.Module | Callable[[], nn.Module],
    make_loaders: Loaders | Sequence[Iterable[Any]] | Callable[[int], Loaders | Sequence[Iterable[Any]]],
    *,
    model_config: ModelConfig | None = None,
    training: CyclicTrainingConfig | None = None,
    precision: CyclicPrecisionConfig | None = None,
    static: StaticPrecisionConfig | None = None,
    experiment: ExperimentConfig | None = None,
    seeds: int | Sequence[int] | None = None,
    setup: Setup | None = None,
    show_progress: bool = False,
) -> CyclicResults:
    """Train and compare: the CPT model at each width, each static configuration, the unquantized baseline, a static run
    of equal BitOps, and the ablations that `experiment` asks for.

    Args:
        make_model: builds the network, unquantized, torch being seeded before it is called; or a network, of which each
            arm trains a copy.
        make_loaders: seed -> the data, its order a function of the seed; or the data itself, as for `train_with_cpt`,
            the same for every seed.
        model_config, training, precision, static, experiment: the configuration; defaults if None.
        seeds: how many (counting up from ``training.seed``), or which ones; ``experiment.seeds`` if None.
        setup: devices and task.
        show_progress: whether to show a live line for each arm.

    Returns:
        Mean and 95% interval over seeds at each width, accuracy per average bit, the ranking, and the recommended
        configuration with the reason in a sentence. ``.save(path)`` writes ``cyclic_precision_results.json``.

    Raises:
        BitdialError: the configuration or the data is at fault, or a loss is not finite.

    Example:
        >>> import torch
        >>> from bitdial.recipes.cyclic import CyclicTrainingConfig, StaticPrecisionConfig, compare_bit_configurations
        >>> net = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(4)])
        >>> batches = [(torch.randn(16, 8), torch.randint(8, (16,))) for _ in range(2)]
        >>> results = compare_bit_configurations(
        ...     net,
        ...     (batches, batches),
        ...     training=CyclicTrainingConfig(num_cpt_iterations=4, num_static_iterations=2, warmup_steps=1),
        ...     static=StaticPrecisionConfig(test_configurations={"4bit": 4}),
        ... )
        >>> sorted(results.comparison.ranking)
        ['baseline_fp32', 'cpt', 'matched_cost', 'static_4bit']
    """  # noqa: D205
    training, experiment = training or CyclicTrainingConfig(), experiment or ExperimentConfig()
    count = experiment.seeds if seeds is None else seeds
    chosen = list(range(training.seed, training.seed + count) if isinstance(count, int) else count)
    if not chosen:
        raise BitdialError(f"seeds must be at least one, got {seeds!r}; give their number or a list of them")
    if len(set(chosen)) < len(chosen):
        raise BitdialError(f"seeds must differ from each other, got {chosen}")
    network = model_config or ModelConfig()
    options = part(
        training,
        CyclicConfig,
        lr=training.learning_rate,
        model=network.name,
        model_options=part(network, ModelOptions),
        cyclic=precision or CyclicPrecisionConfig(),
        static=static or StaticPrecisionConfig(),
        experiment=part(experiment, ExperimentOptions),
    )
    config: Mapping[str, Any] = {
        "model": network.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        "cyclic": options.cyclic.model_dump(mode="json"),
        "static": options.static.model_dump(mode="json"),
        "experiment": {**experiment.model_dump(mode="json"), "seeds": len(chosen)},
    }
    setup = setup or Setup()
    make = maker(make_model)
    if make is None:
        raise BitdialError("make_model must be a network or a function that makes one, got None")

    def loaders(seed: int, rank: int, world_size: int) -> Loaders:
        return Loaders.of(make_loaders(seed) if callable(make_loaders) else make_loaders)

    work = OwnWork(make, loaders)
    run = Run(CYCLIC, options, work, chosen, setup, show_progress=show_progress)
    return run.conclude(run.arms(), config=config)


def load_best_model(path: str | Path) -> nn.Module:
    """Build the model of a ``cyclic_best_model.pt`` again: quantized, its dial where it ships, in evaluation mode.

    It takes images ``[B, C, H, W]`` normalised by ``mean`` and ``std``, which the file holds for each channel, as
    fractions of 255 for 8-bit images.

    Args:
        path: the file, or the folder of its run.

    Raises:
        BitdialError: there is no such file, or it is another one.
    """
    path = Path(path)
    return load_saved(path / BEST_MODEL_FILE if path.is_dir() else path)[1]
