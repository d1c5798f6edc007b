"""Kills saves, over and over; run as a program by test_checkpoint_kill.py, so that torch is imported once.

``python checkpoint_killing.py FOLDER`` prints a JSON report of what was found after 104 kills at random moments, after
a kill before every single call into the file system, and after ends of a program in the middle of a background save.
Each child is forked from this process and saves in a loop; what it has finished saving it writes to a pipe, so that
the parent knows, whatever the files say, which checkpoints were promised.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from bitdial.training.checkpoint import CheckpointManager
from bitdial.training.checkpoint.sealing import verify

LAST, BEST = 2, 3
CALLS = ("write", "pwrite", "pread", "fsync", "open", "close", "ftruncate", "unlink", "replace", "listdir")


def state(epoch: int) -> dict[str, torch.Tensor]:
    return {"weight": torch.full((40_000,), float(epoch)), "small": torch.full((3,), float(epoch))}


def child(folder: Path, report: int, seed: int, kill_at: int | None, background: bool) -> None:
    generator = random.Random(seed)
    manager = CheckpointManager(folder, LAST, BEST, background=background)
    last = manager.latest
    epoch = 0 if last is None else int(manager.load_latest().state["epoch"]) + 1
    os.write(report, b"ready\n")
    if kill_at is not None:
        kill_at_call(kill_at)
    while True:
        metric = generator.random()
        path = manager.save_checkpoint(epoch, state(epoch), {"momentum": state(epoch)}, metric)
        if background:
            manager.wait()
        os.write(report, (json.dumps([path.name, epoch, metric]) + "\n").encode())
        epoch += 1


def kill_at_call(number: int) -> None:
    """Have the process kill itself right before its `number`-th call into the file system."""
    calls = 0

    def counted(function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))


def run_once(
    folder: Path, seed: int, patience: int, delay: float, kill_at: int | None, background: bool
) -> list[list[Any]]:
    """Fork a child, kill it, return what it reported as saved."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(reading)
            child(folder, writing, seed, kill_at, background)
        except BaseException as error:
            sys.stderr.write(f"child failed: {error!r}\n")
        finally:
            os._exit(3)
    os.close(writing)
    first: list[str] = []
    with os.fdopen(reading) as stream:
        if kill_at is None:
            first = [stream.readline() for _ in range(1 + patience)]  # "ready", and some saves to let pass
            time.sleep(delay)
            os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        if not os.WIFSIGNALED(status):
            raise SystemExit("a child ended before it was killed")
        return [json.loads(line) for line in [*first, *stream] if line.endswith("]\n")]


def check(folder: Path, promised: list[list[Any]], manager: CheckpointManager) -> list[str]:
    """Return what is wrong at the next start."""
    problems = []
    tracked = json.loads(manager.tracking_path.read_text()) if manager.tracking_path.exists() else {}
    files = {path.name: verify(path) for path in manager.checkpoints}
    if promised:
        loaded = manager.load_latest()
        if loaded.notes or loaded.state["epoch"] < promised[-1][1]:
            problems.append(f"latest is epoch {loaded.state['epoch']}, promised {promised[-1]}; {loaded.notes}")
        if not torch.equal(loaded.state["model_state_dict"]["weight"], state(loaded.state["epoch"])["weight"]):
            problems.append("the content of the latest is wrong")
    # A save that was killed after its file was whole may stand in the ranking without having been promised.
    known = {line[0] for line in promised}
    there = [[name, header["epoch"], header["metric"]] for name, header in files.items() if header]
    everything = [*promised, *(line for line in there if line[0] not in known)]
    best = sorted(everything, key=lambda line: line[2])[:BEST]
    last = sorted(everything)[-LAST:]
    for line in [*best, *last]:
        if line[0] not in files:
            problems.append(f"one of the best or last is gone: {line}")
    headers = sorted((header for header in files.values() if header), key=lambda header: header["number"])
    want_last = [header["number"] for header in headers[-LAST:]]
    want_best = sorted(header["metric"] for header in headers)[:BEST]
    if [files.get(name, {}).get("number") for name in tracked.get("last_checkpoints", [])] != want_last:
        problems.append(f"tracking lies about the last: {tracked}")
    if [entry["metric"] for entry in tracked.get("best_checkpoints", [])] != want_best:
        problems.append(f"tracking lies about the best: {tracked}")
    for name in [*tracked.get("last_checkpoints", []), *(each["path"] for each in tracked.get("best_checkpoints", []))]:
        if not (folder / name).exists():
            problems.append(f"tracking names a file that is not there: {name}")
    return problems


def endings(folder: Path) -> dict[str, Any]:
    """End a program in several ways right after a background save has begun; return what was found afterwards."""
    found = {}
    for ending in ("end", "exit", "exception"):
        process = os.fork()
        if process == 0:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (lives as long as the child)
            manager = CheckpointManager(folder / ending, background=True)
            manager.save_checkpoint(7, state(7), {"large": torch.ones(3_000_000)}, 0.5)
            if ending == "exception":
                raise RuntimeError("the training failed")
            sys.exit(int(ending == "exit"))
        os.waitpid(process, 0)
        names = sorted(os.listdir(folder / ending))
        found[ending] = [CheckpointManager(folder / ending).load_latest().state["epoch"], names]
    return found


def kill(mode: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Kill a child in each round and look at what the next start finds."""
    generator = random.Random(20)
    promised: list[list[Any]] = []
    problems: list[str] = []
    leftovers = empty = 0
    for index in range(rounds):
        kill_at = index + 1 if mode == "every_call" else None
        background = mode == "random" and index % 4 == 3
        done = run_once(folder, index, generator.randrange(3), generator.uniform(0.0, 0.015), kill_at, background)
        promised += done
        empty += not done
        leftovers += sum(name.endswith(".tmp") for name in os.listdir(folder)) if folder.exists() else 0
        manager = CheckpointManager(folder, LAST, BEST)
        problems += [f"round {index}: {line}" for line in check(folder, promised, manager)]
        if index % 5 == 4:  # the first save after a kill sweeps
            epoch = promised[-1][1] + 1 if promised else 0
            metric = generator.random()
            path = manager.save_checkpoint(epoch, state(epoch), {"momentum": state(epoch)}, metric)
            manager.close()
            # what a killed save left whole counts from now on
            known = {line[0] for line in promised}
            for file in manager.checkpoints:
                header = verify(file)
                if header and file.name not in known:
                    promised.append([file.name, header["epoch"], header["metric"]])
            names = sorted(os.listdir(folder))
            expected = sorted([*(entry.name for entry in manager.checkpoints), manager.tracking_path.name])
            if names != expected or path.name not in names or len(names) > LAST + BEST + 1:
                problems.append(f"round {index}: leftovers after the first save: {names}")
    return {"rounds": rounds, "saves": len(promised), "leftovers_seen": leftovers, "idle": empty, "problems": problems}


def main(folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:  # what torch sets up at the first save, set up once for all children
        CheckpointManager(scratch).save_checkpoint(0, state(0), None, 0.0)
    return {
        "random": kill("random", folder / "random", 104),
        "every_call": kill("every_call", folder / "every_call", 52),
        "endings": endings(folder),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
