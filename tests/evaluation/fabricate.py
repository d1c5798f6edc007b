"""Made-up but plausible results of a run, for tests that need a whole one."""

from __future__ import annotations

import math
import random

from bitdial.evaluation.results import ArmKind, ArmResult, History, Machine, WidthCost, WidthScore
from bitdial.recipes.cyclic.results import CyclicResults, collect_results

WIDTHS = (2.0, 4.0, 8.0, 16.0, 32.0)

# name, kind, own width, label, accuracy at 2/4/8/16/32 bits, own accuracy, average bits, BitOps, own BitOps
ARMS: list[tuple[str, ArmKind, float, str, tuple[float, ...], float, float, float, float]] = [
    ("cpt", "cpt", 8, "8", (0.71, 0.945, 0.963, 0.964, 0.964), 0.963, 5.2, 1.9e12, 1.9e12),
    ("static_2bit", "static", 2, "2", (0.905, 0.82, 0.79, 0.78, 0.78), 0.905, 2.0, 2.3e12, 0.4e12),
    ("static_4bit", "static", 4, "4", (0.62, 0.960, 0.958, 0.957, 0.957), 0.960, 4.0, 2.7e12, 0.8e12),
    ("static_8bit", "static", 8, "8", (0.51, 0.951, 0.967, 0.967, 0.967), 0.967, 8.0, 3.5e12, 1.6e12),
    ("static_mixed_2_4", "static", 3, "2/4 alternating", (0.84, 0.91, 0.90, 0.89, 0.89), 0.942, 3.0, 2.5e12, 0.6e12),
    (
        "static_mixed_4_8",
        "static",
        6,
        "4/8 alternating",
        (0.58, 0.952, 0.963, 0.962, 0.962),
        0.964,
        6.0,
        3.1e12,
        1.2e12,
    ),
    ("matched_cost", "matched", 8, "8", (0.46, 0.942, 0.961, 0.961, 0.961), 0.961, 8.0, 1.9e12, 1.9e12),
    ("baseline_fp32", "baseline", 32, "32", (0.14, 0.83, 0.966, 0.969, 0.969), 0.969, 32.0, 9.6e12, 9.6e12),
    ("ablation_random_cycling", "ablation", 8, "8", (0.74, 0.941, 0.958, 0.958, 0.958), 0.958, 5.1, 1.9e12, 1.9e12),
]


def fabricate(
    *, seeds: int = 3, iterations: int = 400, cycle_length: int = 20, diverged: bool = False
) -> CyclicResults:
    """Return results of nine arms over `seeds` seeds."""
    arms = [
        _arm(row, seed, iterations=iterations, cycle_length=cycle_length, diverged=diverged)
        for row in ARMS
        for seed in range(seeds)
    ]
    return collect_results(
        arms,
        config={
            "model": {"name": "resnet20", "bit_widths": [2, 4, 8, 16], "default_bit_width": 8},
            "training": {"num_cpt_iterations": iterations, "batch_size": 64, "learning_rate": 0.1, "use_amp": False},
            "cyclic": {"cycle_length": cycle_length, "bit_width_pattern": [8, 4, 2, 4, 8], "gradient_bits": 32},
            "static": {"test_configurations": {"2bit": 2, "4bit": 4, "mixed_2_4": [2, 4]}, "finetune_lr_scale": 0.5},
            "dataset": "digits",
            "data_path": None,
            "seeds": list(range(seeds)),
        },
        class_names=["one", "another class", "a class with a long name"],
        command=f"bitdial train cyclic --dataset digits --model resnet20 --seeds {' '.join(map(str, range(seeds)))}",
        machine=Machine(
            system="Linux 6.8 (x86_64)",
            processor="Example 9000 with a name as long as real ones are @ 2.50GHz",
            cores=2,
            memory_gib=15.6,
            accelerators=[],
            python="3.11.9",
            versions={"bitdial": "0.1.0", "torch": "2.14.1", "torchvision": "0.29.1", "numpy": "2.3.1"},
        ),
    )


