"""What saving costs a training loop: the second half of `benchmarks.checkpoint`.

What a user waits for: the seconds of a whole loop, from its first step until its last checkpoint is where it is to be
(with the managers: on the disk). That takes in what a thread in the background takes away from training. The loops
differ only in how they save and are interleaved in random order. Ratios are to the loop of the same repeat that saves
with bare ``torch.save``; the cost of a save is what a loop takes more than that of the same repeat without saving.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.timing import flush, quartiles, timed
from bitdial.training.checkpoint import CheckpointManager

BARE = "bare torch.save"
NOT_SAVING = "without saving"
STEPS, EVERY = 120, 15


def measure_loops(folder: Path, repeats: int) -> dict[str, Any]:
    """Return what training loops cost that differ only in how they save, and how often that was measured."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(*(layer for _ in range(5) for layer in (torch.nn.Linear(1024, 1024), torch.nn.ReLU())))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    inputs = torch.randn(64, 1024)

    def step() -> None:
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()

    times = time_loops(folder, model, optimizer, step, repeats)
    return {"steps": STEPS, "every": EVERY, "repeats": repeats, "ways": summarise_loops(times)}


def time_loops(
    folder: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    step: Callable[[], object],
    repeats: int,
    *,
    steps: int = STEPS,
    every: int = EVERY,
    seconds: float = math.inf,
    without: tuple[str, ...] = (),
) -> dict[str, list[float]]:
    """Return the seconds of each way's loops of `steps` steps with a save after `every` of them.

    A loop is over when what it saved is where it is to be. `repeats` end, after one, when `seconds` are over. Ways in
    `without` are left out.
    """
    plain = CheckpointManager(folder / "loop-plain", keep_last_n=2, keep_best=0)
    behind = CheckpointManager(folder / "loop-behind", keep_last_n=2, keep_best=0, background=True)

    def bare(number: int, *, flushed: bool = False) -> None:
        path = folder / f"loop-{number % 2}.pt"
        torch.save({"epoch": 0, "model": model.state_dict(), "optimizer": optimizer.state_dict()}, path)
        if flushed:
            flush(path)

    def managed(manager: CheckpointManager) -> None:
        manager.save_checkpoint(0, model.state_dict(), optimizer.state_dict(), 1.0)

    ways: dict[str, Callable[[int], object]] = {
        NOT_SAVING: lambda number: None,
        BARE: bare,
        "bare + fsync": lambda number: bare(number, flushed=True),
        "manager": lambda number: managed(plain),
        "manager, background": lambda number: managed(behind),
    }

    ways = {name: save for name, save in ways.items() if name not in without}

    def loop(save: Callable[[int], object]) -> None:
        for number in range(1, steps + 1):
            step()
            if number % every == 0:
                save(number // every)
        behind.wait()

    times: dict[str, list[float]] = {name: [] for name in ways}
    generator, began = random.Random(0), time.perf_counter()
    for repeat in range(-1, repeats):
        if repeat >= 1 and time.perf_counter() - began > seconds:
            break
        for name in generator.sample(list(ways), len(ways)):
            taken = timed(lambda name=name: loop(ways[name]))  # type: ignore[misc]
            if repeat >= 0:
                times[name].append(taken)
    plain.close()
    behind.close()
    return times


def summarise_loops(
    times: dict[str, list[float]], *, steps: int = STEPS, every: int = EVERY
) -> dict[str, dict[str, Any]]:
    """Return median and quartiles of the seconds, of the ratio to bare saving, and of the cost of one save in ms."""
    rows: dict[str, dict[str, Any]] = {}
    for name, seconds in times.items():
        pairs = list(zip(seconds, times[BARE], times[NOT_SAVING], strict=True))
        rows[name] = {
            "seconds": quartiles(seconds),
            "to_bare": quartiles([ours / bare for ours, bare, _ in pairs]),
            "milliseconds_a_save": quartiles([1000 * (ours - without) * every / steps for ours, _, without in pairs]),
        }
    return rows


def loops_table(loops: dict[str, Any]) -> list[str]:
    """Return the lines of a Markdown table."""
    lines = [
        f"Loops of {STEPS} training steps (5 layers of 1024 x 1024, SGD with momentum: 42 MB of state), a save every "
        f"{EVERY} steps, {loops['repeats']} interleaved repeats:",
        "",
        "| way | s (median) | to bare torch.save | quartiles | ms a save costs (median) | quartiles |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in loops["ways"].items():
        ratio, cost = row["to_bare"], row["milliseconds_a_save"]
        cells = [name, f"{row['seconds']['median']:.2f}", f"{ratio['median']:.2f}"]
        cells.append(f"{ratio['low']:.2f}-{ratio['high']:.2f}")
        cells += (
            ["", ""] if name == NOT_SAVING else [f"{cost['median']:.0f}", f"{cost['low']:.0f} to {cost['high']:.0f}"]
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines
