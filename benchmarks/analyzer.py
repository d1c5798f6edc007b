"""How fast finished runs are read: ours beside the packages that wrote them, each in a process of its own.

Run with ``OMP_NUM_THREADS=1 python -m benchmarks.analyzer [--datastore FILE]``; takes some minutes. wandb 0.31 reads
its files in Go alone; FILE is ``wandb/sdk/internal/datastore.py`` of an older one that could in Python: ``pip download
--no-deps wandb==0.22.0`` and unzip it outside of this repository.

Runs of 200 logged steps with five metrics each: one offline run by wandb itself, one by torch's SummaryWriter, one CSV
log, one run folder in bitdial's form; copied as often as it takes. Seconds of the processor from the call to the last
value of every metric, imports included, best of several rounds with the readers in turns; peak memory of the whole
process.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STEPS, METRICS = 200, ("loss", "accuracy", "psnr", "bpp", "learning_rate")
RESULTS = Path(__file__).parent / "results"
LastValues = list[dict[str, float]]


def values(step: int) -> dict[str, float]:
    return {name: (at + 1.5) / (step + 1) for at, name in enumerate(METRICS)}


def make_wandb(folder: Path) -> None:
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    import wandb

    run = wandb.init(project="analyzer", dir=str(folder), config={"lr": 0.1, "model": {"depth": 3}})
    for step in range(STEPS):
        run.log(values(step))
    run.finish()
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    file.rename(folder / file.name)
    shutil.rmtree(folder / "wandb")


def make_tensorboard(folder: Path) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder)) as writer:
        for step in range(STEPS):
            for name, value in values(step).items():
                writer.add_scalar(name, value, step)


def make_csv(folder: Path, name: str = "log.csv") -> None:
    with (folder / name).open("w", newline="") as file:
        rows = csv.DictWriter(file, ["step", *METRICS])
        rows.writeheader()
        rows.writerows({"step": step, **values(step)} for step in range(STEPS))


def make_bitdial(folder: Path) -> None:
    """A run folder like those of the joint recipe, of which only what is read is written."""
    config = {f"option_{index}": index / 3 for index in range(60)} | {"seed": 0, "skip_layers": ["<first>", "<last>"]}
    scores = [{"bits": bits, "accuracy": 0.9, "loss": 0.3, "perplexity": None} for bits in (2.0, 4.0, 8.0)]
    history = {name: [values(step)[name] for step in range(STEPS)] for name in METRICS}
    record = {"name": "joint", "seed": 0, "scores": scores, "steps": STEPS, "seconds": 3.5, "history": history}
    results = {"schema_version": 1, "recipe": "joint", "config": config, "networks": [record]}
    (folder / "config.yaml").write_text(
        "recipe: joint\n" + "".join(f"{key}: {json.dumps(config[key])}\n" for key in config)
    )
    (folder / "results.json").write_text(json.dumps(results, indent=2))
    make_csv(folder, "metrics.csv")
    make_tensorboard(folder)


def ours(folder: Path, _: str) -> LastValues:
    from bitdial.search.readers import read_runs

    runs, unread = read_runs(folder)
    assert not unread, unread
    return [run.metrics for run in runs]


def by_wandb(folder: Path, datastore: str) -> LastValues:
    """Framing and messages of wandb itself; each value of the history parsed, as a reader in Python has to."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb._assert_is_internal_process = True  # type: ignore[attr-defined]  # what the older file looks for
    spec = importlib.util.spec_from_file_location("datastore", datastore)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = []
    for path in sorted(folder.glob("*/*.wandb")):
        store = module.DataStore()
        store.open_for_scan(str(path))
        last: dict[str, float] = {}
        while (data := store.scan_data()) is not None:
            record = Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                for item in record.history.item:
                    last[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        found.append(last)
    return found


def by_tensorboard(folder: Path, _: str) -> LastValues:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = []
    for path in sorted(folder.iterdir()):
        accumulator = EventAccumulator(str(path), size_guidance={"scalars": 0})
        accumulator.Reload()
        found.append({tag: accumulator.Scalars(tag)[-1].value for tag in accumulator.Tags()["scalars"]})
    return found


def by_pandas(folder: Path, _: str) -> LastValues:
    import pandas

    return [pandas.read_csv(path).iloc[-1].to_dict() for path in sorted(folder.glob("*/*.csv"))]


KINDS: dict[str, tuple[Callable[[Path], None], dict[str, Callable[[Path, str], LastValues]]]] = {
    "wandb": (make_wandb, {"bitdial": ours, "wandb 0.22": by_wandb}),
    "tensorboard": (make_tensorboard, {"bitdial": ours, "EventAccumulator": by_tensorboard}),
    "csv": (make_csv, {"bitdial": ours, "pandas": by_pandas}),
    "bitdial": (make_bitdial, {"bitdial": ours}),
}


def one(kind: str, reader: str, folder: Path, datastore: str) -> dict[str, Any]:
    """Read all runs of a folder in this process."""
    action = KINDS[kind][1][reader]
    start = time.process_time()
    found = action(folder, datastore)
    seconds = time.process_time() - start
    last = values(STEPS - 1)
    for metrics in found:  # whatever was read, it is right
        assert all(abs(metrics[name] - last[name]) < 1e-6 for name in METRICS), metrics
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"runs": len(found), "seconds": round(seconds, 3), "peak_mib": round(peak)}


