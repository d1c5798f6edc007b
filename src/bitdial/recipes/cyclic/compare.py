"""The whole comparison as one function for a script."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from bitdial.errors import BitdialError
from bitdial.evaluation import CyclicResults
from bitdial.recipes.cyclic.collect import collect_results
from bitdial.recipes.cyclic.config import (
    CyclicPrecisionConfig,
    CyclicTrainingConfig,
    ExperimentConfig,
    ModelConfig,
    StaticPrecisionConfig,
)
from bitdial.recipes.cyclic.experiment import Experiment
from bitdial.recipes.cyclic.phase import Loaders, PhaseSetup


def compare_bit_configurations(
    make_model: Callable[[], nn.Module],
    make_loaders: Callable[[int], Loaders],
    *,
    model_config: ModelConfig | None = None,
    training: CyclicTrainingConfig | None = None,
    precision: CyclicPrecisionConfig | None = None,
    static: StaticPrecisionConfig | None = None,
    experiment: ExperimentConfig | None = None,
    seeds: int | Sequence[int] | None = None,
    setup: PhaseSetup | None = None,
    show_progress: bool = False,
) -> CyclicResults:
    """Train and compare: the CPT model at each width, each static configuration, the unquantized baseline, a static run
    of equal BitOps, and the ablations that `experiment` asks for.

    Args:
        make_model: builds the network, unquantized; torch is seeded before it is called.
        make_loaders: seed -> the data, its order a function of the seed.
        model_config, training, precision, static, experiment: the configuration; defaults if None.
        seeds: how many (counting up from ``training.seed``), or which ones; ``experiment.seeds`` if None.
        setup: devices and task.
        show_progress: whether to show a live line for each arm.

    Returns:
        Mean and 95% interval over seeds at each width, accuracy per average bit, the ranking, and the recommended
        configuration with the reason in a sentence. ``.save(path)`` writes ``cyclic_precision_results.json``.

    Raises:
        BitdialError: the configuration or the data is at fault, or a loss is not finite.
    """  # noqa: D205
    training, experiment = training or CyclicTrainingConfig(), experiment or ExperimentConfig()
    count = experiment.seeds if seeds is None else seeds
    chosen = list(range(training.seed, training.seed + count) if isinstance(count, int) else count)
    if not chosen:
        raise BitdialError(f"seeds must be at least one, got {seeds!r}; give their number or a list of them")
    if len(set(chosen)) < len(chosen):
        raise BitdialError(f"seeds must differ from each other, got {chosen}")
    job = Experiment(
        make_model,
        make_loaders,
        model_config or ModelConfig(),
        training,
        precision or CyclicPrecisionConfig(),
        static or StaticPrecisionConfig(),
        experiment,
        chosen,
        setup or PhaseSetup(),
        show_progress=show_progress,
    )
    config = {
        "model": job.model.model_dump(mode="json"),
        "training": training.model_dump(mode="json"),
        "cyclic": job.precision.model_dump(mode="json"),
        "static": job.static.model_dump(mode="json"),
        "experiment": {**experiment.model_dump(mode="json"), "seeds": len(chosen)},
    }
    return collect_results(
        job.run(), config=config, experiment=experiment.experiment_name, analyze_cycles=experiment.analyze_cycles
    )
