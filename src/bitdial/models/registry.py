"""Networks by name: those that modules register beside their definitions, and whole libraries by prefix."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from bitdial.errors import BitdialError, suggest
from bitdial.models.foreign import LIBRARIES, forbid_inplace
from bitdial.models.names import check_name as check_plain_name
from bitdial.models.networks import NETWORKS, check_positive
from bitdial.own_files import call, is_place, own_function

MODELS = tuple(NETWORKS)


def check_name(name: str) -> None:
    """Refuse what `build_model` has no network for, before anything is loaded or built.

    Raises:
        BitdialError: An unknown name, or a network of timm where that is not installed.
    """
    if is_place(name):
        own_function(name)
        return
    check_plain_name(name)
    library, _, inner = name.partition("/")
    if inner:
        LIBRARIES[library][0](inner)


def own_network(place: str, **shape: Any) -> nn.Module:
    """The network that a function in a file makes; see `bitdial.own_files.call` for what it is called with.

    Raises:
        BitdialError: there is none, or it makes something else.
    """
    network = call(place, **{name: value for name, value in shape.items() if value is not None})
    if not isinstance(network, nn.Module):
        raise BitdialError(f"{place} must make a torch.nn.Module, got {type(network).__name__}; return the network")
    return forbid_inplace(network)


def build_model(name: str, *, num_classes: int, in_channels: int, image_size: int, **options: Any) -> nn.Module:
    """Build a classifier `[B, in_channels, image_size, image_size] -> [B, num_classes]`, in training mode, on the CPU.

    Initial weights come from torch's global random state and from nothing else.

    Args:
        name: One of `MODELS`, `torchvision/NAME`, `timm/NAME`, or ``file.py:function``, which is called with those of
            `num_classes`, `in_channels`, `image_size` and the options that it has parameters for.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Side of an image in pixels.
        options: What the network itself offers; see docs/models.md.

    Raises:
        BitdialError: An unknown name or option, a number out of range, or images that the network cannot take.

    Example:
        >>> from bitdial.models import build_model
        >>> network = build_model("tiny_cnn", num_classes=10, in_channels=1, image_size=8)
    """
    for argument, value in (("num_classes", num_classes), ("in_channels", in_channels), ("image_size", image_size)):
        check_positive(argument, value)
    if is_place(name):
        return own_network(name, num_classes=num_classes, in_channels=in_channels, image_size=image_size, **options)
    check_name(name)
    library, _, inner = name.partition("/")
    if inner:
        _, build = LIBRARIES[library]
        return build(inner, num_classes, in_channels, image_size, **options)
    builder = NETWORKS[name]
    offered = [each.name for each in inspect.signature(builder).parameters.values() if each.kind is each.KEYWORD_ONLY]
    for option in options:
        if option not in offered:
            raise BitdialError(
                f"unknown option {option!r} of model {name!r}; it has {', '.join(offered) or 'none'}"
                f"{suggest(option, offered)}"
            )
    return builder(num_classes, in_channels, image_size, **options)
