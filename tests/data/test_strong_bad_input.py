"""Every mistake in the augmentation's flags is answered by one sentence: expected, got, what to do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from bitdial.data import AutomaticPolicy, MixOneOf, RandomErasing, Split, build_augmentation
from bitdial.data.strong import cutmix, mixup
from bitdial.errors import BitdialError


def split_of(channels: int = 3, dtype: torch.dtype = torch.uint8) -> Split:
    ones = (1.0,) * channels
    images = torch.zeros(8, channels, 8, 8, dtype=dtype)
    return Split(images=images, labels=torch.arange(8) % 4, num_classes=4, mean=ones, std=ones, flip=True)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"cutmix_alpha": 0}, r"cutmix_alpha must be a number in \[0\.01, 10000\], got 0; .* 1\.0 is usual"),
        ({"mixup_alpha": -1.0}, r"mixup_alpha must be .* got -1\.0"),
        ({"mixup": True, "mixup_alpha": 1e-6}, r"mixup_alpha must be .* got 1e-06"),
        ({"cutmix_alpha": float("nan")}, r"cutmix_alpha must be .* got nan"),
        ({"cutmix_alpha": float("inf")}, r"cutmix_alpha must be .* got inf"),
        ({"mixup_alpha": "1"}, r"mixup_alpha must be .* got '1'"),
        ({"mixup_alpha": True}, r"mixup_alpha must be .* got True"),
        ({"cutmix_probability": 1.5}, r"cutmix_probability must be a probability in \[0, 1\], got 1\.5; 0 switches"),
        ({"mixup_probability": -0.1}, r"mixup_probability must be .* got -0\.1"),
        ({"mixup_probability": float("nan")}, r"mixup_probability must be .* got nan"),
        ({"random_erasing": 25}, r"random_erasing must be a probability in \[0, 1\], got 25"),
        ({"random_erasing": True}, r"random_erasing must be a probability .* got True"),
        ({"random_erasing": None}, r"random_erasing must be a probability .* got None"),
        ({"cutmix": 1.0}, r"cutmix must be True or False, got 1\.0; its strength is another argument"),
        ({"randaugment": "9"}, r"randaugment must be True or False, got '9'"),
        ({"autoaugment": True, "randaugment": True}, r"autoaugment and randaugment are alternatives; switch on one"),
        (
            {"autoaugment": True, "randaugment": True, "trivialaugment": True},
            r"autoaugment and randaugment and trivialaugment are alternatives; .* got 3",
        ),
        ({"num_classes": 3}, r"num_classes must be a whole number from the dataset's 4 classes up, got 3; leave it"),
        ({"num_classes": 4.0}, r"num_classes must be .* got 4\.0"),
        ({"num_classes": True}, r"num_classes must be .* got True"),
    ],
)
def test_flags(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(BitdialError, match=message):
        build_augmentation(split_of(), **flags)


@pytest.mark.parametrize("policy", ["autoaugment", "randaugment", "trivialaugment"])
def test_images_without_grey_levels_or_colours(policy: str) -> None:
    with pytest.raises(BitdialError, match=rf"{policy} needs uint8 images .*; got float32; store the images as uint8"):
        build_augmentation(split_of(dtype=torch.float32), **{policy: True})  # type: ignore[arg-type]
    for channels in (2, 4):
        with pytest.raises(BitdialError, match=rf"{policy} needs grey or RGB images, 1 or 3 channels, got {channels}"):
            build_augmentation(split_of(channels), **{policy: True})  # type: ignore[arg-type]


def test_numbers_of_other_libraries_are_numbers() -> None:
    assert build_augmentation(split_of(), random_erasing=np.float64(0.5)).mixing == (RandomErasing(0.5),)


def test_not_a_split() -> None:
    with pytest.raises(BitdialError, match=r"split must be a split such as dataset\.train, got str"):
        build_augmentation("cifar10")  # type: ignore[arg-type]


def test_transforms_on_their_own() -> None:
    for make in (cutmix, mixup):
        with pytest.raises(BitdialError, match="alpha must be a number"):
            make(4, 0.0)
    with pytest.raises(BitdialError, match="one probability per transform, got 1 for 2 transforms"):
        MixOneOf((cutmix(4), mixup(4)), (0.5,), 4)
    with pytest.raises(BitdialError, match=r"a probability of MixOneOf must be .* got 2"):
        MixOneOf((cutmix(4),), (2,), 4)
    with pytest.raises(BitdialError, match=r"the probability of RandomErasing .* got -1"):
        RandomErasing(-1)
    for scale in ((0.3, 0.2), (-0.1, 0.2), (0.1, 1.1), (0.1,), 0.3, (0.1, float("nan"))):
        with pytest.raises(BitdialError, match=r"the scale of RandomErasing must be a pair .* in \[0, 1\], got"):
            RandomErasing(scale=scale)  # type: ignore[arg-type]
    for ratio in ((0.0, 1.0), (2.0, 1.0), (1.0, float("inf"))):
        with pytest.raises(BitdialError, match=r"the ratio of RandomErasing must be a pair .* 1e-06 and up, got"):
            RandomErasing(ratio=ratio)
    with pytest.raises(BitdialError, match=r"takes one of AutoAugment, .* got AugMix; other transforms run as Torchv"):
        AutomaticPolicy(v2.AugMix())
    with pytest.raises(BitdialError, match="RandAugment needs uint8 images"):
        AutomaticPolicy(v2.RandAugment())(torch.zeros(2, 3, 8, 8), torch.zeros(2), torch.Generator())