def _arm(
    row: tuple[str, ArmKind, float, str, tuple[float, ...], float, float, float, float],
    seed: int,
    *,
    iterations: int,
    cycle_length: int,
    diverged: bool,
) -> ArmResult:
    name, kind, own_bits, label, accuracies, own, average_bits, bitops, bitops_own = row
    chance = random.Random(f"{name}/{seed}")

    def near(accuracy: float) -> float:
        return min(1.0, max(0.0, accuracy + chance.gauss(0, 0.15 * (1 - accuracy) * accuracy)))

    def score(bits: float, accuracy: float) -> WidthScore:
        loss = -math.log(max(accuracy, 1e-3)) * 1.3
        return WidthScore(bits=bits, accuracy=accuracy, loss=loss, confusion=confusions(accuracy))

    scores = [score(bits, near(accuracy)) for bits, accuracy in zip(WIDTHS, accuracies, strict=True)]
    shipped = next((item for item in scores if item.bits == own_bits), score(own_bits, near(own)))
    bits = [_bits(kind, own_bits, step, cycle_length) for step in range(iterations)]
    losses = [
        0.15 + 2.1 * math.exp(-4 * step / iterations) + 0.25 / width + abs(chance.gauss(0, 0.08))
        for step, width in enumerate(bits)
    ]
    if diverged and kind == "cpt":
        losses[iterations // 2] = math.nan
    cycling = kind in ("cpt", "ablation")
    return ArmResult(
        name=name,
        kind=kind,
        seed=seed,
        scores=scores,
        own=shipped,
        own_label=label,
        visited=[2.0, 4.0, 8.0] if kind == "cpt" else None,
        average_bits=average_bits,
        bitops=bitops,
        bitops_own=bitops_own,
        seconds=8.0 + 6 * bitops / 1e12 + chance.random(),
        seconds_own=4.0 + 2 * bitops_own / 1e12,
        iterations=iterations,
        costs={
            name: WidthCost(size_bytes=int(12e3 + 34e3 * width), bitops=4e8 + 4e7 * width**2)
            for name, width in {**{f"{width:g}": width for width in WIDTHS}, label: own_bits}.items()
        },
        forward_seconds=7e-5,
        history=History(
            step=list(range(iterations)),
            loss=losses,
            bits=bits,
            learning_rate=[0.05 * (1 + math.cos(math.pi * step / iterations)) for step in range(iterations)],
            cycle_boundaries=list(range(0, iterations, cycle_length)) if cycling else [],
        ),
    )


def confusions(accuracy: float) -> list[list[int]]:
    """Return a table of three classes, of 100 examples each, the last of which is taken for the second."""
    right = round(100 * accuracy)
    return [[right, 100 - right, 0], [100 - right, right, 0], [0, min(100, 2 * (100 - right)), max(0, 2 * right - 100)]]


def _bits(kind: ArmKind, own_bits: float, step: int, cycle_length: int) -> float:
    if kind not in ("cpt", "ablation"):
        return own_bits
    return (8.0, 4.0, 2.0, 4.0, 8.0)[(step % cycle_length) * 5 // cycle_length]


def arms_of(
    name: str,
    accuracies: list[float],
    *,
    kind: ArmKind = "static",
    bits: float = 8,
    bitops: float = 1e12,
    scores: dict[float, list[float]] | None = None,
    first_seed: int = 0,
    label: str | None = None,
    visited: list[float] | None = None,
) -> list[ArmResult]:
    """Return one arm with one result for each accuracy, scored at its own width and at those of `scores`.

    With a `label` its own width is none that all layers share, so that `bits` is their mean.
    """
    return [
        ArmResult(
            name=name,
            kind=kind,
            seed=first_seed + index,
            scores=[
                WidthScore(bits=width, accuracy=values[index], loss=1.0)
                for width, values in {**({} if label else {bits: accuracies}), **(scores or {})}.items()
            ],
            own=WidthScore(bits=bits, accuracy=accuracy, loss=1.0),
            own_label=label or f"{bits:g}",
            visited=visited,
            average_bits=bits,
            bitops=bitops,
            bitops_own=bitops,
            seconds=10.0,
            iterations=100,
        )
        for index, accuracy in enumerate(accuracies)
    ]
