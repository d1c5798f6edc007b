"""The unquantized network that a ternary one learns from: a finished run of its own."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from bitdial.data import ImageDataset
from bitdial.errors import BitdialError
from bitdial.recipes.ternary.finish import network_file
from bitdial.recipes.ternary.network import load_trained
from bitdial.recipes.ternary.results import TernaryResults
from bitdial.training import RunFolder


def load_teacher(path: Path, data: ImageDataset) -> nn.Module:
    """The first unquantized network of a finished run, in evaluation mode.

    Args:
        path: the run's folder.
        data: what the student sees.

    Raises:
        BitdialError: no such run, not finished, no unquantized network in it, or one for other images.
    """
    run = RunFolder.open(path)
    if not run.results.exists():
        raise BitdialError(f"teacher must be a finished run, got {path}, which has no results yet; resume it first")
    results = TernaryResults.load(run.results)
    network = next((each for each in results.networks if each.quantizer == "none"), None)
    if network is None:
        kinds = ", ".join(dict.fromkeys(each.quantizer for each in results.networks))
        raise BitdialError(f"teacher must be a run with --quantizer none, got {path} with {kinds}; train that first")
    description, model = load_trained(network_file(run, network.key))
    trained = description.network
    asks = (data.num_classes, data.in_channels, data.image_size)
    if (trained.num_classes, trained.in_channels, trained.image_size) != asks:
        raise BitdialError(
            f"teacher and student must see the same images, got {description.dataset} ({trained.num_classes} classes, "
            f"{trained.in_channels}x{trained.image_size}x{trained.image_size}) and {data.name} ({asks[0]} classes, "
            f"{asks[1]}x{asks[2]}x{asks[2]}); train the teacher on {data.name}"
        )
    return model.requires_grad_(False)
