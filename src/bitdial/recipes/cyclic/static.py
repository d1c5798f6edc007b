"""What a static configuration means: its widths, step by step and layer by layer, and those that it ends at."""

from __future__ import annotations

from collections.abc import Sequence

from bitdial import schedules
from bitdial.recipes.cyclic.config import StaticBits
from bitdial.schedules import LayerSchedule


def static_schedule(
    bits: StaticBits, layers: int, iterations: int, widths: Sequence[float] = (8, 4, 2)
) -> LayerSchedule:
    """The schedule of a static configuration.

    Args:
        bits: one width; a list that alternates over the layers; or ``"progressive"``: down `widths` in equal stretches.
        layers: number of quantized layers.
        iterations: length of the phase.
        widths: the rungs of ``"progressive"``.

    Raises:
        ValueError: a width outside [1, 32], or fewer iterations than rungs.
    """
    if bits == "progressive":
        rungs = schedules.ladder(sorted(set(widths), reverse=True), iterations)
        return lambda step, layer: rungs(step)
    held = final_widths(bits, layers, widths)
    return lambda step, layer: held[layer]


def final_widths(bits: StaticBits, layers: int, widths: Sequence[float] = (8, 4, 2)) -> list[float]:
    """The widths at which a static configuration ends, one for each layer."""
    if bits == "progressive":
        return [float(min(widths))] * layers
    given = bits if isinstance(bits, list) else [bits]
    return [float(given[layer % len(given)]) for layer in range(layers)]
