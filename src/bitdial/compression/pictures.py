"""Pictures as a codec takes them, out of files and back into them."""

from __future__ import annotations

import io
import os
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bitdial.compression.coding.arrays import check_whole
from bitdial.compression.coding.container import MAX_PIXELS, MODES
from bitdial.data.pictures import WRITTEN, as_rgb, naming
from bitdial.errors import BitdialError
from bitdial.files import write_atomically

_SOFTWARE = 305  # a tag of EXIF
_AS_THEY_ARE = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa"})
_OPENING = threading.Lock()  # the filters of warnings belong to the whole process


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that was read.

    Attributes:
        pixels: uint8 ``[3, H, W]``, upright, red before green before blue; three equal ones where it is grey.
        mode: "L" where the file was grey, else "RGB".
        notes: what of the file the pixels do not keep, a phrase each.
    """

    pixels: Tensor
    mode: str
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, pixels: Tensor) -> Picture:
        """Of pixels alone: grey where the three are equal everywhere."""
        grey = torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[0], pixels[2])
        return cls(pixels, "L" if grey else "RGB")


def read_picture(path: str | os.PathLike[str], *, max_pixels: int = MAX_PIXELS) -> Picture:
    """Read a file of any kind that Pillow knows as 8-bit colours.

    The orientation of EXIF is applied, what is transparent is blended over white, deeper values are scaled to 8 bits,
    other colours (CMYK) converted, and only the first of several frames is taken: all but the first with a note.

    Raises:
        BitdialError: the file is no picture, damaged, or larger than `max_pixels`, which its header tells alone.
    """
    path = _checked(path)
    check_whole("max_pixels", max_pixels, 1)
    with _header(path) as image:
        if image.width * image.height > max_pixels:
            raise BitdialError(
                f"{path} must have at most {max_pixels} pixels, got {image.width} x {image.height}; scale or cut "
                "it, or allow more with max_pixels if there is memory for it"
            )
        with naming(path):
            notes, grey = _notes(image), image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
            pixels = torch.from_numpy(np.array(as_rgb(image))).permute(2, 0, 1).contiguous()
    return Picture(pixels, "L" if grey else "RGB", notes)


def check_picture(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Width and height of a picture, of which the header alone is read.

    Raises:
        BitdialError: the file is no picture.
    """
    with _header(_checked(path)) as image:
        return image.width, image.height


def write_picture(path: str | os.PathLike[str], pixels: Tensor, mode: str = "RGB", *, software: str = "") -> Path:
    """Write pixels into a file without loss, as the ending of its name says: PNG, BMP, PPM, TIFF or WebP.

    Args:
        path: the file; it is replaced as a whole or not at all.
        pixels: uint8 ``[3, H, W]``.
        mode: "RGB", or "L" to write grey (the luma, where the three are not equal).
        software: what `software_of` is to say of the file; BMP and PPM have no place for it.

    Raises:
        BitdialError: another ending, no such pixels, or a file that cannot be written.
    """
    path = _checked(path)
    if path.suffix.lower() not in WRITTEN:
        raise BitdialError(f"{path} must end in one of {', '.join(WRITTEN)}, which keep every pixel; rename it")
    image = as_image(pixels, mode)
    kind, options = WRITTEN[path.suffix.lower()]
    (exif := Image.Exif())[_SOFTWARE] = software
    try:
        image.save(content := io.BytesIO(), kind, **options, **({"exif": exif} if software else {}))
        return write_atomically(path, content.getvalue())
    except (OSError, ValueError) as error:  # some formats have a largest side
        raise BitdialError(f"{path} cannot be written: {' '.join(str(error).split())}") from error


def software_of(path: str | os.PathLike[str]) -> str:
    """What a picture says that it was made by; nothing of a file that says nothing, or is no picture."""
    try:
        with _header(_checked(path)) as image:
            return str(image.getexif().get(_SOFTWARE, ""))
    except (BitdialError, OSError, ValueError, SyntaxError):
        return ""


def as_image(pixels: Tensor, mode: str = "RGB") -> Image.Image:
    """The picture of pixels as Pillow has it; what they are and `mode` as `write_picture` takes them.

    Raises:
        BitdialError: no such pixels, or another mode.
    """
    if mode not in MODES:
        raise BitdialError(f'mode must be "RGB" or "L", got {mode!r}')
    sound = isinstance(pixels, Tensor) and pixels.dtype == torch.uint8 and pixels.ndim == 3 and pixels.numel()
    if not sound or len(pixels) != 3:
        got = f"{pixels.dtype} {tuple(pixels.shape)}" if isinstance(pixels, Tensor) else type(pixels).__name__
        raise BitdialError(f"pixels must be a uint8 tensor [3, H, W], got {got}")
    return Image.fromarray(pixels.detach().cpu().permute(1, 2, 0).contiguous().numpy()).convert(mode)


def shown(pixels: Tensor, mode: str) -> Tensor:
    """What is seen of pixels in a file of a mode, uint8 ``[3, H, W]``: of a grey one the luma, three times."""
    return torch.from_numpy(np.array(as_image(pixels, mode).convert("RGB"))).permute(2, 0, 1).contiguous()


def _checked(path: object) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise BitdialError(f"path must be the path of a picture, got {type(path).__name__}")
    return Path(path)


def _header(path: Path) -> Image.Image:
    """Read the header alone. Pillow only warns of what is large; the caller refuses it."""
    with naming(path), _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path)


def _notes(image: Image.Image) -> tuple[str, ...]:
    notes = []
    deep = image.mode.startswith("I") or image.mode == "F"
    if deep or any(";16" in str(part) for part in getattr(image, "tile", ())):  # Pillow itself cuts 16-bit colours
        notes.append("values deeper than 8 bits were reduced to 8")
    elif image.mode not in _AS_THEY_ARE:
        notes.append(f"{image.mode} colours were converted to RGB")
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"only the first of {frames} frames was taken")
    if not deep and image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != 255:
        notes.append("transparency was blended over white")
    return tuple(notes)
