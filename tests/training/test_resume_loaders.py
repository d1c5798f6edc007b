"""Loaders of PyTorch, and what users put around them, resume bit for bit; or a note says that they do not."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    TensorDataset,
    WeightedRandomSampler,
)

from tests.training.running import BATCH, EXAMPLES, Noisy, comparable, differences, load, task_data, train

NOTE = "keeps its workers"


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(5)


class Shuffled(Sampler[int]):
    """Draws from a generator of its own, of NumPy or of Python."""

    def __init__(self, rng: Any) -> None:
        self.rng = rng

    def __len__(self) -> int:
        return EXAMPLES

    def __iter__(self) -> Iterator[int]:
        order = list(range(EXAMPLES))
        self.rng.shuffle(order)
        yield from order
        self.rng.random()  # as torch's own sampler draws once more at its end


class Counted(Sampler[int]):
    """Makes a seed of its own count of epochs."""

    def __init__(self, zero: Any = 0) -> None:
        self.epochs = {"seen": zero}

    def __len__(self) -> int:
        return EXAMPLES

    def __iter__(self) -> Iterator[int]:
        self.epochs["seen"] = type(self.epochs["seen"])(self.epochs["seen"] + 1)
        yield from torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(int(self.epochs["seen"]))).tolist()


class Count(int):
    """A whole number of a class of its own, which no checkpoint may hold."""


class Around:
    """A loader around a loader, as prefetchers and progress bars are."""

    def __init__(self, loader: Any) -> None:
        self.inner = [loader]

    def __len__(self) -> int:
        return len(self.inner[0])

    def __iter__(self) -> Iterator[Any]:
        yield from self.inner[0]


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """Goes on where the epoch before ended, with noise from a generator of its own."""

    def __init__(self) -> None:
        self.position = 0
        self.rng = np.random.default_rng(3)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        inputs, labels = task_data()
        for _ in range(EXAMPLES - 2):
            at = self.position % EXAMPLES
            self.position += 1
            yield inputs[at] + float(self.rng.normal()), labels[at]


class OwnNoise(Noisy):
    """A data set that draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.RandomState(4)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index] + float(self.rng.randn()), self.labels[index]


class Even(Noisy):
    """Whole batches only: whoever asks for the last one has not seen the end of the sampler."""

    def __len__(self) -> int:
        return 48


def weighted(g: torch.Generator | None) -> WeightedRandomSampler:
    return WeightedRandomSampler(list(range(1, EXAMPLES + 1)), EXAMPLES, generator=g)


def batches(sampler: Any) -> DataLoader[Any]:
    return DataLoader(Noisy(), batch_sampler=BatchSampler(sampler, BATCH, drop_last=False))


def plain() -> TensorDataset:
    return TensorDataset(*task_data())


LOADERS = {
    "shuffle, own generator": lambda: DataLoader(Noisy(), BATCH, shuffle=True, generator=generator()),
    "whole batches": lambda: DataLoader(Even(), BATCH, shuffle=True, generator=generator()),
    "whole batches in a batch sampler": lambda: DataLoader(
        Even(), batch_sampler=BatchSampler(RandomSampler(Even(), generator=generator()), BATCH, drop_last=True)
    ),
    "whole batches, global state": lambda: DataLoader(Even(), BATCH, shuffle=True),
    "shuffle, global state": lambda: DataLoader(Noisy(), BATCH, shuffle=True),
    "random sampler, own generator": lambda: DataLoader(
        Noisy(), BATCH, sampler=RandomSampler(Noisy(), generator=generator())
    ),
    "with replacement": lambda: DataLoader(
        Noisy(), BATCH, sampler=RandomSampler(Noisy(), True, 50, generator=generator())
    ),
    "weighted, own generator": lambda: DataLoader(Noisy(), BATCH, sampler=weighted(generator())),
    "weighted, global state": lambda: DataLoader(Noisy(), BATCH, sampler=weighted(None)),
    "batch sampler": lambda: batches(RandomSampler(Noisy(), generator=generator())),
    "batch sampler, global state": lambda: batches(RandomSampler(Noisy())),
    "batch sampler, weighted": lambda: batches(weighted(generator())),
    "numpy": lambda: DataLoader(Noisy(), BATCH, sampler=Shuffled(np.random.default_rng(1))),
    "older numpy": lambda: DataLoader(Noisy(), BATCH, sampler=Shuffled(np.random.RandomState(1))),
    "python": lambda: batches(Shuffled(random.Random(1))),
    "counted": lambda: DataLoader(Noisy(), BATCH, sampler=Counted()),
    "counted in numpy": lambda: DataLoader(Noisy(), BATCH, sampler=Counted(np.int64(0))),
    "counted in a class": lambda: DataLoader(Noisy(), BATCH, sampler=Counted(Count(0))),
    "wrapped": lambda: Around(DataLoader(Noisy(), BATCH, shuffle=True, generator=generator())),
    "wrapped twice": lambda: Around(Around(batches(RandomSampler(Noisy(), generator=generator())))),
    "data set's own generator": lambda: DataLoader(OwnNoise(), BATCH, shuffle=True, generator=generator()),
    "iterable": lambda: DataLoader(Stream(), BATCH),
    "iterable, wrapped": lambda: Around(DataLoader(Stream(), BATCH)),
    "distributed": lambda: DataLoader(Noisy(), BATCH, sampler=DistributedSampler(Noisy(), 1, 0)),
    "distributed, in batches": lambda: batches(DistributedSampler(Noisy(), 1, 0)),
    "distributed, wrapped": lambda: Around(DataLoader(Noisy(), BATCH, sampler=DistributedSampler(Noisy(), 1, 0))),
    "workers": lambda: DataLoader(Noisy(), BATCH, shuffle=True, num_workers=1),
    "workers, own generator": lambda: DataLoader(plain(), BATCH, shuffle=True, num_workers=1, generator=generator()),
    "lasting workers": lambda: DataLoader(plain(), BATCH, shuffle=True, num_workers=1, persistent_workers=True),
    "lasting workers, own generator": lambda: DataLoader(
        plain(), BATCH, shuffle=True, num_workers=1, persistent_workers=True, generator=generator()
    ),
}


