"""Pictures in files of other kinds, JPEG, WebP and AVIF as Pillow writes them: at a quality, or of a size."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bitdial.compression.coding.arrays import check_whole
from bitdial.compression.coding.container import MODES
from bitdial.compression.pictures import as_image
from bitdial.errors import BitdialError, suggest

# What makes their files smaller for a little time; AVIF of several threads depends on how many there are.
_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"optimize": True}, "WebP": {"method": 6}, "AVIF": {"max_threads": 1}}
Limit = Literal["smallest", "largest"] | None
KINDS = tuple(_OPTIONS)
BEST = 100
"""The highest quality; the lowest is 0."""


@dataclass(frozen=True)
class OtherFile:
    """A picture in a file of another kind.

    Attributes:
        kind: one of `KINDS`.
        quality: what it was written at, from 0 to `BEST`; kinds do not mean the same by it.
        data: the bytes.
        seconds: how long writing took.
    """

    kind: str
    quality: int
    data: bytes
    seconds: float


@dataclass(frozen=True)
class NearestFile:
    """The file that is nearest in size to what was asked for.

    Attributes:
        file: that file.
        limit: "smallest" where even the lowest quality gives a larger file, "largest" where even the highest gives a
            smaller one; None where sizes on both sides, or the very size, were found.
    """

    file: OtherFile
    limit: Limit


def available_kinds() -> tuple[str, ...]:
    """Those of `KINDS` that the Pillow of this machine can write: older ones cannot write AVIF."""
    Image.init()
    return tuple(kind for kind in KINDS if kind.upper() in Image.SAVE)


def encode_other(pixels: Tensor, kind: str, quality: int, mode: str = "RGB") -> OtherFile:
    """Write a picture as a file of another kind, in memory, with the settings that make it small.

    That is Pillow's ``optimize`` for JPEG and ``method=6`` for WebP; AVIF at its default speed, by one thread, so that
    its bytes are the same whatever the number of processors.

    Args:
        pixels: uint8 ``[3, H, W]``.
        kind: one of `KINDS`.
        quality: from 0 to `BEST`.
        mode: "L" for a grey file; WebP has none, and stores grey as colours.

    Raises:
        BitdialError: no such pixels, kind or quality; a kind that Pillow lacks here, or that cannot hold the picture.
    """
    check_kind(kind)
    check_whole("quality", quality, 0, BEST)
    if kind not in available_kinds():
        raise BitdialError(f"Pillow must be able to write {kind}, this one cannot; run: pip install --upgrade pillow")
    start = time.perf_counter()
    image = as_image(pixels, mode)
    try:
        image.save(content := io.BytesIO(), kind.upper(), quality=int(quality), **_OPTIONS[kind])
    except (OSError, ValueError, RuntimeError) as error:  # each has a largest side
        reason = " ".join(str(error).split())
        raise BitdialError(f"{kind} cannot hold a picture of {image.width} x {image.height} ({reason})") from error
    return OtherFile(kind, int(quality), content.getvalue(), time.perf_counter() - start)


def decode_other(data: bytes, mode: str = "RGB") -> Tensor:
    """Return the pixels of a file of `encode_other`, uint8 ``[3, H, W]``; with mode "L" three equal channels.

    Raises:
        BitdialError: the bytes are no such file, or damaged.
    """
    if not isinstance(data, bytes | bytearray) or mode not in MODES:
        raise BitdialError(f'data must be bytes and mode "RGB" or "L", got {type(data).__name__} and {mode!r}')
    try:
        with Image.open(io.BytesIO(data), formats=[kind.upper() for kind in KINDS]) as image:
            pixels = np.array(image.convert(mode).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split())
        raise BitdialError(f"data must be a whole {', '.join(KINDS[:-1])} or {KINDS[-1]} file ({reason})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def nearest_in_size(write: Callable[[int], OtherFile], size: int) -> NearestFile:
    """Find the quality whose file is nearest in size, by bisection: seven files are written at most.

    Sizes grow with quality but for a few bytes here and there, so that a file nearer by a few bytes may be missed.

    Args:
        write: gives the file of a quality from 0 to `BEST`, such as
            ``lambda quality: encode_other(pixels, "WebP", quality)``.
        size: in bytes.
    """
    check_whole("size", size, 1)
    low, high, seen = -1, BEST + 1, list[OtherFile]()
    while high - low > 1:
        middle = (low + high) // 2
        seen.append(write(middle))
        low, high = (middle, high) if len(seen[-1].data) <= size else (low, middle)
    nearest = min(seen, key=lambda file: abs(len(file.data) - size))
    sizes = [len(file.data) for file in seen]
    return NearestFile(nearest, "smallest" if min(sizes) > size else "largest" if max(sizes) < size else None)


def check_kind(kind: object) -> None:
    """Refuse what is none of `KINDS`."""
    if not isinstance(kind, str) or kind not in KINDS:
        hint = suggest(kind, KINDS) if isinstance(kind, str) else ""
        raise BitdialError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}{hint}")
