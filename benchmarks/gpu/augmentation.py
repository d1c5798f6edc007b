"""Images that live on the device and are augmented there in whole batches, against a DataLoader with workers.

The ways, sizes and pipelines are those of `benchmarks.augmentation`, in turns in random order; ratios are to bitdial
within a round. "step" trains ResNet-20 on what each way delivers, "data" only takes the batches.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence

from benchmarks.gpu.parts import Bench, Row

SIZES = ("CIFAR size", "Fashion-MNIST size")
PIPELINES = ("crop+flip+normalise", "+cutmix", "+randaugment")
ROUNDS, STEPS = 5, 10
BATCH = 128


def cases(toy: bool) -> Mapping[str, float]:
    """Whole steps first."""
    sizes, pipelines = (SIZES[:1], PIPELINES[-1:]) if toy else (SIZES, PIPELINES)
    limits = {"+randaugment": 40.0}  # image by image on one core, without workers
    return {
        f"{kind}, {size}, {each}": limits.get(each, 20.0)
        for kind in ("step", "data")
        for size in sizes
        for each in pipelines
    }


def measure(case: str, bench: Bench) -> list[Row]:
    """A row for each way."""
    from benchmarks import augmentation as ours
    from benchmarks.timing import quartiles

    kind, size, pipeline = case.split(", ")
    split = ours.make_split(*ours.SIZES[size])
    cores = min(len(os.sched_getaffinity(0)), 16)
    workers = (0,) if bench.toy else tuple(sorted({0, max(cores // 4, 1), max(cores - 2, 1)}))
    kinds = ("tensors",) if bench.toy else ("PIL", "tensors")
    ways = ours.ways_of(split, ours.PIPELINES[pipeline], bench.device, kinds, workers)
    ways = {name: way for name, way in ways.items() if "image by image" not in name and "0 workers, PIL" not in name}
    consume: Callable[[object], object] = ours.trainer(split, bench.device) if kind == "step" else lambda _: None
    # More than workers fetch ahead, so that what is timed was also made in that time.
    warm = {name: 2 * max((count for count in workers if f", {count} workers" in name), default=0) + 2 for name in ways}
    times: dict[str, list[float]] = {name: [] for name in ways}
    shuffle, longest = random.Random(0), 0.0
    for _ in range(2 if bench.toy else ROUNDS):
        if bench.seconds_left < 1.2 * longest:
            break
        began = time.monotonic()
        for name in shuffle.sample(list(ways), len(ways)):
            times[name].append(ours.seconds_per_step(ways[name], consume, warm[name], 2 if bench.toy else STEPS))
        longest = max(longest, time.monotonic() - began)
    return [
        {
            "kind": kind, "size": size, "pipeline": pipeline, "way": name, "rounds": len(seconds),
            "ms": quartiles([1000 * each for each in seconds]),
            "ratio": quartiles([a / b for a, b in zip(seconds, times[ours.OURS], strict=True)]),
        }
        for name, seconds in times.items()
    ]  # fmt: skip


def table(rows: Sequence[Row]) -> list[str]:
    """One row a way."""
    lines = [
        f"| what | size, batch of {BATCH} | pipeline | way | ms (median) | times bitdial's (quartiles) |",
        "|---|---|---|---|--:|--:|",
    ]
    for row in rows:
        ratio = row["ratio"]
        lines.append(
            f"| {row['kind']} | {row['size']} | {row['pipeline']} | {row['way']} | {row['ms']['median']:.2f} | "
            f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f}) |"
        )
    return lines
