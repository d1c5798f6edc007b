"""The networks with a name of their own; a network is a function `(num_classes, in_channels, image_size, *, options)`.

They are small enough to see whole, or torchvision's adapted to small images. `network` registers such a function, which
takes the number of logits, the channels and the side of an image; its keyword-only arguments are the options that the
network offers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.models.foreign import forbid_inplace, replace_stem

DEPTHS = (20, 32, 44, 56, 74, 110)
# Up to this side the ImageNet stem (stride 4 or 2 at once) would throw away too much of the image.
SMALL_IMAGE = 64
_TINY_IMAGE = 16

NETWORKS: dict[str, Callable[..., nn.Module]] = {}
"""Name -> builder, in the order in which they are registered."""
_Builder = TypeVar("_Builder", bound=Callable[..., nn.Module])


def network(builder: _Builder, name: str | None = None) -> _Builder:
    """Register a builder under `name`, by default its own, and return it; serves as a decorator."""
    chosen = name or builder.__name__
    assert chosen not in NETWORKS, chosen
    NETWORKS[chosen] = builder
    return builder


def check_positive(name: str, value: object, least: int = 1) -> None:
    """Refuse what is not a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BitdialError(f"{name} must be a whole number from {least} up, got {value!r}")


class Subsample(nn.Module):
    """The shortcut without parameters (option A): every second pixel, missing channels filled with zeros.

    `[B, C, H, W] -> [B, C', ceil(H/2), ceil(W/2)]`.
    """

    def __init__(self, extra_channels: int) -> None:
        super().__init__()
        self._extra = extra_channels

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and widen."""
        return nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self._extra // 2, self._extra - self._extra // 2))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut around them: `relu(x' + bn(conv(relu(bn(conv(x))))))`."""

    def __init__(self, in_channels: int, channels: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu2 = nn.ReLU()
        if stride == 1 and in_channels == channels:
            self.shortcut: nn.Module = nn.Identity()
        elif shortcut == "A":
            self.shortcut = Subsample(channels - in_channels)
        else:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W] -> [B, channels, H/stride, W/stride]` (rounded up)."""
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        activated: Tensor = self.relu2(out + self.shortcut(x))
        return activated


class CifarResNet(nn.Module):
    """A residual network of `6n + 2` layers for images from 1x1 up; made for 32x32."""

    def __init__(self, blocks: int, num_classes: int, in_channels: int, width: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.stage1 = self._stage(blocks, width, width, 1, shortcut)
        self.stage2 = self._stage(blocks, width, 2 * width, 2, shortcut)
        self.stage3 = self._stage(blocks, 2 * width, 4 * width, 2, shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(blocks: int, in_channels: int, channels: int, stride: int, shortcut: str) -> nn.Sequential:
        first = BasicBlock(in_channels, channels, stride, shortcut)
        return nn.Sequential(first, *(BasicBlock(channels, channels, 1, shortcut) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Images `[B, C, H, W]` to logits `[B, num_classes]`."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.stage3(self.stage2(self.stage1(x)))
        logits: Tensor = self.fc(torch.flatten(self.pool(x), 1))
        return logits


def cifar_resnet(
    depth: int, num_classes: int, in_channels: int, image_size: int, *, shortcut: str = "A", width: int = 16
) -> CifarResNet:
    """Build ResNet-`depth` in its form for small images: three stages of `width`, twice and four times that.

    Source: He et al. 2016, section 4.2.

    Args:
        depth: `6n + 2` layers; 20 gives 0.27 million parameters.
        shortcut: Where a stage begins: "A", the paper's, has no parameters; "B" is a 1x1 convolution with batch norm.
        width: Channels of the first stage.

    Raises:
        BitdialError: A shortcut other than A and B, or a width below 1.
    """
    if shortcut not in ("A", "B"):
        raise BitdialError(f"shortcut must be 'A' (no parameters) or 'B' (1x1 convolution), got {shortcut!r}")
    check_positive("width", width)
    return CifarResNet((depth - 2) // 6, num_classes, in_channels, width, shortcut)


for _depth in DEPTHS:
    network(partial(cifar_resnet, _depth), f"resnet{_depth}")


@network
def resnet18(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Build torchvision's ResNet-18; up to 64x64 with the CIFAR stem (3x3, stride 1, no pooling).

    With the CIFAR stem, colour and ten classes it has 11.17 million parameters.
    """
    from torchvision import models

    model: nn.Module = models.resnet18(num_classes=num_classes)
    if image_size <= SMALL_IMAGE:
        stem = nn.Conv2d(in_channels, 64, 3, 1, 1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        model.set_submodule("conv1", stem)
        model.set_submodule("maxpool", nn.Identity())
    else:
        replace_stem(model, in_channels)
    return forbid_inplace(model)


def _add_convolution(layers: dict[str, nn.Module], number: int, channels: int, out: int, stride: int) -> nn.Conv2d:
    """Add a 3x3 convolution with batch norm and ReLU to named layers, and return the convolution."""
    conv = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
    layers |= {f"conv{number}": conv, f"bn{number}": nn.BatchNorm2d(out), f"relu{number}": nn.ReLU()}
    return conv


@network
def vgg_small(num_classes: int, in_channels: int, image_size: int, *, width: int = 128) -> nn.Module:
    """Build `2 x conv(w) - pool - 2 x conv(2w) - pool - 2 x conv(4w) - pool - fc`, 3x3 with batch norm and ReLU.

    The plain network of the binary and ternary papers (Zhang et al. 2018, LQ-Nets). At 32x32 colour, ten classes and
    the default width it has 4.66 million parameters.

    Args:
        image_size: At least 8 (three poolings halve it).
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
        conv = _add_convolution(layers, number, channels, out, 1)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        if number % 2 == 0:
            layers[f"pool{number // 2}"] = nn.MaxPool2d(2)
        channels = out
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels * (image_size // 8) ** 2, num_classes)
    return nn.Sequential(layers)


@network
def mobilenetv2(
    num_classes: int, in_channels: int, image_size: int, *, width: float = 1.0, dropout: float = 0.2
) -> nn.Module:
    """Build torchvision's MobileNetV2 with its strides adapted to the image.

    The image is reduced 32 times in all from 65x65 up, 8 times up to 64x64 (stem and second stage keep the size) and
    4 times up to 16x16 (the fourth stage too).

    Args:
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
    from torchvision import models

    model: nn.Module = models.MobileNetV2(num_classes, width, stages, dropout=dropout)
    if small:
        stem = model.get_submodule("features.0.0")
        assert isinstance(stem, nn.Conv2d)
        stem.stride = (1, 1)
    replace_stem(model, in_channels)
    return forbid_inplace(model)


@network
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


@network
def tiny_cnn(num_classes: int, in_channels: int, image_size: int, *, width: int = 16) -> nn.Module:
    """Build three 3x3 convolutions with batch norm and ReLU (`width`, then twice that), pooling and a classifier.

    Works for images of any size.
    """
    check_positive("width", width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    channels = in_channels
    for number, (out, stride) in enumerate([(width, 1), (2 * width, 2), (2 * width, 1)], 1):
        _add_convolution(layers, number, channels, out, stride)
        channels = out
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(channels, num_classes)
    return nn.Sequential(layers)
