"""A small recipe configuration to load in tests: shared options, a group, every kind of type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator

from bitdial.configuration import Config
from bitdial.recipes.options import SharedConfig


class Cycle(Config):
    """How the precision cycles."""

    cycle_length: int = Field(20, ge=1)
    """Iterations in one cycle."""

    bit_width_pattern: list[float] = [8, 4, 2, 4, 8]
    """Widths that a cycle visits, stretched evenly over its length."""

    profile: Literal["cosine", "linear"] | None = None
    """A continuous form instead of the pattern."""

    smooth: bool = False
    """Move linearly from one width to the next."""

    lr_scale_factors: dict[float, float] = {2: 0.5, 4: 0.75}
    """Learning-rate factor at each width."""

    @field_validator("bit_width_pattern")
    @classmethod
    def _legal_widths(cls, value: list[float]) -> list[float]:
        for bits in value:
            if not 1 <= bits <= 32:
                raise ValueError(f"bits must be in [1, 32], got {bits:g}; choose widths such as 2, 4 or 8")
        return value


class Static(Config):
    """The static runs to compare with."""

    test_configurations: dict[str, float | list[float] | Literal["progressive"]] = {"2bit": 2, "mixed": [2, 4]}
    """Name -> width, a list to alternate over the layers, or progressive."""

    finetune_lr_scale: float = Field(0.5, gt=0)
    """Learning rate of the fine-tuning, as a fraction."""


class Recipe(SharedConfig):
    """Train an example."""

    lr: float = Field(0.05, gt=0)
    """Learning rate."""

    cyclic: Cycle = Cycle()
    """How the precision cycles."""

    static: Static = Field(default_factory=lambda: Static(finetune_lr_scale=0.25))
    """The static runs."""

    stages: list[int] = Field([0], min_length=1)
    """Stages to train, by number."""

    model_options: dict[str, Any] = {}
    """Options of the network."""


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "aggressive": {"cyclic": {"cycle_length": 10, "bit_width_pattern": [8, 2]}, "epochs": 2},
    "research": {"seeds": 3},
}
