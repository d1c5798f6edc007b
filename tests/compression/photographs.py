"""The photographs that come with scikit-learn, as pixels."""

from __future__ import annotations

from functools import cache

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor

from bitdial.compression.pictures import Picture


@cache
def _whole() -> dict[str, Tensor]:
    images = load_sample_images().images
    return {name: torch.tensor(image).permute(2, 0, 1) for name, image in zip(("china", "flower"), images, strict=True)}


def photograph(name: str, height: int = 427, width: int = 640) -> Tensor:
    """Return a part of "china" or "flower", uint8 ``[3, height, width]``; the whole is 427 x 640."""
    return _whole()[name][:, 100 : 100 + height, 200 : 200 + width].contiguous() if height < 327 else _whole()[name]


def grey_photograph(height: int, width: int) -> Picture:
    grey = photograph("china", height, width).double().mean(0).round().to(torch.uint8)
    return Picture(grey.expand(3, -1, -1), "L")
