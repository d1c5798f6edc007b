"""Image files: decoding one at a time, many in threads, and as a split on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from os import cpu_count
from pathlib import Path
from typing import Self, TypeVar, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bitdial.data.dataset import Batch, ImageSplit
from bitdial.data.pictures import as_rgb, naming
from bitdial.errors import BitdialError

_T = TypeVar("_T")


def resize_square_image(image: Image.Image, size: int) -> Image.Image:
    """Make one PIL image of any shape square, by the rule of `bitdial.data.dataset.resize_square`."""
    if image.size == (size, size):
        return image
    scale = size / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def decode(path: Path, size: int) -> Tensor:
    """Read an image file as RGB and make it square, uint8 `[3, size, size]`, or refuse what is no image."""
    with naming(path), Image.open(path) as image:
        pixels = np.array(resize_square_image(as_rgb(image), size))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def dimensions(path: Path) -> tuple[int, int]:
    """Return width and height of an image file from its header alone, or refuse what is no image."""
    with naming(path), Image.open(path) as image:
        return image.size


def in_threads(function: Callable[[Path], _T], paths: Sequence[Path]) -> Iterator[_T]:
    """Map a function over files in order; PIL frees the interpreter lock while it decodes."""
    with ThreadPoolExecutor(min(16, cpu_count() or 1)) as pool:
        yield from pool.map(function, paths, chunksize=16)


def decode_all(paths: Sequence[Path], size: int) -> Tensor:
    """Decode all files into one uint8 tensor `[N, 3, size, size]`."""
    images = torch.empty((len(paths), 3, size, size), dtype=torch.uint8)
    for index, image in enumerate(in_threads(lambda path: decode(path, size), paths)):
        images[index] = image
    return images


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class FolderSplit(ImageSplit):
    """A split that decodes its images when they are asked for, in worker processes.

    Attributes:
        paths: One image file per sample.
        size: Side that the images are resized to.
        target: Device that batches are moved to, still as uint8.
    """

    paths: tuple[Path, ...]
    size: int
    target: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def in_channels(self) -> int:
        """Three: images on disk are read as RGB."""
        return 3

    @property
    def image_size(self) -> int:
        """Side that the images are resized to, in pixels."""
        return self.size

    @property
    def device(self) -> torch.device:
        """Where the batches come out."""
        return self.target

    def to(self, device: torch.device | str) -> Self:
        """Return the split with its batches on `device`; the images stay on disk."""
        return replace(self, target=torch.device(device))

    def subset(self, indices: Tensor) -> Self:
        """Return the split that holds only the samples at `indices` (int64 `[M]`), in that order."""
        paths = tuple(self.paths[i] for i in indices.tolist())
        return replace(self, paths=paths, labels=self.labels[indices.cpu()], files=self.files_at(indices))

    def batches(self, indices: Iterable[Tensor], workers: int = 0) -> Iterator[Batch]:
        """Yield `(images uint8 [B, 3, H, H], labels int64 [B])` for each tensor of sample numbers.

        Raises:
            BitdialError: An image cannot be read.
        """
        on_gpu = self.target.type == "cuda"
        batches = [chosen.tolist() for chosen in indices]
        loader: DataLoader[Tensor | BitdialError] = DataLoader(
            _Files(self.paths, self.size),
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=on_gpu,
            generator=torch.Generator(),  # its own, so that worker seeds are not drawn from the global one
        )
        for chosen, images in zip(batches, loader, strict=True):
            if isinstance(images, BitdialError):
                raise images
            yield images.to(self.target, non_blocking=on_gpu), self.labels[chosen].to(self.target)


class _Files(Dataset[Tensor | BitdialError]):
    def __init__(self, paths: tuple[Path, ...], size: int) -> None:
        self._paths, self._size = paths, size

    def __getitem__(self, index: int) -> Tensor | BitdialError:
        # Handed back, not raised: a worker's exception would come out wrapped in its traceback.
        try:
            return decode(self._paths[index], self._size)
        except BitdialError as error:
            return BitdialError(str(error))


def _collate(samples: list[Tensor | BitdialError]) -> Tensor | BitdialError:
    failed = next((sample for sample in samples if isinstance(sample, BitdialError)), None)
    return failed or torch.stack(cast("list[Tensor]", samples))
