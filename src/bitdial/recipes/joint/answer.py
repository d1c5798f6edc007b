"""The answer of a run of joint training: which width of the one network to ship, and how sure that is."""

from __future__ import annotations

import math

from bitdial.evaluation import Interval, paired_difference, wording
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
from bitdial.numerics import UNQUANTIZED
from bitdial.recipes.joint.results import JointResults


def answer_of(results: JointResults) -> Answer:
    """Say which width to ship: the narrowest that is at most a percentage point less accurate than the best one."""
    values, first = results.accuracy(), results.networks[0]
    trouble = [
        *(f"There is no finite accuracy at {wording.bits(bits)}." for bits in values if not _finite(values[bits])),
        *stops((network.name, network.seed, network.early_stop) for network in results.networks),
    ]
    bits = results.ship_bits
    if bits is None or bits not in values:
        finite = [value for value in values.values() if _finite(value)]
        headline = "Nothing to ship: no width has a finite accuracy"
        if finite:  # trained unquantized
            headline = f"{wording.percent(finite[0])} unquantized: there are no widths to choose from"
        return Answer(headline, "", "", "", trouble=trouble)
    baseline = values.get(UNQUANTIZED) if bits != UNQUANTIZED else None
    accuracy = against_float(
        values[bits],
        baseline,
        None if baseline is None else _gap(results, bits, UNQUANTIZED),
        missing="`--no_quantize` trains one, 32 in `--bitwidth_options` this network at 32 bits too",
    )
    place = list(values).index(bits)
    size = first.size_bytes[place] if first.size_bytes else None
    full = first.float32
    bitops = None if full is None else first.relative_bitops[place] * full.bitops
    undecided = results.verdict is not None and results.verdict.kind == "unclear"
    return Answer(
        headline=f"Not decided: {wording.bits(bits)} for now" if undecided else f"Ship {wording.bits(bits)}",
        quality=accuracy,
        cost=""
        if full is None
        else against_float_cost(size, full.size_bytes, bitops, full.bitops, first.forward_seconds),
        certainty=_sure(results, bits),
        trouble=trouble,
        tiles=[
            accuracy_tile(values[bits], f"accuracy at {wording.bits(bits)}"),
            *cost_tiles(size, bitops, first.forward_seconds, first.bitops, first.seconds),
        ],
    )


def _sure(results: JointResults, bits: float) -> str:
    """How sure the width is: against the nearest narrower one, which was not chosen; else against the best."""
    values = {width: value for width, value in results.accuracy().items() if _finite(value)}
    narrower = [width for width in values if width < bits]
    rival = max(narrower) if narrower else max(values, key=lambda width: values[width].mean)
    sure = certainty(_gap(results, bits, rival), wording.bits(rival)) if rival != bits else ""
    return (sure + still_gaining((network.history.loss for network in results.networks), "--epochs")).strip()


def _gap(results: JointResults, bits: float, other: float) -> Interval:
    """Accuracy at a width minus that at another one, paired by seed."""
    at = [{score.bits: score.accuracy for score in network.scores} for network in results.networks]
    return paired_difference([scores[bits] for scores in at], [scores[other] for scores in at])


def _finite(value: Interval) -> bool:
    return math.isfinite(value.mean)