@cache
def uninterrupted(kind: str) -> dict[str, Any]:
    _, saver = train(Path(mkdtemp()), loader=LOADERS[kind]())
    return comparable(load(saver.paths[-1]))


@pytest.mark.filterwarnings(f"ignore:.*{NOTE}")
@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize(
    "stop", [3, 4, pytest.param(6, marks=pytest.mark.slow), 8]
)  # an epoch has 4 steps, one of whole batches 3
def test_stop_and_resume(kind: str, stop: int, tmp_path: Path) -> None:
    _, saver = train(tmp_path, loader=LOADERS[kind](), stop=stop)
    # another seed: nothing may depend on what the new process drew before it resumed
    _, saver = train(tmp_path, loader=LOADERS[kind](), resume=load(saver.paths[-1]), seed=99)
    assert differences(comparable(load(saver.paths[-1])), uninterrupted(kind)) == []


@pytest.mark.parametrize("kind", ["distributed", "distributed, in batches", "distributed, wrapped"])
def test_every_epoch_has_an_order_of_its_own(kind: str, tmp_path: Path) -> None:
    loader = LOADERS[kind]()
    inner = loader.inner[0] if isinstance(loader, Around) else loader
    sampler = inner.batch_sampler.sampler
    train(tmp_path, loader=loader)
    assert sampler.epoch == 2


def test_lasting_workers_are_told_of(tmp_path: Path) -> None:
    kind = "lasting workers"
    _, saver = train(tmp_path, loader=LOADERS[kind](), stop=6)
    with pytest.warns(UserWarning, match=NOTE):
        train(tmp_path, loader=LOADERS[kind](), resume=load(saver.paths[-1]))


@pytest.mark.parametrize("now", ["batch sampler, global state", "numpy"])
def test_another_loader_is_told_of(now: str, tmp_path: Path) -> None:
    _, saver = train(tmp_path, loader=LOADERS["shuffle, own generator"](), stop=6)
    with pytest.warns(UserWarning, match="draws from other generators"):
        train(tmp_path, loader=LOADERS[now](), resume=load(saver.paths[-1]))


def test_a_loader_that_jumped_before_is_told_of(tmp_path: Path) -> None:
    _, saver = train(tmp_path, loader="jumping", stop=6)
    with pytest.warns(UserWarning, match="draws from other generators"):
        train(tmp_path, loader=LOADERS["numpy"](), resume=load(saver.paths[-1]))


def test_a_checkpoint_of_an_earlier_version(tmp_path: Path) -> None:
    """It held a list of the states of the loader's generators and its sampler's."""
    kind = "shuffle, own generator"
    _, saver = train(tmp_path, loader=LOADERS[kind](), stop=6)
    state = load(saver.paths[-1])
    (own,) = state["epoch_rng_state"][0]["loader"]["generators"].values()
    state["epoch_rng_state"][0]["loader"] = [own]
    _, saver = train(tmp_path, loader=LOADERS[kind](), resume=state, seed=99)
    assert differences(comparable(load(saver.paths[-1])), uninterrupted(kind)) == []
