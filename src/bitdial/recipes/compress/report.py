"""What a run of codec training shows: quality against size beside other kinds of files, as table, figures and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich import box
from rich.table import Table as Terminal

from bitdial.compression.codec_points import MeanPoint
from bitdial.evaluation import interval, wording
from bitdial.evaluation import page as pages
from bitdial.evaluation.balance_plots import BALANCE_CAPTION, balance_curves
from bitdial.evaluation.codec_plots import rate_distortion, rate_distortion_caption
from bitdial.evaluation.curves import FLIPS_TOLD, flips_of_log, panels_of, training_curves
from bitdial.evaluation.drawing import Drawing
from bitdial.evaluation.page import Page, Row, Section, Table
from bitdial.evaluation.plot_style import render
from bitdial.evaluation.side_by_side import SIDE_BY_SIDE_CAPTION
from bitdial.numerics import UNQUANTIZED
from bitdial.recipes.compress.answer import answer_of
from bitdial.recipes.compress.results import CodecResult, CompressResults

COLUMNS = ("codec", "bpp", "PSNR (dB)", "MS-SSIM", "encode (s)", "decode (s)")


def captions(results: CompressResults) -> dict[str, str]:
    """What each figure shows, of these very results, in the order of the page."""
    bits = results.config.get("bits", UNQUANTIZED)
    width = (
        "the codec is not quantized"
        if bits == UNQUANTIZED
        else f"its width stays at {wording.bits(bits)}; {FLIPS_TOLD}"
    )
    return {
        "rate_distortion": rate_distortion_caption(max(map(len, results.by_lambda().values()))),
        "side_by_side": SIDE_BY_SIDE_CAPTION,
        "training": (
            "The cost, \u03bb\u00b7255\u00b2\u00b7MSE + bits per pixel, and the learning rate over the first codec's "
            f"steps; {width}."
        ),
        "balance": BALANCE_CAPTION,
    }


def rows_of(results: CompressResults) -> list[tuple[bool, tuple[str, ...]]]:
    """The table: for each lambda the codec, then files of other kinds of its size; and whether a row is its own."""
    rows = []
    for value, networks in results.by_lambda().items():
        named = f"bitdial \u03bb {value:g}"
        own = [network.own for network in networks if network.own is not None]
        if own:
            rows.append((True, (named, *_cells(own))))
        for mean in networks[0].means:
            if mean.part == "size":
                size = "nearest size" if mean.limited else "same size"
                rows.append((False, (f"{mean.codec}, {size}", *_cells([mean]))))
    return rows


def _cells(means: Sequence[MeanPoint]) -> tuple[str, ...]:
    """The means of several seeds: intervals of rate and quality."""
    similar = [mean.ms_ssim for mean in means if mean.ms_ssim is not None]
    return (
        _with_half([mean.bpp for mean in means], 3),
        _with_half([mean.psnr for mean in means], 2),
        _with_half(similar, 4) if similar else wording.MISSING,
        f"{sum(mean.encode_seconds for mean in means) / len(means):.2g}",
        f"{sum(mean.decode_seconds for mean in means) / len(means):.2g}",
    )


def _with_half(values: Sequence[float], digits: int) -> str:
    found = interval(list(values))
    return f"{found.mean:.{digits}f}{wording.spread(found, lambda each: f'{each:.{digits}f}')}"


def codec_table(results: CompressResults) -> Terminal:
    """The codec beside other kinds of files, for the terminal."""
    table = Terminal(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for place, heading in enumerate(COLUMNS):
        table.add_column(heading, justify="left" if place == 0 else "right")
    for own, row in rows_of(results):
        cells = (cell.replace(" (", "\n").replace(" to ", "\u2013\n").rstrip(")") for cell in row[1:])
        table.add_row(row[0], *cells, style="bold" if own else None)
    return table


def draw(results: CompressResults, log: Path | None = None) -> dict[str, Drawing]:
    """Quality against size, and training itself, with the run's ``metrics.csv``."""
    first = results.networks[0]
    others: dict[str, list[tuple[float, float]]] = {}
    for mean in first.means:
        if mean.part == "curve":
            others.setdefault(mean.codec, []).append((mean.bpp, mean.psnr))
    own = [[(n.own.bpp, n.own.psnr) for n in networks if n.own] for networks in results.by_lambda().values()]
    history = first.history
    panels = {
        **panels_of(history.step, loss=history.loss, rate=history.learning_rate, bits=()),
        **({} if log is None else flips_of_log(log, {"arm": first.name, "seed": str(first.seed)})),
    }
    figures = {
        "rate_distortion": rate_distortion(others, {"bitdial": own}),
        "training": training_curves({f"{first.name}, seed {first.seed}": panels} if history.step else {}, unit=""),
        "balance": _balance(first),
    }
    return render(figures)


def _balance(network: CodecResult) -> Figure | None:
    history = network.history
    if not history.distortion:
        return None
    return balance_curves(
        history.step,
        history.distortion,
        history.bpp,
        w=history.w or None,
        p=history.p or None,
        gamma=history.gamma or None,
        warmup_steps=network.warmup_steps,
        title=f"{network.name}, seed {network.seed}: losses and their balance",
    )


def report_page(results: CompressResults, images: Mapping[str, Drawing]) -> Page:
    """The report of `CompressResults`, as a page of blocks."""
    rows = [Row(row[0], row[1:], best=own) for own, row in rows_of(results)]
    caption = (
        "Means over the held-out pictures, of real files that were decoded again; bpp: bits per pixel. Nearest size: "
        "there is none as small, or as large, of some picture. Seconds are of one picture on this "
        "machine's processor."
    )
    extra = []
    if results.bd_rates:
        rates = ", ".join(f"{kind} {wording.change(rate / 100)}" for kind, rate in results.bd_rates.items())
        extra = [pages.Text(f"BD-rate, the bits that the codec needs at equal PSNR beside other kinds: {rates}.")]
    answer, told = answer_of(results), captions(results)
    return Page(
        title="An image codec",
        meta=[
            pages.made(results.created),
            f"{results.config['model']}, {wording.engineering(results.networks[0].parameters)} parameters",
            f"\u03bb {', '.join(f'{value:g}' for value in results.by_lambda())}",
        ],
        headline=answer.headline,
        lines=answer.lines,
        tiles=answer.tiles,
        blocks=[
            Section("Quality and size"),
            Table(COLUMNS, rows, caption),
            *extra,
            *pages.pictures({name: images[name] for name in told if name in images}, told),
            *pages.notes_section(results.notes),
            *pages.reproduction_section(
                results.command, results.config, file="results.json", schema_version=results.schema_version
            ),
            *pages.machine_section(results.machine),
        ],
    )
