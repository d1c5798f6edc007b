"""What a step at many widths costs: any-precision training against steps of the same network at one width and in float.

Run with ``OMP_NUM_THREADS=1 python -m benchmarks.joint [--rounds 9] [--tiny]``; minutes. ResNet-20 on random images
3x32x32, batches of 64, SGD with momentum; a step of k = 4 passes at 2, 4, 8 and 32 bits, each of which learns from the
one before it, through the step that every recipe takes. Beside it, on equal networks with the same step: one pass in
floating point (no quantized layer), and one pass at each of the four widths. All take turns within each round, in an
order that rotates. Compared is the processor time of the process, which hardly feels what else runs on the machine;
reported are medians, and medians and quartiles of ratios within the same round. The aim: at most k + .1 passes.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.machine import describe, keep_freed_memory
from benchmarks.timing import quartiles
from bitdial.layers import BitDial
from bitdial.models import build_model
from bitdial.recipes.joint.methods import InPasses, Turn, plan
from bitdial.recipes.joint.options import JointConfig
from bitdial.recipes.joint.recipe import quantization
from bitdial.recipes.saved_model import quantized
from bitdial.training import BatchStream, Classification, MixedPrecisionConfig, Task, TrainingState, make_fabric
from bitdial.training.learning_rate import make_scheduler
from bitdial.training.mixed_precision import PrecisionControl
from bitdial.training.recorder import StepRecorder
from bitdial.training.step.optimizer_step import OptimizerStep

RESULTS = Path(__file__).parent / "results"
WIDTHS = (2, 4, 8, 32)
FLOAT, JOINT = "float", "any_precision"


def stepper(model: nn.Module, task: Task, batch: Any) -> Callable[[], object]:
    """Return what does one optimizer step, as the loop of a run does it."""
    fabric = make_fabric(1, accelerator="cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    control = PrecisionControl(MixedPrecisionConfig(enabled=False), fabric.device)
    stream, scheduler = BatchStream([batch], 1), make_scheduler(optimizer, None)
    step = OptimizerStep(TrainingState(fabric, model, optimizer, scheduler, stream, StepRecorder(), control), task)
    return lambda: step([batch])


def cases(batch_norm: str, batch: Any, model: str) -> dict[str, Callable[[], object]]:
    """Return a step of each kind, each on a network of its own."""
    options = JointConfig(training_method="any_precision", batch_norm=batch_norm, bitwidth_options=list(WIDTHS))
    shape = batch[0].shape
    torch.manual_seed(0)
    plain = build_model(model, num_classes=10, in_channels=shape[1], image_size=shape[2])
    found = {FLOAT: stepper(copy.deepcopy(plain), Classification(), batch)}
    for bits in (None, *WIDTHS):
        network = quantized(copy.deepcopy(plain), dict(quantization(options) or {}))
        dial = BitDial(network)
        turns = plan(options, len(dial), 0)(0) if bits is None else (Turn((float(bits),) * len(dial)),)
        name = JOINT if bits is None else f"{bits} bits"
        found[name] = stepper(network, InPasses(Classification(), dial, turns), batch)
    return found


def measure(rounds: int, batch: Any, model: str) -> dict[str, Any]:
    """Return seconds of each step and ratios, by the kind of batch norm."""
    found = {}
    for batch_norm in ("per_width", "shared"):
        steps = cases(batch_norm, batch, model)
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        for step in steps.values():
            step()
        order = list(steps)
        for number in range(rounds):
            first = number % len(order)
            for name in order[first:] + order[:first]:
                began = time.process_time()
                steps[name]()
                seconds[name].append(time.process_time() - began)
        single = [statistics.fmean(each) for each in zip(*(seconds[f"{bits} bits"] for bits in WIDTHS), strict=True)]
        found[batch_norm] = {
            "seconds": {name: quartiles(values) for name, values in seconds.items()},
            "to one float pass": quartiles([a / b for a, b in zip(seconds[JOINT], seconds[FLOAT], strict=True)]),
            "to one quantized pass": quartiles([a / b for a, b in zip(seconds[JOINT], single, strict=True)]),
        }
    return found


def table(found: dict[str, Any], facts: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        f"A step of {len(WIDTHS)} passes ({', '.join(map(str, WIDTHS))} bits, any_precision), in single steps:",
        "",
        "| batch norm | any_precision, ms | one float pass, ms | one quantized pass, ms | to float | to quantized |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        seconds = {kind: 1e3 * each["median"] for kind, each in row["seconds"].items()}
        single = ", ".join(f"{seconds[f'{bits} bits']:.0f}" for bits in WIDTHS)
        ratios = [
            f"{each['median']:.2f} ({each['low']:.2f} to {each['high']:.2f})"
            for each in (row["to one float pass"], row["to one quantized pass"])
        ]
        lines.append(f"| {name} | {seconds[JOINT]:.0f} | {seconds[FLOAT]:.0f} | {single} | {' | '.join(ratios)} |")
    told = f"{facts['cpu']}, threads {facts['threads']}, torch {facts['torch']}"
    return "\n".join([*lines, "", f"Processor time; medians, and quartiles of ratios within a round. {told}."])


def main(argv: list[str] | None = None) -> None:
    """Measure, print the table, write ``results/joint.json`` and ``.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="how often each step is taken")
    parser.add_argument("--tiny", action="store_true", help="a small network, to try the script; writes nothing")
    options = parser.parse_args(argv)
    keep_freed_memory()
    size, side = (8, 8) if options.tiny else (64, 32)
    batch = (torch.randn(size, 3, side, side), torch.arange(size) % 10)
    found = measure(options.rounds, batch, "tiny_cnn" if options.tiny else "resnet20")
    facts = describe()
    print(table(found, facts))
    if not options.tiny:
        content = {"benchmark": "joint", "rounds": options.rounds, "machine": facts, "results": found}
        (RESULTS / "joint.json").write_text(json.dumps(content, indent=2) + "\n")
        title = "# What a step at many widths costs"
        (RESULTS / "joint.md").write_text(f"{title}\n\n`python -m benchmarks.joint`\n\n{table(found, facts)}\n")


if __name__ == "__main__":
    main()