def measure(kind: str, count: int, rounds: int, datastore: str, root: Path) -> dict[str, Any]:
    """All readers of a kind, in turns, the best of each."""
    readers = KINDS[kind][1]
    first = root / f"{kind}-first"
    first.mkdir()
    child = [sys.executable, "-m", "benchmarks.analyzer", "--make", kind, "--folder", str(first)]
    subprocess.run(child, check=True)  # wandb and torch are not to be in this process
    folder = root / f"{kind}-{count}"
    for index in range(count):
        shutil.copytree(first, folder / f"run-{index}")
    shutil.rmtree(first)
    best: dict[str, dict[str, Any]] = {}
    for _ in range(rounds):
        for reader in readers:
            if reader == "wandb 0.22" and not datastore:
                continue
            child = [sys.executable, "-m", "benchmarks.analyzer", "--one", kind, reader, "--folder", str(folder)]
            done = subprocess.run([*child, "--datastore", datastore], check=True, stdout=subprocess.PIPE, text=True)
            result = json.loads(done.stdout.splitlines()[-1])
            assert result["runs"] == count, (reader, result)
            if reader not in best or result["seconds"] < best[reader]["seconds"]:
                best[reader] = result
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(folder)
    return {"kind": kind, "runs": count, "mib": round(size / 2**20, 1), "readers": best}


def table(results: dict[str, Any]) -> str:
    """The results in Markdown."""
    lines = [
        "| runs of | how many | MiB | reader | seconds | beside ours | peak memory (MiB) |",
        "|---|--:|--:|---|--:|--:|--:|",
    ]
    for case in results["cases"]:
        own = case["readers"]["bitdial"]["seconds"]
        for reader, row in case["readers"].items():
            lines.append(
                f"| {case['kind']} | {case['runs']} | {case['mib']} | {reader} | {row['seconds']:.2f} | "
                f"{row['seconds'] / own:.1f}x | {row['peak_mib']} |"
            )
    facts = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    told = (
        f"{STEPS} logged steps a run, {len(METRICS)} metrics each; seconds of the processor, imports included, best of "
        f"{results['rounds']}, readers in turns, each in a process of its own. Results of the others are last values "
        "alone; ours are settings, states and notes too."
    )
    return "\n".join([*lines, "", told, "", f"Machine: {facts}."])


def main() -> None:
    """Measure, print the table and write ``results/analyzer.json`` and ``.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datastore", default="", help="datastore.py of an older wandb")
    parser.add_argument("--runs", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS / "analyzer.md")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        KINDS[options.make][0](options.folder)
        return
    if options.one:
        print(json.dumps(one(*options.one, options.folder, options.datastore)))
        return
    cases = []
    with tempfile.TemporaryDirectory() as root:
        for kind in KINDS:
            for count in options.runs:
                cases.append(measure(kind, count, options.rounds, options.datastore, Path(root)))
    from benchmarks.machine import describe  # torch, which is not to be in the processes that are measured

    facts = describe(packages=("numpy", "protobuf", "tensorboard", "wandb", "pandas"))
    results = {"benchmark": "analyzer", "machine": facts, "rounds": options.rounds, "cases": cases}
    options.results.with_suffix(".json").write_text(json.dumps(results, indent=2) + "\n")
    options.results.write_text(table(results) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
