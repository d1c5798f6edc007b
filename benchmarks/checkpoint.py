"""What a safe save costs: `CheckpointManager` against bare ``torch.save`` of the same state, in one run.

Run with ``OMP_NUM_THREADS=2 python -m benchmarks.checkpoint [--folder FOLDER] [--repeats N]``; takes four minutes.
Two tables: single saves, measured here, and training loops that save, measured in `benchmarks.checkpoint_loops`.

The ways to save once are interleaved in random order within each repeat, and before each save all earlier writes are
flushed (``os.sync``), so that no way pays for another's. Reported are medians and quartiles of the time in which the
training loop stands still, and of the ratio to bare ``torch.save`` within the same repeat.

Ways:
    bare: ``torch.save`` to a new file. In the page cache only: a power cut loses it, a kill half-way leaves a stump.
    bare + fsync: the same, and on the disk.
    manager: `save_checkpoint`: checksums, on the disk, tracking file, and the removal of the oldest checkpoint.
    manager, background: the time until `save_checkpoint` returns with ``background=True``.
    background, until on disk: the same save until its file is durable; the training goes on meanwhile.
    copy: the bytes of the file written with one plain write and fsync: what the disk alone takes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.checkpoint_loops import loops_table, measure_loops
from benchmarks.machine import describe
from benchmarks.timing import flush, quartiles, timed
from bitdial.training.checkpoint import CheckpointManager
from bitdial.training.checkpoint.sealing import verify

RESULTS = Path(__file__).parent / "results"
STATES = {"1 MB": (1, 60), "45 MB": (45, 120), "200 MB": (200, 300)}  # megabytes, number of tensors
BARE = "bare torch.save"


def make_state(megabytes: int, tensors: int) -> dict[str, torch.Tensor]:
    """Return float32 tensors of unequal sizes, half of the bytes in a tenth of the tensors as in a real network."""
    total = megabytes * 1_000_000 // 4
    large = max(1, tensors // 10)
    sizes = [total // 2 // large] * large + [total // 2 // (tensors - large)] * (tensors - large)
    generator = torch.Generator().manual_seed(0)
    return {f"layer{index}.weight": torch.randn(size, generator=generator) for index, size in enumerate(sizes)}


def measure(state: dict[str, torch.Tensor], folder: Path, repeats: int) -> dict[str, list[float]]:
    """Return the seconds of every way and repeat."""
    times: dict[str, list[float]] = {}
    fresh = folder / "bare.pt"
    plain = CheckpointManager(folder / "plain", keep_last_n=2, keep_best=0)
    behind = CheckpointManager(folder / "behind", keep_last_n=2, keep_best=0, background=True)

    def bare() -> None:
        torch.save({"epoch": 0, "model_state_dict": state}, fresh)

    def bare_flushed() -> None:
        bare()
        flush(fresh)

    content = b""

    def copy() -> None:
        with fresh.open("wb") as stream:
            stream.write(content)
        flush(fresh)

    def record(name: str, seconds: float) -> None:
        times.setdefault(name, []).append(seconds)

    def background() -> None:
        blocked = timed(lambda: behind.save_checkpoint(0, state, None, 1.0))
        start = time.perf_counter()
        behind.wait()
        record("manager, background", blocked)
        record("background, until on disk", blocked + time.perf_counter() - start)

    ways: dict[str, Callable[[], None]] = {
        BARE: lambda: record(BARE, timed(bare)),
        "bare + fsync": lambda: record("bare + fsync", timed(bare_flushed)),
        "manager": lambda: record("manager", timed(lambda: plain.save_checkpoint(0, state, None, 1.0))),
        "background": background,
        "copy": lambda: record("plain write + fsync of the bytes", timed(copy)),
    }
    bare()
    content = fresh.read_bytes()
    generator = random.Random(0)
    for repeat in range(-3, repeats):  # three rounds to warm up: the managers reach their steady state
        for name in generator.sample(list(ways), len(ways)):
            fresh.unlink(missing_ok=True)
            ways[name]()
        if repeat < 0:
            times.clear()
    times["verify on load"] = [timed(lambda: verify(plain.checkpoints[-1])) for _ in range(max(3, repeats // 4))]
    plain.close()
    behind.close()
    return times


def summarise(times: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Return median and quartiles of the milliseconds and of the ratios to the bare save of the same repeat."""
    rows: dict[str, dict[str, Any]] = {}
    for name, seconds in times.items():
        row: dict[str, Any] = {"milliseconds": quartiles([1000 * value for value in seconds])}
        for other, key in ((BARE, "to_bare"), ("bare + fsync", "to_bare_fsync")):
            if len(seconds) == len(times[other]):
                row[key] = quartiles([ours / theirs for ours, theirs in zip(seconds, times[other], strict=True)])
        rows[name] = row
    return rows


def table(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    lines = [
        "| state | way | ms (median) | to bare torch.save | quartiles | to torch.save + fsync |",
        "|---|---|---|---|---|---|",
    ]
    for size, part in results["states"].items():
        for name, row in part["ways"].items():
            bare, flushed = row.get("to_bare"), row.get("to_bare_fsync")
            spread = f"{bare['low']:.2f}-{bare['high']:.2f}" if bare else ""
            ratios = [f"{ratio['median']:.2f}" if ratio else "" for ratio in (bare, flushed)]
            time_text = f"{row['milliseconds']['median']:.2f}"
            lines.append(f"| {size} | {name} | {time_text} | {ratios[0]} | {spread} | {ratios[1]} |")
    lines += ["", *loops_table(results["loops"])]
    machine = results["machine"]
    facts = ", ".join(f"{key} {value}" for key, value in machine.items())
    lines += [
        "",
        f"Machine: {facts}. Load average before the run {results['load_before']}, after it {results['load_after']}.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table and write ``results/checkpoint.json`` and ``.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to save (default: the system's temporary folder)")
    parser.add_argument("--repeats", type=int, default=40, help="for the smallest state; larger ones take fewer")
    parser.add_argument("--loops", type=int, default=11, help="repeats of the training loops")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    load = round(os.getloadavg()[0], 2)  # other work on the machine shows in every flush
    results: dict[str, Any] = {
        "benchmark": "checkpoint",
        "machine": describe(folder),
        "load_before": load,
        "states": {},
    }
    try:
        for size, (megabytes, tensors) in STATES.items():
            repeats = max(15, options.repeats // (1 + megabytes // 50))
            rows = summarise(measure(make_state(megabytes, tensors), folder, repeats))
            results["states"][size] = {"tensors": tensors, "repeats": repeats, "ways": rows}
        results["loops"] = measure_loops(folder, options.loops)
        results["load_after"] = round(os.getloadavg()[0], 2)
    finally:
        shutil.rmtree(folder)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "checkpoint.json").write_text(json.dumps(results, indent=2) + "\n")
    (RESULTS / "checkpoint.md").write_text(table(results) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
