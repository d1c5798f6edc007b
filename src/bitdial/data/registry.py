"""Datasets by name: the sources that modules register beside their definitions."""

from __future__ import annotations

from pathlib import Path

from bitdial.data import published, supplied, supplied_arrays  # noqa: F401  (they register their sources)
from bitdial.data.dataset import SOURCES, ImageDataset, Request
from bitdial.data.hub import load_from_hub
from bitdial.data.options import HUB, check_dataset_name
from bitdial.data.randomness import check_seed
from bitdial.errors import BitdialError
from bitdial.names import is_recordings

DATASETS = tuple(SOURCES)


def load_dataset(
    name: str,
    data_path: str | Path | None = None,
    *,
    image_size: int | None = None,
    seed: int = 0,
    memory_limit: int = 2 << 30,
) -> ImageDataset:
    """Load a dataset of images.

    Args:
        name: One of `DATASETS`; hyphens and underscores are the same. Or ``hf:NAME`` of the Hugging Face Hub.
        data_path: Where the data is. "folder" and "npz" need it, "digits" has none; the others look only there when
            it is given, and otherwise download to a cache.
        image_size: Side in pixels to resize to (shorter side, then the centre); None keeps the images' own.
        seed: Chooses the held-out part where the data has no test set of its own ("folder", "npz").
        memory_limit: Bytes up to which the decoded images of a folder are held in memory; beyond, they are decoded
            when used. 2 GiB by default.

    Raises:
        BitdialError: An unknown name, or data that is missing, damaged or of the wrong shape; one sentence says which.

    Example:
        >>> from bitdial.data import load_dataset
        >>> digits = load_dataset("digits")
        >>> digits.num_classes, len(digits.test)
        (10, 359)
    """
    if image_size is not None and (isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1):
        raise BitdialError(f"image_size must be a whole number of pixels from 1 up, got {image_size!r}")
    check_seed(seed)
    path = None if data_path is None else Path(data_path).expanduser()
    if name.startswith(HUB):
        return load_from_hub(Request(name, path, image_size, seed, memory_limit))
    plain = name.lower().replace("_", "-")
    if is_recordings(name):
        raise BitdialError(f"expected a dataset of images, got {name!r}, which holds recordings; call load_recordings")
    check_dataset_name(name)
    return SOURCES[plain](Request(plain, path, image_size, seed, memory_limit))
