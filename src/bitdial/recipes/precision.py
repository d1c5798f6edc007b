"""From the options of a run to the floating-point format that it computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from rich.console import Console
from torch import nn
from torch.optim import Optimizer

from bitdial.configuration import SharedConfig
from bitdial.errors import BitdialError
from bitdial.training import MixedPrecisionConfig
from bitdial.training.mixed_precision import PrecisionControl, parse_policies
from bitdial.training.sharding import check_shardable, is_sharded
from bitdial.training.step.config import prepare_layers
from bitdial.training.step.formats import best_format, check_device, format_name, is_native, to_dtype

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def mixed_precision_of(config: SharedConfig, device: torch.device) -> MixedPrecisionConfig:
    """The format and scale that a configuration asks for.

    Args:
        config: ``precision`` and the group ``mixed_precision``.
        device: where the run computes; what ``precision="auto"`` means depends on it.

    Raises:
        BitdialError: a format that the device lacks, or settings that contradict each other.
    """
    options = config.mixed_precision
    dtype = best_format(device) if config.precision == "auto" else to_dtype(config.precision)
    check_device(dtype, device)
    if options.min_scale > options.init_scale:
        raise BitdialError(
            f"mixed_precision.min_scale must be at most mixed_precision.init_scale, got {options.min_scale:g} above "
            f"{options.init_scale:g}; lower it"
        )
    policies = parse_policies(options.policies) if options.policies else None
    return MixedPrecisionConfig(dtype=dtype, **options.model_dump(exclude={"policies"}), policies=policies)


def check_layers(
    model: nn.Module, precision: MixedPrecisionConfig, fabric: Fabric, optimizer: Optimizer | None = None
) -> None:
    """Let the layers of a new model take their formats, so that what is wrong is found before a run begins.

    Raises:
        BitdialError: a policy that matches nothing, or that its layers cannot follow; weights that cannot be cut for
            the devices, or that the optimizer cannot step on then.
    """
    if is_sharded(fabric):
        check_shardable(model, optimizer, fabric.world_size)
    layers = prepare_layers(model.to(fabric.device), PrecisionControl(precision, fabric.device))
    if layers is not None:
        layers.remove()


def tell_if_slow(precision: MixedPrecisionConfig, fabric: Fabric) -> None:
    """Say, once, that the device does not compute in a format natively, so that it saves no time here."""
    dtype, device = precision.format, fabric.device
    if not fabric.is_global_zero or is_native(dtype, device):
        return
    name = format_name(dtype)
    Console(stderr=True).print(
        f"{name} is not native on this {device.type}: expect slower steps than in float32 (`bitdial bench amp --dtype "
        f"{name}` measures it)",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
