"""``cyclic_best_model.pt``: the model worth shipping, with all that is needed to build it again."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitdial.data import ImageDataset
from bitdial.errors import BitdialError
from bitdial.evaluation import CyclicResults
from bitdial.evaluation.files import write_atomically
from bitdial.evaluation.sweep import RECALIBRATION_LIMIT
from bitdial.layers import BitDial, reestimate_batch_norm, skipped_layers
from bitdial.models import build_model
from bitdial.recipes.cyclic.arms import plan_arms
from bitdial.recipes.cyclic.config import ModelConfig
from bitdial.recipes.cyclic.experiment import Experiment
from bitdial.recipes.cyclic.train import prepare_model

BEST_MODEL_FILE = "cyclic_best_model.pt"
SCHEMA_VERSION = 1


def save_best_model(experiment: Experiment, results: CyclicResults, data: ImageDataset, folder: Path) -> Path:
    """Save the recommended arm (its first seed), its dial and its batch-norm statistics at the width that it ships at.

    What is saved scores what `results` report, without anything being re-estimated again.
    """
    name, seed = results.comparison.recommended, experiment.seeds[0]
    arms = plan_arms(experiment.model, experiment.static, experiment.experiment)
    arm = next(arm for arm in arms if arm.name == name)
    model = experiment.load_arm(name, seed).to(data.train.labels.device)
    dial = BitDial(model)
    dial.set(arm.own_bits(len(dial)))
    reestimate_batch_norm(model, experiment.make_loaders(seed).recalibration, limit=RECALIBRATION_LIMIT)
    content = {
        "schema_version": SCHEMA_VERSION,
        "arm": name,
        "seed": seed,
        "bits": dict(zip(dial.names, dial.weights, strict=True)),
        "skipped_layers": skipped_layers(model),
        "model": experiment.model.model_dump(mode="json"),
        "gradient_bits": experiment.precision.gradient_bits,
        "num_classes": data.num_classes,
        "in_channels": data.in_channels,
        "image_size": data.image_size,
        "mean": list(data.mean),
        "std": list(data.std),
        "class_names": list(data.class_names),
        "model_state_dict": {key: value.cpu() for key, value in model.state_dict().items()},
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return write_atomically(folder / BEST_MODEL_FILE, buffer.getvalue())


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
    path = path / BEST_MODEL_FILE if path.is_dir() else path
    if not path.is_file():
        raise BitdialError(f"expected a {BEST_MODEL_FILE} at {path}, got nothing; a run writes it at its end")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        version = content["schema_version"]
    except Exception as error:  # torch raises whatever a strange file makes it stumble over
        raise BitdialError(f"{path} is not a {BEST_MODEL_FILE}, or it is damaged; run the recipe again") from error
    if version != SCHEMA_VERSION:
        raise BitdialError(f"{path} must have schema_version {SCHEMA_VERSION}, got {version!r}")
    options = ModelConfig(**content["model"])
    with torch.random.fork_rng(devices=[]):
        network = build_model(
            options.name,
            num_classes=content["num_classes"],
            in_channels=content["in_channels"],
            image_size=content["image_size"],
        )
        model = prepare_model(network, options, content["gradient_bits"])
    model.load_state_dict(content["model_state_dict"])
    return model.eval()
