"""Any classifier of torchvision and of timm as it is, under `torchvision/NAME` and `timm/NAME`; timm is optional."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn
from torchvision import models

from bitdial.errors import BitdialError, suggest
from bitdial.models.surgery import check_fit, forbid_inplace, guarded, replace_head, replace_stem


def torchvision_model(
    name: str, num_classes: int, in_channels: int, image_size: int, *, pretrained: bool = False, **options: Any
) -> nn.Module:
    """Build `torchvision.models.NAME` unchanged but for first layer, classifier and in-place activations.

    Args:
        name: Name of a classifier in torchvision, as `resnet50`.
        num_classes: Number of logits.
        in_channels: Channels of an image; other than 3 replaces the first convolution.
        image_size: Side of an image; passed on to the networks that are built for one size.
        pretrained: Start from torchvision's best ImageNet weights (downloaded); the classifier is drawn anew unless
            there are 1000 classes.
        options: Further arguments of the network's class.

    Raises:
        BitdialError: An unknown name, an option that the network does not have, or images that it cannot take.
    """
    known = models.list_models(module=models)
    label = f"torchvision/{name}"
    if name not in known:
        labels = [f"torchvision/{each}" for each in known]
        raise BitdialError(f"unknown model {label!r}; torchvision has {len(known)} classifiers{suggest(label, labels)}")
    for reserved in ("weights", "progress", "num_classes"):
        if reserved in options:
            raise BitdialError(f"option {reserved!r} of {label} is set by bitdial; use pretrained=True for weights")
    arguments: dict[str, Any] = {"weights": "DEFAULT" if pretrained else None, **options}
    if not pretrained:
        arguments["num_classes"] = num_classes
    if name in ("googlenet", "inception_v3") and not pretrained:
        # Their second classifier makes the output a tuple in training; the initialisation is their default said aloud,
        # without which torchvision warns.
        arguments.setdefault("aux_logits", False)
        arguments.setdefault("init_weights", True)
    if name.startswith("vit_") and not pretrained:
        arguments.setdefault("image_size", image_size)
    if name == "maxvit_t":
        arguments.setdefault("input_size", (image_size, image_size))
    model = guarded(label, lambda: models.get_model(name, **arguments))
    if pretrained:
        _drop_auxiliary(model)
        if num_classes != 1000:
            replace_head(model, num_classes)
    replace_stem(model, in_channels)
    return check_fit(label, forbid_inplace(model), num_classes, in_channels, image_size)


def timm_model(name: str, num_classes: int, in_channels: int, image_size: int, **options: Any) -> nn.Module:
    """Build `timm.create_model(NAME)` with its activations out of place.

    Args:
        name: A model name of timm, as `resnet10t` or `vit_tiny_patch16_224`.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Side of an image; passed on to the networks that are built for one size.
        options: Passed on to `timm.create_model` (`pretrained=True`, `drop_rate=.1`, ...).

    Raises:
        BitdialError: timm is missing, the name or an option is unknown, or the network cannot take the images.
    """
    label = f"timm/{name}"
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise BitdialError(f"{label} needs the package timm; run: pip install 'bitdial[timm]'") from error
    if not timm.is_model(name):
        known = [f"timm/{each}" for each in timm.list_models()]
        raise BitdialError(f"unknown model {label!r}; timm has {len(known)} models{suggest(label, known)}")
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_channels, **options}
    config = timm.models.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        arguments.setdefault("img_size", image_size)
    model = guarded(label, lambda: timm.create_model(name, **arguments))
    return check_fit(label, forbid_inplace(model), num_classes, in_channels, image_size)


def _drop_auxiliary(model: nn.Module) -> None:
    """Remove the second classifier that pretrained Inception keeps."""
    if getattr(model, "aux_logits", False):
        model.aux_logits = False  # type: ignore[assignment]
        for name in [name for name, _ in model.named_children() if name.lower().startswith("aux")]:
            setattr(model, name, None)


LIBRARIES: dict[str, Callable[..., nn.Module]] = {"torchvision": torchvision_model, "timm": timm_model}
