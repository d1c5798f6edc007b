"""Strong augmentation through a loader: pure in (seed, epoch, batch), off in evaluation, alike for every layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import v2

from bitdial.data import (
    Augmentation,
    AutomaticPolicy,
    HorizontalFlip,
    MixOneOf,
    RandomCrop,
    RandomErasing,
    Split,
    build_augmentation,
    load_dataset,
    make_loader,
)

EVERYTHING = {"cutmix": True, "mixup": True, "random_erasing": 0.5}
POLICIES = ["autoaugment", "randaugment", "trivialaugment"]


def split_of(count: int = 40, size: int = 8, channels: int = 3, dtype: torch.dtype = torch.uint8) -> Split:
    random = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, channels, size, size), generator=random).to(dtype)
    labels = torch.arange(count) % 4
    return Split(images=images, labels=labels, num_classes=4, mean=(0.5,) * channels, std=(0.25,) * channels, flip=True)


def epoch_of(split: Split, augment: Augmentation, **options: int) -> list[tuple[Tensor, Tensor]]:
    loader = make_loader(split, 8, train=True, augment=augment, seed=options.get("seed", 0))
    loader.set_epoch(options.get("epoch", 0))
    loader.start_at(options.get("start", 0))
    return list(loader)


def same(first: list[tuple[Tensor, Tensor]], second: list[tuple[Tensor, Tensor]]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(one, other) for pair in zip(first, second, strict=True) for one, other in zip(*pair, strict=True)
    )


def test_flags_make_the_documented_pipeline() -> None:
    split = split_of(size=32)
    assert build_augmentation(split) == Augmentation((RandomCrop(4), HorizontalFlip()))
    assert build_augmentation(split, standard=False) == Augmentation()
    augment = build_augmentation(split, randaugment=True, random_erasing=0.3, cutmix=True, mixup=True)
    assert [type(each) for each in augment.pixels] == [RandomCrop, HorizontalFlip, AutomaticPolicy]
    erasing, mixing = augment.mixing
    assert erasing == RandomErasing(0.3)
    assert isinstance(mixing, MixOneOf)
    assert (mixing.probabilities, mixing.num_classes) == ((0.5, 0.5), 4)
    assert [type(each.transform) for each in mixing.transforms] == [v2.CutMix, v2.MixUp]  # type: ignore[attr-defined]


def test_alpha_probability_and_width_arrive() -> None:
    augment = build_augmentation(
        split_of(), cutmix=True, mixup=True, cutmix_alpha=2, mixup_alpha=0.2,
        cutmix_probability=0.1, mixup_probability=0.9, num_classes=7,
    )  # fmt: skip
    mixing = augment.mixing[0]
    assert isinstance(mixing, MixOneOf)
    assert [each.transform.alpha for each in mixing.transforms] == [2.0, 0.2]  # type: ignore[attr-defined]
    assert mixing.probabilities == (0.1, 0.9)
    assert {tuple(y.shape) for _, y in epoch_of(split_of(), augment)} == {(8, 7)}


@pytest.mark.parametrize(("size", "policy"), [(32, v2.AutoAugmentPolicy.CIFAR10), (96, v2.AutoAugmentPolicy.IMAGENET)])
def test_autoaugment_takes_the_policy_for_the_image_size(size: int, policy: v2.AutoAugmentPolicy) -> None:
    (transform,) = build_augmentation(split_of(4, size), standard=False, autoaugment=True).pixels
    assert isinstance(transform, AutomaticPolicy)
    assert transform.policy.policy == policy


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_trains_with_everything_else(policy: str, channels: int) -> None:
    split = split_of(channels=channels)
    augment = build_augmentation(split, **{policy: True}, **EVERYTHING)  # type: ignore[arg-type]
    plain = epoch_of(split, Augmentation())
    for (x, y), (plain_x, _) in zip(epoch_of(split, augment), plain, strict=True):
        assert x.dtype == torch.float32
        assert x.shape == plain_x.shape
        assert bool(x.isfinite().all())
        assert not torch.equal(x, plain_x)
        assert torch.allclose(y.sum(1), torch.ones(8))


def test_evaluation_is_never_augmented() -> None:
    split = split_of()
    augment = build_augmentation(split, randaugment=True, cutmix_probability=1.0, **EVERYTHING)  # type: ignore[arg-type]
    for epoch in (0, 3):
        augmented, plain = (make_loader(split, 8, train=False, augment=each) for each in (augment, "none"))
        augmented.set_epoch(epoch)
        assert same(list(augmented), list(plain))
        assert all(y.dtype == torch.int64 and y.ndim == 1 for _, y in augmented)


@settings(deadline=None, max_examples=8)
@given(st.sampled_from(POLICIES), st.integers(0, 5), st.integers(0, 4), st.integers(0, 2**32), st.integers(0, 2**40))
def test_a_batch_depends_on_seed_epoch_and_number_only(
    policy: str, epoch: int, start: int, past: int, seed: int
) -> None:
    split = split_of()
    whole = epoch_of(split, build_augmentation(split, **{policy: True}, **EVERYTHING), epoch=epoch, seed=seed)  # type: ignore[arg-type]
    torch.manual_seed(past)
    torch.rand(past % 7)
    state = torch.get_rng_state()
    # Another object, another past, resumed in mid-epoch.
    augment = build_augmentation(split, **{policy: True}, **EVERYTHING)  # type: ignore[arg-type]
    epoch_of(split, augment, epoch=past % 9, seed=past)
    assert same(epoch_of(split, augment, epoch=epoch, seed=seed, start=start), whole[start:])
    assert torch.equal(torch.get_rng_state(), state)
    assert not same(epoch_of(split, augment, epoch=epoch + 1, seed=seed), whole)
    assert not same(epoch_of(split, augment, epoch=epoch, seed=seed + 1), whole)


def test_images_in_memory_and_on_disk_with_any_workers_are_alike(image_folder: Path) -> None:
    batches = []
    for memory_limit, workers in ((1 << 30, 0), (0, 0), (0, 2)):
        split = load_dataset("folder", image_folder, memory_limit=memory_limit).train
        augment = build_augmentation(split, trivialaugment=True, **EVERYTHING)  # type: ignore[arg-type]
        batches.append(list(make_loader(split, 4, train=True, augment=augment, workers=workers)))
    assert len(batches[0]) == 3
    assert same(batches[0], batches[1])
    assert same(batches[0], batches[2])


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_share_the_samples_but_mix_among_their_own(world_size: int) -> None:
    """Mixing moves shares within a batch; what each class has in a global batch is the same for any division."""
    split = split_of(64)
    augment = build_augmentation(split, mixup=True, cutmix=True)
    alone = [y.sum(0) for _, y in make_loader(split, 16, train=True, augment=augment)]
    parts = [
        list(make_loader(split, 16 // world_size, train=True, augment=augment, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    for batch, expected in enumerate(alone):
        assert torch.allclose(sum(part[batch][1].sum(0) for part in parts), expected, atol=1e-5)
    again = list(make_loader(split, 16 // world_size, train=True, augment=augment, rank=1, world_size=world_size))
    assert same(again, parts[1])  # a process needs no other to draw the same again
    assert not same(parts[0], parts[1])


def test_float_images_mix_and_erase() -> None:
    split = split_of(dtype=torch.float32)
    for x, y in epoch_of(split, build_augmentation(split, **EVERYTHING)):  # type: ignore[arg-type]
        assert bool(x.isfinite().all())
        assert y.shape == (8, 4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("policy", POLICIES)
def test_a_gpu_draws_what_the_cpu_draws_and_keeps_its_random_state(policy: str) -> None:
    split = split_of(64, 32)
    augment = build_augmentation(split, **{policy: True}, **EVERYTHING)  # type: ignore[arg-type]
    states = torch.get_rng_state(), torch.cuda.get_rng_state()
    on_gpu = epoch_of(split.to("cuda"), augment)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(torch.cuda.get_rng_state(), states[1])
    for (x, y), (expected_x, expected_y) in zip(on_gpu, epoch_of(split, augment), strict=True):
        assert torch.allclose(y.cpu(), expected_y)
        # Kernels round differently at the edge of a grey level or a rotated pixel: most pixels are the same.
        assert float(((x.cpu() - expected_x).abs() < 0.05).float().mean()) > 0.97
