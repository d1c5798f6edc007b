"""VGG-Small, the plain network of the binary and ternary papers (Zhang et al. 2018, LQ-Nets)."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from bitdial.errors import BitdialError
from bitdial.models.checks import check_positive


def vgg_small(num_classes: int, in_channels: int, image_size: int, *, width: int = 128) -> nn.Module:
    """Build `2 x conv(w) - pool - 2 x conv(2w) - pool - 2 x conv(4w) - pool - fc`, 3x3 with batch norm and ReLU.

    At 32x32 colour, ten classes and the default width this has 4.66 million parameters.

    Args:
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Side of an image, at least 8 (three poolings halve it).
        width: Channels of the first pair.

    Raises:
        BitdialError: Images smaller than 8, or a width below 1.
    """
    check_positive("width", width)
    if image_size < 8:
        raise BitdialError(f"vgg_small needs images of at least 8x8, got {image_size}x{image_size}; resize them")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = in_channels
    for number, out in enumerate([width, width, 2 * width, 2 * width, 4 * width, 4 * width], 1):
        conv = nn.Conv2d(channels, out, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        layers[f"conv{number}"] = conv
        layers[f"bn{number}"] = nn.BatchNorm2d(out)
        layers[f"relu{number}"] = nn.ReLU()
        if number % 2 == 0:
            layers[f"pool{number // 2}"] = nn.MaxPool2d(2)
        channels = out
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels * (image_size // 8) ** 2, num_classes)
    return nn.Sequential(layers)
