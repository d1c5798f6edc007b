"""What is drawn for a whole batch at once has the distribution of torchvision's transforms, image by image.

Seeds are fixed, so that a test passes always or never. Bounds are the quantiles that a right transform stays below with
probability .999; each comparison is also made with a slightly wrong one, which must be beyond its bound.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from bitdial.data import HorizontalFlip, RandomCrop, RandomErasing
from bitdial.data.augment import BatchTransform
from bitdial.data.randomness import generator_for, global_draws_from
from bitdial.data.strong import cutmix

REJECT = 0.001
SIDE = 12
Numbers = NDArray[np.float64]


def batch_of(image: Tensor, count: int) -> Tensor:
    return image.expand(count, -1, -1, -1).contiguous()


def one_by_one(transform: Callable[[Tensor], Tensor], images: Tensor, seed: int = 11) -> Tensor:
    with global_draws_from(generator_for(seed), images.device):
        return torch.stack([transform(image) for image in images])


def together(transform: BatchTransform, images: Tensor, seed: int = 12) -> Tensor:
    return transform(images, torch.zeros(len(images)), generator_for(seed))[0]


def same_counts(first: Numbers, second: Numbers) -> float:
    """p-value of the chi-square test that two samples of whole numbers come from one distribution."""
    values = np.unique(np.concatenate([first, second]))
    table = [[int((sample == value).sum()) for value in values] for sample in (first, second)]
    return float(stats.chi2_contingency(table).pvalue)


def offsets(cropped: Tensor) -> Numbers:
    """Where the crop began, as one number, from images whose only bright pixel is in the middle."""
    return cropped.flatten(1).argmax(1).numpy().astype(float)


def test_crop_offsets() -> None:
    dot = torch.zeros(1, 7, 7, dtype=torch.uint8)
    dot[0, 3, 3] = 1
    alone = offsets(one_by_one(v2.RandomCrop(7, padding=2), batch_of(dot, 3000)))
    ours = offsets(together(RandomCrop(2), batch_of(dot, 20_000)))
    assert same_counts(ours, alone) > REJECT
    assert len(np.unique(ours)) == 25
    assert stats.chisquare(np.unique(ours, return_counts=True)[1]).pvalue > REJECT  # uniform over all offsets
    assert same_counts(offsets(together(RandomCrop(3), batch_of(dot, 20_000))), alone) < REJECT


def test_flip_rate() -> None:
    ramp = torch.arange(4, dtype=torch.uint8).expand(1, 4, 4)

    def flipped(images: Tensor) -> Numbers:
        return (images[:, 0, 0, 0] == 3).numpy().astype(float)

    alone = flipped(one_by_one(v2.RandomHorizontalFlip(), batch_of(ramp, 3000)))
    ours = flipped(together(HorizontalFlip(), batch_of(ramp, 20_000)))
    assert same_counts(ours, alone) > REJECT
    assert stats.binomtest(int(ours.sum()), len(ours)).pvalue > REJECT
    assert same_counts(flipped(together(HorizontalFlip(0.45), batch_of(ramp, 20_000))), alone) < REJECT


def boxes(erased: Tensor) -> dict[str, Numbers]:
    """Top, left, height, width and area of the zeros in images of ones; the whole images are left out."""
    gone = (erased == 0)[:, 0]
    gone = gone[gone.flatten(1).any(1)]
    rows, columns = gone.any(2).int(), gone.any(1).int()
    parts = {"top": rows.argmax(1), "left": columns.argmax(1), "height": rows.sum(1), "width": columns.sum(1)}
    parts["area"] = parts["height"] * parts["width"]
    return {name: values.numpy().astype(float) for name, values in parts.items()} | {"count": np.array([len(gone)])}


def test_erased_boxes() -> None:
    ones = torch.ones(1, SIDE, SIDE)
    alone = boxes(one_by_one(v2.RandomErasing(0.7), batch_of(ones, 3000)))
    ours = boxes(together(RandomErasing(0.7), batch_of(ones, 20_000)))
    for name in ("top", "left", "height", "width", "area"):
        assert same_counts(ours[name], alone[name]) > REJECT, name
    erased = [[int(each["count"][0]), total - int(each["count"][0])] for each, total in ((ours, 20_000), (alone, 3000))]
    assert stats.chi2_contingency(erased).pvalue > REJECT
    wide = boxes(together(RandomErasing(0.7, ratio=(0.3, 2.5)), batch_of(ones, 20_000)))
    large = boxes(together(RandomErasing(0.7, scale=(0.02, 0.4)), batch_of(ones, 20_000)))
    assert same_counts(wide["height"], alone["height"]) < REJECT
    assert same_counts(large["area"], alone["area"]) < REJECT


def paper_boxes(side: int, alpha: float, count: int, seed: int) -> list[tuple[int, int, int]]:
    """(first row, first column, pixels) of CutMix's boxes, drawn as the paper writes them, by Python's generator."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        half = int(0.5 * math.sqrt(1 - draw.betavariate(alpha, alpha)) * side)
        row, column = draw.randrange(side), draw.randrange(side)
        top, left = max(row - half, 0), max(column - half, 0)
        found.append((top, left, (min(row + half, side) - top) * (min(column + half, side) - left)))
    return [box for box in found if box[2]]


def drawn_boxes(side: int, alpha: float, count: int) -> list[tuple[int, int, int]]:
    mixer, found = cutmix(2, alpha), []
    images, labels = batch_of(torch.zeros(1, side, side), 2), torch.eye(2)
    images[0] = 1
    for batch in range(count):
        mixed, _ = mixer(images, labels, generator_for(3, batch))
        gone = mixed[0, 0] == 0
        if bool(gone.any()):
            found.append((int(gone.any(1).int().argmax()), int(gone.any(0).int().argmax()), int(gone.sum())))
    return found


def test_cutmix_boxes() -> None:
    for alpha, other in ((1.0, 0.6), (0.3, 0.6)):
        ours, paper = (list(zip(*found, strict=True)) for found in (drawn_boxes(SIDE, alpha, 2500),
                                                                    paper_boxes(SIDE, alpha, 20_000, 4)))  # fmt: skip
        for part in range(3):
            assert stats.ks_2samp(ours[part], paper[part]).pvalue > REJECT, (alpha, part)
        wrong = list(zip(*paper_boxes(SIDE, other, 20_000, 5), strict=True))
        assert stats.ks_2samp(ours[2], wrong[2]).pvalue < REJECT


@pytest.mark.parametrize("right", [True, False])
def test_mean_of_every_pixel_after_crop_flip_and_erasing(right: bool) -> None:
    """The whole pipeline on one picture: means of all pixels, z-scores of their differences."""
    picture = torch.rand(1, 8, 8, generator=generator_for(0)) + 1
    alone = one_by_one(
        v2.Compose([v2.RandomCrop(8, padding=1), v2.RandomHorizontalFlip(), v2.RandomErasing(0.5)]),
        batch_of(picture, 4000),
    )
    ours = batch_of(picture, 20_000)
    generator = generator_for(9)
    for transform in (RandomCrop(1), HorizontalFlip(), RandomErasing(0.5 if right else 0.4)):
        ours, _ = transform(ours, torch.zeros(len(ours)), generator)
    error = (alone.var(0) / len(alone) + ours.var(0) / len(ours)).sqrt()
    worst = float(((alone.mean(0) - ours.mean(0)) / error).abs().max())
    assert (worst < 4.3) == right  # .999 for the largest of 64 normal deviates
