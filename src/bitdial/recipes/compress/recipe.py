"""The compress recipe: an image codec, trained for one lambda or several, whose files are written and compared."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from torch import Tensor

from bitdial.compression.codec import Codec
from bitdial.compression.codec_points import MeanPoint, bd_rates
from bitdial.compression.comparison import CodecComparison, compare
from bitdial.compression.metrics import bpp, psnr
from bitdial.compression.models import CompressionModel
from bitdial.compression.other_codecs import available_kinds, decode_other, encode_other, nearest_in_size
from bitdial.compression.photographs import Photographs
from bitdial.compression.pictures import Picture, write_picture
from bitdial.compression.rate_distortion import Balance
from bitdial.evaluation import describe_machine
from bitdial.evaluation.drawing import Drawing
from bitdial.evaluation.trained import early_stop_of
from bitdial.files import write_atomically
from bitdial.lazy import later
from bitdial.numerics import UNQUANTIZED
from bitdial.recipes.compress.codecs import load_codec
from bitdial.recipes.compress.options import CompressConfig
from bitdial.recipes.compress.results import CodecHistory, CodecResult, CompressResults
from bitdial.recipes.compress.train import train
from bitdial.recipes.compress.work import PictureWork, work_of
from bitdial.recipes.recipe import Arm, Bench, Recipe, Tuned
from bitdial.recipes.run import Run
from bitdial.recipes.saved_model import SavedCodec
from bitdial.training import Progress, RunFolder, TrainingState

if TYPE_CHECKING:
    from bitdial.evaluation.side_by_side import Coded

NAME = "bitdial"
"""What tables and figures call the codec."""
FIGURE = "side_by_side.png"
"""Of an arm, in the folder of its pictures."""
CompressRun = Run[CompressConfig, Arm, CodecResult, CompressResults]


def arms(options: CompressConfig) -> list[Arm]:
    """A codec for each lambda, the largest first, each further one from the one before."""
    if not options.lambdas:
        return [Arm("codec")]
    made: list[Arm] = []
    for value in sorted(options.lambdas, reverse=True):
        own = options.model_copy(update={"lambda_value": value})
        before = made[-1].name if made else None
        made.append(Arm(f"lambda_{value:g}", starts_from=before, options=own))
    return made


def quantization(options: CompressConfig) -> Mapping[str, Any] | None:
    """What `bitdial.quantize` is called with: all but the first layer, so that decoding computes in whole numbers."""
    if options.bits >= UNQUANTIZED:
        return None
    return {"weights": options.bits, "activations": options.bits, "skip": ["<first>"]}


def measure(arm: Arm, bench: Bench[CompressConfig], state: TrainingState) -> CodecResult:
    """Keep the codec, write pictures with it and read them again, and measure it beside files of other kinds."""
    model = state.evaluated_model
    assert isinstance(model, CompressionModel)
    assert isinstance(bench.work, PictureWork)
    codec = Codec(model)
    pictures = _coded_pictures(bench.work, bench.options)
    how: dict[str, Any] = {"quality": bench.options.lambda_value}
    if arm.starts_from is not None or bench.seed != bench.options.seed:
        how["qualities"] = ()  # the curves of other kinds are those of the first codec
    found = _compared(codec, pictures, bench.setup.progress or Progress("", enabled=False), **how)
    if bench.files is not None and bench.saved is not None and bench.is_first:
        saved = bench.saved.model_copy(update={"codec": SavedCodec.of(codec, bench.options.model_options)})
        saved.save(model, bench.files.run.models / f"{bench.files.key}.pt")
        _keep_pictures(codec, pictures, bench.files.run.path / "pictures" / bench.files.key)
    balance = next((hook for hook in state.hooks if isinstance(hook, Balance)), None)
    return CodecResult(
        name=arm.name,
        seed=bench.seed,
        lambda_value=bench.options.lambda_value,
        model_id=codec.model_id,
        arithmetic=codec.arithmetic,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        points=[point for each in found for point in each.points],
        seconds=state.seconds,
        steps=state.step,
        warmup_steps=0 if balance is None else balance.warmup_steps,
        second_forwards=0 if balance is None else balance.second_forwards,
        history=CodecHistory.of(state.history),
        notes=list(dict.fromkeys(note for each in found for note in each.notes)),
        precision_note=state.control.trouble(),
        early_stop=early_stop_of(state),
    )


def _coded_pictures(work: PictureWork, options: CompressConfig) -> Photographs:
    return work.test.subset(range(min(len(work.test), options.coded_pictures)))


def _compared(codec: Codec, pictures: Photographs, shown: Progress, **how: Any) -> list[CodecComparison]:
    """Each picture in a file of the codec, and in those of other kinds."""
    found: list[CodecComparison] = []
    with shown.passing("coding", len(pictures)) as progress:
        for name, pixels in zip(pictures.names, pictures, strict=True):
            found.append(compare(codec, [(name, Picture.of(pixels))], name=NAME, **how))
            progress.update(len(found))
    return found


def measured_again(run: CompressRun, name: str, seed: int) -> Table:
    """The codec of an arm beside files of other kinds of the same size, for ``bitdial evaluate``."""
    arm = next(arm for arm in arms(run.options) if arm.name == name)
    record = run.record_of(arm, seed)
    assert record is not None
    assert run.folder is not None
    assert isinstance(run.work, PictureWork)
    own = run.work.build() if run.work.make_model is not None else None
    codec = load_codec(run.folder.path, arm=name, seed=seed, model=own)
    how = {"quality": record.lambda_value, "qualities": ()}
    found = _compared(codec, _coded_pictures(run.work, run.options), Progress("", enabled=False), **how)
    points = [point for each in found for point in each.points]
    again = [record.model_copy(update={"points": points})]
    from bitdial.recipes.compress.report import codec_table  # brings matplotlib

    return codec_table(CompressResults(networks=again, created="", config={}, machine=describe_machine()))


def _keep_pictures(codec: Codec, pictures: Photographs, folder: Path) -> None:
    """Leave the files of some pictures, what they decode to, and a figure of them beside another kind."""
    from bitdial.evaluation.plot_style import as_png  # brings matplotlib
    from bitdial.evaluation.side_by_side import MOST_ROWS, Row, side_by_side

    folder.mkdir(parents=True, exist_ok=True)
    kind = next((kind for kind in ("AVIF", "WebP", "JPEG") if kind in available_kinds()), None)
    rows = []
    for number, (name, pixels) in enumerate(zip(pictures.names[:MOST_ROWS], pictures, strict=False)):
        picture, coded = Picture.of(pixels), codec.code(pixels)
        data, back = coded.data(picture.mode), coded.pixels()
        stem = f"{number}-{re.sub('[^A-Za-z0-9]+', '-', Path(name).stem)[:40]}"
        write_atomically(folder / f"{stem}.bd", data)
        write_picture(folder / f"{stem}.png", back, picture.mode)
        other = None
        if kind is not None:
            file = nearest_in_size(partial(encode_other, pixels, kind, mode=picture.mode), len(data)).file
            other = _coded(kind, file.data, pixels, decode_other(file.data, picture.mode))
        rows.append(Row(name, pixels, _coded(NAME, data, pixels, back), other))
    write_atomically(folder / FIGURE, as_png(side_by_side(rows)))


def _coded(name: str, data: bytes, pixels: Tensor, back: Tensor) -> Coded:
    from bitdial.evaluation.side_by_side import Coded

    decibels = psnr(pixels[None].double() / 255, back[None].double() / 255).item()
    return Coded(name, back, bpp(len(data), *pixels.shape[-2:]), decibels if math.isfinite(decibels) else None)


def conclude(networks: Sequence[CodecResult], run: CompressRun, common: dict[str, Any]) -> CompressResults:
    """All lambdas and seeds."""
    options = run.options
    results = CompressResults(networks=list(networks), notes=notes_of(networks, run), **common)
    results.sentence = sentence_of(results)
    first = [network for network in networks if network.seed == options.seed]
    if len(first) > 1:
        curves = [mean for mean in first[0].means if mean.part == "curve"]
        own = [network.own for network in first if network.own is not None]
        results.bd_rates, why = bd_rates([*curves, *own], NAME)
        results.notes.extend(why)
    return results


def sentence_of(results: CompressResults) -> str:
    """The first codec beside files of other kinds of the same size."""
    network = results.networks[0]
    own = network.own
    if own is None:
        return ""
    same = [mean for mean in network.means if mean.part == "size"]
    told = [_listed("in files of the same size", [mean for mean in same if not mean.limited])]
    told += [_listed("nearest in size:", [mean for mean in same if mean.limited], rates=True)]
    beside = "".join(f"; {each}" for each in told if each)
    return f"At {own.bpp:.3f} bits per pixel the codec gives {own.psnr:.1f} dB{beside}."


def _listed(size: str, means: Sequence[MeanPoint], *, rates: bool = False) -> str:
    values = [f"{m.codec} {m.psnr:.1f} dB" + (f" at {m.bpp:.3f}" if rates else "") for m in means]
    return f"{size} {', '.join(values)}" if values else ""


def notes_of(networks: Sequence[CodecResult], run: CompressRun) -> list[str]:
    """What a reader must know of data, balance and comparison."""
    options = run.options
    looks = "the middle of these, and nothing but a plateau schedule of the learning rate goes by it"
    if options.holds_out:
        looks = (
            f"{options.validation_fraction:.0%} of the training pictures, held out, and early stopping and a plateau "
            "schedule of the learning rate go by these alone"
        )
    notes = [
        *options.file_notes,
        f"Data: {run.work.told()}. Measured with {run.work.told('test')}; the held-out cost after each epoch is of "
        f"{looks}.",
        "Bits per pixel are those of real files, decoded again: all bits over all pixels. PSNR and MS-SSIM are means "
        "over pictures. Files of other kinds are Pillow's, of the quality that comes nearest in size.",
        "A small network that was trained for minutes lies far below codecs that were trained for weeks, and below "
        "other kinds of files; the curve shows by how much.",
    ]
    if options.use_balanced:
        network = networks[0]
        share = network.second_forwards / max(network.steps, 1)
        notes.append(
            f"Distortion and rate are balanced after {network.warmup_steps} steps on their plain sum: without a "
            "warm-up lambda has no effect while losses are far above 1. "
            f"It took {share:.2f} more forward passes a step."
        )
    if networks[0].arithmetic == "integer":
        notes.append("The decoder computes in whole numbers: files decode to the same pixels on any machine.")
    else:
        notes.append(
            "The decoder computes in float64: files decode to the same pixels on this machine, and a difference on "
            "another one is noticed. --bits 8 (without attention) rules differences out."
        )
    if len({network.seed for network in networks}) == 1:
        notes.append("One seed: no interval.")
    for network in networks:
        stop = None if network.early_stop is None else network.early_stop.told()
        notes += [f"{network.name}, seed {network.seed}, {told}." for told in (network.precision_note, stop) if told]
    return [*notes, *dict.fromkeys(note for network in networks for note in network.notes)]


def figures(results: CompressResults, folder: RunFolder) -> dict[str, Drawing]:
    """The plots of the results, and the pictures of the first codec side by side."""
    from bitdial.recipes.compress.report import draw

    images = draw(results, folder.metrics)
    beside = folder.path / "pictures" / results.networks[0].key / FIGURE
    return {**images, "side_by_side": Drawing(beside.read_bytes())} if beside.is_file() else images


COMPRESS: Recipe[CompressConfig, Arm, CodecResult, CompressResults] = Recipe(
    name="compress",
    options=CompressConfig,
    presets={},
    work=work_of,
    arms=arms,
    quantize=quantization,
    train=train,
    measure=measure,
    conclude=conclude,
    results=CompressResults,
    figures=figures,
    page=later("bitdial.recipes.compress.report:report_page"),
    may_grow=frozenset({"seeds", "early_stopping_patience"}),
    may_change=frozenset({"test_path", "coded_pictures"}),
    dialled=False,
    evaluated=measured_again,
    tuned=Tuned({"validation_fraction": 0.1}, rescales=frozenset({"lambda_value"})),
)
