"""The results of a run as a table for the terminal."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.table import Table

from bitdial.evaluation import Interval, wording
from bitdial.evaluation.table import WIDE
from bitdial.recipes.ternary.results import TernaryResults

KIB = 1024


def results_table(results: TernaryResults, *, width: int = WIDE) -> Table:
    """One row an experiment: accuracy, difference to the reference, zeros, size of the packed file, time.

    Args:
        results: of the run.
        width: columns of the terminal. From 100 on an interval stands beside its mean; below that, under it, and
            the epochs are left out.
    """
    wide = width >= WIDE
    several = max(row.test.n for row in results.summaries) > 1
    under = "\n" if several and not wide else " "  # with intervals, 80 columns have no room for both on one line

    def shown(text: str) -> str:
        return text if wide else text.replace(" ±", "\n±")

    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        title="Accuracy (%), and what is left of the network",
        title_style="bold",
    )
    table.add_column("experiment", min_width=11)
    table.add_column("weights", no_wrap=True)
    for heading in ("held\nout", "test"):
        table.add_column(heading, justify="right", no_wrap=True)
    if results.reference is not None:
        table.add_column(f"vs\n{results.reference}", justify="right", no_wrap=True)
    for heading in ("zeros", "packed", *(("epochs",) if wide else ()), "sec."):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in results.summaries:
        cells = [row.experiment, "float32" if row.quantizer == "none" else row.quantizer]
        cells.append(wording.MISSING if row.validation is None else shown(wording.percent(row.validation, sign="")))
        cells.append(shown(wording.percent(row.test, sign="")))
        if results.reference is not None:
            cells.append(wording.MISSING if row.difference is None else shown(difference_text(row.difference)))
        cells.append(wording.MISSING if row.zeros is None else f"{row.zeros:.1%}")
        if row.file_bytes is None or row.float32_bytes is None:
            cells.append(wording.MISSING)
        else:
            ratio = f"({row.float32_bytes / row.file_bytes:.1f}x)"
            cells.append(f"{bytes_text(row.file_bytes)}{under}{ratio}")
        cells += [*([f"{row.epochs:g}"] if wide else []), wording.seconds(row.seconds)]
        table.add_row(*cells)
    table.caption = (
        "± is half a 95% interval over seeds; differences are paired by seed, in points."
        if several
        else "One seed: no interval, small differences may be chance."
    )
    table.caption_justify = "left"
    return table


def difference_text(value: Interval) -> str:
    """A difference in points, with its interval where there is one."""
    half = "" if value.half is None else f" ± {100 * value.half:.1f}"
    return f"{wording.points(value.mean)}{half}"


def bytes_text(count: int) -> str:
    """A number of bytes, as KiB or MiB."""
    return f"{count / KIB:.1f} KiB" if count < KIB**2 else f"{count / KIB**2:.2f} MiB"


def sizes_text(results: TernaryResults, folder: Path) -> list[str]:
    """Where the packed file is, and what is how small, for the first network that has one."""
    network = next((each for each in results.networks if each.sizes is not None), None)
    if network is None or network.sizes is None:
        return []
    sizes = network.sizes
    return [
        f"\nPacked: {folder / (network.packed_file or '')}",
        f"  weights alone       {bytes_text(sizes.weights)} of {bytes_text(sizes.float32_weights)} in float32 "
        f"({sizes.float32_weights / max(sizes.weights, 1):.1f}x)",
        f"  whole file          {bytes_text(sizes.file)} of {bytes_text(sizes.float32)} "
        f"({sizes.float32 / sizes.file:.1f}x)",
        f"  memory at run time  {bytes_text(sizes.memory)} (packing does not lower it)",
    ]
