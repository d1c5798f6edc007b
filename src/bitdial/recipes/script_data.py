"""Data that a script brings: its batches, and which examples there are."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Subset, TensorDataset

from bitdial.data.fingerprint import Part, part_of_tensors
from bitdial.errors import BitdialError
from bitdial.files import as_text


def pair_of(part: object) -> tuple[Tensor, Tensor] | None:
    """A pair of tensors, if it is one."""
    if isinstance(part, tuple | list) and len(part) == 2 and all(isinstance(each, Tensor) for each in part):
        return part[0], part[1]
    return None


def first_of(part: Any, limit: int | None) -> Any:
    """The first examples of tensors or of a Dataset, as many as the limit says.

    Raises:
        BitdialError: there is a limit, and something else.
    """
    pair = pair_of(part)
    if limit is None:
        return part
    if pair is not None:
        return pair[0][:limit], pair[1][:limit]
    if isinstance(part, Dataset) and hasattr(part, "__len__"):
        return Subset(part, range(min(limit, len(part))))
    raise BitdialError(
        f"limit_train and limit_test need data whose examples are known, tensors or a torch Dataset, got "
        f"{type(part).__name__}; leave them out, or give fewer batches"
    )


def identified(part: Any, name: str) -> Part | int | None:
    """The examples of tensors, of a folder of torchvision's, or of a subset; how many of anything else that knows."""
    part = part.dataset if isinstance(part, DataLoader) else part
    chosen = None
    if isinstance(part, Subset):
        part, chosen = part.dataset, [int(number) for number in part.indices]
    pair = pair_of(part.tensors if isinstance(part, TensorDataset) else part)
    if pair is not None:
        if not 0 < len(pair[0]) == len(pair[1]):
            return None  # it is refused when its batches are asked for
        if any(each.layout != torch.strided for each in pair):
            return len(pair[0])
        x, y = pair if chosen is None else (pair[0][chosen], pair[1][chosen])
        return part_of_tensors(x, y, prefix=f"{name}:")
    vision = sys.modules.get("torchvision.datasets")
    if vision is not None and isinstance(part, vision.DatasetFolder):
        files = [Path(file) for file, _ in part.samples]
        files = files if chosen is None else [files[number] for number in chosen]
        called = [as_text(file.relative_to(part.root).as_posix()) for file in files]
        return {f"{name}:{of}": (-1, str(file.stat().st_size)) for of, file in zip(called, files, strict=True)}
    if chosen is not None:
        return {f"{name}:{number}": (-1, "") for number in chosen}
    try:
        return len(part)
    except (TypeError, NotImplementedError):
        return None


def batches_of(
    part: Any, batch_size: int, name: str, seed: int | None = None, rank: int = 0, world_size: int = 1
) -> Iterable[Any]:
    """Batches of tensors or of a Dataset, shuffled where there is a seed; an iterable of batches as it is."""
    pair = pair_of(part)
    if pair is not None:
        if len(pair[0]) != len(pair[1]) or not len(pair[0]):
            raise BitdialError(f"{name} must have one label for each input, got {len(pair[0])} and {len(pair[1])}")
        part = TensorDataset(*pair)
    if isinstance(part, Dataset):
        shuffles = seed is not None and not isinstance(part, IterableDataset)
        if world_size > 1 and shuffles:
            sampler: Any = DistributedSampler(part, world_size, rank, seed=seed or 0, drop_last=True)
            return DataLoader(part, batch_size, sampler=sampler)
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        whole = shuffles and hasattr(part, "__len__") and len(part) >= batch_size
        return DataLoader(part, batch_size, shuffle=shuffles, generator=generator, drop_last=whole)
    if isinstance(part, Iterator) or not isinstance(part, Iterable) or isinstance(part, Tensor | str):
        raise BitdialError(
            f"{name} must be a pair of tensors (inputs, labels), a torch Dataset, or an iterable that gives its "
            f"batches again and again, got {type(part).__name__}"
        )
    return part
