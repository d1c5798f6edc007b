"""One rule for making an image square: shorter side to the wanted size, antialiased, then the centre."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from bitdial.errors import BitdialError

_CHUNK = 4096  # images resized at a time, so that the intermediate stays small beside the dataset


def check_image_size(size: int | None) -> None:
    """Refuse an image size that is no positive number of pixels (None means: keep the size)."""
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise BitdialError(f"image_size must be a whole number of pixels from 1 up, got {size!r}")


def resize_square(images: Tensor, size: int) -> Tensor:
    """Resize `[N, C, H, W]` to `[N, C, size, size]` (bilinear, antialiased, aspect kept, centre); keeps the type."""
    if tuple(images.shape[2:]) == (size, size):
        return images
    parts = (functional.center_crop(functional.resize(part, size), [size, size]) for part in _chunks(images))
    return torch.cat(list(parts))


def resize_square_image(image: Image.Image, size: int) -> Image.Image:
    """The same rule for one PIL image of any shape."""
    if image.size == (size, size):
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def _chunks(images: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(images), _CHUNK):
        yield images[start : start + _CHUNK]
