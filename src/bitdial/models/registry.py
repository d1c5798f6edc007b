"""Networks by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from bitdial.errors import BitdialError, suggest
from bitdial.models.checks import check_positive
from bitdial.models.cifar_resnet import DEPTHS, cifar_resnet
from bitdial.models.small import mlp, tiny_cnn
from bitdial.models.timm_models import timm_model
from bitdial.models.torchvision_models import mobilenetv2, resnet18, torchvision_model
from bitdial.models.vgg import vgg_small

_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(cifar_resnet, depth) for depth in DEPTHS},
    "resnet18": resnet18,
    "vgg_small": vgg_small,
    "mobilenetv2": mobilenetv2,
    "mlp": mlp,
    "tiny_cnn": tiny_cnn,
}
MODELS = tuple(_BUILDERS)


def build_model(name: str, *, num_classes: int, in_channels: int, image_size: int, **options: Any) -> nn.Module:
    """Build a classifier `[B, in_channels, image_size, image_size] -> [B, num_classes]`, in training mode, on the CPU.

    Initial weights come from torch's global random state and from nothing else.

    Args:
        name: One of `MODELS`, `torchvision/NAME` or `timm/NAME`.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Side of an image in pixels.
        options: What the network itself offers; see docs/models.md.

    Raises:
        BitdialError: An unknown name or option, a number out of range, or images that the network cannot take.
    """
    for argument, value in (("num_classes", num_classes), ("in_channels", in_channels), ("image_size", image_size)):
        check_positive(argument, value)
    source, _, inner = name.partition("/")
    if source == "torchvision" and inner:
        return torchvision_model(inner, num_classes, in_channels, image_size, **options)
    if source == "timm" and inner:
        return timm_model(inner, num_classes, in_channels, image_size, **options)
    if name not in _BUILDERS:
        raise BitdialError(
            f"unknown model {name!r}; known are {', '.join(MODELS)}, torchvision/NAME and timm/NAME"
            f"{suggest(name, MODELS)}"
        )
    builder = _BUILDERS[name]
    offered = [each.name for each in inspect.signature(builder).parameters.values() if each.kind is each.KEYWORD_ONLY]
    for option in options:
        if option not in offered:
            raise BitdialError(
                f"unknown option {option!r} of model {name!r}; it has {', '.join(offered) or 'none'}"
                f"{suggest(option, offered)}"
            )
    return builder(num_classes, in_channels, image_size, **options)
