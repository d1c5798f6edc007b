"""How long commands take before they compute: help, mistakes, and a run up to its first step.

Run with ``python -m benchmarks.startup [--source SRC]``, two minutes. Every command is a process of its own, given
three times, and the fastest is told: processor seconds, seconds on the clock, modules loaded, whether torch is one of
them. Of a run, the seconds until its first line, and until its first optimizer step without those of ``import torch``.
Where other work shares the machine, processor seconds are the ones to look at.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bitdial import machine

ROOT = Path(__file__).parent.parent
COMMANDS = [
    "--help", "train cyclic --help", "train ternary --help", "train joint --help", "train compress --help",
    "search --help", "evaluate --help", "export --help", "recommend --help", "compress --help", "decompress --help",
    "analyze --help", "bench amp --help", "bench codec --help", "doctor --help",
    "train cyclic --lrr 1", "train joint --model resnt20", "train cyclic --dataset mnst",
    "train joint --resume missing",
    "train ternary --teacher missing", "train joint --config missing.yaml", "evaluate missing", "export missing",
    "compress missing a.bd", "decompress missing a.png", "analyze missing", "bench amp --model resnt20",
    "recommend --dataset mnst", "search cyclic --space missing.yaml",
]  # fmt: skip
COUNT = """
import sys
from bitdial.cli import main
main(sys.argv[1:])
print(len(sys.modules), 'torch' in sys.modules, file=sys.stderr)
"""
FIRST_STEP = """
import sys, time
from bitdial.cli import main
def hook(optimizer, args, kwargs):
    if not told:
        told.append(True)
        print('STEP', time.process_time(), time.time(), len(sys.modules), file=sys.stderr, flush=True)
told = []
from torch.optim.optimizer import register_optimizer_step_pre_hook
register_optimizer_step_pre_hook(hook)
main(sys.argv[1:])
"""


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", default=str(ROOT / "src"), help="folder of the package, to measure another version")
    parser.add_argument("--rounds", type=int, default=3, help="how often each command is given")
    given = parser.parse_args()
    source, rounds = given.source, range(given.rounds)
    environment = {**os.environ, "PYTHONPATH": source, "COLUMNS": "120"}
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{machine.processor()}, {machine.usable_cores()} cores, load {load}\n")
    print("| command | processor, s | clock, s | modules | torch |\n|---|--:|--:|--:|---|")
    for command in COMMANDS:
        cpu, clock, told = min(
            measured([sys.executable, "-c", COUNT, *shlex.split(command)], environment) for _ in rounds
        )
        modules, torch = told.split()[-2:]
        print(f"| `{command}` | {cpu:.2f} | {clock:.2f} | {modules} | {'yes' if torch == 'True' else ''} |", flush=True)
    alone = min(measured([sys.executable, "-c", "import torch"], environment)[:2] for _ in rounds)
    print(f"\n`import torch` alone: {alone[0]:.2f} processor seconds, {alone[1]:.2f} on the clock\n")
    print("| run | first line, s | first step after torch: processor, s | clock, s | modules |\n|---|--:|--:|--:|--:|")
    for recipe in ("cyclic --model tiny_cnn", "joint --model tiny_cnn", "ternary --model tiny_cnn", "compress"):
        cpu, clock, modules = min(until_first_step(recipe, environment) for _ in rounds)
        line = min(until_first_line(recipe, environment) for _ in rounds)
        step = f"{cpu - alone[0]:.2f} | {clock - alone[1]:.2f}"
        print(f"| `train {recipe}` | {line:.2f} | {step} | {modules} |", flush=True)


def measured(command: list[str], environment: dict[str, str]) -> tuple[float, float, str]:
    """Processor seconds, seconds on the clock, and what it says on stderr."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    clock, after = time.perf_counter() - start, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used, clock, done.stderr


def until_first_line(recipe: str, environment: dict[str, str]) -> float:
    """Seconds until a run prints anything."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bitdial", *words(recipe, folder)]
        start = time.perf_counter()
        run = subprocess.Popen(command, env=environment, stderr=subprocess.STDOUT, stdout=subprocess.PIPE)
        assert run.stdout is not None
        run.stdout.readline()
        line = time.perf_counter() - start
        run.kill()
        run.communicate()
    return line


def until_first_step(recipe: str, environment: dict[str, str]) -> tuple[float, float, int]:
    """Processor seconds and seconds on the clock until a run's first step, and the modules loaded then."""
    with tempfile.TemporaryDirectory() as folder:
        command, start = [sys.executable, "-c", FIRST_STEP, *words(recipe, folder)], time.time()
        told = measured(command, environment)[2]
    cpu, clock, modules = next(row for row in told.splitlines() if row.startswith("STEP")).split()[1:]
    return float(cpu), float(clock) - start, int(modules)


def words(recipe: str, folder: str) -> list[str]:
    """The command line of a tiny run."""
    return ["train", *shlex.split(recipe), "--steps", "2", "--run_dir", f"{folder}/run"]


if __name__ == "__main__":
    main()
