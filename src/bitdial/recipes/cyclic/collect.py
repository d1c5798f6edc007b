"""From the arms of a run to its whole results: comparison, cycle analysis, and the notes that readers need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from bitdial.evaluation.comparison import summarise
from bitdial.evaluation.machine import describe_machine
from bitdial.evaluation.results import ArmResult, CycleAnalysis, CyclicResults, Machine
from bitdial.recipes.cyclic.cycles import analyze_cycle_progression

_SIMULATED = (
    "BitOps are simulated: multiply-accumulates x weight bits x activation bits. The arithmetic itself is "
    "fake-quantized floating point, so fewer BitOps do not mean fewer seconds on this machine."
)


def collect_results(
    arms: Sequence[ArmResult],
    *,
    config: Mapping[str, Any],
    command: str = "",
    experiment: str = "cyclic",
    machine: Machine | None = None,
    notes: Sequence[str] = (),
    analyze_cycles: bool = True,
) -> CyclicResults:
    """Return the results of a run, ready to be saved, printed, plotted and reported.

    Args:
        arms: Every arm with every seed.
        config: The configuration of the run, as plain values.
        command: The command line that makes the run again.
        experiment: Its name.
        machine: What it ran on; this machine when left out.
        notes: What else a reader has to know; the notes about seeds and about BitOps are added here.
        analyze_cycles: Whether to analyse the arms that cycled.

    Raises:
        BitdialError: as `summarise`.
    """
    comparison = summarise(arms)
    return CyclicResults(
        experiment=experiment,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        config=dict(config),
        machine=machine or describe_machine(),
        arms=list(arms),
        comparison=comparison,
        cycles=_analyses(arms) if analyze_cycles else [],
        notes=[*_seed_notes(arms), *_divergence_notes(arms), _SIMULATED, *notes],
    )


def _analyses(arms: Sequence[ArmResult]) -> list[CycleAnalysis]:
    cycled = [arm for arm in arms if arm.history.cycle_boundaries and arm.history.step]
    return [
        analyze_cycle_progression(arm.history).model_copy(update={"arm": arm.name, "seed": arm.seed}) for arm in cycled
    ]


def _seed_notes(arms: Sequence[ArmResult]) -> list[str]:
    seeds = {arm.seed for arm in arms}
    if len(seeds) == 1:
        return ["One seed: no interval. Differences between arms may be chance; give at least three seeds to tell."]
    notes = [f"Intervals are 95% Student t intervals over {len(seeds)} seeds; differences are paired by seed."]
    short = sorted({arm.name for arm in arms if len([a for a in arms if a.name == arm.name]) < len(seeds)})
    if short:
        notes.append(f"Not every arm has every seed: {', '.join(short)}.")
    return notes


def _divergence_notes(arms: Sequence[ArmResult]) -> list[str]:
    notes = []
    for arm in arms:
        bad = sum(1 for loss in arm.history.loss if loss != loss or loss in (float("inf"), float("-inf")))
        if bad:
            notes.append(f"{arm.name}, seed {arm.seed}: {bad} of {len(arm.history.loss)} logged losses are not finite.")
        if arm.precision_note is not None:
            notes.append(f"{arm.name}, seed {arm.seed}, {arm.precision_note}.")
    return notes
