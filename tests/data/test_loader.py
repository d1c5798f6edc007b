"""Batches are a pure function of (seed, epoch, batch), over any number of processes."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from bitdial.data import Augmentation, BatchLoader, Split, TorchvisionTransform, dataset_from_tensors, make_loader


def numbered(count: int) -> Split:
    """Images of which every pixel is the sample's number, normalised by nothing."""
    images = torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(-1, 1, 4, 4)
    return Split(images=images, labels=torch.arange(count), num_classes=count, mean=(0.0,), std=(1.0,), flip=False)


def colourful(count: int = 50) -> Split:
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 5
    split = dataset_from_tensors("t", (images, labels), (images, labels), flip=True).train
    assert isinstance(split, Split)
    return split


def seen(loader: BatchLoader) -> list[int]:
    return [number for _, labels in loader for number in labels.tolist()]


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(x, other_x) and torch.equal(y, other_y)
        for (x, y), (other_x, other_y) in zip(first, second, strict=True)
    )


def test_resume_in_mid_epoch_is_exact_whatever_happened_before() -> None:
    loader = make_loader(colourful(), 8, train=True, seed=3)
    loader.set_epoch(4)
    whole = list(loader)
    resumed = make_loader(colourful(), 8, train=True, seed=3)
    torch.rand(100)
    for epoch in (9, 2):  # another past
        resumed.set_epoch(epoch)
        next(iter(resumed))
    resumed.set_epoch(4)
    resumed.start_at(2)
    assert same(list(resumed), whole[2:])
    assert same(list(resumed), whole)  # the skip was for one iteration only
    resumed.start_at(len(resumed))
    assert list(resumed) == []


def test_skipped_batches_are_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Tensor] = []

    def record(_: Split, indices: list[Tensor], workers: int) -> Iterator[tuple[Tensor, Tensor]]:
        asked.extend(indices)
        return iter([])

    monkeypatch.setattr(Split, "batches", record)
    loader = make_loader(numbered(40), 10, train=True)
    loader.start_at(3)
    list(loader)
    assert len(asked) == 1


def test_epochs_seeds_and_batches_differ_and_do_not_add_up() -> None:
    def first_batch(seed: int, epoch: int) -> Tensor:
        loader = make_loader(colourful(), 8, train=True, seed=seed)
        loader.set_epoch(epoch)
        return next(iter(loader))[0]

    variants = [first_batch(seed, epoch) for seed in range(3) for epoch in range(3)]
    for index, one in enumerate(variants):
        assert not any(torch.equal(one, other) for other in variants[:index])


def test_augmentation_differs_between_batches_of_equal_content() -> None:
    images = colourful(8).images.repeat(4, 1, 1, 1)[torch.arange(32) % 8 * 0]  # 32 times the same image
    split = dataset_from_tensors("t", (images, torch.zeros(32)), (images, torch.zeros(32)), flip=True).train
    batches = [x for x, _ in make_loader(split, 16, train=True)]
    assert not torch.equal(batches[0], batches[1])


def test_global_random_states_are_neither_read_nor_moved() -> None:
    augment = Augmentation(
        pixels=(TorchvisionTransform(v2.RandAugment(), each=True),),
        mixing=(TorchvisionTransform(v2.MixUp(num_classes=5)),),
    )
    states = []
    for global_seed in (1, 2):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)
        random.seed(global_seed)
        before = torch.get_rng_state(), np.random.get_state()[1], random.getstate()
        plain = list(make_loader(colourful(), 8, train=True)) + list(make_loader(colourful(), 8, train=False))
        mixed = list(make_loader(colourful(), 8, train=True, augment=augment))
        assert torch.equal(before[0], torch.get_rng_state())
        assert np.array_equal(before[1], np.random.get_state()[1])
        assert before[2] == random.getstate()
        states.append((plain, mixed))
    assert same(states[0][0], states[1][0])
    assert same(states[0][1], states[1][1])


def test_training_visits_every_sample_once_when_nothing_is_dropped() -> None:
    loader = make_loader(numbered(23), 5, train=True, drop_last=False, augment="none")
    order = seen(loader)
    assert len(loader) == 5
    assert sorted(order) == list(range(23))
    assert order != list(range(23))


