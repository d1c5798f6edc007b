"""Batches whose order and augmentation are a pure function of (seed, epoch, batch), so that a resume is exact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor

from bitdial.data.augment import Augmentation, Normalise
from bitdial.data.dataset import LabelledSplit
from bitdial.data.pipeline import resolve_augmentation
from bitdial.data.randomness import check_seed, generator_for
from bitdial.data.recording_split import RecordingSplit
from bitdial.errors import BitdialError

# First coordinate of every generator, so that order and augmentation never share one.
_ORDER, _AUGMENT = 0, 1


@dataclass(eq=False, repr=False)
class BatchLoader:
    """Iterate over a split in batches `(x float32 normalised [B, C, H, W], y int64 [B])`; made by `make_loader`.

    Of recordings x is a mapping: modality -> float32 `[B, C, intervals, samples]`, and "present".

    An epoch is chosen by `set_epoch`; iterating twice without it gives the same batches twice. Nothing here reads or
    moves torch's global random state.
    """

    split: LabelledSplit
    batch_size: int
    _: KW_ONLY
    train: bool
    seed: int
    rank: int
    world_size: int
    augmentation: Augmentation
    drop_last: bool
    workers: int
    epoch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        split = self.split
        self._normalise: Callable[[Any], Any] = Normalise(split.mean, split.std)
        if isinstance(split, RecordingSplit):
            self._normalise = split.normalised
        self._start = 0
        self._length = len(self._index_batches(0))

    def __len__(self) -> int:
        """Number of batches of an epoch on this process; the same on every process."""
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch (from 0) that the next iteration yields.

        Raises:
            BitdialError: A negative epoch.
        """
        if epoch < 0:
            raise BitdialError(f"epoch must be 0 or more, got {epoch}")
        self.epoch = epoch

    def start_at(self, batch: int) -> None:
        """Begin the next iteration, and only that one, at this batch; the skipped ones are not computed.

        Raises:
            BitdialError: A batch outside `[0, len(self)]`.
        """
        if not 0 <= batch <= len(self):
            raise BitdialError(
                f"cannot start at batch {batch}: the epoch has {len(self)} batches; dataset, batch size and number of "
                "processes must be those of the run that is resumed"
            )
        self._start = batch

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        start, self._start = self._start, 0
        return self._iterate(self.epoch, start)

    def _iterate(self, epoch: int, start: int) -> Iterator[tuple[Any, Tensor]]:
        indices = self._index_batches(epoch)[start:]
        for batch, (images, labels) in enumerate(self.split.batches(indices, self.workers), start):
            if not self.train:
                yield self._normalise(images), labels
                continue
            generator = generator_for(_AUGMENT, self.seed, epoch, batch, self.rank)
            for transform in self.augmentation.pixels:
                images, labels = transform(images, labels, generator)
            images = self._normalise(images)
            for transform in self.augmentation.mixing:
                images, labels = transform(images, labels, generator)
            yield images, labels

    def _index_batches(self, epoch: int) -> list[Tensor]:
        """Sample numbers of each batch of this process."""
        if self.train:
            generator = generator_for(_ORDER, self.seed, epoch)
            order = torch.randperm(len(self.split), generator=generator)
            return training_batches(order, self.batch_size, self.rank, self.world_size, self.drop_last)
        return _evaluation_batches(len(self.split), self.batch_size, self.rank, self.world_size)


def training_batches(order: Tensor, batch_size: int, rank: int, world_size: int, drop_last: bool) -> list[Tensor]:
    """Cut the order into global batches of `world_size * batch_size` and take this rank's equal slice of each.

    A rest is dropped (unless it is all there is) or padded from the start of the order to a multiple of the ranks.
    """
    whole = world_size * batch_size
    rest = len(order) % whole
    if rest and drop_last and len(order) > whole:
        order, rest = order[: len(order) - rest], 0
    missing = -rest % world_size
    if missing:
        repeats = -(-missing // len(order))
        order = torch.cat([order, order.repeat(repeats)[:missing]])
    groups = (order[start : start + whole] for start in range(0, len(order), whole))
    return [group.chunk(world_size)[rank] for group in groups]


def _evaluation_batches(count: int, batch_size: int, rank: int, world_size: int) -> list[Tensor]:
    """Give each rank a contiguous share in order; shares differ by at most one sample and none is lost or repeated.

    All ranks get the number of batches of the smallest share, so that collective operations meet; a rank with one
    sample more than fits holds it in its last batch.
    """
    shares = torch.arange(count).tensor_split(world_size)
    number = -(-(count // world_size) // batch_size)
    edges = [batch_size * i for i in range(1, number)]
    return list(shares[rank].tensor_split(edges))


def make_loader(
    split: LabelledSplit,
    batch_size: int,
    *,
    train: bool,
    seed: int = 0,
    rank: int = 0,
    world_size: int = 1,
    augment: str | Augmentation = "standard",
    drop_last: bool = True,
    workers: int = 0,
) -> BatchLoader:
    """Make the loader of a split.

    Args:
        split: A split of an `ImageDataset` or a `RecordingDataset`; batches come out on its device.
        batch_size: Samples per batch and process.
        train: True: a fresh order each epoch, augmented. False: the order of the split, never augmented, every
            sample exactly once over all processes.
        seed: Chooses order and augmentation, together with the epoch and the batch number.
        rank: Number of this process, in `[0, world_size)`.
        world_size: Number of processes; the global batch `i` holds the same samples for any division of it.
        augment: "standard" (crop, and flip where mirroring is harmless; nothing for recordings), "none", or an
            `Augmentation`; has no effect in evaluation.
        drop_last: In training, leave out the last batch when it would be smaller, which keeps every batch of one
            shape; a split smaller than one batch is still one batch. When False the rest is padded with samples
            from the start of the epoch's order to a multiple of `world_size` (no padding in one process).
        workers: Processes that read samples of a folder too large for memory; others need none.

    Raises:
        BitdialError: A number out of range, an unknown augmentation, or fewer samples than processes.
    """
    for name, value, least in (("batch_size", batch_size, 1), ("workers", workers, 0), ("world_size", world_size, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise BitdialError(f"{name} must be a whole number from {least} up, got {value!r}")
    check_seed(seed)
    if not 0 <= rank < world_size:
        raise BitdialError(f"rank must be in [0, {world_size}) for {world_size} processes, got {rank}")
    if len(split) < world_size:
        raise BitdialError(f"{len(split)} samples cannot be shared by {world_size} processes; use fewer processes")
    return BatchLoader(
        split,
        batch_size,
        train=train,
        seed=seed,
        rank=rank,
        world_size=world_size,
        augmentation=resolve_augmentation(augment, split),
        drop_last=drop_last,
        workers=workers,
    )
