"""Which of several experiments is worth shipping, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from bitdial.evaluation import interval, wording
from bitdial.evaluation.statistics import corrected, seed_difference, ties, verdict
from bitdial.recipes.ternary.results import NetworkResult


def winner(networks: Sequence[NetworkResult]) -> tuple[str, str] | None:
    """The experiment to ship, and why in a sentence; None where fewer than two are quantized or can be ranked.

    The leader is the one of the highest mean accuracy on the images held out (on the test images where none were). One
    whose difference from it, paired by seed, has an interval that holds 0 ties with it, if it is within one percentage
    point; the intervals are corrected for the number of comparisons. Of those that tie, one whose file is smaller by
    more than a tenth is chosen, else the leader.
    """
    groups: dict[str, list[NetworkResult]] = {}
    for network in networks:
        if network.quantizer != "none":
            groups.setdefault(network.experiment, []).append(network)
    held_out, scores = judged_by(networks)
    if len(groups) < 2 or not all(math.isfinite(value) for each in scores.values() for value in each.values()):
        return None
    means = {name: fmean(each.values()) for name, each in scores.items()}
    ranked = sorted(groups, key=lambda name: -means[name])
    leader, confidence = ranked[0], corrected(len(ranked) - 1)
    gaps = {name: seed_difference(scores[leader], scores[name], confidence) for name in ranked[1:]}
    tied = [name for name in ranked[1:] if ties(means[leader] - means[name], gaps[name])]

    def size(name: str) -> float:
        sizes = groups[name][0].sizes
        return math.inf if sizes is None else round(10 * math.log(sizes.file))

    chosen = min([leader, *tied], key=lambda name: (size(name), ranked.index(name)))
    where = "the images held out" if held_out else "the test images"
    test = f" ({wording.percent(interval([each.test.accuracy for each in groups[chosen]]))} on the test images)"
    told = f"Ship {chosen}: {wording.percent(interval(list(scores[chosen].values())))} on {where}{test * held_out}"
    if chosen != leader:
        return chosen, f"{told} ties with {leader}, and its file is smaller."
    others = f"the highest of {len(ranked)}"
    second = ranked[1]
    gap = gaps[second]
    if gap is None or gap.low is None:
        return chosen, f"{told}, {others}; with one seed its lead over {second} may be chance."
    numbers = f"{wording.points(gap.mean)} points, {wording.reach(gap, '', confidence=confidence)}"
    if verdict(gap) == "better":
        return chosen, f"{told}, {others}, clear of {second} ({numbers})."
    near = " and ".join(tied) or second
    return chosen, f"{told}, {others}, not told apart from {near} (lead over {second}: {numbers})."


def judged_by(networks: Sequence[NetworkResult]) -> tuple[bool, dict[str, dict[int, float]]]:
    """Whether images held out decide, and the accuracy that each quantized experiment is judged by, for each seed."""
    held_out = all(network.validation is not None for network in networks)
    scores: dict[str, dict[int, float]] = {}
    for each in networks:
        if each.quantizer != "none":
            score = each.validation if held_out and each.validation is not None else each.test
            scores.setdefault(each.experiment, {})[each.seed] = score.accuracy
    return held_out, scores
