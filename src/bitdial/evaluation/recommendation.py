"""Which arm is worth shipping, and the sentence that says why and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from bitdial.evaluation.results import ArmSummary, Interval
from bitdial.evaluation.wording import engineering, percent, points, span

Difference = Callable[[str, str], Interval | None]
"""Accuracy of one named arm minus another's, each at its own width, over shared seeds."""


def choose(ranked: Sequence[ArmSummary]) -> ArmSummary:
    """Return the first of the ranking that is there to ship; see `bitdial.evaluation.comparison.summarise`."""
    sound = [row for row in ranked if math.isfinite(row.own.mean)]
    return next(iter(_candidates(sound) or sound or ranked))


def explain(chosen: ArmSummary, ranked: Sequence[ArmSummary], difference: Difference) -> str:
    """Return the reason for `chosen` in one sentence.

    It says when the nearest rival lies inside the interval, when one seed gives no interval at all, and how far the
    unquantized baseline is away.

    Args:
        chosen: The recommended arm.
        ranked: All arms, in the order of the ranking.
        difference: The paired difference of two named arms.
    """
    if not math.isfinite(chosen.own.mean):
        return (
            f"{chosen.name} stands first only because no arm has a finite accuracy, so nothing here is worth shipping."
        )
    seeds = "one seed" if chosen.seeds == 1 else f"{chosen.seeds} seeds"
    head = f"{chosen.name} is recommended, shipping at {_width(chosen)}: {percent(chosen.own)} accuracy over {seeds}"
    return f"{head} {_against_rival(chosen, ranked, difference)}{_against_baseline(chosen, ranked, difference)}."


def _candidates(rows: Sequence[ArmSummary]) -> list[ArmSummary]:
    return [row for row in rows if row.kind not in ("baseline", "ablation")]


def _width(row: ArmSummary) -> str:
    return f"{row.own_label} bit" if row.own_label == "1" else f"{row.own_label} bits"


def _against_rival(chosen: ArmSummary, ranked: Sequence[ArmSummary], difference: Difference) -> str:
    field = [row for row in _candidates(ranked) or ranked if row.name != chosen.name and math.isfinite(row.own.mean)]
    if not field:
        return "makes it the only arm to ship"
    rival = max(field, key=lambda row: row.own.mean)
    gap = difference(chosen.name, rival.name)
    name = f"{rival.name} at {percent(rival.own)}"
    if gap is None or gap.low is None or gap.high is None:
        first = "equals the best" if chosen.own.mean == rival.own.mean else "is the highest"
        return f"{first} (next: {name}), but without an interval a small difference may be chance"
    if gap.mean < 0 or (gap.mean == 0 and _cheaper(chosen, rival)):
        return (
            f"ties with {name} (difference {points(gap.mean)} points, 95% interval {span(gap)}), "
            f"and it {_cheaper(chosen, rival)}"
        )
    numbers = f"{points(gap.mean)} points, 95% interval {span(gap)}"
    if gap.low > 0 and gap.high - gap.low >= 1e-9:
        return f"is the highest, clear of {name} ({numbers})"
    return f"is the highest, though its lead over {name} ({numbers}) lies inside the interval and may be chance"


def _cheaper(chosen: ArmSummary, rival: ArmSummary) -> str:
    if chosen.own_bits < rival.own_bits:
        return f"ships narrower than {_width(rival)}"
    if chosen.bitops < rival.bitops:
        cost = f"{engineering(chosen.bitops)} simulated BitOps against {engineering(rival.bitops)}"
        return f"costs less to train ({cost}; {chosen.seconds:.0f} s against {rival.seconds:.0f} s)"
    return ""


def _against_baseline(chosen: ArmSummary, ranked: Sequence[ArmSummary], difference: Difference) -> str:
    baseline = next((row for row in ranked if row.kind == "baseline" and row.name != chosen.name), None)
    gap = difference(chosen.name, baseline.name) if baseline else None
    if gap is None or not math.isfinite(gap.mean):
        return ""
    where = "above" if gap.mean > 0 else "below"
    ends = f" (95% interval {span(gap)})" if gap.low is not None else ""
    if round(1000 * gap.mean) == 0:
        return f"; the unquantized baseline is as accurate{ends}"
    return f"; it stands {points(abs(gap.mean)).lstrip('+')} points {where} the unquantized baseline{ends}"
