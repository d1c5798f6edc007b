"""Precision that cycles: how it moves, as options, and the scheduler that turns a dial along, for any loop."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field, field_validator, model_validator
from torch import nn

from bitdial import schedules
from bitdial.errors import BitdialError
from bitdial.layers.dial import BitDial, PrecisionScheduler
from bitdial.options import Config
from bitdial.schedules import LayerSchedule

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


class CyclicPrecisionScheduler(PrecisionScheduler):
    """Cycles the precision of a model as a `CyclicPrecisionConfig` says.

    The dial stands at iteration 0 from the start; call `step` after each training step::

        scheduler = CyclicPrecisionScheduler(model, CyclicPrecisionConfig(bit_width_pattern=[8, 4, 2, 4, 8]))
        for x, y in loader:
            ...                 # forward, backward, optimizer.step()
            scheduler.step()

    Its state is one number, and the widths are a pure function of it: the same on every rank, exact on resume.

    Args:
        model_or_dial: a quantized model, or a dial of one.
        config: how the precision moves.
        schedule: widths that the layers follow instead, ``(step, layer) -> width``; cycles are counted as in `config`,
            and its learning-rate factors and gradient width hold.

    Raises:
        BitdialError: the model has no quantized layers, or gradient_bits below 32 for a model built without gradients.

    Example:
        >>> import torch
        >>> import bitdial as bd
        >>> from bitdial.layers.cycling import CyclicPrecisionConfig
        >>> net = bd.quantize(torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(4)]))
        >>> config = CyclicPrecisionConfig(bit_width_pattern=[8, 4, 2], cycle_length=3)
        >>> scheduler = bd.CyclicPrecisionScheduler(net, config)
        >>> scheduler.step()  # after each training step
        >>> bd.BitDial(net).weights
        [4.0, 4.0]
    """

    def __init__(
        self,
        model_or_dial: nn.Module | BitDial,
        config: CyclicPrecisionConfig | None = None,
        *,
        schedule: LayerSchedule | None = None,
    ) -> None:
        self.config = config or CyclicPrecisionConfig()
        widths = self.config.layer_schedule() if schedule is None else schedule
        super().__init__(model_or_dial, widths, gradients=self.config.gradient_bits)

    @property
    def cycle(self) -> int:
        """Index of the running cycle, from 0."""
        return self.iteration // self.config.cycle_length

    @property
    def position(self) -> int:
        """Iteration within the running cycle, from 0."""
        return self.iteration % self.config.cycle_length

    @property
    def at_cycle_boundary(self) -> bool:
        """Whether this iteration is the first of a cycle."""
        return self.position == 0

    @property
    def lr_scale(self) -> float:
        """Factor on the learning rate at the mean width over the layers; 1 unless ``adjust_lr_with_bits``."""
        return self.factor(self.bits)

    def factor(self, widths: Sequence[float]) -> float:
        """Factor on the learning rate where the layers stand at these widths."""
        if not self.config.adjust_lr_with_bits:
            return 1.0
        return schedules.interpolate_factors(self.config.lr_scale_factors, statistics.fmean(widths))
