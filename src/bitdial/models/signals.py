"""Networks for recordings of several sensors: an encoder for each modality, a mean over those that are there.

Such a network takes a mapping of `[B, channels, intervals, samples]` for each modality, with `"present"`, a bool
`[B, modalities]`, beside them, or without where nothing is missing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bitdial.models.names import check_signal_name
from bitdial.models.networks import check_positive, resnet18
from bitdial.own_files import call, is_place

Shapes = Mapping[str, tuple[int, int, int]]
"""Modality -> channels, intervals and samples of an interval."""
FEATURES = 64
"""Of each modality, in the small network."""
_LONG, _SHORT = 256, 32  # more samples are taken by eights, by fours, one by one
_FAINT = 1e-5


class SignalNetwork(nn.Module):
    """Encoders, whose features are averaged over the modalities that are there, and a classifier.

    Args:
        encoders: modality -> module `[B, channels, intervals, samples] -> [B, features]`.
        classifier: `[B, features] -> [B, classes]`.
        stems: name of the first layer in each encoder.
    """

    def __init__(self, encoders: Mapping[str, nn.Module], classifier: nn.Module, stem: str) -> None:
        super().__init__()
        self.names = tuple(encoders)
        # A modality may be called as no attribute can be.
        self.encoders = nn.ModuleList(encoders.values())
        self.classifier = classifier
        self.first_layers = tuple(f"encoders.{number}.{stem}" for number in range(len(self.names)))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Logits `[B, classes]`. Where a modality is missing, its values are not looked at."""
        first = inputs[self.names[0]]
        present = inputs.get("present")
        if present is None:
            present = torch.ones(len(first), len(self.names), dtype=torch.bool, device=first.device)
        found = [
            encoder(_filled(inputs[name], present[:, number]))
            for number, (name, encoder) in enumerate(zip(self.names, self.encoders, strict=True))
        ]
        features = torch.stack(found, 1)
        there = present.to(features.dtype)[..., None]
        # Not multiplied with zero, which would keep a NaN.
        mean = features.masked_fill(~present[..., None], 0.0).sum(1) / there.sum(1).clamp(min=1.0)
        logits: Tensor = self.classifier(mean)
        return logits


def _filled(signals: Tensor, present: Tensor) -> Tensor:
    """The signals with those that are missing replaced by others of the batch, as long as there is one.

    What comes out of them is left out of the fusion; but batch norms and activation ranges see a batch as a whole, and
    zeros in it would move them.
    """
    count = present.shape[0]  # not len(), which would be a constant of a file
    if not count:
        return signals
    rows = torch.arange(count, device=present.device)
    first = present.to(torch.int8).argmax()
    if torch.compiler.is_exporting():  # ONNX has no running maximum
        before = torch.where((rows <= rows[:, None]) & present, rows, first)
        return signals[before.amax(1)]
    return signals[torch.where(present, rows, first).cummax(0).values]


class _Spectra(nn.Module):
    """A convolution along the samples of every interval, the mean over the intervals, two more, and a linear layer.

    The mean comes early, as in Welch's estimate of a spectrum: it costs little and takes the chance out of a phase.
    """

    def __init__(self, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels, _, length = shape
        stride = 8 if length > _LONG else 4 if length > _SHORT else 1
        size = 5 if stride == 1 else 2 * stride + 1
        self.conv1 = nn.Conv1d(channels, width, size, stride, size // 2, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm1d(width), nn.ReLU()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        channels, length = width, -(-length // stride)
        for number, stride in enumerate((4 if length > _SHORT else 1, 2), 2):
            layers[f"conv{number}"] = nn.Conv1d(channels, 2 * width, 5, stride, 2, bias=False)
            layers[f"bn{number}"], layers[f"relu{number}"] = nn.BatchNorm1d(2 * width), nn.ReLU()
            channels, length = 2 * width, -(-length // stride)
        layers["flatten"] = nn.Flatten()
        layers["fc"], layers["relu"] = nn.Linear(channels * length, FEATURES), nn.ReLU()
        self.layers = nn.Sequential(layers)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, I, S] -> [B, 64]`."""
        batch, channels, intervals, samples = x.shape
        # A level tells how far something is, not what it is: every segment gets the same.
        x = x - x.mean((2, 3), keepdim=True)
        x = x / (x.square().mean((1, 2, 3), keepdim=True).sqrt() + _FAINT)
        each = self.relu1(self.bn1(self.conv1(x.transpose(1, 2).reshape(batch * intervals, channels, samples))))
        mean = each.reshape(batch, intervals, *each.shape[1:]).mean(1)
        features: Tensor = self.layers(mean)
        return features


def signal_cnn(num_classes: int, shapes: Shapes, *, width: int = 16) -> SignalNetwork:
    """Build the small network for CPUs: three convolutions in one dimension (`width`, then twice that), 64 features.

    Positions along the samples are kept up to the features: in a spectrum they are what matters.
    """
    check_positive("width", width)
    encoders = {name: _Spectra(shape, width) for name, shape in shapes.items()}
    return SignalNetwork(encoders, nn.Linear(FEATURES, num_classes), "conv1")


def signal_resnet18(num_classes: int, shapes: Shapes) -> SignalNetwork:
    """Build a ResNet-18 for each modality, intervals by samples as an image, and a classifier with a layer of 256.

    Up to 64 samples the stem is 3x3 with stride 1, as for small images; beyond, ImageNet's.
    """
    encoders = {name: _features(channels, max(rest)) for name, (channels, *rest) in shapes.items()}
    classifier = nn.Sequential(OrderedDict(hidden=nn.Linear(512, 256), relu=nn.ReLU(), fc=nn.Linear(256, num_classes)))
    return SignalNetwork(encoders, classifier, "conv1")


def _features(channels: int, size: int) -> nn.Module:
    encoder = resnet18(1, channels, size)
    encoder.fc = nn.Identity()
    return encoder


SIGNAL_NETWORKS: dict[str, Callable[..., SignalNetwork]] = {"signal_cnn": signal_cnn, "resnet18": signal_resnet18}
"""Name -> builder `(num_classes, shapes, *, options)`."""


def build_signal_model(name: str, *, num_classes: int, shapes: Shapes, **options: Any) -> SignalNetwork:
    """Build a classifier of recordings, in training mode, on the CPU; see this module for what it takes.

    Args:
        name: one of `SIGNAL_NETWORKS`, or ``file.py:function``, called with `num_classes` and `shapes`.
        num_classes: number of logits.
        shapes: modality -> channels, intervals and samples.
        options: what the network itself offers.

    Raises:
        BitdialError: an unknown name, or a number out of range.
    """
    check_signal_name(name)
    check_positive("num_classes", num_classes)
    if is_place(name):
        return call(name, num_classes=num_classes, shapes=shapes, **options)  # type: ignore[no-any-return]
    return SIGNAL_NETWORKS[name](num_classes, shapes, **options)
