"""What ``bitdial bench codec`` does: codecs and pictures are found, compared, averaged and shown."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from rich import box
from rich.table import Table
from rich.text import Text

from bitdial.commands.picture_paths import files_below, printable
from bitdial.commands.picture_progress import PictureProgress
from bitdial.compression.codec_points import MeanPoint, bd_rates, mean_points
from bitdial.compression.comparison import QUALITIES, compare
from bitdial.compression.pictures import Picture, read_picture
from bitdial.data.pictures import readable_kinds, unreadable_kinds
from bitdial.errors import BitdialError
from bitdial.evaluation import describe_machine, wording
from bitdial.files import write_atomically
from bitdial.recipes.compress.codecs import load_codec, newest_codec
from bitdial.terminal import terminal

if TYPE_CHECKING:
    from bitdial.commands.bench_codec import BenchCodecConfig

ENOUGH = 4
"""Points that a curve needs for a BD-rate."""
_OWN = "bitdial"
Means = Mapping[str, Sequence[MeanPoint]]


def bench_codec(folder: Path, options: BenchCodecConfig) -> int:
    """Compare codecs with other kinds of files on the pictures of a folder; return the exit status."""
    paths = _pictures(folder, options)
    models = options.model or [newest_codec()]
    codecs = {printable(model): load_codec(model) for model in models}
    if len(codecs) < len(models):
        raise BitdialError(
            f"--model: expected different codecs, got {', '.join(map(printable, models))}; leave one out"
        )
    failures, notes, means = dict[Path, str](), list[str](), dict[str, Sequence[MeanPoint]]()
    with PictureProgress("measuring", len(paths) * len(codecs)) as progress:
        for name, codec in codecs.items():
            pictures = _read(paths, folder, options.max_pixels, failures, progress)
            curves = () if means else QUALITIES  # they are the same beside every codec
            try:
                found = compare(codec, pictures, name=name, qualities=curves)
            except BitdialError as error:
                raise BitdialError(next(iter(failures.values())) if len(failures) == len(paths) else error) from error
            means[name] = mean_points(found.points)
            notes += [note for note in found.notes if note not in notes]
    rates, why = bd_rates(_for_rates(means), _OWN) if len(codecs) >= ENOUGH else ({}, ())
    notes += why
    plot = _write_plot(means, options.out)
    count = len(paths) - len(failures)
    if options.json_output:
        rows = {name: [dataclasses.asdict(mean) for mean in found] for name, found in means.items()}
        facts = {"pictures": count, "codecs": rows, "bd_rates": rates, "notes": notes}
        told = {printable(path): printable(reason) for path, reason in failures.items()}
        print(json.dumps({**facts, "failures": told, "machine": describe_machine().model_dump()}, indent=2))
        return 2 if failures else 0
    _print(means, rates, [*notes, *([f"Plot: {plot}"] if plot else [])], count)
    for reason in failures.values():
        terminal(stderr=True).print(Text(printable(f"left out: {reason}")), soft_wrap=True)
    return 2 if failures else 0


def _pictures(folder: Path, options: BenchCodecConfig) -> list[Path]:
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing"
        raise BitdialError(f"expected a folder of pictures at {printable(folder)}, got {what}; check the path")
    paths = list(files_below(folder, readable_kinds() | unreadable_kinds()))[: options.limit]
    if not paths:
        raise BitdialError(f"expected pictures in {printable(folder)}, got none; name a folder that has some")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        if not os.access(options.out, os.W_OK | os.X_OK):
            raise BitdialError(f"--out: expected a folder that can be written, got {printable(options.out)}")
    return paths


def _read(
    paths: Sequence[Path], folder: Path, max_pixels: int, failures: dict[Path, str], progress: PictureProgress
) -> Iterator[tuple[str, Picture]]:
    """One picture after the other; those that cannot be read are added to the failures."""
    for path in paths:
        try:
            yield printable(path.relative_to(folder)), read_picture(path, max_pixels=max_pixels)
        except BitdialError as error:
            failures[path] = str(error)
        progress.advance()


def _for_rates(means: Means) -> list[MeanPoint]:
    """The curves of the other kinds, and all codecs as one with a point each."""
    return [
        dataclasses.replace(mean, codec=_OWN if mean.part == "own" else mean.codec)
        for found in means.values()
        for mean in found
        if mean.part in ("own", "curve")
    ]


def _write_plot(means: Means, out: Path | None) -> Path | None:
    if out is None:
        return None
    from bitdial.evaluation.codec_plots import rate_distortion
    from bitdial.evaluation.plot_style import as_png

    curves = dict[str, list[tuple[float, float]]]()
    for mean in _for_rates(means):
        curves.setdefault(mean.codec, []).append((mean.bpp, mean.psnr))
    own = [[point] for point in curves.pop(_OWN, [])]
    figure = rate_distortion(curves, {_OWN: own})
    return None if figure is None else write_atomically(out / "rate_distortion.png", as_png(figure))


def _print(means: Means, rates: Mapping[str, float], notes: Sequence[str], count: int) -> None:
    console = terminal()
    threads = torch.get_num_threads()
    console.print(
        f"{count} picture{'s' * (count > 1)}, on {describe_machine().processor}, {threads} thread{'s' * (threads > 1)}"
    )
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("codec", overflow="fold")
    for heading in ("bpp", "PSNR, dB", "MS-SSIM", "encode, s", "decode, s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for found in means.values():
        for mean in found:
            if mean.part != "curve":
                table.add_row(*_row(mean), style="bold" if mean.part == "own" else None)
        table.add_section()
    console.print(table)
    console.print("bpp: bits per pixel. Files of other kinds are of the codec's size, or the nearest that there is.")
    if rates:
        told = ", ".join(f"{kind} {rate:+.1f}%" for kind, rate in rates.items())
        console.print(f"BD-rate, the bits that the codec needs at equal PSNR beside others: {told}.")
    for note in notes:
        console.print(Text(printable(note)), soft_wrap=True)


def _row(mean: MeanPoint) -> tuple[str, ...]:
    path = Path(mean.codec)
    if mean.part != "own":
        name = f"{mean.codec}, {'nearest' if mean.limited else 'same'} size"
    else:  # of runs/compress-1/models/codec-seed0.pt what tells it from others
        name = f"{path.parent.parent} {path.stem}" if path.parent.name == "models" else mean.codec
    similar = wording.MISSING if mean.ms_ssim is None else f"{mean.ms_ssim:.4f}"
    seconds = f"{mean.encode_seconds:.2g}", f"{mean.decode_seconds:.2g}"
    return name, f"{mean.bpp:.3f}", f"{mean.psnr:.2f}", similar, *seconds
