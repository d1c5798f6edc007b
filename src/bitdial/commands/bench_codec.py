"""The subject ``bitdial bench codec FOLDER``: a codec beside JPEG, WebP and AVIF on one's own pictures."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from bitdial.configuration import Config, load_config, take_operands
from bitdial.errors import BitdialError
from bitdial.lazy import loading_torch


class BenchCodecConfig(Config):
    """Measure a codec beside JPEG, WebP and AVIF on the pictures of a folder.

    Files are real ones, decoded again: bits per pixel, PSNR, MS-SSIM, seconds. With four codecs or more (of several
    lambdas) also BD-rates: how many more bits the codec needs at equal PSNR. E.g. `bitdial bench codec holiday/`.
    """

    model: list[Path] = []
    """Runs that trained codecs, or files of their models/; none: the newest finished run under runs/."""
    limit: int | None = Field(None, ge=1)
    """Measure with so many pictures alone, the first ones by name."""
    out: Path | None = None
    """Folder to write the plot into, rate_distortion.png; none: nothing is written."""
    max_pixels: int = Field(2**26, ge=1)
    """Pixels of the largest picture that there is memory for; larger ones are left out."""
    json_output: bool = False
    """Print JSON instead of a table (also --json)."""

    aliases = {"json": "json_output"}


def run(argv: list[str]) -> int:
    """Measure what the words name and print a table; return the exit status."""
    words, flags = take_operands(BenchCodecConfig, argv)
    options = load_config(BenchCodecConfig, {}, flags, prog="bitdial bench codec", positional="folder")
    if len(words) != 1:
        got = " ".join(f"'{word}'" for word in words) or "nothing"
        raise BitdialError(f"expected one FOLDER, before the flags, got {got}; e.g. `bitdial bench codec holiday/`")
    loading_torch()
    from bitdial.commands.bench_codec_run import bench_codec

    return bench_codec(Path(words[0]), options)
