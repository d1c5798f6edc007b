"""Weights in shards (``strategy="fsdp"``) against whole ones (``ddp``): bytes a process holds, and the time of a step.

Run with ``OMP_NUM_THREADS=1 python -m benchmarks.sharding [--processes N] [--rounds N]``; on two cores it takes about
five minutes. On CPUs the processes talk over gloo through shared memory: the ratio of times tells what gathering costs
where computing is slow and talking is not free; it is no forecast for GPUs.

Both ways train the same ternary network on the same batches in the same processes, in turns within each round. Bytes
are those of weights, gradients and the optimizer's state (momentum; two moments for AdamW) at the end of a step, when
all of them are there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bitdial
from benchmarks.machine import describe, keep_freed_memory
from benchmarks.mixed_precision import VOCABULARY, transformer
from benchmarks.timing import quartiles
from bitdial.models import build_model
from bitdial.training import (
    Classification,
    Hook,
    LoopConfig,
    OptimizerConfig,
    StepResult,
    TrainingState,
    build_optimizer,
    fit,
    make_fabric,
)

RESULTS = Path(__file__).parent / "results"
WAYS = {"ddp": False, "fsdp": True}
STEPS, WARM_UP = 7, 3


def resnet18() -> tuple[nn.Module, Any]:
    """11 million weights; 16 images of 3x32x32 a process."""
    model = build_model("resnet18", num_classes=10, in_channels=3, image_size=32)
    return model, (torch.randn(16, 3, 32, 32), torch.randint(10, (16,)))


def language_model() -> tuple[nn.Module, Any]:
    """28 million weights in 8 blocks; 2 sequences of 128 tokens a process, the next token of the last one to learn."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = transformer(512, 8, 8)

        def forward(self, tokens: Tensor) -> Tensor:
            logits: Tensor = self.inner(tokens)[:, :, -1]
            return logits

    return Last(), (torch.randint(VOCABULARY, (2, 128)), torch.randint(VOCABULARY, (2,)))


CASES: dict[str, tuple[Callable[[], tuple[nn.Module, Any]], str]] = {
    "ResNet-18, SGD": (resnet18, "sgd"),
    "transformer, AdamW": (language_model, "adamw"),
}


class Meter(Hook):
    """Takes the time of each step and, at the last gradients, the bytes held."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.times: list[float] = []
        self.bytes = 0
        self._began = 0.0
        optimizer.register_step_post_hook(self._weigh)

    def before_step(self, state: TrainingState) -> None:
        """Start."""
        _synchronise(state)
        self._began = time.perf_counter()

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        """Stop."""
        _synchronise(state)
        self.times.append(time.perf_counter() - self._began)

    def _weigh(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        held: list[Any] = []
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                held += [parameter, parameter.grad, *optimizer.state[parameter].values()]
        tensors = [each.to_local() if hasattr(each, "to_local") else each for each in held if isinstance(each, Tensor)]
        self.bytes = sum(each.numel() * each.element_size() for each in tensors)


def _synchronise(state: TrainingState) -> None:
    if state.fabric.device.type == "cuda":
        torch.cuda.synchronize()


def measure(fabric: Any, rounds: int, output: str) -> None:
    """Runs in every process; the first writes what it saw."""
    torch.set_num_threads(1)
    keep_freed_memory()
    found: dict[str, Any] = {}
    for case, (make, optimizer_name) in CASES.items():
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        held: dict[str, int] = {}
        for number in range(rounds):
            for way in list(WAYS) if number % 2 else list(reversed(WAYS)):
                torch.manual_seed(0)
                model, batch = make()
                bitdial.quantize(model, quantizer="twn", weights=2, activations=8, skip=("<first>", "<last>"))
                optimizer = build_optimizer(model, OptimizerConfig(optimizer=optimizer_name, learning_rate=1e-3))
                fabric.strategy.shards_weights = WAYS[way]
                meter = Meter(optimizer)
                fit(
                    fabric, model, optimizer, Classification(), [batch] * STEPS, LoopConfig(epochs=1),
                    hooks=[meter],
                )  # fmt: skip
                times[way].append(statistics.median(meter.times[WARM_UP:]))
                held[way] = meter.bytes
        found[case] = {
            "weights": sum(parameter.numel() for parameter in model.parameters()),
            "ms": {way: round(1000 * statistics.median(each), 1) for way, each in times.items()},
            "time_ratio": quartiles([b / a for a, b in zip(times["ddp"], times["fsdp"], strict=True)]),
            "bytes": held,
            "bytes_ratio": round(held["fsdp"] / held["ddp"], 4),
        }
    if fabric.is_global_zero:
        Path(output).write_text(json.dumps(found))
    fabric.barrier()
    torch.distributed.destroy_process_group()


def table(found: dict[str, Any], processes: int) -> str:
    """Return the result in Markdown."""
    lines = [
        f"| network, {processes} processes | weights | MB held, ddp | fsdp | ratio | ms a step, ddp | fsdp | ratio | "
        "quartiles |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for case, each in found.items():
        held, ms, ratio = each["bytes"], each["ms"], each["time_ratio"]
        lines.append(
            f"| {case} | {each['weights'] / 1e6:.1f} M | {held['ddp'] / 1e6:.1f} | {held['fsdp'] / 1e6:.1f} | "
            f"{each['bytes_ratio']:.2f} | {ms['ddp']} | {ms['fsdp']} | {ratio['median']:.2f} | "
            f"{ratio['low']:.2f}-{ratio['high']:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "found.json"
        fabric = make_fabric(devices=options.processes, strategy="fsdp_spawn", accelerator="cpu")
        fabric.launch(measure, options.rounds, str(output))
        found = json.loads(output.read_text())
    load = [round(before, 2), round(os.getloadavg()[0], 2)]
    machine = describe(packages=("numpy", "lightning"))
    result = {
        "processes": options.processes,
        "rounds": options.rounds,
        "cases": found,
        "load": load,
        "machine": machine,
    }
    (RESULTS / "sharding.json").write_text(json.dumps(result, indent=1) + "\n")
    facts = ", ".join(f"{name} {value}" for name, value in machine.items())
    text = (
        f"{table(found, options.processes)}\n\nBytes: weights, gradients and optimizer state of the first process. "
        f"Times: medians of {options.rounds} interleaved rounds, one thread a process.\n\n"
        f"Machine: {facts}. Load average before the run {load[0]}, after it {load[1]}.\n"
    )
    (RESULTS / "sharding.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
