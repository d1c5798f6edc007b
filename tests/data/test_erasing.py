"""Random erasing of a batch writes boxes into some of the images and nothing else."""

from __future__ import annotations

import pytest
import torch

from bitdial.data import RandomErasing
from bitdial.data.randomness import generator_for

LABELS = torch.zeros(64, dtype=torch.int64)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 28), (8, 8), (3, 3), (1, 1), (6, 20)])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_what_is_erased_is_a_box_within_bounds(height: int, width: int, dtype: torch.dtype) -> None:
    images = torch.full((64, 3, height, width), 7).to(dtype)
    erased, labels = RandomErasing(1.0, value=2)(images, LABELS, generator_for(1, height))
    assert erased.dtype == dtype
    assert labels is LABELS
    assert bool((images == 7).all())
    gone = erased == 2
    assert bool((gone | (erased == 7)).all())
    assert bool((gone == gone[:, :1]).all())  # all channels alike
    rows, columns = gone[:, 0].any(2).sum(1), gone[:, 0].any(1).sum(1)
    assert torch.equal(rows * columns, gone[:, 0].sum((1, 2)))
    if height > 1:
        assert bool((rows < height).all())
        assert bool((columns < width).all())
    if min(height, width) >= 28:  # rounding a side moves the share of a small image by much
        share = rows * columns / (height * width)
        assert 0.01 < float(share.min()) < 0.08
        assert 0.25 < float(share.max()) < 0.36


def test_images_have_boxes_of_their_own() -> None:
    erased, _ = RandomErasing(1.0)(torch.ones(64, 1, 16, 16), LABELS, generator_for(0))
    assert len({tuple(image.flatten().tolist()) for image in erased}) > 55


def test_probability_is_that_of_each_image() -> None:
    images, labels = torch.ones(4000, 1, 8, 8), torch.zeros(4000)
    for probability, bound in ((0.0, 0.0), (0.25, 0.028), (1.0, 0.0)):  # four standard errors
        erased, _ = RandomErasing(probability)(images, labels, generator_for(5))
        share = float((erased == 0).flatten(1).any(1).float().mean())
        assert abs(share - probability) <= bound


def test_boxes_that_never_fit_leave_the_image_whole() -> None:
    erased, _ = RandomErasing(1.0, scale=(0.9, 1.0), ratio=(50.0, 60.0))(
        torch.ones(64, 1, 8, 8), LABELS, generator_for(0)
    )
    assert bool((erased == 1).all())
