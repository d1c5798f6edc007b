"""Augmentation of whole batches: small transforms `(images, labels, generator) -> (images, labels)` in a pipeline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad

from bitdial.data.randomness import global_draws_from
from bitdial.data.split import Batch, ImageSplit
from bitdial.errors import BitdialError, suggest

BatchTransform = Callable[[Tensor, Tensor, Generator], Batch]
AUGMENTATIONS = ("none", "standard")


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


def standard(split: ImageSplit) -> Augmentation:
    """Random crop with a padding of an eighth of the side (4 pixels at 32), then a flip where mirroring is harmless."""
    crop = RandomCrop(max(1, round(split.image_size / 8)))
    return Augmentation(pixels=(crop, HorizontalFlip()) if split.flip else (crop,))


def resolve_augmentation(augment: str | Augmentation, split: ImageSplit) -> Augmentation:
    """Return the pipeline that `augment` names, or `augment` itself.

    Raises:
        BitdialError: An unknown name.
    """
    if isinstance(augment, Augmentation):
        return augment
    if augment == "none":
        return Augmentation()
    if augment == "standard":
        return standard(split)
    raise BitdialError(
        f"augment must be one of {', '.join(AUGMENTATIONS)} or an Augmentation, got {augment!r}"
        f"{suggest(str(augment), AUGMENTATIONS)}"
    )
