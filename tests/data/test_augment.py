"""Batch transforms agree with the plain image-by-image form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import v2

from bitdial.data import Augmentation, HorizontalFlip, RandomCrop, Split, TorchvisionTransform, make_loader, standard
from bitdial.data.randomness import generator_for


def pictures(count: int = 32, size: int = 8, channels: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, channels, size, size), dtype=torch.uint8, generator=random)


def crop_one_by_one(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    rows, columns = torch.randint(2 * padding + 1, (2, len(images)), generator=generator).tolist()
    size = images.shape[-1]
    return torch.stack([
        pad(image, [padding] * 4)[:, row : row + size, column : column + size]
        for image, row, column in zip(images, rows, columns, strict=True)
    ])  # fmt: skip


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_random_crop_is_that_of_each_image_alone(padding: int, dtype: torch.dtype) -> None:
    images = pictures().to(dtype)
    cropped, _ = RandomCrop(padding)(images, torch.zeros(32), generator_for(1, 2))
    assert cropped.dtype == dtype
    assert torch.equal(cropped, crop_one_by_one(images, padding, generator_for(1, 2)))


def test_random_crop_reaches_every_offset_about_equally() -> None:
    images = torch.zeros(9000, 1, 3, 3, dtype=torch.uint8)
    images[:, :, 1, 1] = 1
    cropped, _ = RandomCrop(1)(images, torch.zeros(9000), generator_for(0))
    share = cropped.float().mean(0)[0]
    assert torch.allclose(share, torch.full((3, 3), 1 / 9), atol=0.02)  # six standard errors


def test_flip_mirrors_about_half_and_leaves_the_rest() -> None:
    images = pictures(400)
    flipped, _ = HorizontalFlip()(images, torch.zeros(400), generator_for(5))
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    kept = (flipped == images).flatten(1).all(1)
    assert bool((mirrored ^ kept).all())
    assert 150 < int(mirrored.sum()) < 250
    assert torch.equal(HorizontalFlip(1.0)(images, images, generator_for(0))[0], images.flip(-1))


def test_transforms_leave_the_stored_images_alone() -> None:
    images = pictures()
    before = images.clone()
    for transform in (RandomCrop(2), HorizontalFlip()):
        transform(images, torch.zeros(32), generator_for(0))
    assert torch.equal(images, before)


def split_of(images: Tensor, *, flip: bool) -> Split:
    labels = torch.arange(len(images)) % 4
    channels = images.shape[1]
    return Split(images=images, labels=labels, num_classes=4, mean=(0.5,) * channels, std=(0.25,) * channels, flip=flip)


@pytest.mark.parametrize(("size", "padding"), [(8, 1), (28, 4), (32, 4), (3, 1), (224, 28)])
def test_standard_crops_by_an_eighth_and_flips_only_what_may_be_mirrored(size: int, padding: int) -> None:
    images = torch.zeros(1, 3, size, size, dtype=torch.uint8)
    assert standard(split_of(images, flip=True)).pixels == (RandomCrop(padding), HorizontalFlip())
    assert standard(split_of(images, flip=False)).pixels == (RandomCrop(padding),)


@pytest.mark.parametrize("mixer", [v2.CutMix(num_classes=4), v2.MixUp(num_classes=4)])
def test_torchvision_mixing_runs_from_the_batch_generator(mixer: v2.Transform) -> None:
    split = split_of(pictures(), flip=True)
    loader = make_loader(split, 16, train=True, augment=Augmentation(mixing=(TorchvisionTransform(mixer),)))
    (x, y), (again, _) = next(iter(loader)), next(iter(loader))
    assert torch.equal(x, again)
    assert y.shape == (16, 4)
    assert torch.allclose(y.sum(1), torch.ones(16))
    assert bool((y.amax(1) < 1).any())


def test_each_image_gets_its_own_draw() -> None:
    images = pictures(1, size=16).expand(16, -1, -1, -1)
    transform = TorchvisionTransform(v2.RandomRotation(90), each=True)
    turned, _ = transform(images, torch.zeros(16), generator_for(3))
    assert turned.dtype == torch.uint8
    assert len({tuple(image.flatten().tolist()) for image in turned}) > 8


def test_generators_depend_on_every_coordinate_and_their_order() -> None:
    draws = {
        torch.rand((), generator=generator_for(*each)).item()
        for each in [(0, 1), (1, 0), (1,), (1, 1), (0, 1, 0), (-1, 0), (2**40, 0), (0, 2**40)]
    }
    assert len(draws) == 8
    assert generator_for(3, 4).initial_seed() == generator_for(3, 4).initial_seed()
