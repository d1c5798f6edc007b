"""Labelled images of the Hugging Face Hub, as ``hf:NAME``, by the package ``datasets``, where it is installed."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bitdial.data.dataset import TEST_SHARE, ImageDataset, Request, stratified_split
from bitdial.data.options import HUB
from bitdial.data.tensors import dataset_from_tensors
from bitdial.errors import BitdialError

_TEST = ("test", "validation", "valid", "val")


def load_from_hub(wanted: Request) -> ImageDataset:
    """Load a data set of the Hub that has a column of images and one of labels, all images of one size.

    Of one without a part to test on a fifth of every class is held out, chosen by the seed. `data_path` is where
    ``datasets`` keeps what it downloads.

    Raises:
        BitdialError: ``datasets`` is not installed, the Hub cannot be reached, or it is another kind of data set.
    """
    name = wanted.name.removeprefix(HUB)
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise BitdialError(f"{wanted.name} needs the package datasets; run: pip install datasets") from error
    try:
        found = datasets.load_dataset(name, cache_dir=None if wanted.path is None else str(wanted.path))
    except Exception as error:  # its own errors, and those of every layer of the network below it
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise BitdialError(
            f"cannot load {wanted.name} ({reason}); check the name and the network, or load it once where there is one "
            "and give its cache as data_path"
        ) from error
    parts = {part: found[part] for part in found}
    train = parts.get("train") or next(iter(parts.values()))
    test = next((parts[part] for part in _TEST if part in parts), None)
    image, label = _columns(wanted.name, train)
    names = getattr(train.features[label], "names", None)
    pairs = [_tensors(wanted.name, part, image, label) for part in (train, test) if part is not None]
    if test is None:
        kept, held_out = stratified_split(pairs[0][1], TEST_SHARE, wanted.seed)
        pairs = [(pairs[0][0][index], pairs[0][1][index]) for index in (kept, held_out)]
    classes = None if names is None else tuple(names)
    return dataset_from_tensors(
        wanted.name, pairs[0], pairs[1], class_names=classes, image_size=wanted.image_size, flip=True
    )


def _columns(name: str, part: Any) -> tuple[str, str]:
    """The names of the columns of images and of labels."""
    kinds = {column: type(feature).__name__ for column, feature in part.features.items()}
    images = [column for column, kind in kinds.items() if kind == "Image"]
    labels = [column for column, kind in kinds.items() if kind == "ClassLabel"]
    labels = labels or [column for column in ("label", "labels", "fine_label") if column in kinds]
    if not images or not labels:
        raise BitdialError(
            f"{name} must have a column of images and one of labels, got {', '.join(kinds)}; name another, or give "
            "--dataset file.py:function"
        )
    return images[0], labels[0]


def _tensors(name: str, part: Any, image: str, label: str) -> tuple[Tensor, Tensor]:
    arrays = [np.asarray(each.convert("L" if each.mode in ("1", "L") else "RGB")) for each in part[image]]
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1:
        raise BitdialError(
            f"{name} must have images of one size and kind, got {len(shapes)}; resize them in a function of your own, "
            "and give --dataset file.py:function"
        )
    stacked = torch.from_numpy(np.stack(arrays))
    pixels = stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2)
    return pixels.contiguous(), torch.tensor(list(part[label]))
