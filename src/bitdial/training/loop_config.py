"""The settings of the training loop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from bitdial.training.options import LengthOptions, LongRunOptions, StepOptions


class LoopConfig(LengthOptions, StepOptions, LongRunOptions):
    """How long to train, and what to do between the steps. A step is an optimizer step.

    With `steps` and `epochs` the run ends at whichever is reached first. A row of the log is when the loss is looked
    at, and the device waited for. A checkpoint is always written at the end and on Ctrl-C, besides.
    """

    eval_interval: int | None = Field(default=None, ge=1)
    """Steps between two evaluations; None: after every epoch."""
    checkpoint_epochs: int | None = Field(default=1, ge=1)
    """Epochs between two checkpoints; None: only by steps."""
    checkpoint_best: bool = True
    """Write a checkpoint whenever an evaluation is the best so far, too."""
    history_interval: int = Field(default=1, ge=1)
    """Steps between two entries of the history that cycle analysis and plots read."""
    monitor: str = "accuracy"
    """Which score of an evaluation tells the best model and feeds early stopping."""
    monitor_mode: Literal["max", "min"] = "max"
    """Whether a larger (accuracy) or a smaller (loss) score is better."""
    stop_check_interval: int = Field(default=10, ge=1)
    """With several processes: steps between two agreements on whether Ctrl-C was pressed. One process always looks."""
    compile: bool = False
    """Compile the model with torch.compile before training."""

    @model_validator(mode="after")
    def _has_an_end(self) -> LoopConfig:
        if self.steps is None and self.epochs is None:
            raise ValueError("give steps or epochs: a run needs an end")
        return self

    def total_steps(self, batches_per_epoch: int | None) -> int | None:
        """Return the number of steps of the run; None where it depends on a loader of unknown length.

        Args:
            batches_per_epoch: length of the loader of one process.
        """
        if self.epochs is None or batches_per_epoch is None:
            return self.steps
        by_epochs = self.epochs * -(-batches_per_epoch // self.gradient_accumulation_steps)
        return by_epochs if self.steps is None else min(self.steps, by_epochs)
