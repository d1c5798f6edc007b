"""The answer of a run of ternary training: how accurate and how small, against float, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from bitdial.evaluation import Interval, wording
from bitdial.evaluation.answer import (
    Answer,
    accuracy_tile,
    against_float,
    against_float_cost,
    certainty,
    cost_tiles,
    smaller,
    stops,
)
from bitdial.evaluation.page import Tile
from bitdial.evaluation.statistics import TIE_MARGIN, corrected, seed_difference, verdict
from bitdial.evaluation.wording import bytes_text
from bitdial.recipes.ternary.results import NetworkResult, Summary, TernaryResults
from bitdial.recipes.ternary.winner import judged_by


def answer_of(results: TernaryResults) -> Answer:
    """Say what the winner, or the only ternary network, makes of the task, and how small it is.

    The winner is not decided where one seed finds another at most a percentage point less accurate, or where the
    interval of their difference, corrected for the number of comparisons, holds 0; on what the winner was chosen by.
    """
    scores = judged_by(results.networks)[1]
    best = next(row for row in results.summaries if row.experiment == results.ships()[0].what)
    others = [name for name in scores if results.winner not in (None, name)]
    rival = max(others, key=lambda name: fmean(scores[name].values()), default=None)
    unquantized = next((row for row in results.summaries if row.quantizer == "none"), None)
    group = [network for network in results.networks if network.experiment == best.experiment]
    first = group[0]
    baseline = unquantized if best is not unquantized else None
    size = None if first.sizes is None else first.sizes.file
    full = None if first.sizes is None else first.sizes.float32
    level = corrected(len(others))
    gap = None if rival is None else seed_difference(scores[best.experiment], scores[rival], level)
    named = f"{best.experiment}: " if len(results.summaries) > 1 else ""
    headline = f"{'Ship ' if rival else ''}{named}{wording.percent(best.test)}"
    headline += (
        f" in {bytes_text(size)}, {smaller(size, full)}" if size and full else " unquantized: nothing is ternary"
    )
    if rival is not None and gap is not None and not _told_apart(gap):
        headline = f"Not decided: {best.experiment} for now"
    missing = "`--quantizer none` trains one alike"
    quality = (
        wording.percent(best.test) + "."
        if best is unquantized
        else against_float(
            best.test,
            None if baseline is None else baseline.test,
            None if baseline is None else _gap(results, best, baseline),
            missing=missing,
        )
    )
    return Answer(
        headline=headline,
        quality=f"{named}{quality}",
        cost=against_float_cost(size, full, first.bitops, first.float_bitops, first.forward_seconds),
        certainty=_sure(gap, rival, group, level),
        trouble=stops((network.experiment, network.seed, network.early_stop) for network in results.networks),
        tiles=_tiles(best, first),
    )


def _gap(results: TernaryResults, best: Summary, other: Summary) -> Interval | None:
    """Test accuracy of one experiment minus that of another, paired by seed."""
    of: dict[str, dict[int, float]] = {}
    for network in results.networks:
        of.setdefault(network.experiment, {})[network.seed] = network.test.accuracy
    return seed_difference(of[best.experiment], of[other.experiment])


def _told_apart(gap: Interval) -> bool:
    return gap.mean > TIE_MARGIN if gap.low is None else verdict(gap) != "inside the interval"


def _sure(gap: Interval | None, rival: str | None, group: Sequence[NetworkResult], level: float) -> str:
    if rival is not None:
        sure = certainty(gap, rival, confidence=level)
    elif len(group) == 1:
        sure = "One seed, so no interval; `--seeds 3` gives one."
    else:
        sure = f"The interval is of 95%, over {len(group)} seeds."
    if any(network.early_stop is None and network.shipped_epoch == network.epochs > 1 for network in group):
        sure += (
            " The last epoch was the best: longer training may gain more (`--epochs`)."
            if group[0].shipped == "best"
            else ""
        )
    return sure


def _tiles(best: Summary, first: NetworkResult) -> list[Tile]:
    zeros = [] if best.zeros is None else [Tile(f"{best.zeros:.0%}", "of the ternary weights are zero")]
    size = None if first.sizes is None else first.sizes.file
    return [
        accuracy_tile(best.test, "accuracy on the test data"),
        *cost_tiles(size, first.bitops, first.forward_seconds, None, first.seconds),
        *zeros,
    ]
