"""What a run found, before anything else: a headline and a few short lines, which each recipe fills in."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bitdial.evaluation.page import Tile
from bitdial.evaluation.results import EarlyStop, Interval
from bitdial.evaluation.statistics import CONFIDENCE, verdict
from bitdial.evaluation.wording import bytes_text, duration, engineering, percent, points, span, two_values

STILL_MOVING = 0.02
"""How far the mean loss of the last tenth of a training lies below that of the tenth before where it still falls."""
_MOST_SEEDS = 50


@dataclass(frozen=True)
class Answer:
    """What a run found.

    Attributes:
        headline: what to do: "Ship 4 bits", or what is not decided.
        quality: how good that is against float, or against what else there is.
        cost: size and inference against float.
        certainty: how sure it is, and what would make it surer.
        trouble: what did not go as planned: arms that failed or stopped early; a sentence each.
        tiles: the numbers that matter most.
        quality_name: what `quality` is called.
    """

    headline: str
    quality: str
    cost: str
    certainty: str
    trouble: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    quality_name: str = "Accuracy"

    @property
    def lines(self) -> dict[str, str]:
        """The lines by their names, from top to bottom; without those that have nothing to say."""
        named = {
            self.quality_name: self.quality,
            "Size and cost": self.cost,
            "How sure": self.certainty,
            "Training": " ".join(self.trouble),
        }
        return {name: text for name, text in named.items() if text}

    def print(self, console: Console) -> None:
        """Print headline and lines; of early stops `RunResults.show` tells."""
        grid = Table.grid(padding=(0, 2))
        for name, text in self.lines.items():
            if name != "Training":
                grid.add_row(Text(name, style="dim"), Text(text))
        console.print(Text(f"\n{self.headline}", style="bold"))
        console.print(grid)
        console.print()


def against_float(own: Interval, baseline: Interval | None, gap: Interval | None, *, missing: str) -> str:
    """Say how accurate something is against an unquantized network.

    Args:
        own: its accuracy.
        baseline: that of the unquantized network; None: there is none.
        gap: the difference of the two, paired by seed.
        missing: how to get an unquantized network.
    """
    if baseline is None or gap is None or not math.isfinite(gap.mean):
        return f"{percent(own)}; no float baseline to set it against: {missing}."
    unquantized = percent(baseline).replace(" (", ", ").removesuffix(")")  # of two seeds both, inside brackets
    if round(1000 * gap.mean) == 0:
        return f"{percent(own)}, as float ({unquantized})."
    way = f"{points(abs(gap.mean)).lstrip('+')} points {'above' if gap.mean > 0 else 'below'} float"
    ends = [f"95% interval {span(gap)}"] if gap.n > 2 else []
    ends += ["perhaps by chance"] if verdict(gap) == "inside the interval" else []
    return f"{percent(own)}, {way} ({'; '.join([unquantized, ', '.join(ends)]).removesuffix('; ')})."


def against_float_cost(
    size: int | None,
    float_size: int | None,
    bitops: float | None,
    float_bitops: float | None,
    seconds: float | None,
) -> str:
    """Say what something takes against an unquantized network; what is None or 0 is not said.

    Args:
        size, float_size: bytes of the files.
        bitops, float_bitops: simulated, of a forward pass of one example.
        seconds: wall-clock, of that pass here.
    """
    told = []
    if size and float_size:
        told.append(f"{bytes_text(size)}, {smaller(size, float_size)} ({bytes_text(float_size)})")
    if bitops and float_bitops:
        fewer = f", {float_bitops / bitops:.3g}x fewer than float" if bitops < float_bitops else ""
        here = "" if seconds is None else f"; {duration(seconds)} here, as they are computed in floating point"
        told.append(f"{engineering(bitops)} BitOps an example{fewer} (simulated{here})")
    return f"{'; '.join(told)}." if told else ""


def smaller(size: int, float_size: int) -> str:
    """Return how many times smaller a file is than a float one: ``"11.3x smaller than float"``."""
    return f"{float_size / size:.1f}x smaller than float" if size < float_size else "not smaller than float"


def accuracy_tile(value: Interval, label: str) -> Tile:
    """Return the accuracy as a number to see first: of two seeds both stand below their mean."""
    if (both := two_values(value)) is not None:
        return Tile(f"{100 * value.mean:.1f}%", f"{label}; two seeds: {100 * both[0]:.1f} and {100 * both[1]:.1f}")
    return Tile(percent(value), f"{label}, 95% interval" if value.n > 1 else label)


def still_gaining(losses: Iterable[Sequence[float]], flag: str, loss: str = "The training loss") -> str:
    """Say that longer training may gain more, and by which flag, where one of the losses was still falling."""
    falls = any(still_falling(each) for each in losses)
    return f" {loss} was still falling at the end: longer training may gain more (`{flag}`)." if falls else ""


def cost_tiles(
    size: int | None,
    bitops: float | None,
    forward_seconds: float | None,
    train_bitops: float | None,
    train_seconds: float,
) -> list[Tile]:
    """Return what something takes: its file, a forward pass, and below them its training; what is None is left out.

    BitOps are simulated, and never stand without the seconds of the same computation.
    """
    tiles = [] if size is None else [Tile(bytes_text(size), "size of the file, weights packed")]
    if bitops is not None and forward_seconds is not None:
        here = f"BitOps an example (simulated); takes {duration(forward_seconds)} here"
        tiles.append(Tile(engineering(bitops), here))
    took = duration(train_seconds)
    if train_bitops is None:
        return [*tiles, Tile(took, "to train (wall-clock)")]
    return [*tiles, Tile(engineering(train_bitops), f"BitOps to train (simulated); took {took}")]


def certainty(gap: Interval | None, rival: str, *, confidence: float = CONFIDENCE) -> str:
    """Say how sure it is that something differs from its nearest rival, and how many seeds would make it surer.

    Args:
        gap: the difference of the two, paired by seed; None: there is no rival.
        rival: its name.
        confidence: of the interval of the difference.
    """
    if gap is None:
        return ""
    if not math.isfinite(gap.mean):
        return f"There is no finite difference to {rival}."
    if gap.low is None:
        lost = points(abs(gap.mean)).lstrip("+")
        near = f"{lost} points {'less' if gap.mean > 0 else 'more'}" if round(1000 * gap.mean) else "as accurate"
        told = "One seed, so no interval, and small differences may be chance"
        return f"{told}; nearest is {rival} ({near}). `--seeds 3` tells more."
    # The interval of two seeds is 12.7 times as wide as they lie apart: it tells hardly anything, and is not shown.
    numbers = f"{points(gap.mean)} points" + (f", interval {span(gap)}" if gap.n > 2 else "")
    if verdict(gap) != "inside the interval":
        return f"{gap.n} seeds tell it apart from {rival} ({numbers})."
    needed = seeds_needed(gap, confidence=confidence)
    more = f"more than {_MOST_SEEDS} would" if needed is None else f"about {needed} would (`--seeds {needed}`)"
    return f"{gap.n} seeds do not tell it apart from {rival} ({numbers}); {more}, if seeds go on to scatter as they do."


def seeds_needed(gap: Interval, *, confidence: float = CONFIDENCE) -> int | None:
    """Return how many seeds would tell a difference from 0, if mean and spread stay what they are.

    Args:
        gap: a difference over at least two seeds, with the interval of `confidence`.
        confidence: as of that interval.

    Returns:
        None where they are more than can be asked for.
    """
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    assert gap.half is not None
    quantile = (1 + confidence) / 2
    spread = gap.half * math.sqrt(gap.n) / float(stdtrit(gap.n - 1, quantile))
    for seeds in range(gap.n + 1, _MOST_SEEDS + 1):
        if float(stdtrit(seeds - 1, quantile)) * spread / math.sqrt(seeds) < abs(gap.mean):
            return seeds
    return None


def still_falling(losses: Sequence[float]) -> bool:
    """Whether the mean of the last tenth of the losses lies clearly below that of the tenth before."""
    tenth = len(losses) // 10
    last, before = losses[-tenth:], losses[-2 * tenth : -tenth]
    return tenth > 0 and sum(last) < (1 - STILL_MOVING) * sum(before)


def stops(arms: Iterable[tuple[str, int, EarlyStop | None]]) -> list[str]:
    """Return a sentence for each arm that stopped early: name, seed, where it stopped."""
    return [f"{name} (seed {seed}) {stop.told()}." for name, seed, stop in arms if stop is not None]
