"""The arms side by side: means over seeds, ranking, Pareto front, recommendation, CPT against each other arm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from bitdial.errors import BitdialError
from bitdial.evaluation.recommendation import TIE_MARGIN, recommend
from bitdial.evaluation.results import ArmResult, ArmSummary, Comparison, Interval, PairedDifference, width_key
from bitdial.evaluation.statistics import interval, paired_difference, verdict


def summarise(arms: Sequence[ArmResult]) -> Comparison:
    """Compare arms over seeds.

    **Ranking.** Of arms, by mean accuracy at their own widths. An arm *ties* with the leader of those not yet
    ranked when the 95% interval of their paired difference over seeds holds 0 **and** the means lie within one
    percentage point: that a few seeds cannot tell two arms apart does not make them equal. Arms that tie are ordered by
    cost: their own width, then the simulated BitOps of training. With one seed there is no interval, so only equal
    accuracies tie. An arm without a finite accuracy comes last.

    **Recommendation.** Of an arm at a width, see `bitdial.evaluation.recommendation.recommend`.

    **Pareto front.** The arms that no other arm beats in accuracy and simulated training BitOps at once.

    **Differences.** CPT minus each other arm over the seeds that both have, at the other arm's own width; each at its
    own when the CPT model was not scored there (as a rule because the width alternates over the layers).

    Args:
        arms: Every arm with every seed, in any order.

    Raises:
        BitdialError: there are no arms, or the same arm and seed is there twice.
    """
    runs = _by_name(arms)
    rows = [_row(group) for group in runs.values()]
    order = _rank(rows, runs)
    front = {row.name for row in rows if not any(_dominates(other, row) for other in rows)}
    ranked = [
        row.model_copy(update={"rank": rank, "pareto": row.name in front}) for rank, row in enumerate(order, start=1)
    ]
    candidates, chosen, reason = recommend(runs, ranked)
    return Comparison(
        summaries=ranked,
        ranking=[row.name for row in ranked],
        recommended=chosen.arm,
        recommended_bits=chosen.bits,
        recommended_label=chosen.label,
        reason=reason,
        cpt_differences=_cpt_differences(runs, [row.name for row in ranked]),
        pareto=[row.name for row in sorted(ranked, key=lambda row: row.bitops) if row.pareto],
        candidates=candidates,
    )


def own_difference(a: Sequence[ArmResult], b: Sequence[ArmResult]) -> Interval | None:
    """Return accuracy of `a` minus that of `b`, each at its own width, over shared seeds; None when they share none."""
    left = {run.seed: run.own.accuracy for run in a}
    right = {run.seed: run.own.accuracy for run in b}
    shared = sorted(left.keys() & right.keys())
    return paired_difference([left[seed] for seed in shared], [right[seed] for seed in shared]) if shared else None


def _by_name(arms: Sequence[ArmResult]) -> dict[str, list[ArmResult]]:
    if not arms:
        raise BitdialError("nothing to compare: expected at least one arm, got none")
    runs: dict[str, list[ArmResult]] = {}
    for arm in arms:
        group = runs.setdefault(arm.name, [])
        if any(other.seed == arm.seed for other in group):
            raise BitdialError(f"arm '{arm.name}' is there twice with seed {arm.seed}; keep one result for each seed")
        group.append(arm)
    return runs


def _row(group: Sequence[ArmResult]) -> ArmSummary:
    first = group[0]
    widths = sorted({score.bits for run in group for score in run.scores})
    at_width = {width: [score.accuracy for run in group if (score := run.at(width))] for width in widths}
    own = interval([run.own.accuracy for run in group])
    average_bits = statistics.fmean(run.average_bits for run in group)
    perplexities = [run.own.perplexity for run in group if run.own.perplexity is not None]
    apart = [run.seconds_own for run in group if run.seconds_own is not None]
    return ArmSummary(
        name=first.name,
        kind=first.kind,
        seeds=len(group),
        accuracy={width_key(width): interval(values) for width, values in at_width.items()},
        own=own,
        own_bits=first.own.bits,
        own_label=first.own_label,
        own_loss=interval([run.own.loss for run in group]),
        own_perplexity=interval(perplexities) if len(perplexities) == len(group) else None,
        average_bits=average_bits,
        accuracy_per_bit=100 * own.mean / average_bits,
        bitops=statistics.fmean(run.bitops for run in group),
        bitops_own=statistics.fmean(run.bitops_own for run in group),
        seconds=statistics.fmean(run.seconds for run in group),
        seconds_own=statistics.fmean(apart) if len(apart) == len(group) else None,
        rank=0,
        pareto=False,
    )


def _rank(rows: Sequence[ArmSummary], runs: dict[str, list[ArmResult]]) -> list[ArmSummary]:
    left = sorted(rows, key=lambda row: (-_worth(row), row.own_bits, row.bitops))
    ranked: list[ArmSummary] = []
    while left:
        leader = left[0]
        tied = [row for row in left if row is leader or _tie(leader, row, runs)]
        ranked += sorted(tied, key=lambda row: (row.own_bits, row.bitops, -_worth(row)))
        left = [row for row in left if row not in tied]
    return ranked


def _tie(leader: ArmSummary, row: ArmSummary, runs: dict[str, list[ArmResult]]) -> bool:
    if leader.own.mean == row.own.mean:
        return True
    difference = own_difference(runs[leader.name], runs[row.name])
    if difference is None or verdict(difference) != "inside the interval":
        return False
    return leader.own.mean - row.own.mean <= TIE_MARGIN


def _worth(row: ArmSummary) -> float:
    return row.own.mean if math.isfinite(row.own.mean) else -1.0


def _dominates(a: ArmSummary, b: ArmSummary) -> bool:
    no_worse = _worth(a) >= _worth(b) and a.bitops <= b.bitops
    return no_worse and (_worth(a) > _worth(b) or a.bitops < b.bitops)


def _cpt_differences(runs: dict[str, list[ArmResult]], order: Sequence[str]) -> list[PairedDifference]:
    cpt = next((group for group in runs.values() if group[0].kind == "cpt"), None)
    if cpt is None:
        return []
    others = [runs[name] for name in order if runs[name][0].kind != "cpt"]
    return [difference for other in others if (difference := _against(cpt, other)) is not None]


def _against(cpt: Sequence[ArmResult], other: Sequence[ArmResult]) -> PairedDifference | None:
    width = other[0].own.bits
    same = all(run.at(width) is not None for run in cpt)
    left = {run.seed: ((same and run.at(width)) or run.own).accuracy for run in cpt}
    right = {run.seed: run.own.accuracy for run in other}
    shared = sorted(left.keys() & right.keys())
    if not shared:
        return None
    difference = paired_difference([left[seed] for seed in shared], [right[seed] for seed in shared])
    return PairedDifference(
        arm=other[0].name,
        arm_label=other[0].own_label,
        cpt_bits=width if same else cpt[0].own.bits,
        same_width=same or cpt[0].own.bits == width,
        difference=difference,
        verdict=verdict(difference),
    )
