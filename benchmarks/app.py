"""What jobs cost: listing 200 runs, a look at one, and what noting its progress costs a run.

Run with ``python -m benchmarks.app``, a minute. Half of the runs are of today, with ``progress.json``; the others are
of before, and are judged by configuration and results. The fastest of five is told, but for the first listing.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from bitdial import machine
from bitdial.app.jobs import JobManager
from bitdial.recipes import find_choices
from bitdial.training.progress_file import ProgressFile

RUNS = 200


def main() -> None:
    """Measure and print a table."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        make_runs(root)
        jobs = JobManager(root)
        first = seconds(jobs.list)
        rows = [
            (f"first `list()` of {RUNS} runs", first),
            (f"further `list()` of {RUNS} runs", best(jobs.list)),
            ("`status()` of one", best(lambda: jobs.status("cyclic-7"))),
            ("`log()` of one", best(lambda: jobs.log("cyclic-7"))),
            ("`series()` of one", best(lambda: jobs.series("cyclic-7"))),
        ]
        command = [sys.executable, "-m", "bitdial", "runs", "--runs", place]
        rows.append((f"`bitdial runs` of {RUNS} runs", best(lambda: subprocess.run(command, capture_output=True))))
        file = ProgressFile(root / "cyclic-7" / "progress.json", recipe="cyclic")
        rows.append(("noting progress, at most once a second", best(lambda: file.tell(at_once=True, step=1))))
    print(f"{machine.processor()}, {machine.usable_cores()} cores\n\n| what | ms |\n|---|--:|")
    for what, took in rows:
        print(f"| {what} | {1000 * took:.2f} |")


def make_runs(root: Path) -> None:
    """Folders of finished runs."""
    config = yaml.safe_dump({"recipe": "cyclic", **find_choices("cyclic").options().model_dump(mode="json")})
    history = [{"seed": seed, "scores": [{"accuracy": 0.5}], "history": {"loss": [0.123456] * 8000}} for seed in (0, 1)]
    rows = "".join(f"cpt,{step},{1 / (step + 1):.6f},8\n" for step in range(2000))
    for number in range(RUNS):
        folder = root / f"cyclic-{number}"
        folder.mkdir()
        (folder / "config.yaml").write_text(config)
        (folder / "results.json").write_text(json.dumps({"runs": history}))
        (folder / "metrics.csv").write_text(f"phase,step,train_loss,bits\n{rows}")
        (folder / "output.log").write_text("a line of output\n" * 20000)
        if number % 2:
            file = ProgressFile(folder / "progress.json", recipe="cyclic", model="mlp", dataset="digits")
            with file.ending():
                file.tell(score={"value": 0.5, "measure": "accuracy", "bytes": 1000})


def best(call: Callable[[], object]) -> float:
    """The fastest of five."""
    return min(seconds(call) for _ in range(5))


def seconds(call: Callable[[], object]) -> float:
    """On the clock."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
