"""Saving checkpoints while training on a GPU: loops that save in the background, in the foreground, and not at all.

The ways are those of `benchmarks.checkpoint_loops`, in turns; a loop is over when its last checkpoint is on the disk.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.gpu.parts import Bench, Row

CASES = {"ResNet-18, SGD": (30, 10, 25.0), "transformer 100M, AdamW": (16, 8, 60.0)}
"""Steps of a loop, after how many of them it saves, limit in seconds."""
REPEATS = 6


def cases(toy: bool) -> Mapping[str, float]:
    """Two sizes of state."""
    return {name: limit for name, (*_, limit) in CASES.items()}


def measure(case: str, bench: Bench) -> list[Row]:
    """A row for each way to save."""
    import torch

    from benchmarks.checkpoint_loops import summarise_loops, time_loops
    from benchmarks.fake_quant import training_step
    from benchmarks.gpu.tax import build

    network, optimizer_name = case.split(", ")
    model, x, y = build("ResNet-18 32x32" if network == "ResNet-18" else network, bench)
    model.to(bench.device)
    optimizer: torch.optim.Optimizer
    if optimizer_name == "SGD":
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    step = training_step(model, x, y, dtype=torch.bfloat16, optimizer=optimizer)
    step()
    held = [*model.state_dict().values(), *(each for state in optimizer.state.values() for each in state.values())]
    size = sum(each.numel() * each.element_size() for each in held if isinstance(each, torch.Tensor))
    steps, every, _ = CASES[case]
    steps, every, repeats = (4, 2, 2) if bench.toy else (steps, every, REPEATS)
    without = ("bare + fsync",) if optimizer_name == "AdamW" else ()  # a gigabyte at a time takes its time
    folder = Path(tempfile.mkdtemp(dir=bench.scratch))
    try:
        times = time_loops(
            folder,
            model,
            optimizer,
            step,
            repeats,
            steps=steps,
            every=every,
            seconds=0.5 * bench.seconds_left,
            without=without,
        )
    finally:
        shutil.rmtree(folder)
    found = summarise_loops(times, steps=steps, every=every)
    repeats = len(next(iter(times.values())))
    head = {"network": case, "megabytes": size / 1e6, "saves": steps // every, "steps": steps, "repeats": repeats}
    return [{**head, "way": name, **figures} for name, figures in found.items()]


def table(rows: Sequence[Row]) -> list[str]:
    """One row a way."""
    lines = [
        "| network, optimizer | state, MB | steps, saves | way | s a loop | to bare torch.save | ms a save costs |",
        "|---|--:|--:|---|--:|--:|--:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['network']} | {row['megabytes']:.0f} | {row['steps']}, {row['saves']} | {row['way']} | "
            f"{row['seconds']['median']:.2f} | {row['to_bare']['median']:.2f} | "
            f"{row['milliseconds_a_save']['median']:.0f} |"
        )
    return lines
