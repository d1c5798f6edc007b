"""Made-up runs, for tests of the analyzer and its page."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitdial.search.readers import FoundRun

LAMBDAS = (0.0018, 0.0035, 0.0067, 0.013, 0.025, 0.0483, 0.0932)
HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "</script><script>alert(3)</script>")


def run(name: str, config: Mapping[str, Any], metrics: Mapping[str, float], state: str = "finished") -> FoundRun:
    return FoundRun(name, "json", Path(name), state, dict(config), dict(metrics), 100, [])


def sweep(lambdas: tuple[float, ...] = LAMBDAS, seeds: int = 2) -> list[FoundRun]:
    """A grid over learning rate, width and lambda: the best rate is 1e-3; one cell is empty, one run failed."""
    draw = random.Random(0)
    runs = []
    for lam in lambdas or (None,):
        for rate in (1e-4, 3e-4, 1e-3, 3e-3):
            for width in (32, 64, 128):
                if (rate, width) == (3e-3, 128):
                    continue
                for seed in range(seeds):
                    config = {"optimizer.lr": rate, "width": width, "seed": seed, "epochs": 10, "kind": "hpcm"}
                    config |= {} if lam is None else {"lambda_value": lam}
                    good = -2 * abs(math.log10(rate) + 3) + 0.3 * math.log2(width / 32) + 0.1 * draw.random()
                    size = 0.0 if lam is None else math.log2(lam / 0.0018)
                    metrics = {"psnr": 28 + 1.5 * size + good, "bpp": 0.1 * 1.6**size + 0.01 * draw.random()}
                    runs.append(run(f"run-{len(runs)}", config, metrics | {"seconds": 10 + width / 9}))
    failed = {**runs[0].config, "seed": 99}
    return [*runs, FoundRun("broken", "json", Path("broken"), "failed", failed, {}, 3, ["CUDA out of memory"])]


def scatter(count: int, columns: int = 6, choices: int = 3) -> list[FoundRun]:
    """A random search: `lr` matters most, then `optimizer`; the other parameters do not."""
    draw = random.Random(1)
    runs = []
    for number in range(count):
        rate, kind = 10 ** draw.uniform(-5, -1), draw.choice(["adam", "sgd", "lion", "adafactor"][: choices + 1])
        config: dict[str, Any] = {"lr": rate, "optimizer": kind}
        config |= {f"free_{index}": draw.random() for index in range(columns - 4)}
        accuracy = 0.9 - 0.1 * abs(math.log10(rate) + 3) + 0.05 * (kind == "adam") + 0.01 * draw.random()
        runs.append(run(f"trial-{number}", config, {"val/accuracy": accuracy, "val/loss": 1 - accuracy}))
    return runs


def odd() -> list[FoundRun]:
    """Runs whose names and values are whatever people write."""
    names = ["a b", "x.y|z", "größe_ヴィット", "index", *HOSTILE, "$x_{$", "loss", "_source"]
    runs = []
    for number in range(12):
        config: dict[str, Any] = {name: number % (place + 2) for place, name in enumerate(names)}
        config |= {"betas": "[0.9,0.999]" if number % 2 else "[0.8,0.99]", "flag": number % 2 == 0}
        config |= {"mixed": [1, "auto", None, True, 2.5][number % 5], "huge": 10**400 if number % 3 else 1}
        if number % 2:
            config["only.sgd.momentum"] = 0.1 * number
        metrics = {"loss": 1 / (number + 1), "accuracy": math.nan if number == 3 else number / 12, "": 1.0}
        if number == 5:
            metrics = {"accuracy": math.inf}
        name = f"{HOSTILE[number % 3]}{number}" if number < 6 else f"naïve ヴィット 🎛 {number}"
        runs.append(run(name, config, metrics))
    return runs
