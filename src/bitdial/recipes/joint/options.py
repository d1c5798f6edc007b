"""Everything that can be set in a run of joint training."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from bitdial.recipes.options import LEARNING_RATES, GridName, SharedConfig, Width
from bitdial.training.options import OptimizerOptions, StepOptions

DEFAULT_STEPS = 300


class JointConfig(OptimizerOptions, StepOptions, SharedConfig):
    """Train one network for many widths at once: random widths in every layer, the losses of several passes averaged.

    Without --epochs or --steps it trains for 300 steps.
    """

    defaults = {"log_interval": 20, "weight_decay": 5e-4}

    bitwidth_options: list[Width] = Field([2, 4, 8, 32], min_length=1)
    """Widths that are drawn from, and measured at; 32: unquantized."""
    joint_quantization_batch_size: int = Field(2, ge=1)
    """Forward passes of a step, each with widths drawn anew for every layer."""
    warmup_steps: int = Field(10, ge=0)
    """Steps over which the learning rate rises at the start."""
    quantizer: GridName = "uniform"
    """Grids of weights and activations."""
    skip_layers: list[str] = ["<first>", "<last>"]
    """Names or patterns of layers left unquantized; <first> and <last> are the first layer and the classifier."""

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.epochs is None and self.steps is None:
            self.__dict__["steps"] = DEFAULT_STEPS
        return self

    @model_validator(mode="after")
    def _has_a_rate(self) -> Self:
        if "lr" not in self.model_fields_set:
            self.__dict__["lr"] = LEARNING_RATES[self.optimizer]
        return self
