"""The pictures of ``docs/any_precision_measuring.md``, drawn from made-up configurations whose shape is known.

Run with ``python -m benchmarks.width_gallery``; writes PNG files of 64 colours into ``docs/any_precision_measuring``.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from bitdial.evaluation import LayerSensitivity, plot_bitwidth_vs_accuracy, plot_layer_sensitivity

FOLDER = Path(__file__).parents[1] / "docs" / "any_precision_measuring"
Curve = Callable[[Any], Any]


def drawn(count: int, layers: int, options: list[int], curve: Curve, noise: Curve) -> tuple[list[float], list[float]]:
    """Return average widths and accuracies of random configurations around a curve, with noise around it."""
    generator = np.random.default_rng(0)
    bits = generator.choice(options, size=(count, layers)).mean(1)
    accuracies = np.clip(curve(bits) + noise(bits) * generator.standard_normal(count), 0, 1)
    return bits.tolist(), accuracies.tolist()


def figures() -> dict[str, Figure]:
    """Return the figures by name."""
    one = drawn(10, 1, [8], lambda b: 0.9 + 0 * b, lambda b: 0.01)
    cases: dict[str, tuple[tuple[list[float], list[float]], int, str]] = {
        "rising": (drawn(24, 20, [2, 4, 8], lambda b: 0.45 + 0.05 * b, lambda b: 0.01), 12, "Rising"),
        "plateau": (
            drawn(40, 6, [2, 4, 8, 16], lambda b: 0.93 - 0.5 * np.exp(-b / 1.5), lambda b: 0.004),
            30,
            "Plateau",
        ),
        "unstable": (
            drawn(60, 4, [2, 3, 4, 8], lambda b: 0.9 - 0.02 * np.exp(3 - b), lambda b: 0.2 * np.exp(2 - b)),
            30,
            "Unstable at low widths",
        ),
        "non_monotonic": (
            drawn(40, 8, [4, 8, 16], lambda b: 0.92 - 0.003 * (b - 8) ** 2, lambda b: 0.004),
            30,
            "Non-monotonic",
        ),
        "many": (
            drawn(500, 20, [2, 4, 8, 16, 32], lambda b: 0.94 - 0.8 * np.exp(-b / 3), lambda b: 0.012),
            99,
            "Five hundred configurations",
        ),
        "one_width": (one, 5, "One width"),
        "one_point": (([12.45], [0.8912]), 0, "One configuration"),
    }
    made = {name: plot_bitwidth_vs_accuracy(*data, epoch, title) for name, (data, epoch, title) in cases.items()}
    drops = sorted(np.random.default_rng(0).exponential(0.03, 18) - 0.004, reverse=True)
    layers = [f"stage{1 + place // 6}.{place % 6 // 2}.conv{1 + place % 2}" for place in range(18)]
    made["sensitivity"] = plot_layer_sensitivity(
        [
            LayerSensitivity(layer=layer, accuracy_drop=drop, loss_rise=3 * drop, low=2, high=8, weights=2304)
            for layer, drop in zip(layers, drops, strict=True)
        ]
    )
    return made


def main() -> None:
    """Draw and write them all."""
    FOLDER.mkdir(exist_ok=True)
    for name, figure in figures().items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        image = Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE)
        image.save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
