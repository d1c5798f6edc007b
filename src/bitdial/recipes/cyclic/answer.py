"""The answer of a run of cyclic precision training: which width to ship, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bitdial.evaluation.answer import (
    Answer,
    accuracy_tile,
    against_float,
    against_float_cost,
    certainty,
    cost_tiles,
    still_gaining,
    stops,
)
from bitdial.evaluation.page import Tile
from bitdial.evaluation.recommendation import name_of
from bitdial.evaluation.results import ArmResult, Candidate, Comparison, Interval, WidthCost
from bitdial.evaluation.statistics import TIE_MARGIN, corrected, seed_difference, verdict


def answer_of(arms: Sequence[ArmResult], comparison: Comparison) -> Answer:
    """Say which width to ship.

    Another width may be as good with one seed, where a narrower one is at most a percentage point less accurate. With
    several it is not decided where the lead over the nearest one at another width is more than a point and its interval
    holds 0. (What lies within a point and its interval ties, and the narrower one is shipped.)
    """
    chosen = comparison.chosen
    if not math.isfinite(chosen.accuracy.mean):
        return Answer("Nothing to ship: no arm has a finite accuracy", "", "", "", trouble=_trouble(arms))
    mine = _by_seed(arms, chosen)
    level = corrected(len(comparison.candidates) - 1)
    rival = _rival(comparison)
    gap = None if rival is None else seed_difference(mine, _by_seed(arms, rival), level)
    baseline = next((row for row in comparison.summaries if row.kind == "baseline"), None)
    to_float = None
    if baseline is not None and baseline.name != chosen.arm:
        to_float = seed_difference(mine, {arm.seed: arm.own.accuracy for arm in arms if arm.name == baseline.name})
    untrained = "" if chosen.trained_for else f" at {_width(chosen.label)} (not trained for that width)"
    accuracy = against_float(
        chosen.accuracy,
        None if baseline is None else baseline.own,
        to_float,
        missing="`--static.compare_to_baseline` trains one",
    )
    ships = next(arm for arm in arms if arm.name == chosen.arm)
    own, full = ships.costs.get(chosen.label), ships.costs.get("32")
    headline = f"Ship {_width(chosen.label)}"
    if rival is not None and not _decided(chosen, rival, gap):
        headline = f"Not decided: {rival.label} or {_width(chosen.label)}"
        if gap is not None and gap.low is None:
            headline = f"Ship {_width(chosen.label)}; {rival.label} may be as good"
    sure = certainty(gap, "" if rival is None else name_of(rival), confidence=level)
    losses = (arm.history.loss for arm in arms if arm.name == chosen.arm)
    sure += still_gaining(losses, "--num_cpt_iterations", "Its training loss")
    return Answer(
        headline=headline,
        quality=f"{chosen.arm}{untrained}: {accuracy}",
        cost=_cost(own, full, ships.forward_seconds),
        certainty=sure.strip(),
        trouble=_trouble(arms),
        tiles=_tiles(chosen, own, ships.forward_seconds),
    )


def _by_seed(arms: Sequence[ArmResult], candidate: Candidate) -> dict[int, float]:
    """The accuracy of a candidate, by seed."""
    found = {}
    for arm in (arm for arm in arms if arm.name == candidate.arm):
        score = arm.own if candidate.label == arm.own_label else arm.at(candidate.bits)
        if score is not None:
            found[arm.seed] = score.accuracy
    return found


def _rival(comparison: Comparison) -> Candidate | None:
    """What could be shipped instead: with one seed the narrowest candidate within a point, else the most accurate one.

    Of the latter those at another width come first.
    """
    chosen = comparison.chosen
    others = [item for item in comparison.candidates if item != chosen]
    close = [
        item for item in others if item.bits < chosen.bits and chosen.accuracy.mean - item.accuracy.mean <= TIE_MARGIN
    ]
    if close and chosen.accuracy.n == 1:
        return min(close, key=lambda item: item.bits)
    return next((item for item in others if item.label != chosen.label), others[0] if others else None)


def _decided(chosen: Candidate, rival: Candidate | None, gap: Interval | None) -> bool:
    if rival is None or gap is None or rival.label == chosen.label:
        return True
    if gap.low is None:
        return gap.mean > TIE_MARGIN or rival.bits > chosen.bits
    return rival.tied or gap.mean < 0 or verdict(gap) != "inside the interval"


def _width(label: str) -> str:
    """A width in words: ``"4 bits"``, ``"2/4 alternating bits"``."""
    return "float, at 32 bits" if label == "32" else f"{label} {'bit' if label == '1' else 'bits'}"


def _cost(own: WidthCost | None, full: WidthCost | None, seconds: float | None) -> str:
    if own is None or full is None:
        return ""
    return against_float_cost(own.size_bytes, full.size_bytes, own.bitops, full.bitops, seconds)


def _tiles(chosen: Candidate, own: WidthCost | None, seconds: float | None) -> list[Tile]:
    return [
        accuracy_tile(chosen.accuracy, "accuracy as shipped"),
        *cost_tiles(
            None if own is None else own.size_bytes,
            None if own is None else own.bitops,
            seconds,
            chosen.bitops,
            chosen.seconds,
        ),
    ]


def _trouble(arms: Sequence[ArmResult]) -> list[str]:
    """What did not go as planned."""
    failed = [
        f"{arm.name} (seed {arm.seed}) has no finite accuracy." for arm in arms if not math.isfinite(arm.own.accuracy)
    ]
    return [*failed, *stops((arm.name, arm.seed, arm.early_stop) for arm in arms)]
