"""Networks that train in seconds, for a first try and for tests: a perceptron and a three-layer convolutional net."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from bitdial.models.checks import check_positive


def mlp(num_classes: int, in_channels: int, image_size: int, *, hidden: int = 128, depth: int = 2) -> nn.Module:
    """Build a perceptron of `depth` hidden layers of `hidden` units with ReLU; images `[B, C, H, W]` are flattened."""
    check_positive("hidden", hidden)
    check_positive("depth", depth)
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    width = in_channels * image_size**2
    for number in range(1, depth + 1):
        layers[f"fc{number}"] = nn.Linear(width, hidden)
        layers[f"relu{number}"] = nn.ReLU()
        width = hidden
    layers["fc"] = nn.Linear(width, num_classes)
    return nn.Sequential(layers)


def tiny_cnn(num_classes: int, in_channels: int, image_size: int, *, width: int = 16) -> nn.Module:
    """Build three 3x3 convolutions with batch norm and ReLU (`width`, then twice that), pooling and a classifier.

    Works for images of any size.
    """
    check_positive("width", width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = in_channels
    for number, (out, stride) in enumerate([(width, 1), (2 * width, 2), (2 * width, 1)], 1):
        layers[f"conv{number}"] = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        layers[f"bn{number}"] = nn.BatchNorm2d(out)
        layers[f"relu{number}"] = nn.ReLU()
        channels = out
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, num_classes)
    return nn.Sequential(layers)
