"""The arms side by side: means over seeds, ranking, Pareto front, recommendation, CPT against each other arm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from bitdial.errors import BitdialError
from bitdial.evaluation.recommendation import recommend
from bitdial.evaluation.results import ArmResult, ArmSummary, Comparison, PairedDifference, width_key
from bitdial.evaluation.statistics import interval, seed_difference, ties, verdict


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
    ranked = _rank(rows, runs)
    for rank, row in enumerate(ranked, start=1):
        row.rank, row.pareto = rank, not any(_dominates(other, row) for other in rows)
    candidates, chosen, reason = recommend(runs, ranked)
    return Comparison(
        summaries=ranked,
        ranking=[row.name for row in ranked],
        recommended=chosen.arm,
        recommended_bits=chosen.bits,
        recommended_label=chosen.label,
        reason=reason,
        cpt_differences=_cpt_differences(runs, ranked),
        pareto=[row.name for row in sorted(ranked, key=lambda row: row.bitops) if row.pareto],
        candidates=candidates,
    )


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
    dialled = [run.dial_bits for run in group if run.dial_bits is not None]
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
        dial_bits=statistics.fmean(dialled) if len(dialled) == len(group) else None,
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
        best = _own_by_seed(runs[leader.name])
        tied = [
            row
            for row in left
            if row is leader
            or ties(leader.own.mean - row.own.mean, seed_difference(best, _own_by_seed(runs[row.name])))
        ]
        ranked += sorted(tied, key=lambda row: (row.own_bits, row.bitops, -_worth(row)))
        left = [row for row in left if row not in tied]
    return ranked


def _own_by_seed(group: Sequence[ArmResult]) -> dict[int, float]:
    return {run.seed: run.own.accuracy for run in group}


def _worth(row: ArmSummary) -> float:
    return row.own.mean if math.isfinite(row.own.mean) else -1.0


def _dominates(a: ArmSummary, b: ArmSummary) -> bool:
    no_worse = _worth(a) >= _worth(b) and a.bitops <= b.bitops
    return no_worse and (_worth(a) > _worth(b) or a.bitops < b.bitops)


def _cpt_differences(runs: dict[str, list[ArmResult]], ranked: Sequence[ArmSummary]) -> list[PairedDifference]:
    cpt = next((group for group in runs.values() if group[0].kind == "cpt"), None)
    if cpt is None:
        return []
    differences = (_against(cpt, runs[row.name]) for row in ranked if row.kind != "cpt")
    return [difference for difference in differences if difference is not None]


def _against(cpt: Sequence[ArmResult], other: Sequence[ArmResult]) -> PairedDifference | None:
    width = other[0].own.bits
    same = all(run.at(width) is not None for run in cpt)
    ours = {run.seed: ((same and run.at(width)) or run.own).accuracy for run in cpt}
    difference = seed_difference(ours, _own_by_seed(other))
    if difference is None:
        return None
    return PairedDifference(
        arm=other[0].name,
        arm_label=other[0].own_label,
        cpt_bits=width if same else cpt[0].own.bits,
        same_width=same or cpt[0].own.bits == width,
        difference=difference,
        verdict=verdict(difference),
    )
