"""Which arm is worth shipping at which width, and the sentence that says why and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bitdial.evaluation.results import ArmResult, ArmSummary, Candidate, own_candidate, width_key
from bitdial.evaluation.statistics import corrected, interval, seed_difference, ties, verdict
from bitdial.evaluation.wording import engineering, percent, points, reach


@dataclass(frozen=True)
class Scored:
    """A candidate with its accuracy for each seed, which pairs it with others."""

    candidate: Candidate
    by_seed: Mapping[int, float]


def recommend(
    runs: Mapping[str, Sequence[ArmResult]], ranked: Sequence[ArmSummary]
) -> tuple[list[Candidate], Candidate, str]:
    """Choose among candidates: arms, each at every width that it was measured at.

    **Candidates** are the arms of the kinds ``cpt``, ``static`` and ``matched``, each at its own width and at every
    width below 32 that it was scored at, trained for or not: the test data measured them alike. Scores at 32 bits, the
    unquantized baseline and the ablations are there to compare with; they are candidates only when nothing else has a
    finite accuracy.

    **Ties.** The leader is the candidate of the highest mean accuracy. Another one ties with it when the interval of
    their difference, paired by seed, holds 0 **and** the means lie within one percentage point. With one seed there is
    no interval, and only equal accuracies tie.

    **Correction.** With K candidates, K - 1 are compared with the leader, so each interval is taken at the level
    ``1 - 0.05 / (K - 1)`` of Student's t (Bonferroni: Dunn, "Multiple comparisons among means", JASA 56, 1961). It asks
    for no equal spread at 2 and at 8 bits, as pooled bounds (Dunnett, Tukey) do. Whichever candidate leads, the truly
    best one takes part in K - 1 comparisons only, so that it is told apart from the leader by chance in fewer than 5 of
    100 runs. (Of 20 equal ones over 3 to 5 seeds a given one is in 1 of 100 and some one of them in 11 to 15; without
    correction in 11 to 14 and in 80.) A wider interval makes ties more likely; the margin keeps them from costing more
    than a point.

    **Choice.** Among those that tie, the narrower width, which is what shipping costs; then a width that the arm was
    trained for, as those that it was not come in bulk and owe a tie to luck more often (and training budgets of arms
    such as ``matched_cost`` agree but for half a step, which should not outweigh that); then the fewer simulated BitOps
    of training; then the higher accuracy.

    Returns:
        The candidates, the most accurate first; the recommended one; and the reason, in one sentence.
    """
    pool = sorted(_pool(runs, ranked), key=lambda item: (-item.candidate.accuracy.mean, *_preference(item.candidate)))
    if not pool:
        first = own_candidate(ranked[0])
        return (
            [],
            first,
            f"{first.arm} stands first only because no arm has a finite accuracy, so nothing here is worth shipping.",
        )
    confidence = corrected(len(pool) - 1)
    for item in pool:
        lost = pool[0].candidate.accuracy.mean - item.candidate.accuracy.mean
        item.candidate.tied = ties(lost, seed_difference(pool[0].by_seed, item.by_seed, confidence))
    chosen = min((item for item in pool if item.candidate.tied), key=lambda item: _preference(item.candidate))
    baseline = next((_at_each_width(row, runs[row.name])[0] for row in ranked if row.kind == "baseline"), None)
    return [item.candidate for item in pool], chosen.candidate, _explain(chosen, pool, baseline)


def name_of(candidate: Candidate) -> str:
    """Return a candidate in words: ``"cpt at 4 bits"``."""
    return f"{candidate.arm} at {candidate.label} {'bit' if candidate.label == '1' else 'bits'}"


def _pool(runs: Mapping[str, Sequence[ArmResult]], ranked: Sequence[ArmSummary]) -> list[Scored]:
    every = [item for row in ranked for item in _at_each_width(row, runs[row.name])]
    sound = [item for item in every if math.isfinite(item.candidate.accuracy.mean)]
    return [item for item in sound if item.candidate.kind not in ("baseline", "ablation")] or sound


def _at_each_width(row: ArmSummary, group: Sequence[ArmResult]) -> list[Scored]:
    own = (row.own_bits, row.own_label)
    measured = {own: {run.seed: run.own.accuracy for run in group}}
    for bits in sorted({score.bits for run in group for score in run.scores if score.bits < 32}):
        at = {run.seed: score.accuracy for run in group if (score := run.at(bits))}
        measured.setdefault((bits, width_key(bits)), at)
    visited = group[0].visited
    return [
        Scored(
            own_candidate(row).model_copy(
                update={
                    "bits": bits,
                    "label": label,
                    "trained_for": (bits, label) == own if visited is None else bits in visited,
                    "accuracy": interval(list(by_seed.values())),
                }
            ),
            by_seed,
        )
        for (bits, label), by_seed in measured.items()
    ]


def _preference(candidate: Candidate) -> tuple[float, bool, float, float]:
    return candidate.bits, not candidate.trained_for, candidate.bitops, -candidate.accuracy.mean


def _explain(chosen: Scored, pool: Sequence[Scored], baseline: Scored | None) -> str:
    """Return the reason in one sentence: the nearest rival, how sure that is, and how far the baseline is away."""
    found = chosen.candidate
    untrained = "" if found.trained_for else " (the arm was not trained for this width)"
    seeds = "one seed" if found.accuracy.n == 1 else f"{found.accuracy.n} seeds"
    head = f"{name_of(found)} is recommended{untrained}: its accuracy of {percent(found.accuracy)} over {seeds}"
    return f"{head} {_against_rival(chosen, pool)}{_against_baseline(chosen, baseline)}."


def _against_rival(chosen: Scored, pool: Sequence[Scored]) -> str:
    other = next((item for item in pool if item is not chosen), None)
    if other is None:
        return "is that of the only candidate"
    mine, rival = chosen.candidate, other.candidate
    name = f"{name_of(rival)} with {percent(rival.accuracy)}"
    gap = seed_difference(chosen.by_seed, other.by_seed, corrected(len(pool) - 1))
    first = mine.accuracy.mean > rival.accuracy.mean
    why = "" if first else f", and it {_better(mine, rival)}"
    if gap is None or gap.low is None or gap.high is None:
        place = "is the highest" if first else "equals the best"
        return f"{place} (next: {name}){why}, but without an interval a small difference may be chance"
    level = "95% interval" if len(pool) == 2 else f"interval corrected for {len(pool)} candidates"
    numbers = f"{points(gap.mean)} points, {reach(gap, level, confidence=corrected(len(pool) - 1))}"
    if not first:
        return f"ties with {name} (difference {numbers}){why}"
    if verdict(gap) == "better":
        return f"is the highest, clear of {name} ({numbers})"
    return f"is the highest, though its lead over {name} ({numbers}) lies inside the interval and may be chance"


def _better(mine: Candidate, rival: Candidate) -> str:
    if mine.bits < rival.bits:
        return "is narrower"
    if mine.trained_for and not rival.trained_for:
        return "was trained for this width"
    if mine.bitops < rival.bitops:
        cost = f"{engineering(mine.bitops)} simulated BitOps against {engineering(rival.bitops)}"
        return f"costs less to train ({cost}; {mine.seconds:.0f} s against {rival.seconds:.0f} s)"
    return "costs no more"


def _against_baseline(chosen: Scored, baseline: Scored | None) -> str:
    if baseline is None or baseline.candidate.arm == chosen.candidate.arm:
        return ""
    gap = seed_difference(chosen.by_seed, baseline.by_seed)
    if gap is None or not math.isfinite(gap.mean):
        return ""
    where = "above" if gap.mean > 0 else "below"
    ends = f" ({reach(gap)})" if gap.low is not None else ""
    if round(1000 * gap.mean) == 0:
        return f"; the unquantized baseline is as accurate{ends}"
    return f"; it stands {points(abs(gap.mean)).lstrip('+')} points {where} the unquantized baseline{ends}"
