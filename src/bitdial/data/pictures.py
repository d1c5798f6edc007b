"""Pictures of any kind as 8-bit RGB: deep, transparent, turned, in other colours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from bitdial.errors import BitdialError

# What PIL raises for files that are no images, cut short, or absurdly large.
_UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
# Formats of which Pillow knows the name alone, and drawings, which have no pixels.
_NO_PICTURES = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})
_OTHER_KINDS = frozenset({
    ".arw", ".avif", ".cr2", ".cr3", ".dcm", ".dng", ".emf", ".eps", ".exr", ".hdr", ".heic", ".heif", ".hif", ".jxl",
    ".nef", ".orf", ".ps", ".raf", ".rw2", ".svg", ".svgz", ".webp", ".wmf", ".xcf",
})  # fmt: skip
WRITTEN: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".bmp": ("BMP", {}),
    ".pgm": ("PPM", {}),
    ".ppm": ("PPM", {}),
    ".tif": ("TIFF", {}),
    ".tiff": ("TIFF", {}),
    ".webp": ("WEBP", {"lossless": True}),
}
"""Ending of a file that pictures are written into -> what Pillow calls its format, and how it is written."""
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF; MaxSampleValue tells what one image uses, not its range


def readable_kinds() -> frozenset[str]:
    """Endings of the image files that can be read here."""
    Image.init()
    kinds = Image.registered_extensions().items()
    return frozenset(ending for ending, kind in kinds if kind in Image.OPEN and kind not in _NO_PICTURES)


def unreadable_kinds() -> frozenset[str]:
    """Endings of image files that cannot be read here."""
    return _OTHER_KINDS - readable_kinds()


def as_rgb(image: Image.Image) -> Image.Image:
    """The first frame of a picture, upright, as RGB with 8 bits a channel.

    Deep pictures are scaled by their range, `range_of`; what is transparent is blended over white.

    Raises:
        ValueError: values outside of the range.
    """
    image = _eight_bits(image) if _is_deep(image) else ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def holds_integers(path: Path) -> bool:
    """Whether the values of an image file are integers of more than 8 bits."""
    with naming(path), Image.open(path) as image:
        return image.mode.startswith("I")


def range_of(image: Image.Image) -> float:
    """The value that becomes white in a picture deeper than 8 bits; 0 becomes black.

    That which the file states (the maxval of a PGM, the BitsPerSample of a TIFF below 16), else 65535 for integers and
    1 for floating point.
    """
    if image.mode == "F":
        return 1.0
    tags: Any = getattr(image, "tag_v2", {})
    bits: int = min(16, *tags.get(_BITS_PER_SAMPLE, (16,)))  # Pillow has scaled a PGM to 65535 by its maxval
    return 2.0**bits - 1


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn a decoder's exception into one sentence with the path."""
    try:
        yield
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise BitdialError(f"cannot read the image {path} ({reason}); replace or remove it") from error


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _eight_bits(image: Image.Image) -> Image.Image:
    # Turned after the range was asked for: a turned copy has lost the tags of its file.
    top, inverted = range_of(image), getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0
    values = np.asarray(ImageOps.exif_transpose(image)).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} of its values are NaN or infinite")
    if values.min() < 0 or values.max() > top:
        raise ValueError(
            f"expected values from 0 to {top:g}, got {values.min():g} to {values.max():g}: scale them, or give arrays "
            "as .npz"
        )
    if inverted:  # white is zero, which Pillow minds at 8 bits alone
        values = top - values
    return Image.fromarray(np.rint(values * (255 / top)).astype(np.uint8))
