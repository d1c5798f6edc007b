"""The results of a run of cyclic precision training: ``cyclic_precision_results.json``, and how it is put together."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

from rich.console import Console

from bitdial.evaluation import describe_machine
from bitdial.evaluation.comparison import summarise
from bitdial.evaluation.recommendation import name_of
from bitdial.evaluation.results import ArmRecord, ArmResult, Comparison, RunResults
from bitdial.evaluation.shipped import Shipped
from bitdial.evaluation.table import comparison_table
from bitdial.evaluation.trained import notes_on
from bitdial.recipes.cyclic.cycles import CycleAnalysis, analyze_cycle_progression

_SIMULATED = (
    "BitOps are simulated: multiply-accumulates x weight bits x activation bits. The arithmetic itself is "
    "fake-quantized floating point, so fewer BitOps do not mean fewer seconds on this machine."
)


class CyclicResults(RunResults):
    """The whole of ``cyclic_precision_results.json``."""

    record_type: ClassVar[type[ArmRecord]] = ArmResult

    recipe: Literal["cyclic"] = "cyclic"
    """The recipe that was run; files of earlier versions do not say it."""
    experiment: str = "cyclic"
    """Name of the experiment."""
    arms: list[ArmResult]
    """Every arm with every seed."""
    comparison: Comparison
    """The arms side by side."""
    cycles: list[CycleAnalysis] = []
    """One analysis for every arm and seed that cycled."""

    @property
    def records(self) -> Sequence[ArmResult]:
        """Every arm with every seed."""
        return self.arms

    def ships(self) -> Sequence[Shipped]:
        """The recommended arm at the recommended width."""
        chosen = self.comparison.chosen
        runs = [arm for arm in self.arms if arm.name == chosen.arm]
        scores = {arm.seed: arm.own if arm.own_label == chosen.label else arm.at(chosen.bits) for arm in runs}
        by_seed = {seed: score.accuracy for seed, score in scores.items() if score is not None}
        costs = runs[0].costs.get(chosen.label)
        size = None if costs is None else costs.size_bytes
        return [Shipped(name_of(chosen), by_seed, bytes=size, bitops=chosen.bitops, seconds=chosen.seconds)]

    def print(self, console: Console, folder: Path | None = None) -> None:
        """Print the comparison and the answer."""
        from bitdial.recipes.cyclic.answer import answer_of

        console.print(comparison_table(self.comparison, width=console.width))
        answer_of(self.arms, self.comparison).print(console)


def collect_results(
    arms: Sequence[ArmResult],
    *,
    experiment: str = "cyclic",
    notes: Sequence[str] = (),
    analyze_cycles: bool = True,
    **common: Any,
) -> CyclicResults:
    """Return the results of a run, ready to be saved, printed, plotted and reported.

    Args:
        arms: Every arm with every seed.
        experiment: Its name.
        notes: What else a reader has to know; the notes about seeds and about BitOps are added here.
        analyze_cycles: Whether to analyse the arms that cycled.
        **common: What all results hold, ``config`` at least; see `RunResults`. The rest is of this moment and machine.

    Raises:
        BitdialError: as `summarise`.
    """
    facts = {"created": datetime.now(UTC).isoformat(timespec="seconds"), **common}
    if "machine" not in facts:
        facts["machine"] = describe_machine()
    return CyclicResults(
        experiment=experiment,
        arms=list(arms),
        comparison=summarise(arms),
        cycles=_analyses(arms) if analyze_cycles else [],
        notes=[*notes_on(arms), _SIMULATED, *notes],
        **facts,
    )


def _analyses(arms: Sequence[ArmResult]) -> list[CycleAnalysis]:
    cycled = [arm for arm in arms if arm.history.cycle_boundaries and arm.history.step]
    return [
        analyze_cycle_progression(arm.history).model_copy(update={"arm": arm.name, "seed": arm.seed}) for arm in cycled
    ]
