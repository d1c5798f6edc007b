"""Augmentation of whole batches: small transforms `(images, labels, generator) -> (images, labels)` in a pipeline."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from bitdial.data.dataset import Batch
from bitdial.data.randomness import global_draws_from
from bitdial.errors import BitdialError

BatchTransform = Callable[[Tensor, Tensor, Generator], Batch]

# A box that does not fit is drawn again, as often as torchvision does; then the image stays whole.
_TRIES = 10
# torch draws Beta in float32: further out its draws are wrong (at 1e-6 every one is .5).


@dataclass(frozen=True)
class Augmentation:
    """A pipeline in two stages, on either side of the normalisation.

    Attributes:
        pixels: Transforms of the images as stored (uint8, or float arrays in their own unit): crop, flip, colour.
        mixing: Transforms of the normalised float32 images; they may turn labels `[B]` into shares `[B, num_classes]`
            (CutMix, MixUp).

    `build_augmentation` makes one of flags.
    """

    pixels: tuple[BatchTransform, ...] = ()
    mixing: tuple[BatchTransform, ...] = ()


@dataclass(frozen=True)
class RandomCrop:
    """Shift every image by its own offset of up to `padding` pixels each way; what comes into view is 0 (black).

    As torchvision's `RandomCrop(size, padding)` image by image, but for the whole batch in one indexing operation.
    """

    padding: int = 4

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Batch:
        """Crop `images [B, C, H, W]`; shape, type and labels stay."""
        batch, _, height, width = images.shape
        offsets = torch.randint(2 * self.padding + 1, (2, batch), generator=generator)
        # Not waited for: a copy that blocks would hold the host until the GPU has done all earlier work.
        offsets = offsets.to(images.device, non_blocking=True)
        padded = pad(images, [self.padding] * 4)
        # A view with every possible crop, of which the indexing copies one per image.
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)
        everyone = torch.arange(batch, device=images.device)
        return windows[everyone, :, offsets[0], offsets[1]], labels


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror every image left to right with the given probability, each on its own."""

    probability: float = 0.5

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Batch:
        """Flip some of `images [B, C, H, W]`; shape, type and labels stay."""
        chosen = torch.rand(len(images), generator=generator) < self.probability
        chosen = chosen.to(images.device, non_blocking=True)
        return torch.where(chosen[:, None, None, None], images.flip(-1), images), labels


@dataclass(frozen=True)
class RandomErasing:
    """Fill a random box of some images with one value.

    The distribution is that of torchvision's `v2.RandomErasing` called image by image; called with a batch, that one
    would erase the same box everywhere, and image by image it launches several operations for each. Here the boxes are
    drawn together and one masked fill writes them. Source: Zhong et al. 2017, arXiv:1708.04896.

    Attributes:
        probability: Chance of each image, in [0, 1].
        scale: Range of the box's area as a share of the image's, drawn uniformly.
        ratio: Range of height / width, its logarithm drawn uniformly.
        value: What is filled in; 0 is the mean of the training images when they are normalised (among `mixing`).

    Raises:
        BitdialError: A probability outside [0, 1], or a range that is none.
    """

    probability: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: float = 0.0

    def __post_init__(self) -> None:
        check_probability("the probability of RandomErasing", self.probability)
        check_range("the scale of RandomErasing", self.scale, 0.0, 1.0)
        check_range("the ratio of RandomErasing", self.ratio, 1e-6)

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Batch:
        """Erase a box in some of `images [B, C, H, W]`; shape, type and labels stay."""
        height, width = images.shape[-2:]
        boxes = self._boxes(len(images), height, width, generator).to(images.device, non_blocking=True)
        top, left, bottom, right = boxes[:, :, None].unbind()
        row, column = (torch.arange(side, device=images.device) for side in (height, width))
        rows, columns = (row >= top) & (row < bottom), (column >= left) & (column < right)
        return images.masked_fill((rows[:, :, None] & columns[:, None, :])[:, None], self.value), labels

    def _boxes(self, count: int, height: int, width: int, generator: Generator) -> Tensor:
        """Draw `(top, left, bottom, right)` of each image, int64 `[4, count]`; an empty box where nothing is erased."""
        # The number of draws never depends on what was drawn.
        area, aspect = torch.rand((2, _TRIES, count), generator=generator, dtype=torch.float64)
        coin, top, left = torch.rand((3, count), generator=generator, dtype=torch.float64)
        area = height * width * (self.scale[0] + (self.scale[1] - self.scale[0]) * area)
        low, high = (math.log(each) for each in self.ratio)
        aspect = (low + (high - low) * aspect).exp()
        heights, widths = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
        fits = (heights < height) & (widths < width)
        first = fits.to(torch.uint8).argmax(0, keepdim=True)
        erased = (coin < self.probability) & fits.any(0)
        box_height, box_width = (sides.gather(0, first)[0] * erased for sides in (heights, widths))
        top = (top * (height - box_height + 1)).long()
        left = (left * (width - box_width + 1)).long()
        return torch.stack([top, left, top + box_height, left + box_width])


@dataclass(frozen=True)
class TorchvisionTransform:
    """Any random transform of `torchvision.transforms.v2` as a batch transform.

    Those transforms draw from torch's global generators; here these are set from the batch's own generator for the
    call and put back after it, so that the draw depends on nothing else and disturbs nothing.

    Attributes:
        transform: For instance `v2.CutMix(num_classes=10)` (among `mixing`) or `v2.RandAugment()` (among `pixels`).
        each: Call it image by image, for transforms that would treat a whole batch alike (rotation, colour jitter; for
            AutoAugment and its kin `AutomaticPolicy` does the same faster).
    """

    transform: Callable[..., Any]
    each: bool = False

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Batch:
        """Transform `images [B, C, H, W]` and, where the transform mixes, the labels."""
        with global_draws_from(generator, images.device):
            if self.each:
                return torch.stack([self.transform(image) for image in images]), labels
            mixed_images, mixed_labels = self.transform(images, labels)
        return mixed_images, mixed_labels


@dataclass(frozen=True)
class Normalise:
    """Turn stored images into float32 with mean 0 and deviation 1 per channel.

    `(x / 255 - mean) / std` for uint8, `(x - mean) / std` for float images.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise `[B, C, H, W]` into a new float32 tensor."""
        unit = 255.0 if images.dtype == torch.uint8 else 1.0
        scale = torch.tensor([1 / (unit * std) for std in self.std], dtype=torch.float32)
        shift = torch.tensor([-mean / std for mean, std in zip(self.mean, self.std, strict=True)], dtype=torch.float32)
        scale, shift = (each.view(1, -1, 1, 1).to(images.device, non_blocking=True) for each in (scale, shift))
        return images * scale + shift


def check_probability(name: str, value: float) -> float:
    """Return `value` as a float, or refuse what is no number in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 1:
        raise BitdialError(f"{name} must be a probability in [0, 1], got {value!r}; 0 switches it off")
    return float(value)


def check_range(name: str, value: tuple[float, float], least: float, greatest: float = math.inf) -> None:
    """Refuse what is not a pair `(low, high)` of finite numbers with `least <= low <= high <= greatest`."""
    sound = isinstance(value, tuple) and len(value) == 2 and all(isinstance(each, Real) for each in value)
    if not sound or not least <= value[0] <= value[1] <= greatest or not math.isfinite(value[1]):
        limits = f"[{least:g}, {greatest:g}]" if math.isfinite(greatest) else f"{least:g} and up"
        raise BitdialError(f"{name} must be a pair (low, high) with low <= high, in {limits}, got {value!r}")
