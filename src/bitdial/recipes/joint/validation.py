"""What a network at many widths scores after each epoch: logged, drawn, and kept for the report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

from torch import nn

from bitdial.evaluation import (
    VALIDATION_FUNCTIONS,
    Spread,
    WidthValidation,
)
from bitdial.layers import Ledger
from bitdial.recipes.joint.options import JointConfig
from bitdial.recipes.joint.results import EpochScores
from bitdial.recipes.recipe import Bench
from bitdial.training import Hook, TrainingState
from bitdial.training.step.optimizer_step import StepResult

EPOCHS_BETWEEN_FIGURES = 5
FIGURE = "Bitwidth_Analysis/bitwidth_vs_accuracy"
SEEDS_APART = 1_000_003
"""Configurations are drawn anew at every validation; two runs whose seeds are neighbours draw others."""


@dataclass(eq=False)
class Validation(Hook):
    """Validates a network of many widths; `fit` calls it, and it remembers what it found."""

    bench: Bench[JointConfig]
    ledger: Ledger
    last_step: int
    """The step after which training ends."""
    _: KW_ONLY
    epochs: list[EpochScores] = field(default_factory=list)
    last: WidthValidation | None = None
    seconds: float = 0.0
    """What it took, drawing included, over all resumptions."""
    step: int = 0
    epoch: int = 0

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        """Know where training is."""
        self.step, self.epoch = state.step, state.epoch

    def after_epoch(self, state: TrainingState) -> None:
        """Know that one more epoch is done."""
        self.epoch = state.epoch

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Validate, and return the columns of the log."""
        began = time.perf_counter()
        self.last = found = self._validated(model)
        scores = EpochScores(
            epoch=self.epoch,
            step=self.step,
            accuracy=found.accuracy,
            loss=found.loss,
            bits=found.bits,
            relative_bitops=found.relative_bitops,
        )
        self.epochs.append(scores)
        self.seconds += time.perf_counter() - began
        return {
            "loss": found.loss.mean,
            "accuracy": found.accuracy.mean,
            **_columns("Bitwidth", "bitwidth", found.bits),
            **_columns("Validation", "acc", found.accuracy),
            **(_columns("BitOps", "relative_bitops", found.relative_bitops) if found.relative_bitops else {}),
        }

    def _validated(self, model: nn.Module) -> WidthValidation:
        bench, options = self.bench, self.bench.options
        how: dict[str, Any] = {"task": bench.work.task, "ledger": self.ledger, "verbose": False}
        if options.validation_function != "simple":
            how |= {
                "reestimate": options.validation_batch_norm == "reestimate",
                "recalibration_batches": bench.loaders.recalibration,
                "recalibration_limit": options.validation_batches,
            }
        if options.validation_function == "fixed_bitwidth":
            how["bitwidth"] = options.validation_bits or min(options.bitwidth_options)
        if options.validation_function == "random_bitwidths":
            how |= {
                "num_configs": options.num_configs,
                "bitwidth_options": options.bitwidth_options,
                "seed": bench.seed * SEEDS_APART + self.step,
            }
        loaders = bench.loaders
        batches = loaders.test if loaders.validation is None else loaders.validation
        return VALIDATION_FUNCTIONS[options.validation_function](model, batches, **how)

    def figures(self, state: TrainingState) -> Mapping[str, Any]:
        """Accuracy against width, every few epochs and at the end."""
        due = (state.batch_in_epoch == 0 and state.epoch % EPOCHS_BETWEEN_FIGURES == 0) or state.step >= self.last_step
        if not due or self.last is None or self.last.accuracy.mean != self.last.accuracy.mean:
            return {}
        from bitdial.evaluation import plot_bitwidth_vs_accuracy

        began = time.perf_counter()
        figure = plot_bitwidth_vs_accuracy(self.last.bitwidths, self.last.accuracies, epoch=self.epoch)
        self.seconds += time.perf_counter() - began
        return {FIGURE: figure}

    def state_dict(self) -> dict[str, Any]:
        """Everything that was found."""
        return {
            "epochs": [scores.model_dump() for scores in self.epochs],
            "last": None if self.last is None else self.last.model_dump(),
            "seconds": self.seconds,
            "at": [self.epoch, self.step],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from it."""
        self.epochs = [EpochScores.model_validate(scores) for scores in state["epochs"]]
        self.last = None if state["last"] is None else WidthValidation.model_validate(state["last"])
        self.seconds = float(state["seconds"])
        self.epoch, self.step = state.get("at", (0, 0))  # where it was stopped in mid-evaluation


def _columns(group: str, name: str, spread: Spread) -> dict[str, float]:
    """The numbers of a spread, by their tags in TensorBoard."""
    return {f"{group}/{part}_{name}": getattr(spread, part) for part in ("mean", "std", "min", "max")}
