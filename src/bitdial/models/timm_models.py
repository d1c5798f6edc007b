"""Any image classifier of the `timm` package, under `timm/NAME`; timm is optional."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from bitdial.errors import BitdialError, suggest
from bitdial.models.surgery import check_fit, forbid_inplace, guarded


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
