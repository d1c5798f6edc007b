"""The answer of a run of codec training: bits per pixel and decibels, beside other kinds of files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean

from bitdial.compression.codec_points import MeanPoint
from bitdial.evaluation import interval, wording
from bitdial.evaluation.answer import Answer, still_gaining, stops
from bitdial.evaluation.page import Tile
from bitdial.recipes.compress.results import CompressResults


def answer_of(results: CompressResults) -> Answer:
    """Say how good pictures are in how few bits, beside files of other kinds of the same size."""
    first, lambdas = results.networks[0], results.by_lambda()
    group = lambdas[first.lambda_value]
    trouble = stops((network.name, network.seed, network.early_stop) for network in results.networks)
    own = [network.own for network in group if network.own is not None]
    if not own:
        return Answer("Not measured: no picture came back with an error", "", "", "", trouble=trouble)
    bpp, psnr = fmean(mean.bpp for mean in own), interval([mean.psnr for mean in own])
    others = {mean.codec: mean for mean in group[0].means if mean.part == "size"}
    rival = others.get("JPEG") or next(iter(others.values()), None)
    against = ""
    if rival is not None:
        gap = _decibels(psnr.mean - rival.psnr)
        against = (
            f"; there is no {rival.codec} of that size" if rival.limited else f", {gap} {rival.codec} of that size"
        )
    at = f" (λ {first.lambda_value:g})" if len(lambdas) > 1 else ""
    encode, decode = fmean(mean.encode_seconds for mean in own), fmean(mean.decode_seconds for mean in own)
    pictures = f"{own[0].pictures} picture{'s' if own[0].pictures != 1 else ''}"
    spread = wording.spread(psnr, lambda each: f"{each:.1f}")
    return Answer(
        headline=f"{bpp:.3f} bits per pixel at {psnr.mean:.1f} dB{at}{against}",
        quality=_quality(others.values(), results.bd_rates),
        cost=f"{24 / bpp:.3g}x smaller than 24 bits a pixel; the codec has "
        f"{wording.engineering(first.parameters)} parameters and takes {wording.duration(encode)} to encode a picture, "
        f"{wording.duration(decode)} to decode it (wall-clock, here).",
        certainty=_sure(results, len(group), pictures),
        trouble=trouble,
        tiles=[
            Tile(f"{bpp:.3f}", "bits per pixel, of real files"),
            Tile(f"{psnr.mean:.1f} dB{spread}", f"PSNR over {pictures}"),
            Tile(f"{wording.duration(encode)}", f"to encode a picture; {wording.duration(decode)} to decode it"),
            Tile(f"{wording.duration(first.seconds)}", "to train (wall-clock)"),
        ],
        quality_name="Quality",
    )


def _decibels(gap: float) -> str:
    return f"{abs(gap):.1f} dB {'above' if gap > 0 else 'below'}"


def _quality(others: Iterable[MeanPoint], bd_rates: Mapping[str, float]) -> str:
    """What other kinds of files give at the size, and how many bits the codec needs at equal quality."""
    means = list(others)
    same = [f"{mean.codec} {mean.psnr:.1f} dB" for mean in means if not mean.limited]
    near = [f"{mean.codec} {mean.psnr:.1f} dB at {mean.bpp:.3f}" for mean in means if mean.limited]
    told = [f"Files of the same size have: {', '.join(same)}."] if same else []
    told += [f"Nearest in size: {', '.join(near)}."] if near else []
    if bd_rates:
        rates = ", ".join(f"{kind} {rate:+.0f}%".replace("-", wording.MINUS) for kind, rate in bd_rates.items())
        told.append(f"Bits needed at equal PSNR, against {rates}.")
    return " ".join(told)


def _sure(results: CompressResults, seeds: int, pictures: str) -> str:
    sure = f"Means over {pictures} held out"
    sure += "; one seed, so no interval; `--seeds 3` gives one." if seeds == 1 else f", with {seeds} seeds."
    losses = (network.history.loss for network in results.networks)
    return sure + still_gaining(losses, "--steps", "The training cost")
