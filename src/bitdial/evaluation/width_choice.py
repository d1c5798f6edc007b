"""Which width to ship: the knee of accuracy against width, and what its shape is, in words.

A difference counts as structure where it is larger than the tolerance and its interval over seeds leaves 0 out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations
from numbers import Real
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict

from bitdial.errors import BitdialError
from bitdial.evaluation import wording
from bitdial.evaluation.results import Interval, Record
from bitdial.evaluation.statistics import CONFIDENCE, TIE_MARGIN, corrected, interval, paired_difference
from bitdial.evaluation.wording import percent, points, reach
from bitdial.numerics import UNQUANTIZED, check_bits

UNSTABLE_RATIO = 3.0
"""How many times as widely accuracies scatter at an unstable width as at the best one, where the spread is given."""

Kind = Literal["rising", "plateau", "unstable at low widths", "non-monotonic", "one width", "unclear", "nothing finite"]


class Knee(Record):
    """The lowest width whose accuracy is within a tolerance of the best."""

    model_config = ConfigDict(frozen=True)

    bits: float
    """The width, in bits."""
    accuracy: Interval
    """Accuracy there, as a fraction."""
    best_bits: float
    """The width of the highest mean accuracy, in bits."""
    best: Interval
    """Accuracy there, as a fraction."""
    difference: Interval
    """Accuracy at the knee minus that at the best width, paired by seed."""
    tolerance: float
    """How much accuracy (as a fraction) it may lose against the best."""
    by_seed: tuple[float, ...]
    """The knee that each seed alone would name, in bits: how far they scatter."""


class WidthVerdict(Record):
    """What the shape of accuracy against width is, and which width to ship."""

    model_config = ConfigDict(frozen=True)

    kind: Kind
    """The shape in a word."""
    sentence: str
    """One sentence: the shape, the width to ship, and how sure that is."""
    knee: Knee | None
    """The knee among the widths that are stable; null where no width has a finite accuracy."""


def knee(accuracies: Mapping[float, Sequence[float]], *, tolerance: float = TIE_MARGIN) -> Knee:
    """Return the lowest width whose mean accuracy is at most `tolerance` below that of the best width.

    Args:
        accuracies: width in bits -> accuracy (a fraction) of each seed; entry i of every width is of the same seed. A
            width at which a seed has no finite accuracy is passed over.
        tolerance: what may be lost, as a fraction.

    Raises:
        BitdialError: no width with finite accuracies, unlike numbers of seeds, or a number out of range.
    """
    checked = _checked(accuracies, tolerance)
    finite = _finite(checked)
    if not finite:
        raise BitdialError("accuracies must be finite for every seed at one width at least, got none; train again")
    return _knee(finite, tolerance)


def width_verdict(
    accuracies: Mapping[float, Sequence[float]],
    *,
    spread: Mapping[float, float] | None = None,
    tolerance: float = TIE_MARGIN,
) -> WidthVerdict:
    """Say what accuracy does over the widths, and which one to ship.

    All pairs of widths are compared, with intervals that hold together (Bonferroni). A pair differs where its means are
    more than `tolerance` apart and the interval of the paired difference leaves 0 out; with one seed there is no
    interval, the means are taken as they are, and the sentence says so. The first of these that applies is the kind:

    - ``"nothing finite"``, ``"one width"``: there is nothing to compare.
    - ``"unstable at low widths"``: below the best width is one at which a seed has no finite accuracy, or accuracies
      scatter by more than `tolerance` and clearly more than at the best width: more than `UNSTABLE_RATIO` times as much
      by `spread`, else by the F test of two variances over the seeds. Such a width is not shipped.
    - ``"non-monotonic"``: a wider width is worse than a narrower one.
    - ``"unclear"``: means are more than `tolerance` apart, but no pair differs.
    - ``"rising"``: the widest is the knee.
    - ``"plateau"``: the knee is narrower, and nothing wider is worth its bits.

    Args:
        accuracies: as for `knee`.
        spread: width -> standard deviation of accuracy (a fraction) there, over configurations for instance; None: that
            over the seeds.
        tolerance: as for `knee`.

    Raises:
        BitdialError: as `knee`, except that there may be no finite accuracy; a spread that is none, or of other widths.
    """
    checked = _checked(accuracies, tolerance)
    spreads = _checked_spread(spread, checked)
    finite = _finite(checked)
    seeds = len(next(iter(checked.values())))
    if not finite:
        return WidthVerdict(
            kind="nothing finite", sentence="No width has a finite accuracy, so there is none to ship.", knee=None
        )
    best = _knee(finite, tolerance).best_bits
    unstable = _unstable(checked, finite, spreads, best, tolerance)
    found = _knee({width: values for width, values in finite.items() if width not in unstable}, tolerance)
    sure = "; with one seed a difference may be chance" if seeds == 1 and len(finite) > 1 else ""
    if gone := [wording.bits(width) for width in checked if width not in finite and width not in unstable]:
        sure = f"; no finite accuracy at {', '.join(gone)}{sure}"

    def say(kind: Kind, shape: str, more: str = "") -> WidthVerdict:
        return WidthVerdict(kind=kind, sentence=f"{shape}: ship {_ship(found)}{more}{sure}.", knee=found)

    if unstable:
        return say("unstable at low widths", f"Accuracy is unstable at {_unstable_text(unstable)}")
    if len(finite) == 1:
        what = "was measured" if len(checked) == 1 else "has a finite accuracy for every seed"
        return say("one width", f"Only one width {what}", ", or measure others to compare")
    apart = _apart(finite, tolerance)
    clear = [(low, high) for low, high, sure_of in apart if sure_of]
    falls = [(low, high) for low, high in clear if _mean(finite, low) > _mean(finite, high)]
    if falls:
        low, high = max(falls, key=lambda pair: _mean(finite, pair[0]) - _mean(finite, pair[1]))
        fall = _points(_mean(finite, low) - _mean(finite, high))
        return say(
            "non-monotonic", f"Accuracy is {fall} points lower at {wording.bits(high)} than at {wording.bits(low)}"
        )
    if apart and not clear:
        what = f"No difference between widths is larger than its interval over {seeds} seeds"
        return say("unclear", what, " for now, and train more seeds to tell")
    if not clear:
        return say("plateau", f"No two means are more than {_points(tolerance)} points apart")
    if found.bits == max(finite):
        wider = "" if found.bits == UNQUANTIZED else ", or measure wider ones"
        rival = max((width for width in finite if width != found.bits), key=lambda width: _mean(finite, width))
        lead = points(found.accuracy.mean - _mean(finite, rival))
        doubt = "" if (rival, found.bits) in clear else ", inside its interval"
        over = f"{lead} points over {wording.bits(rival)}{doubt}"
        what = f"Accuracy rises up to {wording.bits(found.bits)}, the widest measured ({over})"
        return say("rising", what, wider)
    return say("plateau", f"Accuracy gains nothing that counts beyond {wording.bits(found.bits)}")


def _knee(finite: Mapping[float, Sequence[float]], tolerance: float) -> Knee:
    best = max(finite, key=lambda width: (_mean(finite, width), -width))

    def lowest(loss: Mapping[float, float]) -> float:
        return min(width for width in finite if loss[width] <= tolerance + 1e-12)

    bits = lowest({width: _mean(finite, best) - _mean(finite, width) for width in finite})
    seeds = [{width: values[seed] for width, values in finite.items()} for seed in range(len(finite[best]))]
    return Knee(
        bits=bits,
        accuracy=interval(finite[bits]),
        best_bits=best,
        best=interval(finite[best]),
        difference=paired_difference(finite[bits], finite[best]),
        tolerance=tolerance,
        by_seed=tuple(lowest({w: max(one.values()) - value for w, value in one.items()}) for one in seeds),
    )


def _apart(finite: Mapping[float, Sequence[float]], tolerance: float) -> list[tuple[float, float, bool]]:
    """Return the pairs, narrower first, whose means are more than the tolerance apart, and whether that is clear."""
    pairs = list(combinations(sorted(finite), 2))
    found = []
    for low, high in pairs:
        gap = paired_difference(finite[high], finite[low], confidence=corrected(len(pairs)))
        if abs(gap.mean) > tolerance + 1e-12:
            clear = gap.low is None or gap.high is None or not gap.low <= 0 <= gap.high
            found.append((low, high, clear))
    return found


def _unstable(
    checked: Mapping[float, Sequence[float]],
    finite: Mapping[float, Sequence[float]],
    spreads: Mapping[float, float] | None,
    best: float,
    tolerance: float,
) -> dict[float, str]:
    """Return the unstable widths below the best one, with what is the matter."""
    found, lower = {}, sorted(width for width in checked if width < best)
    seeds = len(checked[best])
    for width in lower:
        if width not in finite:
            found[width] = "no finite accuracy"
            continue
        if spreads is not None:
            there, here = spreads.get(width, 0.0), spreads.get(best, 0.0)
            wild = there > UNSTABLE_RATIO * here
        else:
            if seeds < 2:
                continue
            from scipy.special import fdtri  # type: ignore[import-untyped]

            there, here = statistics.stdev(finite[width]), statistics.stdev(finite[best])
            level = 1 - (1 - CONFIDENCE) / len(lower)
            wild = there**2 > float(fdtri(seeds - 1, seeds - 1, level)) * here**2
        if wild and there > tolerance:
            found[width] = f"scatter of {_points(there)} points, at {wording.bits(best)} {_points(here)}"
    return found


def _unstable_text(unstable: Mapping[float, str]) -> str:
    return ", ".join(f"{wording.bits(width)} ({why})" for width, why in unstable.items())


def _ship(found: Knee) -> str:
    if found.bits == found.best_bits:
        return f"{wording.bits(found.bits)} ({percent(found.accuracy)})"
    lost = -found.difference.mean
    below = f"{_points(lost)} points below the best" if round(1000 * lost) else "as accurate as the best"
    told = reach(found.difference, "95% interval of the difference")
    ends = f", {told}" if told else ""
    return f"{wording.bits(found.bits)} ({percent(found.accuracy)}, {below}, {wording.bits(found.best_bits)}{ends})"


def _points(value: float) -> str:
    return points(value).lstrip("+")


def _mean(accuracies: Mapping[float, Sequence[float]], width: float) -> float:
    return statistics.fmean(accuracies[width])


def _finite(accuracies: Mapping[float, list[float]]) -> dict[float, list[float]]:
    return {width: values for width, values in accuracies.items() if all(map(math.isfinite, values))}


def _checked(accuracies: Any, tolerance: Any) -> dict[float, list[float]]:
    if isinstance(tolerance, bool) or not isinstance(tolerance, Real) or not 0 <= float(tolerance) < 1:
        raise BitdialError(f"tolerance must be a fraction in [0, 1), got {tolerance!r}; .01 is one percentage point")
    if not isinstance(accuracies, Mapping) or not accuracies:
        raise BitdialError(
            "accuracies must be a mapping from widths to the accuracies of the seeds, such as {4: [0.91, 0.92], "
            f"8: [0.93, 0.93]}}, got {accuracies!r:.60}"
        )
    checked: dict[float, list[float]] = {}
    for width, values in accuracies.items():
        bits = check_bits(width, "accuracies")
        values = values.tolist() if isinstance(values, np.ndarray) else values
        if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or not values:
            raise BitdialError(
                f"accuracies at {wording.bits(bits)} must be a list, one for each seed, got {values!r:.60}"
            )
        for value in values:
            number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else None
            if number is None or (math.isfinite(number) and not 0 <= number <= 1):
                raise BitdialError(
                    f"accuracies must be fractions in [0, 1] or NaN, got {value!r:.40} at {wording.bits(bits)}; divide "
                    "percentages by 100"
                )
        checked[bits] = [float(value) for value in values]
    if len(lengths := {len(values) for values in checked.values()}) > 1:
        raise BitdialError(f"every width must have the accuracies of the same seeds, got {sorted(lengths)} of them")
    return dict(sorted(checked.items()))


def _checked_spread(spread: Any, accuracies: Mapping[float, Any]) -> dict[float, float] | None:
    if spread is None:
        return None
    sound = isinstance(spread, Mapping) and all(
        isinstance(value, Real) and math.isfinite(value) and float(value) >= 0 and width in accuracies
        for width, value in spread.items()
    )
    if not sound:
        raise BitdialError(
            f"spread must give a standard deviation of 0 or more for widths among those measured, got {spread!r:.60}"
        )
    return {float(width): float(value) for width, value in spread.items()}
