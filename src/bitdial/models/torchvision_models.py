"""torchvision's classifiers: two adapted to small images, and all of them as they are under `torchvision/NAME`."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchvision import models

from bitdial.errors import BitdialError, suggest
from bitdial.models.surgery import check_fit, forbid_inplace, guarded, replace_head, replace_stem

# Up to this side the ImageNet stem (stride 4 or 2 at once) would throw away too much of the image.
SMALL_IMAGE = 64
_TINY_IMAGE = 16


def resnet18(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Build torchvision's ResNet-18; up to 64x64 with the CIFAR stem (3x3, stride 1, no pooling).

    With the CIFAR stem, colour and ten classes it has 11.17 million parameters.
    """
    model: nn.Module = models.resnet18(num_classes=num_classes)
    if image_size <= SMALL_IMAGE:
        stem = nn.Conv2d(in_channels, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        model.set_submodule("conv1", stem)
        model.set_submodule("maxpool", nn.Identity())
    else:
        replace_stem(model, in_channels)
    return forbid_inplace(model)


def mobilenetv2(
    num_classes: int, in_channels: int, image_size: int, *, width: float = 1.0, dropout: float = 0.2
) -> nn.Module:
    """Build torchvision's MobileNetV2 with its strides adapted to the image.

    The image is reduced 32 times in all from 65x65 up, 8 times up to 64x64 (stem and second stage keep the size) and
    4 times up to 16x16 (the fourth stage too).

    Args:
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Side of an image; any.
        width: Multiplier of all channel counts.
        dropout: Probability of dropout before the classifier, in [0, 1).

    Raises:
        BitdialError: A width or a dropout out of range.
    """
    if not width > 0:
        raise BitdialError(f"width must be a multiplier above 0, got {width!r}")
    if not 0 <= dropout < 1:
        raise BitdialError(f"dropout must be in [0, 1), got {dropout!r}")
    small, tiny = image_size <= SMALL_IMAGE, image_size <= _TINY_IMAGE
    stages = [  # expansion, channels, blocks, stride of the first: table 2 of Sandler et al. 2018
        [1, 16, 1, 1],
        [6, 24, 2, 1 if small else 2],
        [6, 32, 3, 2],
        [6, 64, 4, 1 if tiny else 2],
        [6, 96, 3, 1],
        [6, 160, 3, 2],
        [6, 320, 1, 1],
    ]
    model: nn.Module = models.MobileNetV2(num_classes, width, stages, dropout=dropout)
    if small:
        stem = model.get_submodule("features.0.0")
        assert isinstance(stem, nn.Conv2d)
        stem.stride = (1, 1)
    replace_stem(model, in_channels)
    return forbid_inplace(model)


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


def _drop_auxiliary(model: nn.Module) -> None:
    """Remove the second classifier that pretrained Inception keeps."""
    if getattr(model, "aux_logits", False):
        model.aux_logits = False  # type: ignore[assignment]
        for name in [name for name, _ in model.named_children() if name.lower().startswith("aux")]:
            setattr(model, name, None)
