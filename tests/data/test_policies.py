"""Policies computed in groups are torchvision's own, image by image, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2

from bitdial.data import AutomaticPolicy, TorchvisionTransform
from bitdial.data.randomness import generator_for

POLICIES: dict[str, Callable[[], v2.Transform]] = {
    "randaugment": v2.RandAugment,
    "four operations": lambda: v2.RandAugment(num_ops=4, magnitude=20, fill=128),
    "no operation": lambda: v2.RandAugment(num_ops=0),
    "trivialaugment": v2.TrivialAugmentWide,
    "bilinear": lambda: v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR),
    "autoaugment cifar10": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "autoaugment imagenet": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.IMAGENET),
    "autoaugment svhn": lambda: v2.AutoAugment(v2.AutoAugmentPolicy.SVHN),
}


def pictures(count: int, channels: int, size: int) -> Tensor:
    random = torch.Generator().manual_seed(size)
    images = torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=random)
    images[:, :, : size // 2] //= 3  # dark halves, for what stretches contrast
    return images


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 28), (3, 8)])
def test_groups_give_what_each_image_alone_gives(name: str, channels: int, size: int) -> None:
    images, policy = pictures(16, channels, size), POLICIES[name]()
    before, labels = images.clone(), torch.arange(16)
    for seed in (0, 1):
        grouped, same = AutomaticPolicy(policy)(images, labels, generator_for(seed))
        alone, _ = TorchvisionTransform(policy, each=True)(images, labels, generator_for(seed))
        assert torch.equal(grouped, alone)
        assert grouped.dtype == torch.uint8
        assert same is labels
    assert torch.equal(images, before)


def test_images_of_a_batch_are_transformed_differently() -> None:
    images = pictures(1, 3, 16).expand(64, -1, -1, -1)
    transformed, _ = AutomaticPolicy(v2.RandAugment())(images, torch.zeros(64), generator_for(0))
    assert len({tuple(image.flatten().tolist()) for image in transformed}) > 40


def test_equal_operations_share_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = v2.RandAugment._apply_image_or_video_transform

    def counted(self: Any, image: Tensor, *args: Any, **options: Any) -> Any:
        calls.append(len(image))
        return original(self, image, *args, **options)

    monkeypatch.setattr(v2.RandAugment, "_apply_image_or_video_transform", counted)
    AutomaticPolicy(v2.RandAugment())(pictures(128, 3, 8), torch.zeros(128), generator_for(0))
    assert sum(calls) == 256  # two operations for each image
    assert len(calls) <= 2 * 23  # nine operations with two signs and five without


def test_another_torchvision_is_served_image_by_image(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = pictures(8, 3, 8), torch.zeros(8)
    expected, _ = AutomaticPolicy(v2.RandAugment())(images, labels, generator_for(3))
    monkeypatch.setattr("bitdial.data.strong._APPLY", "_a_method_that_is_gone")
    transformed, _ = AutomaticPolicy(v2.RandAugment())(images, labels, generator_for(3))
    assert torch.equal(transformed, expected)


def test_colour_leaves_grey_images_alone() -> None:
    """Of RandAugment's operations only Color has no meaning without colour; torchvision makes it the identity."""
    images = pictures(4, 1, 32)
    policy = v2.RandAugment()
    apply = policy._apply_image_or_video_transform
    changed = {
        name: not torch.equal(apply(images, name, 0.5, interpolation=policy.interpolation, fill=policy._fill), images)
        for name in ("Color", "Brightness", "Contrast", "Sharpness", "Solarize", "Equalize")
    }
    assert changed.pop("Color") is False
    assert all(changed.values()), changed
