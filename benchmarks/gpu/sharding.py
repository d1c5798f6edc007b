"""Weights in shards on one device: what the machinery costs where nothing is cut, and that the weights are the same.

With one device `make_fabric` leaves shards out, as there is nothing to cut. Here one process is a group of its own: the
hooks, copies and resharding of PyTorch's `fully_shard` run on the device, and NCCL (gloo on a CPU) carries the first
weights. PyTorch leaves out the gathering and scattering of a group of one: what these cost only several devices show.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.parts import Bench, Row

STEPS, WARM_UP, ROUNDS = 15, 5, 6
NETWORKS = {"ResNet-18, SGD": ("ResNet-18 32x32", "sgd"), "transformer 100M, AdamW": ("transformer 100M", "adamw")}


def cases(toy: bool) -> Mapping[str, float]:
    """Two networks."""
    return dict.fromkeys(NETWORKS, 45.0)


def measure(case: str, bench: Bench) -> list[Row]:
    """One row."""
    import torch
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    fabric = Fabric(accelerator=bench.device, devices=1, strategy=DDPStrategy())
    fabric.launch()
    try:
        return [_compare(case, bench, fabric)]
    finally:
        torch.distributed.destroy_process_group()


def _compare(case: str, bench: Bench, fabric: Any) -> Row:
    import torch

    import bitdial
    from benchmarks.gpu.tax import build
    from benchmarks.sharding import Meter
    from benchmarks.timing import quartiles
    from bitdial.training import Classification, LoopConfig, OptimizerConfig, TaskOutput, build_optimizer, fit

    class NextToken(Classification):
        """Cross-entropy over classes, or over the tokens of a sequence."""

        def loss(self, model: torch.nn.Module, batch: Any) -> TaskOutput:
            return TaskOutput(torch.nn.functional.cross_entropy(model(batch[0]), batch[1]), len(batch[0]))

    network, optimizer_name = NETWORKS[case]
    times: dict[str, list[float]] = {"whole": [], "shards": []}
    ends: dict[str, Any] = {}
    torch.backends.cudnn.deterministic = True  # so that what differs comes of the shards
    steps = 4 if bench.toy else STEPS
    for number in range(2 if bench.toy else ROUNDS):
        if number >= 2 and bench.seconds_left < 2 * sum(map(sum, times.values())) / number * steps:
            break
        for way in list(times) if number % 2 else list(reversed(times)):
            model, x, y = build(network, bench)
            bitdial.quantize(model, quantizer="twn", weights=2, activations=8, skip=("<first>", "<last>"))
            optimizer = build_optimizer(model, OptimizerConfig(optimizer=optimizer_name, learning_rate=1e-4))
            meter = Meter(optimizer)
            fabric.strategy.shards_weights = way == "shards"
            fit(fabric, model, optimizer, NextToken(), [(x, y)] * steps, LoopConfig(epochs=1), hooks=[meter])
            times[way].append(statistics.median(meter.times[1 if bench.toy else WARM_UP :]))
            ends[way] = {name: value.detach().cpu() for name, value in model.named_parameters()}
            if not all(bool(value.isfinite().all()) for value in ends[way].values()):
                raise RuntimeError(f"weights trained {way} are not finite")
    gaps = [float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-12)) for a, b in _pairs(ends)]
    return {
        "network": case, "rounds": len(times["whole"]), "gap": max(gaps),
        "ms": {way: 1e3 * statistics.median(each) for way, each in times.items()},
        "ratio": quartiles([b / a for a, b in zip(times["whole"], times["shards"], strict=True)]),
    }  # fmt: skip


def _pairs(ends: dict[str, Any]) -> list[tuple[Any, Any]]:
    return [(ends["shards"][name], value) for name, value in ends["whole"].items()]


def table(rows: Sequence[Row]) -> list[str]:
    """One row a network."""
    lines = [
        "| network, one device | ms a step, whole | in shards | ratio (quartiles) | largest relative gap of a weight |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        ratio, ms = row["ratio"], row["ms"]
        lines.append(
            f"| {row['network']} | {ms['whole']:.2f} | {ms['shards']:.2f} | {ratio['median']:.2f} "
            f"({ratio['low']:.2f}-{ratio['high']:.2f}) | {row['gap']:.1e} |"
        )
    return lines