def test_image_and_label_stay_together() -> None:
    for x, y in make_loader(numbered(23), 5, train=True, augment="none"):
        assert torch.equal(x, y.float()[:, None, None, None].expand_as(x))


def test_drop_last_keeps_one_shape_but_never_everything() -> None:
    assert [len(y) for _, y in make_loader(numbered(23), 5, train=True)] == [5, 5, 5, 5]
    assert [len(y) for _, y in make_loader(numbered(3), 5, train=True)] == [3]


def test_evaluation_is_in_order_complete_and_never_augmented() -> None:
    loader = make_loader(colourful(23), 5, train=False, augment="standard", seed=9)
    split = colourful(23)
    expected = (split.images.double() / 255 - torch.tensor(split.mean)[:, None, None].double()) / torch.tensor(
        split.std
    )[:, None, None].double()
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        x = torch.cat([x for x, _ in loader])
        assert x.dtype == torch.float32
        assert torch.allclose(x.double(), expected, atol=1e-6)
    assert seen(make_loader(numbered(23), 5, train=False)) == list(range(23))


sizes = st.tuples(st.integers(1, 60), st.integers(1, 9), st.integers(1, 5)).filter(lambda t: t[0] >= t[2])


@given(sizes, st.booleans())
def test_training_shards_are_equal_and_cover_everything(size: tuple[int, int, int], drop_last: bool) -> None:
    count, batch_size, world = size
    loaders = [
        make_loader(numbered(count), batch_size, train=True, rank=rank, world_size=world, drop_last=drop_last)
        for rank in range(world)
    ]
    shards = [[y.tolist() for _, y in loader] for loader in loaders]
    shapes = {tuple(len(batch) for batch in shard) for shard in shards}
    assert len(shapes) == 1
    assert {len(loader) for loader in loaders} == {len(shards[0])}
    visited = sorted(number for shard in shards for batch in shard for number in batch)
    if drop_last and count > batch_size * world:
        assert shapes == {(batch_size,) * (count // (batch_size * world))}
        assert len(set(visited)) == len(visited)
    else:
        assert set(visited) == set(range(count))
        assert len(visited) < count + world  # padding is less than one sample per process


@given(sizes)
def test_evaluation_shards_have_equal_numbers_of_batches_and_no_sample_twice(size: tuple[int, int, int]) -> None:
    count, batch_size, world = size
    shards = [
        [y.tolist() for _, y in make_loader(numbered(count), batch_size, train=False, rank=rank, world_size=world)]
        for rank in range(world)
    ]
    assert len({len(shard) for shard in shards}) == 1
    assert [number for shard in shards for batch in shard for number in batch] == list(range(count))
    assert all(1 <= len(batch) <= batch_size + (world > 1) for shard in shards for batch in shard)


def test_a_global_batch_holds_the_same_samples_for_any_number_of_processes() -> None:
    alone = [set(y.tolist()) for _, y in make_loader(numbered(64), 16, train=True)]
    parts = [
        [y.tolist() for _, y in make_loader(numbered(64), 4, train=True, rank=rank, world_size=4)] for rank in range(4)
    ]
    assert alone == [set(itertools.chain(*batches)) for batches in zip(*parts, strict=True)]


def test_ranks_draw_different_augmentation() -> None:
    images = colourful(1).images.expand(64, -1, -1, -1)
    split = dataset_from_tensors("t", (images, torch.zeros(64)), (images, torch.zeros(64)), flip=True).train
    first, second = (next(iter(make_loader(split, 16, train=True, rank=rank, world_size=2)))[0] for rank in (0, 1))
    assert not torch.equal(first, second)


def test_moving_a_split_moves_its_batches() -> None:
    split = numbered(4).to("meta")
    assert split.device.type == "meta"
    assert next(split.batches([torch.tensor([1, 2])]))[0].device.type == "meta"
    assert repr(numbered(4)) == "Split(4 images 1x4x4, 4 classes, on cpu)"
