"""From the options of a run to its devices, and to the floating-point format that it computes in."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from bitdial.errors import BitdialError
from bitdial.machine import CLEARLY, NARROW, fastest, product_speeds
from bitdial.options import part
from bitdial.recipes.options import RunOptions
from bitdial.terminal import terminal
from bitdial.training import MixedPrecisionConfig, make_fabric
from bitdial.training.devices import STARTS_FUNCTIONS
from bitdial.training.mixed_precision import PrecisionControl, parse_policies
from bitdial.training.sharding import check_shardable, is_sharded
from bitdial.training.step.config import prepare_layers
from bitdial.training.step.formats import best_format, check_device, format_name, to_dtype

if TYPE_CHECKING:
    from lightning.fabric import Fabric

O = TypeVar("O", bound=RunOptions)  # noqa: E741  (options)


def fabric_for(options: RunOptions) -> Fabric:
    """The devices of a run; nothing is launched yet.

    Args:
        options: devices, machines, strategy, batch size.

    Raises:
        BitdialError: devices that are not there, or that cannot share a batch evenly.
    """
    if options.strategy in STARTS_FUNCTIONS:
        raise BitdialError(
            f"strategy must be one that starts this command once per device (auto, ddp, fsdp), got {options.strategy}, "
            "which starts a function of a script"
        )
    fabric = make_fabric(options.devices, options.num_nodes, options.strategy)
    world = fabric.world_size
    if not options.measures_batch and options.batch_size % world:
        raise BitdialError(
            f"batch_size must divide by the {world} processes, got {options.batch_size}; "
            f"{max(options.batch_size // world, 1) * world} would do"
        )
    return fabric


def decided(options: O, fabric: Fabric) -> O:
    """Options with the format that ``precision="auto"`` stands for on the device, as its products are timed here.

    Several processes could time different things, and keep "auto", which is then what the device says of itself.
    """
    if options.precision != "auto" or fabric.world_size > 1:
        return options
    return options.model_copy(update={"precision": fastest(product_speeds(fabric.device.type))})


def mixed_precision_of(options: RunOptions, device: torch.device) -> MixedPrecisionConfig:
    """The format and scale that a run asks for.

    Args:
        options: ``precision`` and the group ``mixed_precision``.
        device: where the run computes; what ``precision="auto"`` means depends on it.

    Raises:
        BitdialError: a format that the device lacks, or settings that contradict each other.
    """
    group = options.mixed_precision
    name = options.format_on(device.type)
    dtype = best_format(device) if name == "auto" else to_dtype(name)
    check_device(dtype, device)
    policies = parse_policies(group.policies) if group.policies else None
    return part(group, MixedPrecisionConfig, dtype=dtype, policies=policies)


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
    """Say, once, that products in a format take longer than in float32 here, as timed."""
    name, kind = format_name(precision.format), fabric.device.type
    if not fabric.is_global_zero or name not in NARROW:
        return
    speed = product_speeds(kind).get(name, 1.0)
    if speed * CLEARLY > 1:
        return
    terminal(stderr=True).print(
        f"{name} products take {1 / speed:.1f} times as long as float32's on this {kind}: expect slower steps "
        f"(`bitdial bench amp --dtype {name}` measures them)",
        soft_wrap=True,
    )
