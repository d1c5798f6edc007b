"""A user's own tensors in one file: `.npz` of numpy or `.pt` of torch."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bitdial.data.dataset import ImageDataset, dataset_from_tensors, stratified_split
from bitdial.data.split import count_classes
from bitdial.errors import BitdialError, suggest

_DIVIDED = ("x_train", "y_train", "x_test", "y_test")
_WHOLE = ("x", "y")
_TEST_SHARE = 0.2


def load_arrays(data_path: Path | None, image_size: int | None, seed: int) -> ImageDataset:
    """Load images and labels from a file with `x_train, y_train, x_test, y_test`, or with `x, y` alone.

    Images are uint8 or floating point, `[N, C, H, W]`, `[N, H, W, C]` with 1, 3 or 4 channels, or `[N, H, W]`. With
    `x, y` a fifth of every class is held out, chosen by `seed`. Mirroring is never assumed harmless.

    Raises:
        BitdialError: No such file, an unreadable one, missing arrays, or whatever `dataset_from_tensors` refuses.
    """
    if data_path is None:
        raise BitdialError(
            "the dataset 'npz' needs data_path: a .npz or .pt file with x_train, y_train, x_test, y_test"
        )
    if not data_path.is_file():
        raise BitdialError(f"no file {data_path}; expected a .npz or .pt file with {', '.join(_DIVIDED)}")
    arrays = _read(data_path)
    if all(key in arrays for key in _DIVIDED):
        train = (_channels_first(arrays["x_train"], "x_train"), arrays["y_train"])
        test = (_channels_first(arrays["x_test"], "x_test"), arrays["y_test"])
        return dataset_from_tensors("npz", train, test, image_size=image_size)
    if not all(key in arrays for key in _WHOLE):
        missing = [key for key in _DIVIDED if key not in arrays]
        raise BitdialError(
            f"{data_path} lacks {', '.join(missing)} (it holds {', '.join(arrays) or 'nothing'})"
            f"{suggest(missing[0], arrays)}; give {', '.join(_DIVIDED)}, or x and y to have a test set held out"
        )
    images, labels = _channels_first(arrays["x"], "x"), arrays["y"]
    if labels.shape != images.shape[:1]:
        raise BitdialError(
            f"y must hold one label per image, shape [{len(images)}], got {list(labels.shape)}; match it to x"
        )
    num_classes = count_classes(labels, "y")
    kept, held_out = stratified_split(labels, _TEST_SHARE, seed)
    train, test = (images[kept], labels[kept]), (images[held_out], labels[held_out])
    return dataset_from_tensors("npz", train, test, num_classes=num_classes, image_size=image_size)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                return {key: torch.from_numpy(archive[key]) for key in archive.files}
        if path.suffix in (".pt", ".pth"):
            content = torch.load(path, map_location="cpu", weights_only=True)
            if isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values()):
                return {str(key): value for key, value in content.items()}
            raise BitdialError(
                f"{path} must hold a dict of tensors, got {type(content).__name__}; save {{'x_train': …}}"
            )
    except (OSError, EOFError, TypeError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise BitdialError(f"cannot read {path}: {' '.join(str(error).split())[:200]}; write the file again") from error
    except ValueError as error:
        if isinstance(error, BitdialError):
            raise
        raise BitdialError(f"{path} holds Python objects, not numbers ({error}); save plain arrays") from error
    raise BitdialError(f"data_path must be a .npz or .pt file, got {path.name}; save the arrays in one of these forms")


def _channels_first(images: Tensor, where: str) -> Tensor:
    if images.ndim == 3:
        return images.unsqueeze(1)
    if images.ndim == 4 and images.shape[1] not in (1, 3, 4) and images.shape[3] in (1, 3, 4):
        return images.permute(0, 3, 1, 2).contiguous()
    if images.ndim != 4:
        raise BitdialError(f"{where} must have shape [N, C, H, W], [N, H, W, C] or [N, H, W], got {list(images.shape)}")
    return images
