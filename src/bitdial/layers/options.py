"""How the precision cycles, as options: nothing here loads torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from bitdial import schedules
from bitdial.errors import BitdialError
from bitdial.options import Config

Width = Annotated[float, Field(ge=1, le=32)]
"""A width in bits; 32: unquantized."""


class CyclicPrecisionConfig(Config):
    """How the precision moves in the cyclic phase."""

    cycle_length: int = Field(20, ge=1)
    """Iterations of one cycle."""
    bit_width_pattern: list[Width] = Field([8, 4, 2, 4, 8], min_length=1)
    """Widths of one cycle, stretched evenly over it."""
    profile: str | None = None
    """A continuous form instead of the pattern, between its lowest and highest width: cosine_repeated (CPT's own),
    cosine_triangular, linear_*, exponential_*, rex_*."""
    use_reverse_cycle: bool = False
    """Run every second cycle of the pattern backwards."""
    smooth_transitions: bool = False
    """Move linearly from one entry of the pattern to the next, through fractional widths."""
    transition_steps: int = Field(2, ge=1)
    """Iterations that such a move takes."""
    layer_wise_cycling: bool = False
    """Let layer i read the schedule i x offset iterations ahead."""
    layer_cycle_offset: int = Field(2, ge=0)
    """The offset between neighbouring layers, in iterations."""
    adjust_lr_with_bits: bool = False
    """Scale the learning rate with the width."""
    lr_scale_factors: dict[Width, float] = {2: 0.5, 4: 0.75, 8: 1.0, 16: 1.0}
    """Width -> factor on the learning rate, interpolated in between."""
    progressive_cycles: bool = False
    """Lower the widths from cycle to cycle, down to the lowest of the pattern."""
    progression_rate: float = Field(0.9, gt=0, le=1)
    """Factor on the widths from one cycle to the next, when progressive."""
    gradient_bits: Width = 32
    """Width of the gradients that flow back (stochastic rounding); 32: unquantized."""

    @field_validator("lr_scale_factors")
    @classmethod
    def _has_factors(cls, value: dict[float, float]) -> dict[float, float]:
        if not value or min(value.values()) <= 0:
            raise BitdialError(f"lr_scale_factors must map widths to factors above 0, got {value}")
        return value

    @model_validator(mode="after")
    def _can_be_scheduled(self) -> CyclicPrecisionConfig:
        if self.profile is not None and (self.use_reverse_cycle or self.smooth_transitions or self.progressive_cycles):
            raise BitdialError(
                f"profile '{self.profile}' is already continuous; turn off use_reverse_cycle, smooth_transitions and "
                "progressive_cycles, or give bit_width_pattern alone"
            )
        self.schedule()
        return self

    def schedule(self) -> schedules.Schedule:
        """The schedule of a layer without offset, ``step -> width``."""
        if self.profile is not None:
            low, high = min(self.bit_width_pattern), max(self.bit_width_pattern)
            return schedules.profile(self.profile, low, high, self.cycle_length, 1)
        return schedules.pattern(
            self.bit_width_pattern,
            self.cycle_length,
            reverse=self.use_reverse_cycle,
            smooth=self.smooth_transitions,
            transition_steps=self.transition_steps,
            progressive=self.progressive_cycles,
            progression_rate=self.progression_rate,
        )

    def layer_schedule(self) -> schedules.LayerSchedule:
        """The schedule of every layer, ``(step, layer) -> width``."""
        return schedules.per_layer(self.schedule(), self.layer_cycle_offset if self.layer_wise_cycling else 0)
