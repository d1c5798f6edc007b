"""What a reader of the results has to know: which images chose, which were reported, what an interval is."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bitdial.recipes.ternary.config import TernaryConfig
from bitdial.recipes.ternary.loaders import Splits
from bitdial.recipes.ternary.results import NetworkResult
from bitdial.training.step.formats import format_name


def notes_on(
    config: TernaryConfig, splits: Splits, networks: Sequence[NetworkResult], format: torch.dtype
) -> list[str]:
    """What a reader should know about the networks that a run trained on these images, in this format."""
    data = splits.dataset
    held_out = 0 if splits.validation is None else len(splits.validation)
    chosen = (
        "Early stopping and the choice of the shipped weights look at the held-out images only"
        if config.keep_best or config.early_stopping
        else "Nothing was chosen by any score: the last weights are shipped"
    )
    notes = [
        f"Data: {data.name}, {len(splits.train)} images to train on, {held_out} training images held out, "
        f"{len(data.test)} test images. {chosen}; test images were looked at once, at the end."
    ]
    if config.seeds == 1:
        notes.append("One seed: no interval. Differences between experiments may be chance.")
    else:
        notes.append(f"Intervals are 95% Student t intervals over {config.seeds} seeds; differences are paired.")
    if config.ema_decay is not None:
        notes.append("Scores and files are of the averaged weights.")
    computes = "Training and scores compute in float32"
    if format != torch.float32:
        computes = f"Training computes in {format_name(format)}, scores in float32"
    notes.append(f"{computes}, on ternary values; only files are packed.")
    return notes + [
        f"{network.experiment}, seed {network.seed}, {network.precision_note}."
        for network in networks
        if network.precision_note is not None
    ]
