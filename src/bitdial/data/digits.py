"""The handwritten digits that ship with scikit-learn: 1,797 grey images of 8x8, on every machine, no download."""

from __future__ import annotations

import numpy as np
import torch

from bitdial.data.dataset import ImageDataset, dataset_from_tensors, stratified_split
from bitdial.errors import BitdialError

_TEST_SHARE = 0.2


def load_digits(image_size: int | None) -> ImageDataset:
    """Load the digits with one fixed stratified division: about 80% of every class to train, 20% to test.

    The division never changes with a seed, so that results over seeds share a test set. Grey levels 0..16 become
    0..255.

    Raises:
        BitdialError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise BitdialError("the dataset 'digits' comes with scikit-learn; run: pip install scikit-learn") from error
    raw = datasets.load_digits()
    images = torch.from_numpy(np.rint(raw.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(raw.target.astype(np.int64))
    train, test = stratified_split(labels, _TEST_SHARE, seed=0)
    return dataset_from_tensors(
        "digits", (images[train], labels[train]), (images[test], labels[test]), num_classes=10, image_size=image_size
    )
