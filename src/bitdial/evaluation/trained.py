"""What training leaves besides a network: its history, what it cost, and what a reader must know of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from bitdial.evaluation.results import EarlyStop, History
from bitdial.training import TrainingState
from bitdial.training.knobs import BitOpsCounter


@dataclass(frozen=True)
class PhaseResult:
    """What a phase leaves.

    Attributes:
        model: the trained model, in training mode, its dial where the phase ended.
        history: loss, bits and learning rate at every step.
        bitops: simulated BitOps of all its steps.
        average_bits: mean forward width over its steps, weighted with multiply-accumulates.
        dial_bits: mean width of the quantized layers over its steps.
        seconds: wall-clock, over all resumptions.
        iterations: optimizer steps.
        precision_note: which of them a narrow format lost, and where it changed; None where all went well.
        early_stop: where early stopping ended it; None where it did not.
    """

    model: nn.Module
    history: History
    bitops: float
    average_bits: float
    dial_bits: float
    seconds: float
    iterations: int
    precision_note: str | None = None
    early_stop: EarlyStop | None = None

    @classmethod
    def of(cls, state: TrainingState, cycle_length: int | None = None) -> PhaseResult:
        """What the end of a phase says; with the length of its cycles, if it cycled as configured."""
        counter = next(hook for hook in state.hooks if isinstance(hook, BitOpsCounter))
        columns = state.history
        boundaries = list(range(0, state.step + 1, cycle_length)) if cycle_length is not None else []
        return cls(
            model=state.model,
            history=History(
                step=[int(step) - 1 for step in columns["step"]],
                loss=columns["loss"],
                bits=columns["bits"],
                learning_rate=columns["learning_rate"],
                cycle_boundaries=boundaries,
            ),
            bitops=counter.bitops,
            average_bits=counter.bits_sum / max(state.step, 1),
            dial_bits=counter.dial_sum / max(state.step, 1),
            seconds=state.seconds,
            iterations=state.step,
            precision_note=state.control.trouble(),
            early_stop=early_stop_of(state),
        )


def early_stop_of(state: TrainingState) -> EarlyStop | None:
    """Where early stopping ended a training; None where it did not, or where its length was reached just then."""
    stopping, (unit, of) = state.early_stopping, state.length
    at, best = (state.epoch, state.best_epoch) if unit == "epoch" else (state.step, state.best_step)
    if stopping is None or not stopping.should_stop or of is None or at >= of:
        return None
    return EarlyStop(unit=unit, at=at, of=of, best=best, patience=stopping.patience)


class Trained(Protocol):
    """What the notes ask of the record of an arm."""

    name: str
    seed: int
    history: History
    precision_note: str | None
    early_stop: EarlyStop | None


def notes_on(arms: Sequence[Trained]) -> list[str]:
    """What a reader must know of the arms of a run: how sure their numbers are, and which did not train cleanly."""
    seeds = {arm.seed for arm in arms}
    if len(seeds) == 1:
        notes = ["One seed: no interval. Differences between arms may be chance; give at least three seeds to tell."]
    elif len(seeds) == 2:
        notes = [
            "Two seeds: shown are both. Their 95% interval, by which differences (paired by seed) are judged, is 12.7 "
            "times as wide as they lie apart: give at least three seeds to tell arms apart."
        ]
    else:
        notes = [f"Intervals are 95% Student t intervals over {len(seeds)} seeds; differences are paired by seed."]
    short = sorted({arm.name for arm in arms if len([a for a in arms if a.name == arm.name]) < len(seeds)})
    if short:
        notes.append(f"Not every arm has every seed: {', '.join(short)}.")
    for arm in arms:
        losses = arm.history.loss
        bad = sum(1 for loss in losses if not math.isfinite(loss))
        if bad:
            notes.append(f"{arm.name}, seed {arm.seed}: {bad} of {len(losses)} logged losses are not finite.")
        if arm.precision_note is not None:
            notes.append(f"{arm.name}, seed {arm.seed}, {arm.precision_note}.")
        if arm.early_stop is not None:
            notes.append(f"{arm.name}, seed {arm.seed}, {arm.early_stop.told()}.")
    return notes
