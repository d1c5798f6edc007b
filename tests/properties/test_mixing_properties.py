"""What CutMix and MixUp do to images is what their labels say, for any size, batch, alpha and seed."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitdial.data import MixOneOf
from bitdial.data.randomness import generator_for
from bitdial.data.strong import cutmix, mixup

QUICK = settings(deadline=None, max_examples=80)
ALPHAS = st.one_of(st.sampled_from([0.01, 1, 1.0, 10_000]), st.floats(0.05, 20))
SIDES = st.integers(1, 20)


def markers(count: int, height: int, width: int) -> Tensor:
    """Images whose every pixel is the number of the image."""
    return torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(-1, 2, height, width).contiguous()


def own_and_previous(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of each sample's own class and its predecessor's, when sample i is of class i."""
    return labels.diagonal(), labels.roll(-1, 0).diagonal().roll(1)


@QUICK
@given(st.integers(2, 6), SIDES, SIDES, ALPHAS, st.integers(0, 2**40))
def test_cutmix_lambda_is_the_exact_pixel_ratio(count: int, height: int, width: int, alpha: float, seed: int) -> None:
    images, classes = markers(count, height, width), torch.arange(count)
    mixed, labels = MixOneOf((cutmix(count, alpha),), (1.0,), count)(images, classes, generator_for(seed))
    own = mixed == images
    pasted = mixed == images.roll(1, 0)
    assert bool((own ^ pasted).all())
    assert bool((own == own[:1, :1]).all())  # one box for all images and channels
    kept = int(own[0, 0].sum())
    rows, columns = (~own[0, 0]).any(1), (~own[0, 0]).any(0)
    assert int(rows.sum()) * int(columns.sum()) == height * width - kept  # it is a box
    first, second = own_and_previous(labels)
    ratio = kept / (height * width)
    assert bool((first == torch.tensor(ratio)).all())  # to the last bit of float32
    assert bool((second == torch.tensor(1 - ratio)).all())
    assert torch.allclose(labels.sum(1), torch.ones(count), atol=1e-6)


@QUICK
@given(st.integers(2, 6), ALPHAS, st.integers(0, 2**40))
def test_mixup_labels_are_the_shares_of_the_images(count: int, alpha: float, seed: int) -> None:
    images, classes = markers(count, 3, 4), torch.arange(count)
    mixed, labels = MixOneOf((mixup(count, alpha),), (1.0,), count)(images, classes, generator_for(seed))
    assert torch.allclose(labels @ torch.arange(count).float(), mixed[:, 0, 0, 0], atol=1e-5)
    assert bool((mixed == mixed[:, :1, :1, :1]).all())
    first, second = own_and_previous(labels)
    assert torch.allclose(first + second, torch.ones(count), atol=1e-6)
    assert bool((first == first[0]).all())  # one lambda a batch


@QUICK
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=7),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.integers(0, 2**40),
)
def test_labels_are_shares_whatever_is_drawn(classes: list[int], probabilities: tuple[float, float], seed: int) -> None:
    """Also for one sample, for equal classes, and where nothing is mixed; what a class has in all stays."""
    images, labels = markers(len(classes), 4, 4), torch.tensor(classes)
    before = images.clone()
    mixer = MixOneOf((cutmix(5), mixup(5)), probabilities, 5)
    mixed, shares = mixer(images, labels, generator_for(seed))
    assert mixed.dtype == torch.float32
    assert shares.dtype == torch.float32
    assert shares.shape == (len(classes), 5)
    assert bool((shares >= 0).all())
    assert torch.allclose(shares.sum(1), torch.ones(len(classes)), atol=1e-6)
    assert torch.allclose(shares.sum(0), torch.bincount(labels, minlength=5).float(), atol=1e-5)
    assert torch.equal(images, before)
    again = mixer(images, labels, generator_for(seed))
    assert torch.equal(again[0], mixed)
    assert torch.equal(again[1], shares)
