"""What runs would ship, whatever their recipes, side by side: who leads, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from bitdial.evaluation import wording
from bitdial.evaluation.results import Interval
from bitdial.evaluation.statistics import corrected, interval, seed_difference, ties, verdict

EQUAL_COST = 0.05
"""How far training costs may lie apart, as a share, to be called equal."""
_EQUAL_RATE = 0.02


@dataclass(frozen=True)
class Shipped:
    """One network that a run would ship.

    Attributes:
        what: its arm and width, in words.
        by_seed: seed -> accuracy as a fraction, or PSNR in dB.
        measure: which of them it is.
        bytes: of its packed file, where it has one.
        rate: bits per pixel, of a codec.
        bitops: simulated BitOps of training, mean over seeds, where they are counted.
        seconds: of training, mean over seeds.
    """

    what: str
    by_seed: Mapping[int, float]
    measure: str = "accuracy"
    bytes: int | None = None
    rate: float | None = None
    bitops: float | None = None
    seconds: float = math.nan

    @property
    def value(self) -> Interval:
        """Mean and interval over the seeds."""
        return interval(list(self.by_seed.values()))

    def written(self) -> str:
        """The value in words."""
        if self.measure == "accuracy":
            return wording.percent(self.value)
        return f"{self.value.mean:.2f} dB{wording.spread(self.value, lambda each: f'{each:.2f}')}"


@dataclass(frozen=True)
class Entry:
    """A network of a run, and what it was measured on.

    Attributes:
        name: of the run, and of the network where the run would ship several.
        recipe: of the run.
        shipped: the network.
        data: name of the data.
        test: what tells the test data apart from others.
        train: what tells the training data apart from others.
    """

    name: str
    recipe: str
    shipped: Shipped
    data: str
    test: str
    train: str


@dataclass(frozen=True)
class Placed:
    """An entry in its place.

    Attributes:
        entry: which.
        verdict: how it compares with the best on the same test data.
        best: whether it leads there.
        tied: whether it cannot be told from the one that leads.
    """

    entry: Entry
    verdict: str
    best: bool = False
    tied: bool = False


def place(entries: Sequence[Entry]) -> list[Placed]:
    """Order entries: those on the same test data together, the best first; each compared with the best there.

    Differences are paired by seed, their intervals corrected for the number of comparisons (Bonferroni). A codec is
    compared with one of the same rate alone.
    """
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in entries:
        groups.setdefault((entry.shipped.measure, entry.test), []).append(entry)
    placed: list[Placed] = []
    for group in groups.values():
        ranked = sorted(group, key=_worth)
        best = ranked[0]
        alone = "alone on its test data: not compared" if len(entries) > 1 and len(group) == 1 else "best"
        placed.append(Placed(best, alone, best=len(group) > 1, tied=len(group) > 1))
        placed += [_against(best, each, corrected(len(ranked) - 1)) for each in ranked[1:]]
    return placed


def headline(placed: Sequence[Placed]) -> str:
    """The answer in a sentence."""
    best = next((each for each in placed if each.best), None)
    if best is None:
        return "No two runs were measured on the same test data: nothing is compared."
    entry = best.entry
    group = (entry.shipped.measure, entry.test)
    mine = [each for each in placed if (each.entry.shipped.measure, each.entry.test) == group and each is not best]
    told = f"{entry.name} leads with {entry.shipped.written()} ({entry.shipped.what})"
    tied = [each.entry.name for each in mine if each.tied]
    unsure = any("no interval" in each.verdict for each in mine)
    doubt = f", not told apart from {' and '.join(tied)}" if tied else ""
    chance = "; with one seed a difference may be chance" if unsure else ""
    others = len(placed) - len(mine) - 1
    apart = (
        f" {others} on other test data, or of another kind, {'is' if others == 1 else 'are'} apart." if others else ""
    )
    return f"{told}{doubt}{chance}.{apart}"


def notes(entries: Sequence[Entry]) -> list[str]:
    """What a reader has to know: data that differ, costs that do."""
    told = []
    tests, trains = {each.test for each in entries}, {(each.test, each.train) for each in entries}
    if len(tests) > 1:
        told.append(f"The runs were tested on {len(tests)} different sets: only runs on the same set are compared.")
    if len(trains) > len(tests):
        told.append("Not all runs that share a test set were trained on the same examples.")
    if len({each.shipped.measure for each in entries}) > 1:
        told.append("Accuracy and PSNR are different things: codecs are compared with codecs alone.")
    counted = [each for each in entries if each.shipped.bitops is not None]
    costs = [each.shipped.bitops for each in counted if each.shipped.bitops is not None]
    if len(counted) > 1 and min(costs) > 0:
        if max(costs) / min(costs) <= 1 + EQUAL_COST:
            told.append("Training took equal simulated BitOps, to 5%.")
        else:
            least, most = (counted[costs.index(value)].name for value in (min(costs), max(costs)))
            told.append(
                f"Training did not cost the same: {most} took {max(costs) / min(costs):.1f} times the simulated BitOps "
                f"of {least}. A fair comparison trains at equal cost, as matched_cost in a cyclic run does."
            )
    if len(counted) < len(entries):
        told.append("Training BitOps are not counted by every recipe; the seconds are.")
    seeds = wording.spread_note(len(each.shipped.by_seed) for each in entries)
    return [*told, f"{seeds[0].upper()}{seeds[1:]}; differences are paired by seed."]


def _worth(entry: Entry) -> float:
    mean = entry.shipped.value.mean
    return -mean if math.isfinite(mean) else math.inf


def _against(best: Entry, other: Entry, confidence: float) -> Placed:
    mine, theirs = best.shipped, other.shipped
    if mine.rate is not None and theirs.rate is not None and abs(theirs.rate / mine.rate - 1) > _EQUAL_RATE:
        return Placed(other, "at another rate: not compared")
    gap = seed_difference(theirs.by_seed, mine.by_seed, confidence)
    lost = fmean(mine.by_seed.values()) - fmean(theirs.by_seed.values())
    scale, unit = (100, "points") if mine.measure == "accuracy" else (1, "dB")
    told = f"{-scale * lost:+.1f} {unit}".replace("-", wording.MINUS)
    if gap is None:
        return Placed(other, f"{told}, no seed in common: not told apart")
    if gap.low is None or gap.high is None:
        return Placed(other, f"{told}, one seed in common: no interval")
    ends = f"{scale * gap.low:+.1f} to {scale * gap.high:+.1f}".replace("-", wording.MINUS)
    ends = "two seeds" if gap.n == 2 else ends  # their interval is 12.7 times as wide as they lie apart
    tied = mine.measure == "accuracy" and ties(lost, gap)
    words = "ties" if tied else "worse" if verdict(gap) == "worse" else "inside the interval"
    return Placed(other, f"{words} ({told}, {ends})", tied=tied or words != "worse")
