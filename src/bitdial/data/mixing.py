"""CutMix and MixUp: at most one of them for a batch, with labels as shares."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn.functional import one_hot
from torchvision.transforms import v2

from bitdial.data.augment import BatchTransform, TorchvisionTransform
from bitdial.data.checks import check_alpha, check_probability
from bitdial.data.split import Batch
from bitdial.errors import BitdialError


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
    return TorchvisionTransform(v2.CutMix(alpha=check_alpha("alpha", alpha), num_classes=num_classes))


def mixup(num_classes: int, alpha: float = 1.0) -> BatchTransform:
    """Return MixUp: images and labels become `lambda x_i + (1 - lambda) x_(i-1)`.

    One `lambda ~ Beta(alpha, alpha)` for the batch; neighbours pair up, which is as good as chance in a shuffled batch.

    Source: Zhang et al. 2018, arXiv:1710.09412.

    Raises:
        BitdialError: `alpha` outside [0.01, 10000].
    """
    return TorchvisionTransform(v2.MixUp(alpha=check_alpha("alpha", alpha), num_classes=num_classes))
