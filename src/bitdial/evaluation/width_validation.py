"""What a validation over widths found, as records."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import ConfigDict

from bitdial.evaluation.results import Accuracy, Measured, Record


class Spread(Record):
    """What one quantity did over the configurations; NaN where one of them is."""

    model_config = ConfigDict(frozen=True)

    mean: Measured
    """The mean."""
    std: Measured
    """The standard deviation of exactly these configurations (division by their number); 0 for one."""
    min: Measured
    """The lowest."""
    max: Measured
    """The highest."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        array = np.asarray(values, dtype=np.float64)
        with np.errstate(invalid="ignore"):  # the deviation of an infinite loss
            return cls(mean=array.mean(), std=array.std(), min=array.min(), max=array.max())


class ConfigurationScore(Record):
    """One configuration: the width of every quantized layer, and how good the model is there."""

    model_config = ConfigDict(frozen=True)

    widths: tuple[float, ...]
    """What the dial of each quantized layer stood at, in bits, in the order of `WidthValidation.layers`."""
    average_bits: float
    """Mean width of the weights over the quantized layers, each counting alike, in bits."""
    accuracy: Accuracy
    """Fraction of right answers; null for a task without."""
    loss: Measured
    """Mean loss: that of the criterion, or of the task."""
    relative_bitops: float | None = None
    """Simulated BitOps of a forward pass, as a fraction of those at 32 bits; null without a ledger."""


class WidthValidation(Record):
    """What a validation function found."""

    model_config = ConfigDict(frozen=True)

    layers: tuple[str, ...]
    """The quantized layers, in the model's order."""
    configurations: tuple[ConfigurationScore, ...]
    """Every configuration that was scored, in the order in which they were drawn."""
    accuracy: Spread
    """Accuracy over the configurations."""
    loss: Spread
    """Loss over the configurations."""
    bits: Spread
    """Average width over the configurations, in bits."""
    relative_bitops: Spread | None = None
    """Relative BitOps over the configurations; null without a ledger."""
    correlation: Measured
    """Pearson's correlation of average width and accuracy; null where one of them is constant or not finite."""
    reestimated: bool
    """Whether batch-norm statistics were re-estimated at each configuration; else they were used as they are."""

    @property
    def accuracies(self) -> list[float]:
        """Accuracy of each configuration."""
        return [each.accuracy for each in self.configurations]

    @property
    def losses(self) -> list[float]:
        """Loss of each configuration."""
        return [each.loss for each in self.configurations]

    @property
    def bitwidths(self) -> list[float]:
        """Average width of each configuration, in bits."""
        return [each.average_bits for each in self.configurations]

    def text(self) -> str:
        """The statistics as a block of lines."""
        rows = {"Accuracy": (self.accuracy, 4), "Loss": (self.loss, 4), "Bitwidth": (self.bits, 2)}
        if self.relative_bitops is not None:
            rows["Relative BitOps (simulated)"] = self.relative_bitops, 4
        lines = ["Random Bitwidths Validation Statistics:"]
        for name, (spread, digits) in rows.items():
            numbers = (f"{part}={getattr(spread, part):.{digits}f}" for part in ("mean", "std", "min", "max"))
            lines.append(f"  {name}: {', '.join(numbers)}")
        lines.append(f"  Correlation of bitwidth and accuracy: {self._correlation_text()}")
        norms = "re-estimated at each configuration" if self.reestimated else "as they are, whatever the widths"
        return "\n".join([*lines, f"  Batch-norm statistics: {norms}"])

    def _correlation_text(self) -> str:
        if math.isfinite(self.correlation):
            return f"{self.correlation:+.4f}"
        if not all(map(math.isfinite, self.accuracies)):
            return "undefined, as an accuracy is not finite"
        return f"undefined, as the {'bitwidth' if self.bits.min == self.bits.max else 'accuracy'} is constant"
