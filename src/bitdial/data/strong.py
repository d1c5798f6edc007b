"""Strong augmentation: CutMix and MixUp with labels as shares; AutoAugment, RandAugment and TrivialAugment.

Of mixing a batch gets one kind at most. Of the automatic policies every image gets its own draw, and equal operations
run as one batch.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot

from bitdial.data.augment import BatchTransform, TorchvisionTransform, check_probability
from bitdial.data.dataset import Batch
from bitdial.data.options import check_alpha
from bitdial.data.randomness import global_draws_from
from bitdial.errors import BitdialError

if TYPE_CHECKING:
    from torchvision.transforms import v2

# The method of torchvision's automatic augmentations through which every operation goes.
_APPLY = "_apply_image_or_video_transform"
# An operation as torchvision names it ("Rotate", "Equalize", ...) and its magnitude.
Operation = tuple[str, float]


@dataclass(frozen=True)
class MixOneOf:
    """Apply one of several mixing transforms to the whole batch, or none; labels come out as shares either way.

    Every transform throws its own coin, once per batch. Of those whose coin comes up one is drawn, each with equal
    chance. So a transform alone, with probability p, is applied to a share p of the batches; of two with p and q, the
    first to p (1 - q/2), the second to q (1 - p/2), none to (1 - p) (1 - q): .375, .375 and .25 for p = q = .5.

    Attributes:
        transforms: Batch transforms that take labels `[B, num_classes]`.
        probabilities: One per transform, in [0, 1].
        num_classes: Width of the labels. They are float32 `[B, num_classes]` also where nothing is mixed, so that all
            batches have one type and a compiled loss has one graph.

    Raises:
        BitdialError: A probability outside [0, 1], or not one per transform.
    """

    transforms: tuple[BatchTransform, ...]
    probabilities: tuple[float, ...]
    num_classes: int

    def __post_init__(self) -> None:
        if len(self.transforms) != len(self.probabilities):
            raise BitdialError(
                f"MixOneOf needs one probability per transform, got {len(self.probabilities)} for "
                f"{len(self.transforms)} transforms"
            )
        for probability in self.probabilities:
            check_probability("a probability of MixOneOf", probability)

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Batch:
        """Mix `images [B, C, H, W]`; labels int64 `[B]` or shares `[B, num_classes]` become shares that sum to 1."""
        if labels.ndim == 1:
            labels = one_hot(labels, self.num_classes).to(torch.float32)
        coins = torch.rand(len(self.transforms), generator=generator).tolist()
        order: list[int] = torch.randperm(len(self.transforms), generator=generator).tolist()
        # The first in a random order whose coin came up: an even draw among those.
        for index in order:
            if coins[index] < self.probabilities[index]:
                return self.transforms[index](images, labels, generator)
        return images, labels


def cutmix(num_classes: int, alpha: float = 1.0) -> BatchTransform:
    """Return CutMix: a box of every image comes from its neighbour in the batch, and so does that share of the label.

    `lambda ~ Beta(alpha, alpha)` sets the box, sides `sqrt(1 - lambda)` of the image's, centre uniform; the label then
    takes `1 - box pixels / image pixels`, counted after the box is clipped to the image: torchvision's own transform
    does (`lam_adjusted`). One box for the whole batch, as in the paper. Source: Yun et al. 2019, arXiv:1905.04899.

    Raises:
        BitdialError: `alpha` outside [0.01, 10000].
    """
    # A float: torchvision takes an int alpha and fails at the first draw.
    from torchvision.transforms import v2

    return TorchvisionTransform(v2.CutMix(alpha=check_alpha("alpha", alpha), num_classes=num_classes))


def mixup(num_classes: int, alpha: float = 1.0) -> BatchTransform:
    """Return MixUp: images and labels become `lambda x_i + (1 - lambda) x_(i-1)`.

    One `lambda ~ Beta(alpha, alpha)` for the batch; neighbours pair up, which is as good as chance in a shuffled batch.

    Source: Zhang et al. 2018, arXiv:1710.09412.

    Raises:
        BitdialError: `alpha` outside [0.01, 10000].
    """
    from torchvision.transforms import v2

    return TorchvisionTransform(v2.MixUp(alpha=check_alpha("alpha", alpha), num_classes=num_classes))


@dataclass(frozen=True)
class AutomaticPolicy:
    """A policy of `torchvision.transforms.v2` that draws for each image and computes for groups of images.

    Called with a batch, torchvision's policies treat all images alike. Here torchvision draws image by image which
    operations to apply, without applying them; then the images with the same operation and magnitude pass through
    torchvision's kernel together. The result is that of `TorchvisionTransform(policy, each=True)`, bit for bit with the
    same generator, with a fraction of the calls: about 45 for 128 images under RandAugment instead of 256.

    Attributes:
        policy: `v2.AutoAugment(...)`, `v2.RandAugment(...)` or `v2.TrivialAugmentWide(...)`.

    Raises:
        BitdialError: Another transform; or, when called, images that are not uint8 with 1 or 3 channels.
    """

    policy: v2.Transform

    def __post_init__(self) -> None:
        from torchvision.transforms import v2

        policies = (v2.AutoAugment, v2.RandAugment, v2.TrivialAugmentWide)
        if not isinstance(self.policy, policies):
            names = ", ".join(each.__name__ for each in policies)
            raise BitdialError(
                f"AutomaticPolicy takes one of {names} of torchvision.transforms.v2, got {type(self.policy).__name__}; "
                "other transforms run as TorchvisionTransform(transform, each=True)"
            )

    def __call__(self, images: Tensor, labels: Tensor, generator: Generator) -> Batch:
        """Transform `images` uint8 `[B, 1 or 3, H, W]`; shape, type and labels stay."""
        check_colour_images(type(self.policy).__name__, images.dtype, images.shape[1])
        if not hasattr(self.policy, _APPLY):  # a torchvision that is built differently
            return TorchvisionTransform(self.policy, each=True)(images, labels, generator)
        with global_draws_from(generator, images.device):
            plans = self._plans(images)
        for step in range(max(map(len, plans))):
            images = self._apply(images, [plan[step] if step < len(plan) else None for plan in plans])
        return images, labels

    def _plans(self, images: Tensor) -> list[list[Operation]]:
        """Let torchvision draw the operations of each image."""
        drawn: list[Operation] = []

        def note(image: Tensor, name: str, magnitude: float, *_: Any, **__: Any) -> Tensor:
            drawn.append((name, magnitude))
            return image

        drawing = copy.copy(self.policy)
        setattr(drawing, _APPLY, note)
        plans = []
        for image in images:
            drawing(image)
            plans.append(drawn.copy())
            drawn.clear()
        return plans

    def _apply(self, images: Tensor, operations: list[Operation | None]) -> Tensor:
        """Apply one operation (None: none) to each of `images [B, C, H, W]`, those with the same one together."""
        groups: dict[Operation | None, list[int]] = {}
        for number, operation in enumerate(operations):
            groups.setdefault(operation, []).append(number)
        # Sorted by group once, so that each group is a view and the device gets one list of numbers.
        order = torch.tensor([number for members in groups.values() for number in members]).to(
            images.device, non_blocking=True
        )
        parts = images[order].split_with_sizes([len(members) for members in groups.values()])
        kernel = partial(getattr(self.policy, _APPLY), interpolation=self.policy.interpolation, fill=self.policy._fill)
        done = [
            part if operation is None else kernel(part, *operation)
            for operation, part in zip(groups, parts, strict=True)
        ]
        result = torch.empty_like(images)
        result[order] = torch.cat(done)
        return result


def check_colour_images(name: str, dtype: torch.dtype, channels: int) -> None:
    """Refuse images that a colour policy has no meaning for.

    Grey ones are welcome: the operation Color leaves them as they are, all others work on one channel.
    """
    if dtype != torch.uint8:
        raise BitdialError(
            f"{name} needs uint8 images (0..255), because it posterizes, solarizes and equalizes grey levels; got "
            f"{str(dtype).removeprefix('torch.')}; store the images as uint8 or leave {name} out"
        )
    if channels not in (1, 3):
        raise BitdialError(f"{name} needs grey or RGB images, 1 or 3 channels, got {channels}; leave {name} out")
