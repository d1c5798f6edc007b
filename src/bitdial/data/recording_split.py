"""Segments of recordings as a split: read when they are first used, and held in memory where they fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bitdial.data.dataset import LabelledSplit
from bitdial.data.segments import read_segment, transformed
from bitdial.errors import BitdialError

PRESENT = "present"
"""What a batch calls the bool tensor `[B, modalities]` that tells which modalities a segment has."""

Inputs = dict[str, Tensor]


class Segments(Dataset[Any]):
    """The files of a data set, as stored.

    Args:
        paths: one file a segment.
        shapes: modality -> `(channels, intervals, samples)` as stored.
        present: bool `[N, modalities]`.
        held: whether what is read is kept in memory.
    """

    def __init__(
        self, paths: Sequence[Path], shapes: Mapping[str, tuple[int, int, int]], present: Tensor, *, held: bool
    ) -> None:
        self.paths, self.shapes, self.present = list(paths), dict(shapes), present
        self.held: Inputs | None = {n: torch.empty(len(paths), *s) for n, s in shapes.items()} if held else None
        self.is_read = torch.zeros(len(paths), dtype=torch.bool)

    @staticmethod
    def size(shapes: Mapping[str, tuple[int, int, int]], count: int) -> int:
        """Bytes of so many segments in memory."""
        return 4 * count * sum(map(prod, shapes.values()))

    def keep(self, row: int, signals: Mapping[str, Tensor]) -> None:
        """Hold what was read of a file, where segments are held."""
        if self.held is not None:
            for name, place in self.held.items():
                place[row] = signals.get(name, torch.zeros(()))
            self.is_read[row] = True

    def at(self, rows: Tensor) -> Inputs:
        """The segments of these rows, from memory; what was not read yet is read now."""
        assert self.held is not None
        for row in rows[~self.is_read[rows]].tolist():
            self.keep(row, self.read(row))
        return {name: place[rows] for name, place in self.held.items()}

    def read(self, row: int) -> Inputs:
        """One file, in the shapes of the others; what is missing is zero."""
        path, found = self.paths[row], read_segment(self.paths[row])
        for name, shape in self.shapes.items():
            got = found.signals.get(name)
            if (got is not None) != bool(self.present[row, list(self.shapes).index(name)]) or (
                got is not None and tuple(got.shape) != shape
            ):
                raise BitdialError(f"{path} changed while it was in use, expected {name} as it was; start again")
        return {name: found.signals.get(name, torch.zeros(shape)) for name, shape in self.shapes.items()}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Inputs | BitdialError:
        # Handed back, not raised: a worker's exception would come out wrapped in its traceback.
        try:
            return self.read(row)
        except BitdialError as error:
            return BitdialError(str(error))


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class RecordingSplit(LabelledSplit):
    """A split of segments; `mean` and `std` are minimum and span of each channel over the training part.

    Attributes:
        segments: those of the whole data set.
        rows: int64 `[N]`, which of them are in the split.
        transform: see `bitdial.data.segments.transformed`.
        shapes: modality -> shape of a segment as batches have it, before and after the transform alike in order.
        target: where batches come out.
    """

    segments: Segments
    rows: Tensor
    transform: str
    shapes: dict[str, tuple[int, int, int]]
    target: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def device(self) -> torch.device:
        """Where batches come out, and so where they are transformed."""
        return self.target

    def to(self, device: torch.device | str) -> Self:
        """Return the split with its batches on `device`; the segments stay where they are."""
        return replace(self, target=torch.device(device))

    def subset(self, indices: Tensor) -> Self:
        """Return the split that holds only the samples at `indices` (int64 `[M]`), in that order."""
        indices = indices.cpu()
        return replace(self, rows=self.rows[indices], labels=self.labels[indices], files=self.files_at(indices))

    def batches(self, indices: Iterable[Tensor], workers: int = 0) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield `({modality: [B, C, I, S] as stored, "present": bool [B, modalities]}, labels int64 [B])`.

        Raises:
            BitdialError: a file cannot be read, or changed.
        """
        chosen = list(indices)
        rows = [self.rows[each] for each in chosen]
        found = (
            (self.segments.at(each) for each in rows) if self.segments.held is not None else self._read(rows, workers)
        )
        for each, at, signals in zip(chosen, rows, found, strict=True):
            batch = {**signals, PRESENT: self.segments.present[at]}
            on_device = {name: value.to(self.target, non_blocking=True) for name, value in batch.items()}
            yield on_device, self.labels[each].to(self.target)

    def normalised(self, batch: Inputs) -> Inputs:
        """Transform a batch as stored, and scale each channel so that the training part lies in [0, 1]."""
        scaled, at = {PRESENT: batch[PRESENT]}, 0
        for name, (channels, _, _) in self.shapes.items():
            low, span = (
                torch.tensor(each[at : at + channels], device=self.target).reshape(-1, 1, 1)
                for each in (self.mean, self.std)
            )
            # In place: a batch is its own, and memory is what takes time here.
            scaled[name] = transformed(batch[name], self.transform).sub_(low).div_(span)
            at += channels
        return scaled

    def _read(self, rows: Sequence[Tensor], workers: int) -> Iterator[Inputs]:
        loader: DataLoader[Any] = DataLoader(
            self.segments,
            batch_sampler=[each.tolist() for each in rows],
            num_workers=workers,
            collate_fn=_collate,
            generator=torch.Generator(),  # its own, so that worker seeds are not drawn from the global one
        )
        for batch in loader:
            if isinstance(batch, BitdialError):
                raise batch
            yield batch

    def __repr__(self) -> str:
        told = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in self.shapes.items())
        return f"RecordingSplit({len(self)} segments of {told}, {self.num_classes} classes, on {self.device})"


@dataclass(frozen=True, eq=False)
class RecordingDataset:
    """Training and test segments of recordings, and those to choose by where the data has them.

    `notes` are sentences on what was left out of it, what it lacks, and which recordings are in several parts.
    """

    name: str
    train: RecordingSplit
    test: RecordingSplit
    validation: RecordingSplit | None
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.train.num_classes

    @property
    def shapes(self) -> dict[str, tuple[int, int, int]]:
        """Modality -> channels, intervals and samples, as batches have them."""
        return self.train.shapes

    @property
    def shape(self) -> tuple[int, ...]:
        """The shapes of all modalities in one."""
        return tuple(size for shape in self.shapes.values() for size in shape)

    @property
    def mean(self) -> tuple[float, ...]:
        """Minimum of each channel of each modality over the training part."""
        return self.train.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Span of each channel of each modality over the training part."""
        return self.train.std

    def to(self, device: torch.device | str) -> Self:
        """Return the dataset with the batches of all splits on `device`."""
        validation = None if self.validation is None else self.validation.to(device)
        return replace(self, train=self.train.to(device), test=self.test.to(device), validation=validation)


def _collate(samples: list[Inputs | BitdialError]) -> Inputs | BitdialError:
    failed = next((sample for sample in samples if isinstance(sample, BitdialError)), None)
    if failed is not None:
        return failed
    whole = cast("list[Inputs]", samples)
    return {name: torch.stack([sample[name] for sample in whole]) for name in whole[0]}
