"""One schedule for many layers, shifted from layer to layer."""

from __future__ import annotations

from dataclasses import dataclass

from bitdial.schedules._checks import check_count, check_schedule, check_step
from bitdial.schedules._types import LayerSchedule, Schedule


@dataclass(frozen=True)
class PerLayer:
    """Layer i reads `schedule` at ``step + i * offset``."""

    schedule: Schedule
    offset: int

    def __call__(self, step: int, layer: int) -> float:
        return self.schedule(check_step(step) + check_step(layer, "layer") * self.offset)


def per_layer(schedule: Schedule, offset: int) -> LayerSchedule:
    """Return the layer schedule in which layer i reads `schedule` at ``step + i * offset``.

    Args:
        schedule: of the step alone.
        offset: steps by which each layer runs ahead of the one before; 0 keeps them together.

    Raises:
        ValueError: `schedule` is not a function, or `offset` is not a whole number from 0 up.

    >>> from bitdial.schedules import pattern
    >>> bits = per_layer(pattern([8, 4, 2], cycle_length=3), offset=1)
    >>> [int(bits(0, layer)) for layer in range(4)]
    [8, 4, 2, 8]
    """
    return PerLayer(check_schedule(schedule), check_count(offset, "offset", least=0))
