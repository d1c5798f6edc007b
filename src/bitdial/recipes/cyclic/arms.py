"""The arms of the comparison: which there are, what each trains at, and what it starts from."""

from __future__ import annotations

import random
from dataclasses import dataclass

from bitdial import schedules
from bitdial.evaluation.results import ArmKind
from bitdial.recipes.cyclic.config import (
    Ablation,
    CyclicPrecisionConfig,
    ExperimentOptions,
    ModelConfig,
    StaticBits,
    StaticPrecisionConfig,
)
from bitdial.recipes.cyclic.static import final_widths
from bitdial.schedules import LayerSchedule

CPT = "cpt"
MATCHED = "matched_cost"
BASELINE = "baseline_fp32"
ABLATION = "ablation_"


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        name, kind: what it is called, and what sort it is.
        ships_at: the width at which it is worth shipping, or widths that alternate over the layers.
        trains_at: a static configuration, or None for a cyclic or ablation arm.
        fine_tuned: whether it starts from the cyclic model.
    """

    name: str
    kind: ArmKind
    ships_at: float | list[float]
    trains_at: StaticBits | None = None
    fine_tuned: bool = False

    @property
    def label(self) -> str:
        """The shipping width in words."""
        if isinstance(self.ships_at, list):
            return "/".join(f"{bits:g}" for bits in self.ships_at) + " alternating"
        return f"{self.ships_at:g}"

    def own_bits(self, layers: int) -> float | list[float]:
        """What it ships at, as the dial takes it: one width, or one for each layer."""
        return final_widths(self.ships_at, layers) if isinstance(self.ships_at, list) else self.ships_at


def plan_arms(model: ModelConfig, static: StaticPrecisionConfig, experiment: ExperimentOptions) -> list[Arm]:
    """All arms of one seed, in the order of training: the cyclic one comes before those that need it.

    The unquantized baseline comes first, so that it can teach the others when they are distilled.
    """
    default = model.default_bit_width
    arms = [Arm(BASELINE, "baseline", 32.0, trains_at=32)] if static.compare_to_baseline else []
    arms.append(Arm(CPT, "cpt", default))
    for name, bits in static.test_configurations.items():
        ships_at = min(model.bit_widths) if bits == "progressive" else bits
        arms.append(Arm(f"static_{name}", "static", ships_at, trains_at=bits, fine_tuned=True))
    arms.append(Arm(MATCHED, "matched", default, trains_at=default))
    arms += [Arm(f"{ABLATION}{name}", "ablation", default) for name in experiment.ablations_on]
    return arms


def ablation_schedule(
    name: Ablation, precision: CyclicPrecisionConfig, model: ModelConfig, *, layers: int, seed: int
) -> LayerSchedule:
    """The widths of an ablation.

    Args:
        name: ``no_cycling``: held at the default width. ``fixed_pattern``: the bare pattern. ``random_cycling``: the
            pattern's widths in random order, each held as long as in the pattern. ``layer_independent``: each layer
            reads the schedule at a random offset of its own.
        precision, model: the configuration that the cyclic arm follows.
        layers: number of quantized layers.
        seed: for the random ones.
    """
    if name == "no_cycling":
        held = schedules.static(model.default_bit_width)
        return lambda step, layer: held(step)
    if name == "fixed_pattern":
        bare = schedules.pattern(precision.bit_width_pattern, precision.cycle_length)
        return lambda step, layer: bare(step)
    if name == "random_cycling":
        hold = max(1, precision.cycle_length // len(precision.bit_width_pattern))
        drawn = schedules.random_bits(precision.bit_width_pattern, seed=seed, hold=hold)
        return lambda step, layer: drawn(step)
    cycling, draw = precision.schedule(), random.Random(seed)
    offsets = [draw.randrange(precision.cycle_length) for _ in range(layers)]
    return lambda step, layer: cycling(step + offsets[layer])
