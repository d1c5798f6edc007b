"""Photographs to train a codec on and to measure it with: read when they are asked for, cropped at random."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset

from bitdial.compression.pictures import check_picture, read_picture
from bitdial.data.loader import training_batches
from bitdial.data.pictures import readable_kinds
from bitdial.data.randomness import generator_for
from bitdial.errors import BitdialError

_ORDER, _CROP = 2, 3
"""First coordinates of the generators; those of the loaders of labelled data come before."""
MEASURED = "to measure with, got {}; add some, or name another folder to measure with: --test_path"
"""What some pictures are split off for, and what to do where there are too few."""
_KEPT = 2**28
"""Bytes of pictures that stay in memory once they were read."""


@dataclass(frozen=True, eq=False)
class Photographs(Sequence[Tensor]):
    """Pictures, uint8 ``[3, H, W]`` each, in the order of their names.

    Attributes:
        names: of the pictures.
        sources: files, or pixels.
    """

    names: tuple[str, ...]
    sources: tuple[Path | Tensor, ...]
    _kept: dict[int, Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of_folder(cls, folder: Path) -> Photographs:
        """All pictures in a folder and the folders in it, named by their path below it; nothing but headers is read.

        Raises:
            BitdialError: there is no such folder, it holds no picture, or a file of it is none.
        """
        if not folder.is_dir():
            what = "a file" if folder.exists() else "nothing"
            raise BitdialError(f"expected a folder of pictures at {folder}, got {what}; check the path")
        kinds = readable_kinds()
        found = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in kinds
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and path.is_file()
        )
        if not found:
            raise BitdialError(f"expected pictures in {folder}, got none; put PNG, JPEG or other picture files there")
        for path in found:
            check_picture(path)
        return cls(tuple(path.relative_to(folder).as_posix() for path in found), tuple(found))

    def first(self, limit: int | None) -> Photographs:
        """As many as the limit says; all without one."""
        return self if limit is None else Photographs(self.names[:limit], self.sources[:limit])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Tensor:  # type: ignore[override]
        source = self.sources[index]
        if isinstance(source, Tensor):
            return source
        if index not in self._kept:
            pixels = read_picture(source).pixels
            if sum(each.numel() for each in self._kept.values()) + pixels.numel() > _KEPT:
                return pixels
            self._kept[index] = pixels
        return self._kept[index]

    def subset(self, indices: Sequence[int]) -> Photographs:
        """Some of them, in the order given."""
        return Photographs(tuple(self.names[i] for i in indices), tuple(self.sources[i] for i in indices))

    def marks(self) -> dict[str, tuple[int, str]]:
        """Name -> what is known of the content without reading pictures; the class of all is -1."""
        return {
            name: (-1, str(source.stat().st_size) if isinstance(source, Path) else _crc(source))
            for name, source in zip(self.names, self.sources, strict=True)
        }


def _crc(pixels: Tensor) -> str:
    return f"{pixels.numel()}-{zlib.crc32(pixels.contiguous().numpy().tobytes()):08x}"


def split_off(
    pictures: Photographs, share: float, seed: int, purpose: str = MEASURED
) -> tuple[Photographs, Photographs]:
    """The pictures without a share of them drawn at random, and that share: at least one each.

    Args:
        pictures: all.
        share: to split off.
        seed: what is drawn from.
        purpose: of that share, with their number, and what to do where there are too few, for the error.

    Raises:
        BitdialError: there are less than two.
    """
    if len(pictures) < 2:
        raise BitdialError(f"expected at least two pictures, to train on and {purpose.format(len(pictures))}")
    held = min(max(1, round(share * len(pictures))), len(pictures) - 1)
    order = torch.randperm(len(pictures), generator=generator_for(_ORDER, seed)).tolist()
    return pictures.subset(sorted(order[held:])), pictures.subset(sorted(order[:held]))


def random_crop(pixels: Tensor, side: int, generator: Generator) -> Tensor:
    """A square of the picture, mirrored both ways or not; one that is smaller is continued by reflection.

    Args:
        pixels: ``[3, H, W]``.
        side: of the square.
        generator: what is drawn from: four numbers.
    """
    rows, columns = pixels.shape[-2:]
    top, left, down, across = torch.rand(4, generator=generator).tolist()
    top, left = (int(share * (max(size - side, 0) + 1)) for share, size in ((top, rows), (left, columns)))
    crop = pixels[:, top : top + side, left : left + side]
    flips = [dim for dim, mirrored in ((1, down < 0.5), (2, across < 0.5)) if mirrored]
    crop = crop.flip(flips) if flips else crop
    missing = [(0, side - size) for size in crop.shape[-2:]]
    if any(rest for _, rest in missing):
        crop = torch.from_numpy(np.pad(crop.numpy(), [(0, 0), *missing], mode="reflect"))
    return crop


@dataclass(frozen=True, eq=False)
class _Batches(Dataset[Tensor]):
    """The batches of an epoch by number: a pure function of seed, epoch and number."""

    pictures: Photographs
    indices: Sequence[Tensor]
    side: int
    place: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> Tensor:
        generator = generator_for(_CROP, *self.place, number)
        crops = [random_crop(self.pictures[i], self.side, generator) for i in self.indices[number].tolist()]
        return torch.stack(crops).float() / 255


@dataclass(eq=False)
class CropLoader:
    """Batches of random crops, float32 ``[B, 3, side, side]`` of 0..1, as ``fit`` takes them up again in mid-epoch.

    Args:
        pictures: to crop from.
        side: of a crop, in pixels.
        batch_size: crops of a batch on this process.
        crops: of each picture in an epoch.
        seed: chooses order and crops, with the epoch and the number of the batch.
        rank, world_size: of this process; a batch of all processes has the same pictures for any division of it.
        workers: processes that read and crop; 0: this one.
    """

    pictures: Photographs
    side: int
    batch_size: int
    crops: int = 1
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    workers: int = 0
    epoch: int = field(default=0, init=False)
    _start: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._length = len(self._indices())

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0, that the next iteration yields."""
        self.epoch = epoch

    def start_at(self, batch: int) -> None:
        """Begin the next iteration, and only that one, at this batch.

        Raises:
            BitdialError: an epoch has fewer.
        """
        if not 0 <= batch <= len(self):
            raise BitdialError(
                f"cannot start at batch {batch}: the epoch has {len(self)} batches; pictures, batch size and number of "
                "processes must be those of the run that is resumed"
            )
        self._start = batch

    def _indices(self) -> list[Tensor]:
        generator = generator_for(_ORDER, self.seed, self.epoch)
        order = torch.cat([torch.randperm(len(self.pictures), generator=generator) for _ in range(self.crops)])
        return training_batches(order, self.batch_size, self.rank, self.world_size, drop_last=True)

    def __iter__(self) -> Iterator[Tensor]:
        start, self._start = self._start, 0
        batches = _Batches(self.pictures, self._indices(), self.side, (self.seed, self.epoch, self.rank))
        loader = DataLoader(
            batches,
            batch_size=None,
            sampler=range(start, len(batches)),
            num_workers=self.workers,
            generator=torch.Generator(),  # from which it would seed its workers: nothing is drawn from torch's own
        )
        return iter(loader)


@dataclass(frozen=True, eq=False)
class WholePictures:
    """The middle of each picture as a batch of its own, float32 ``[1, 3, H, W]`` of 0..1.

    Attributes:
        pictures: to take it from.
        most: the longest side, in pixels; what is larger is cut.
    """

    pictures: Photographs
    most: int = 512

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Iterator[Tensor]:
        for pixels in self.pictures:
            top, left = (max(size - self.most, 0) // 2 for size in pixels.shape[-2:])
            yield pixels[None, :, top : top + self.most, left : left + self.most].float() / 255
