"""The residual networks for small images (He et al. 2016, section 4.2): three stages of 16, 32 and 64 channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.models.checks import check_positive

DEPTHS = (20, 32, 44, 56, 74, 110)


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
    """Build ResNet-`depth` in its CIFAR form.

    Args:
        depth: `6n + 2` layers; 20 gives 0.27 million parameters.
        num_classes: Number of logits.
        in_channels: Channels of an image.
        image_size: Side of an image; any.
        shortcut: Where a stage begins: "A", the paper's, has no parameters; "B" is a 1x1 convolution with batch norm.
        width: Channels of the first stage.

    Raises:
        BitdialError: A shortcut other than A and B, or a width below 1.
    """
    if shortcut not in ("A", "B"):
        raise BitdialError(f"shortcut must be 'A' (no parameters) or 'B' (1x1 convolution), got {shortcut!r}")
    check_positive("width", width)
    return CifarResNet((depth - 2) // 6, num_classes, in_channels, width, shortcut)
