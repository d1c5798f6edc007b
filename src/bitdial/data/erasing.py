"""Random erasing of a whole batch, a box of its own for each image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from bitdial.data.checks import check_probability, check_range
from bitdial.data.split import Batch

# A box that does not fit is drawn again, as often as torchvision does; then the image stays whole.
_TRIES = 10


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
