"""From a configuration and its data to the experiment that it describes."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from bitdial.data import BatchLoader, ImageDataset, make_loader
from bitdial.recipes.assembly import EVALUATION_BATCH, build_network
from bitdial.recipes.cyclic.config import CyclicConfig
from bitdial.recipes.cyclic.experiment import Experiment
from bitdial.recipes.cyclic.phase import Loaders, PhaseSetup
from bitdial.recipes.precision import mixed_precision_of
from bitdial.training import MixedPrecisionConfig

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def build_experiment(
    config: CyclicConfig,
    data: ImageDataset,
    *,
    fabric: Fabric | None = None,
    precision: MixedPrecisionConfig | None = None,
    folder: Path | None = None,
) -> Experiment:
    """The experiment of a configuration.

    Args:
        config: all options.
        data: on the device that trains.
        fabric: launched; without one the experiment serves to check things and to load what was trained.
        precision: the floating-point format of training.
        folder: the run's folder; without one nothing is written.
    """
    batches = max(1, len(data.train) // config.batch_size)
    return Experiment(
        make_model=lambda: build_network(config, data),
        make_loaders=_loaders(config, data, fabric),
        model=config.network,
        training=config.training(batches),
        precision=config.cyclic,
        static=config.static,
        experiment=config.experiment,
        seeds=range(config.seed, config.seed + config.seeds),
        setup=PhaseSetup(
            fabric=fabric,
            precision=precision,
            how_to_resume=f"`bitdial train cyclic --resume {shlex.quote(str(folder))}`",
            compile=config.compile,
        ),
        folder=folder,
        show_progress=fabric is not None and fabric.is_global_zero,
    )


def precision_for(config: CyclicConfig, device: torch.device) -> MixedPrecisionConfig:
    """The floating-point format that a configuration asks for, by ``precision`` or by ``use_amp``."""
    if config.use_amp and config.precision == "float32":
        name = "float16" if device.type == "cuda" else "bfloat16"
        return mixed_precision_of(config.model_copy(update={"precision": name}), device)
    return mixed_precision_of(config, device)


def _loaders(config: CyclicConfig, data: ImageDataset, fabric: Fabric | None) -> Callable[[int], Loaders]:
    """Each process trains on its share; all of them measure, and re-estimate statistics, on everything."""
    world, rank = (1, 0) if fabric is None else (fabric.world_size, fabric.global_rank)

    def plain(seed: int) -> BatchLoader:
        return make_loader(data.train, config.batch_size, train=True, seed=seed, augment="none", workers=config.workers)

    def augmented(seed: int) -> BatchLoader:
        return make_loader(
            data.train,
            config.batch_size // world,
            train=True,
            seed=seed,
            rank=rank,
            world_size=world,
            workers=config.workers,
        )

    test = make_loader(data.test, EVALUATION_BATCH, train=False, workers=config.workers)
    return lambda seed: Loaders(train=augmented(seed), test=test, recalibration=plain(seed))
