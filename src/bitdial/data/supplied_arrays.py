"""A user's own images as arrays in one file, `.npz` of numpy or `.pt` of torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bitdial.data.dataset import TEST_SHARE, ImageDataset, Request, register, stratified_split
from bitdial.data.tensors import class_numbers, count_classes, dataset_from_tensors
from bitdial.errors import BitdialError, suggest

_DIVIDED = ("x_train", "y_train", "x_test", "y_test")
_WHOLE = ("x", "y")


@register("npz")
def load_arrays(wanted: Request) -> ImageDataset:
    """Load images and labels from a file with `x_train, y_train, x_test, y_test`, or with `x, y` alone.

    Images are `[N, C, H, W]`, `[N, H, W, C]` or `[N, H, W]`, of any type; see `dataset_from_tensors`. With `x, y` a
    fifth of every class is held out, chosen by the seed. Mirroring is never assumed harmless.
    """
    data_path = wanted.path
    if data_path is None:
        raise BitdialError(
            "the dataset 'npz' needs data_path: a .npz or .pt file with x_train, y_train, x_test, y_test"
        )
    if not data_path.is_file():
        raise BitdialError(
            f"no file {data_path}; expected a .npz or .pt file with {', '.join(_DIVIDED)}; give data_path if it moved"
        )
    arrays = _read(data_path)
    if all(key in arrays for key in _DIVIDED):
        train = (_channels_first(arrays["x_train"], "x_train"), arrays["y_train"])
        test = (_channels_first(arrays["x_test"], "x_test"), arrays["y_test"])
        return dataset_from_tensors("npz", train, test, image_size=wanted.image_size)
    if not all(key in arrays for key in _WHOLE):
        missing = [key for key in _DIVIDED if key not in arrays]
        raise BitdialError(
            f"{data_path} lacks {', '.join(missing)} (it holds {', '.join(arrays) or 'nothing'})"
            f"{suggest(missing[0], arrays)}; give {', '.join(_DIVIDED)}, or x and y to have a test set held out"
        )
    images, labels = _channels_first(arrays["x"], "x"), class_numbers(arrays["y"], "y")
    if labels.shape != images.shape[:1]:
        raise BitdialError(
            f"y must hold one label per image, shape [{len(images)}], got {list(labels.shape)}; match it to x"
        )
    num_classes = count_classes(labels, "y")
    train, test = ((images[part], labels[part]) for part in stratified_split(labels, TEST_SHARE, wanted.seed))
    return dataset_from_tensors("npz", train, test, num_classes=num_classes, image_size=wanted.image_size)


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix not in (".npz", ".pt", ".pth"):
        raise BitdialError(
            f"data_path must be a .npz or .pt file, got {path.name}; save the arrays in one of these forms"
        )
    try:
        if path.suffix == ".npz":
            with path.open("rb") as file:  # numpy leaves a file open that it cannot read
                archive = np.load(file, allow_pickle=False)
                if isinstance(archive, np.ndarray):
                    raise BitdialError(f"{path} must hold several arrays, got a single one; save it by numpy.savez")
                return {key: _tensor(archive[key], f"{key} in {path}") for key in archive.files}
        content = torch.load(path, map_location="cpu", weights_only=True)
    except BitdialError:
        raise
    except Exception as error:  # numpy and torch raise whatever a strange file makes them stumble over
        reason = " ".join(str(error).split())[:200]
        if "allow_pickle" in reason:
            raise BitdialError(f"{path} holds Python objects, not numbers ({reason}); save plain arrays") from error
        raise BitdialError(f"cannot read {path}: {reason}; write the file again") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise BitdialError(f"{path} must hold a dict of tensors, got {type(content).__name__}; save {{'x_train': …}}")
    return {str(key): value for key, value in content.items()}


def _tensor(array: np.ndarray, where: str) -> Tensor:
    """A tensor of an array in any order of bytes."""
    if array.dtype.kind not in "biufc":
        raise BitdialError(f"{where} must hold numbers, got the type {array.dtype}; number classes from 0")
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))


def _channels_first(images: Tensor, where: str) -> Tensor:
    if images.ndim == 3:
        return images.unsqueeze(1)
    if images.ndim != 4:
        raise BitdialError(f"{where} must have shape [N, C, H, W], [N, H, W, C] or [N, H, W], got {list(images.shape)}")
    _, first, middle, last = images.shape
    colours = first not in (1, 3, 4) and last in (1, 3, 4)
    square = first == middle != last  # as other numbers of channels are told from sides
    return images.permute(0, 3, 1, 2).contiguous() if colours or square else images
