"""The network of a ternary run: how it is built, and the file in which a trained one is kept."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import ValidationError
from torch import nn

from bitdial.configuration import Config
from bitdial.data import ImageDataset
from bitdial.errors import BitdialError
from bitdial.evaluation.files import write_atomically
from bitdial.layers import BitDial, QuantizedLayer, quantize, skipped_layers
from bitdial.models import build_model
from bitdial.numerics import TERNARY_BITS, UNQUANTIZED
from bitdial.recipes.ternary.config import FLOAT, TernaryConfig

SCHEMA_VERSION: Final = 1


class Network(Config):
    """What a network must be built from; the file of a trained one holds it."""

    model: str
    """Network, by name."""
    num_classes: int
    """Classes it tells apart."""
    in_channels: int
    """Channels of an image."""
    image_size: int
    """Side of an image in pixels."""
    quantizer: Literal["twn", "absmean", "ttq", "ternary_lsq", "none"]
    """How weights become ternary; none: not at all."""
    granularity: Literal["channel", "tensor"] | None
    """One scale per output channel or per tensor."""
    activation_bits: float
    """Width of the activations."""
    skip_layers: list[str]
    """Layers left unquantized."""

    @classmethod
    def of(cls, config: TernaryConfig, data: ImageDataset) -> Network:
        """The network of a configuration, for the images at hand."""
        return cls(
            model=config.model,
            num_classes=data.num_classes,
            in_channels=data.in_channels,
            image_size=data.image_size,
            quantizer=config.quantizer,
            granularity=config.granularity,
            activation_bits=config.activation_bits,
            skip_layers=config.skip_layers,
        )

    @property
    def is_quantized(self) -> bool:
        """Whether anything in it is."""
        return self.quantizer != FLOAT or self.activation_bits < UNQUANTIZED

    def build(self) -> nn.Module:
        """The network with new weights, drawn from torch's global generator.

        Raises:
            BitdialError: the network does not exist, cannot take such images, or cannot be quantized so.
        """
        model = build_model(
            self.model, num_classes=self.num_classes, in_channels=self.in_channels, image_size=self.image_size
        )
        if not self.is_quantized:
            return model
        ternary = self.quantizer != FLOAT
        return quantize(
            model,
            TERNARY_BITS if ternary else UNQUANTIZED,
            self.activation_bits,
            quantizer=self.quantizer if ternary else "uniform",
            granularity=self.granularity,
            skip=self.skip_layers,
        )


class TrainedNetwork(Config):
    """A trained network and what is needed to use it, as its file holds them."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of the format."""
    experiment: str
    """The experiment that it comes from."""
    seed: int
    """Its seed."""
    network: Network
    """How it is built."""
    dataset: str
    """What it was trained on."""
    mean: list[float]
    """Mean of the images per channel, as a share of 255 where they are 8-bit."""
    std: list[float]
    """Their standard deviation, in the same unit."""
    class_names: list[str]
    """Names of the classes, in the order of the outputs."""

    def save(self, model: nn.Module, path: Path) -> Path:
        """Write the file, atomically."""
        buffer = io.BytesIO()
        state = {key: value.detach().cpu() for key, value in model.state_dict().items()}
        torch.save({**self.model_dump(mode="json"), "model_state_dict": state}, buffer)
        return write_atomically(path, buffer.getvalue())


def load_trained(path: Path) -> tuple[TrainedNetwork, nn.Module]:
    """The description and the network of a file that `TrainedNetwork.save` wrote, the network in evaluation mode.

    Raises:
        BitdialError: there is no such file, it is damaged, or of another format.
    """
    if not path.is_file():
        raise BitdialError(f"expected a trained network at {path}, got nothing; a run writes it at its end")
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        state = content.pop("model_state_dict")
        description = TrainedNetwork.model_validate(content)
    except ValidationError as error:
        raise BitdialError(
            f"{path} must be a trained network of schema_version {SCHEMA_VERSION}, got another format "
            f"({error.errors()[0]['msg']}); use the version of bitdial that wrote it"
        ) from error
    except Exception as error:  # torch raises whatever a strange file makes it stumble over
        raise BitdialError(f"{path} is not a trained network, or it is damaged; run the recipe again") from error
    with torch.random.fork_rng(devices=[]):
        model = description.network.build()
    model.load_state_dict(state)
    return description, model.eval()


def share_of_zeros(model: nn.Module) -> dict[str, float]:
    """Share of weights that are zero in each ternary layer, by name."""
    if not any(isinstance(module, QuantizedLayer) for module in model.modules()):
        return {}
    modules = dict(model.named_modules())
    shares = {}
    with torch.no_grad():
        for name, width in zip(BitDial(model).names, BitDial(model).weights, strict=True):
            layer = modules[name]
            if width < UNQUANTIZED and isinstance(layer, QuantizedLayer):
                shares[name] = float((layer.quantized_weight() == 0).float().mean())
    return shares


def unquantized_layers(model: nn.Module) -> dict[str, str]:
    """Layers that were left alone, each with the reason; empty for a network that was never quantized."""
    quantized = any(isinstance(module, QuantizedLayer) for module in model.modules())
    return skipped_layers(model) if quantized else {}
