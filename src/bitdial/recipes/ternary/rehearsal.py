"""Finding now what would only be found when training starts, or hours later."""

from __future__ import annotations

import warnings
from pathlib import Path

from bitdial.recipes.assembly import rehearse
from bitdial.recipes.ternary.checkpoints import Foreign
from bitdial.recipes.ternary.config import TernaryConfig
from bitdial.recipes.ternary.loaders import Splits
from bitdial.recipes.ternary.network import Network
from bitdial.recipes.ternary.train import optimizer_for, schedule_for, steps_of
from bitdial.training import Classification


def rehearse_network(config: TernaryConfig, splits: Splits, foreign_file: Path | None) -> Foreign | None:
    """Go through what training will need, on two images; return the state of a foreign file."""
    model = Network.of(config, splits.dataset).build()
    loader = splits.training(config, config.seed)
    schedule_for(config, loader)
    if config.start_from is not None:
        start = Foreign.read(config.start_from, 1, weights_only=True)
        start.check(model, optimizer_for(model, config), config.start_from)
    foreign = None
    if foreign_file is not None:
        foreign = Foreign.read(foreign_file, steps_of(config, loader)[0])
        foreign.check(model, optimizer_for(model, config), foreign_file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is worth a warning is said when training starts
        rehearse(model, loader, Classification(config.label_smoothing))
    return foreign
