"""The commands ``bitdial compress`` and ``bitdial decompress``: pictures into small files, and back."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from bitdial.commands.picture_paths import Way, jobs_of
from bitdial.configuration import Config, load_config, take_operands
from bitdial.lazy import loading_torch


class CompressConfig(Config):
    """Compress pictures with a trained codec.

    INPUT are pictures, folders of pictures or quoted patterns; OUTPUT is a file that ends in .bd for one picture, else
    a folder. E.g. `bitdial compress photo.jpg photo.bd`, `bitdial compress holiday/ small/`.

    The same command given again goes on where it was stopped.
    """

    model: Path | None = None
    """Run that trained the codec, or a file of its models/; none: the newest finished one under runs/."""
    force: bool = False
    """Replace files that are in the way."""
    jobs: int | None = Field(None, ge=1)
    """Pictures at a time, each by one thread; none: as many as there are cores."""
    max_pixels: int = Field(2**26, ge=1)
    """Pixels of the largest picture that there is memory for; larger ones are refused."""


class DecompressConfig(CompressConfig):
    """Make pictures of what `bitdial compress` wrote.

    INPUT are .bd files, folders of them or quoted patterns; OUTPUT is a picture (.png, .webp, .tif, .bmp, .ppm, all
    without loss) for one file, else a folder, of PNG. E.g. `bitdial decompress photo.bd photo.png`.

    The same command given again goes on where it was stopped.
    """

    model: Path | None = None
    """Run that trained the codec, or a file of its models/; none: the one under runs/ that wrote each file."""
    preview: int | None = Field(None, ge=1)
    """Decode the first coding steps alone, for a rougher picture in less time: 2 or 5 of a network hpcm_*."""


def compress(argv: list[str]) -> int:
    """Compress what the words name; return the exit status."""
    words, flags = take_operands(CompressConfig, argv)
    options = load_config(CompressConfig, {}, flags, prog="bitdial compress", positional=_OPERANDS)
    from bitdial.data.pictures import readable_kinds, unreadable_kinds

    kinds = readable_kinds() | unreadable_kinds()  # of those that cannot be read is told
    jobs = jobs_of(words, Way("compress", "pictures", kinds, (ENDING,), kinds))
    loading_torch()
    from bitdial.commands.picture_run import compress_all

    return compress_all(jobs, options)


def decompress(argv: list[str]) -> int:
    """Decompress what the words name; return the exit status."""
    words, flags = take_operands(DecompressConfig, argv)
    options = load_config(DecompressConfig, {}, flags, prog="bitdial decompress", positional=_OPERANDS)
    from bitdial.data.pictures import WRITTEN

    own = frozenset({ENDING})
    jobs = jobs_of(words, Way("decompress", f"{ENDING} files", own, tuple(WRITTEN), own))
    loading_torch()
    from bitdial.commands.picture_run import decompress_all

    return decompress_all(jobs, options)


ENDING = ".bd"
_OPERANDS = "input... output"
