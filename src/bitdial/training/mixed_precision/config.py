"""The settings of mixed precision."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, PlainSerializer, model_validator

from bitdial.errors import BitdialError
from bitdial.training.mixed_precision.formats import format_name, to_dtype
from bitdial.training.mixed_precision.policies import PrecisionPolicies, Stages, parse_policies

Format = Annotated[torch.dtype, BeforeValidator(to_dtype), PlainSerializer(format_name, return_type=str)]
"""A dtype; in YAML and flags "float32", "bfloat16", "float16" or "float8"."""

LayerPolicies = Annotated[
    InstanceOf[PrecisionPolicies] | None,
    BeforeValidator(lambda value: None if value is None or value == {} else parse_policies(value)),
    PlainSerializer(lambda value: None if value is None else value.to_plain()),
]
"""Policies in any of their forms."""


class MixedPrecisionConfig(BaseModel):
    """In which floating-point format a network computes, and how gradients are kept inside of it."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, arbitrary_types_allowed=True)

    enabled: bool = True
    """Compute in `dtype`; False: in float32, as if it had never been asked for."""
    dtype: Format = torch.float16
    """Format of convolutions, products and activations; weights, sums and losses stay in float32."""
    init_scale: float = Field(default=2.0**16, gt=0.0, le=2.0**100)
    """float16: what the loss is multiplied with at first, so that small gradients do not vanish."""
    growth_factor: float = Field(default=2.0, gt=1.0, le=2.0**16)
    """float16: factor on the scale after `growth_interval` steps without an overflow."""
    backoff_factor: float = Field(default=0.5, gt=0.0, lt=1.0)
    """float16: factor on the scale after an overflow."""
    growth_interval: int = Field(default=2000, ge=1)
    """float16: applied steps in a row between two growths of the scale."""
    memory_efficient: bool = True
    """Free gradients after each step, so that the next forward pass does not hold them; False: overwrite them with
    zeros, which spares a small network the allocations."""
    use_dynamic_loss_scaling: bool = True
    """float16: let the scale move; False holds it at `init_scale`."""
    use_grad_scaling: bool = True
    """float16: scale the loss at all."""
    log_scaling: bool = True
    """Say in the log when a step is skipped for the first time and when the format changes."""
    track_performance: bool = True
    """Measure the time of every step, and the peak memory where the device can tell."""
    save_scaler_state: bool = True
    """Keep scale, counters and adaptations in `state_dict`, so that a resumed run goes on exactly."""
    min_scale: float = Field(default=1.0, ge=1e-30)
    """float16: the scale never falls below this; overflows there mean that float16 is too narrow for the network."""
    max_grad_norm: float | None = Field(default=None, gt=0.0)
    """Scale the (unscaled) gradient down to this 2-norm where it is longer; None: never."""
    accumulation_steps: int = Field(default=1, ge=1)
    """Calls of `train_step` whose gradients make one optimizer step."""
    overflow_patience: int = Field(default=10, ge=1)
    """Steps in a row that may be lost, to overflows at the lowest scale or to values that are not finite, before an
    adaptive run takes a wider format, and any other (or one in float32) stops with an error."""
    recovery_interval: int = Field(default=2000, ge=1)
    """Adaptive: applied steps in a row after which a wider format is given up for the one asked for; doubled each time
    that one fails again."""

    policies: LayerPolicies = None
    """Layers with a format of their own: a map pattern -> dtype such as ``{"head": "float32"}``, or any other form that
    `parse_policies` reads; None: all alike."""

    @model_validator(mode="after")
    def _scale_above_its_floor(self) -> MixedPrecisionConfig:
        if self.min_scale > self.init_scale:
            raise BitdialError(
                f"min_scale must be at most init_scale, got {self.min_scale:g} above {self.init_scale:g}; lower it"
            )
        return self

    @property
    def has_float16_layers(self) -> bool:
        """Whether a policy lets a layer compute in float16 at some step (a function is asked for step 0)."""
        rules = () if self.policies is None else self.policies.rules
        schedules = [(rule, rule.schedule) for rule in rules]
        formats = [each.formats if isinstance(each, Stages) else (rule.format_at(0),) for rule, each in schedules]
        return any(torch.float16 in each for each in formats)

    @property
    def needs_scale(self) -> bool:
        """Whether a gradient may be a float16 one, which needs a loss scale."""
        return self.format == torch.float16 or self.has_float16_layers

    @property
    def format(self) -> torch.dtype:
        """The format in force: float32 where mixed precision is not enabled."""
        return self.dtype if self.enabled else torch.float32
