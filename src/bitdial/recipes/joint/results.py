"""What a run of joint training found, as records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from rich.text import Text

from bitdial.evaluation import (
    Interval,
    LayerSensitivity,
    Spread,
    WidthScore,
    WidthValidation,
    WidthVerdict,
    interval,
    wording,
)
from bitdial.evaluation.results import ArmRecord, EarlyStop, History, Record, RunResults, WidthCost
from bitdial.evaluation.shipped import Shipped


class EpochScores(Record):
    """One validation: what the configurations scored, over all of them."""

    epoch: int
    """Epochs done."""
    step: int
    """Optimizer steps done."""
    accuracy: Spread
    """Accuracy over the configurations, as fractions."""
    loss: Spread
    """Loss over the configurations, in nats."""
    bits: Spread
    """Average width of the configurations, in bits."""
    relative_bitops: Spread | None = None
    """Simulated BitOps of a forward pass, as a fraction of those at 32 bits."""


class JointResult(ArmRecord):
    """One network, trained with one seed."""

    name: str
    """What was trained."""
    seed: int
    """The seed."""
    scores: list[WidthScore]
    """The scores at each width, every layer at it."""
    relative_bitops: list[float] = []
    """Simulated BitOps of a forward pass at each width, as a fraction of those at 32 bits."""
    size_bytes: list[int] = []
    """What the network takes on the disk at each width, its weights packed, in bytes."""
    float32: WidthCost | None = None
    """What it takes unquantized; null in files of earlier versions."""
    forward_seconds: float | None = None
    """Wall-clock seconds of one prediction as it is computed here, at any width; null in files of earlier versions."""
    average_bits: float
    """Mean forward width of training, weighted with multiply-accumulates, unquantized layers too."""
    dial_bits: float | None = None
    """Mean width of training as the dial says: the mean over the quantized layers; null in older files."""
    bitops: float
    """Simulated BitOps of training."""
    seconds: float
    """Wall-clock seconds of training, validation included."""
    seconds_validation: float = 0.0
    """Those of validation."""
    steps: int
    """Optimizer steps."""
    history: History
    """What was logged while it was trained."""
    epochs: list[EpochScores] = []
    """What was validated after each epoch."""
    validation: WidthValidation | None = None
    """The last validation, with every configuration; null for an unquantized network."""
    sensitivity: list[LayerSensitivity] = []
    """What each layer costs that alone is at the narrowest width, the most sensitive first; of the first seed."""
    precision_note: str | None = None
    """Which steps a narrow format lost, and where it changed; null where all went well."""
    early_stop: EarlyStop | None = None
    """Where early stopping ended the training; null where it did not."""


class JointResults(RunResults):
    """The whole of ``results.json``."""

    record_type: ClassVar[type[ArmRecord]] = JointResult

    recipe: Literal["joint"] = "joint"
    """What made it."""
    networks: list[JointResult]
    """Every seed."""
    ship_bits: float | None = None
    """The width that is worth shipping, in bits; null in files of earlier versions."""
    sentence: str = ""
    """Which width to ship, and why."""
    verdict: WidthVerdict | None = None
    """What accuracy does over the widths, and the knee; null in files of earlier versions."""
    packed_file: str | None = None
    """The packed network at that width, in the run's folder; null where there is none."""

    @property
    def records(self) -> Sequence[JointResult]:
        """Every seed."""
        return self.networks

    def accuracy(self) -> dict[float, Interval]:
        """Width -> accuracy over the seeds."""
        columns = zip(*(network.scores for network in self.networks), strict=True)
        return {column[0].bits: interval([score.accuracy for score in column]) for column in columns}

    def loss(self) -> dict[float, Interval]:
        """Width -> loss over the seeds."""
        columns = zip(*(network.scores for network in self.networks), strict=True)
        return {column[0].bits: interval([score.loss for score in column]) for column in columns}

    def ships(self) -> Sequence[Shipped]:
        """The network at the width that is worth shipping, or at its widest."""
        first = self.networks[0]
        widths = [score.bits for score in first.scores]
        bits = widths[-1] if self.ship_bits is None else self.ship_bits
        at = widths.index(bits)
        count = len(self.networks)
        return [
            Shipped(
                f"joint at {wording.bits(bits)}",
                {each.seed: each.scores[at].accuracy for each in self.networks},
                bytes=first.size_bytes[at] if first.size_bytes else None,
                bitops=sum(each.bitops for each in self.networks) / count,
                seconds=sum(each.seconds for each in self.networks) / count,
            )
        ]

    def print(self, console: Any, folder: Path | None = None) -> None:
        """Print what each width scores, and which one to ship."""
        from bitdial.recipes.joint.answer import answer_of
        from bitdial.recipes.joint.report import width_table  # brings matplotlib

        console.print(width_table(self))
        answer_of(self).print(console)
        if self.packed_file is not None and folder is not None:
            console.print(Text(f"Packed: {folder / self.packed_file}"), soft_wrap=True)
