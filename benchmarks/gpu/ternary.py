"""Ternary ResNet-18 against the unquantized one on Fashion-MNIST: one recipe, three seeds side by side.

Each seed is one ``bitdial train ternary --config benchmarks/gpu/ternary.yaml`` in a process of its own (see
`benchmarks.ternary_fashion_mnist`). One epoch comes first: it is a result, and its times say how many epochs there is
time for. Differences are paired by seed, intervals 95% Student t intervals.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.gpu.parts import Bench, NotEnoughTimeError, Row

CONFIG = Path(__file__).with_suffix(".yaml")
SEEDS = 3
MOST_EPOCHS, SAFETY = 60, 1.25
ONE = "one epoch"


def cases(toy: bool) -> Mapping[str, float]:
    """The short run, and the one that takes what is left."""
    return {ONE: 100.0, "as many epochs as there is time for": 240.0}


def measure(case: str, bench: Bench) -> list[Row]:
    """A row for each of the two networks."""
    if case == ONE:
        return _train(1, bench)
    # What one epoch took, and what a run takes besides: as it was just measured, or is measured now.
    times = bench.scratch / "ternary-seconds.txt"
    if not times.exists():
        _train(1, bench)
    epoch, besides = map(float, times.read_text().split())
    epochs = int((bench.seconds_left / SAFETY - besides) / epoch)
    if epochs < 2:
        raise NotEnoughTimeError(f"two epochs take {2 * epoch + besides:.0f} s")
    return _train(2 if bench.toy else min(epochs, MOST_EPOCHS), bench)


def _train(epochs: int, bench: Bench) -> list[Row]:
    """Train all seeds at a time; runs in the scratch folder that were stopped are gone on with."""
    from benchmarks.ternary_fashion_mnist import merged, train

    seeds = 2 if bench.toy else SEEDS
    flags = ["--epochs", str(epochs)]
    if bench.toy:
        flags += ["--dataset", "digits", "--model", "tiny_cnn", "--precision", "float32"]
    elif bench.data is not None:
        flags += ["--data_path", str(bench.data)]
    folder = bench.scratch / f"ternary-{bench.device}-{epochs}"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MPLBACKEND", "agg")
    began = time.monotonic()
    with ThreadPoolExecutor(seeds) as pool:
        parts = list(pool.map(lambda seed: train(seed, folder, CONFIG, *flags), range(seeds)))
    seconds = time.monotonic() - began
    results = merged(parts)
    trained = max(sum(network.seconds for network in part.networks) for part in parts)
    (bench.scratch / "ternary-seconds.txt").write_text(f"{trained / epochs} {max(seconds - trained, 0.0)}")
    return [
        {
            "network": summary.experiment, "epochs": epochs, "seeds": seeds, "seconds": summary.seconds,
            "test": summary.test.model_dump(),
            "difference": summary.difference.model_dump() if summary.difference else None,
            "by_seed": [each.test.accuracy for each in results.networks if each.experiment == summary.experiment],
            "file_bytes": summary.file_bytes, "float32_bytes": summary.float32_bytes,
        }
        for summary in results.summaries
    ]  # fmt: skip


def table(rows: Sequence[Row]) -> list[str]:
    """One row a network and number of epochs."""
    lines = [
        "| epochs | network | seeds | test accuracy, % | minus float, points | packed file | float32 | s a seed |",
        "|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        sizes = ["" if row[key] is None else f"{row[key] / 1e6:.2f} MB" for key in ("file_bytes", "float32_bytes")]
        difference = "" if row["difference"] is None else _percent(row["difference"], "+")
        lines.append(
            f"| {row['epochs']} | {row['network']} | {row['seeds']} | {_percent(row['test'])} | {difference} | "
            f"{' | '.join(sizes)} | {row['seconds']:.0f} |"
        )
    return [*lines, "", "Seeds trained side by side on the one device: their seconds compare nothing else."]


def _percent(value: Mapping[str, float], sign: str = "") -> str:
    half = "" if value["low"] is None else f" ± {50 * (value['high'] - value['low']):.2f}"
    return f"{100 * value['mean']:{sign}.2f}{half}"
