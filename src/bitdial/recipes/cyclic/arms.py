"""The arms of the comparison: which there are, what each trains at, and what it starts from."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bitdial import schedules
from bitdial.errors import BitdialError
from bitdial.evaluation.results import ArmKind
from bitdial.layers.options import CyclicPrecisionConfig
from bitdial.recipes import recipe
from bitdial.recipes.cyclic.options import Ablation, CyclicConfig, ModelConfig, StaticBits
from bitdial.schedules import LayerSchedule

CPT = "cpt"
MATCHED = "matched_cost"
BASELINE = "baseline_fp32"
ABLATION = "ablation_"


@dataclass(frozen=True, kw_only=True)
class Arm(recipe.Arm):
    """One arm.

    Attributes:
        kind: what sort it is.
        ships_at: the width at which it is worth shipping, or widths that alternate over the layers.
        trains_at: a static configuration, or None for a cyclic or ablation arm.
    """

    kind: ArmKind
    ships_at: float | list[float]
    trains_at: StaticBits | None = None

    @property
    def label(self) -> str:
        """The shipping width in words."""
        if isinstance(self.ships_at, list):
            return "/".join(f"{bits:g}" for bits in self.ships_at) + " alternating"
        return f"{self.ships_at:g}"

    def own_bits(self, layers: int) -> float | list[float]:
        """What it ships at, as the dial takes it: one width, or one for each layer."""
        return final_widths(self.ships_at, layers) if isinstance(self.ships_at, list) else self.ships_at


def plan_arms(options: CyclicConfig) -> list[Arm]:
    """All arms of one seed, in the order of training: the cyclic one comes before those that need it.

    The unquantized baseline comes first, so that it can teach the others when they are distilled.

    Raises:
        BitdialError: there is a share for a teacher and no teacher, or a fine-tune with fewer steps than rungs.
    """
    model, static, default = options.network, options.static, options.model_options.default_bit_width
    distils = options.distillation_alpha > 0
    if distils and not static.compare_to_baseline:
        raise BitdialError(
            f"distillation_alpha is {options.distillation_alpha:g}, expected static.compare_to_baseline with it: the "
            "unquantized baseline is the teacher; switch it on, or set distillation_alpha to 0"
        )
    rungs, steps = len(set(model.bit_widths)), options.num_static_iterations
    if "progressive" in static.test_configurations.values() and steps < rungs:
        raise BitdialError(
            f"num_static_iterations must be at least {rungs}, one for each width that a progressive configuration "
            f"steps down, got {steps}"
        )
    taught: dict[str, Any] = {"needs": (BASELINE,) if distils else ()}
    # how many an epoch has is not known here
    whole = None if options.epochs is not None else options.steps or options.num_cpt_iterations
    arms: list[Arm] = []
    if static.compare_to_baseline:
        arms.append(Arm(name=BASELINE, kind="baseline", ships_at=32.0, trains_at=32, rehearsed=distils, steps=whole))
    arms.append(Arm(name=CPT, kind="cpt", ships_at=default, steps=whole, **taught))
    for name, bits in static.test_configurations.items():
        ships_at = min(model.bit_widths) if bits == "progressive" else bits
        arms.append(
            Arm(
                name=f"static_{name}",
                kind="static",
                ships_at=ships_at,
                trains_at=bits,
                starts_from=CPT,
                steps=steps,
                **taught,
            )
        )
    arms.append(
        Arm(
            name=MATCHED,
            kind="matched",
            ships_at=default,
            trains_at=default,
            rehearsed=False,
            follows=(CPT,),
            steps=whole,
            **taught,
        ),
    )
    for ablation in options.experiment.ablations_on:
        name = f"{ABLATION}{ablation}"
        arms.append(Arm(name=name, kind="ablation", ships_at=default, rehearsed=False, steps=whole, **taught))
    return arms


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
