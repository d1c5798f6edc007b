"""What ternary weights cost in accuracy: ResNet-20 on Fashion-MNIST against the unquantized one, the same recipe.

Run with ``python -m benchmarks.ternary_fashion_mnist [--seeds 3] [--jobs 2] [--folder FOLDER]``. Each seed is one
``bitdial train ternary --config benchmarks/ternary_fashion_mnist.yaml`` with one thread, `jobs` of them at a time, so
that other work on the machine changes how long it takes and nothing else. A run that was stopped is gone on with, and a
finished one is not trained again, when the command is given again with the same folder.

Images that choose the shipped weights (10% of the training images) are not those that are reported; the 10,000 test
images are looked at once a network, at the end. Learning rate, decay and schedule are the recipe's defaults for either
side; that crops and flips are off was chosen by the held-out accuracy of one epoch of one ternary net (86.2% without,
81.3% with them; then learning rates .05 and .2 gave 87.4% and 87.1%: no reason to leave the default). Differences are
paired by seed; intervals are 95% Student t intervals over the seeds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe
from bitdial.evaluation import Interval
from bitdial.evaluation.page import write_page
from bitdial.evaluation.plot_style import save_plots
from bitdial.evaluation.wording import percent, points
from bitdial.recipes.ternary.report import render_plots, report_page
from bitdial.recipes.ternary.results import (
    NetworkResult,
    Summary,
    TernaryResults,
    bytes_text,
    difference_text,
    summarise,
)

HERE = Path(__file__).parent
CONFIG = HERE / "ternary_fashion_mnist.yaml"
RESULTS = HERE / "results"
COMMAND = "python -m benchmarks.ternary_fashion_mnist"


def train(seed: int, folder: Path, config: Path = CONFIG, *more: str) -> TernaryResults:
    """Train the networks of one seed in a process of its own, or go on with them; `more`: flags of a new run."""
    run = folder / f"seed{seed}"
    where = ["--resume", str(run)] if (run / "config.yaml").exists() else ["--run_dir", str(run), "--seed", str(seed)]
    words = ["train", "ternary", *where]
    if where[0] == "--run_dir":
        words += ["--config", str(config), *more]
    with (folder / f"seed{seed}.log").open("a", encoding="utf-8") as log:
        done = subprocess.run(
            [sys.executable, "-m", "bitdial", *words],
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"seed {seed} ended with status {done.returncode}; {log.name} says why")
    return TernaryResults.load(run / "results.json")


def merged(parts: list[TernaryResults]) -> TernaryResults:
    """The runs of all seeds as one, experiments in the order of the configuration."""
    networks = [network for part in parts for network in part.networks]
    summaries, reference = summarise(networks)
    notes = [note for note in parts[0].notes if not note.startswith("One seed")]
    notes.append(f"Intervals are 95% Student t intervals over {len(parts)} seeds; differences are paired.")
    return parts[0].model_copy(
        update={
            "command": COMMAND,
            "networks": networks,
            "summaries": summaries,
            "reference": reference,
            "notes": notes,
        }
    )


def table(results: TernaryResults, facts: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = [
        "| network | test accuracy, % | minus float, points | held out, % | zeros | packed file | float32 | seconds |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(summary) for summary in results.summaries),
        "",
        "| seed | " + " | ".join(summary.experiment for summary in results.summaries) + " | difference |",
        "|---|" + "---|" * (len(results.summaries) + 1),
        *_by_seed(results.networks),
        "",
    ]
    lines += [f"- {note}" for note in results.notes]
    lines += [
        f"- {results.config['epochs']} epochs each: both networks would gain from more, and the gap after a long run "
        "may differ.",
        "- Seconds are of networks trained beside each other and beside other work: they compare nothing.",
    ]
    lines += ["", f"Machine: {', '.join(f'{key} {value}' for key, value in facts.items())}."]
    return "\n".join(lines)


def _row(row: Summary) -> str:
    def accuracy(value: Interval | None) -> str:
        return "" if value is None else percent(value, sign="")

    cells = [
        row.experiment if row.quantizer == "none" else f"{row.experiment} ({row.quantizer})",
        accuracy(row.test),
        "" if row.difference is None else difference_text(row.difference),
        accuracy(row.validation),
        "" if row.zeros is None else f"{row.zeros:.1%}",
        "" if row.file_bytes is None else bytes_text(row.file_bytes),
        "" if row.float32_bytes is None else bytes_text(row.float32_bytes),
        f"{row.seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _by_seed(networks: list[NetworkResult]) -> list[str]:
    seeds: dict[int, list[float]] = {}
    for network in networks:
        seeds.setdefault(network.seed, []).append(network.test.accuracy)
    return [
        f"| {seed} | {' | '.join(f'{value:.2%}' for value in values)} | {points(values[-1] - values[0], digits=2)} |"
        for seed, values in seeds.items()
    ]


def main() -> None:
    """Train what is not trained yet, print the table, write ``results/ternary_fashion_mnist.json`` and ``.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="networks trained at a time, one thread each")
    parser.add_argument("--folder", type=Path, default=Path("runs/ternary-fashion-mnist"), help="where the runs lie")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(options.jobs) as pool:
        parts = list(pool.map(lambda seed: train(seed, options.folder), range(options.seeds)))
    results = merged(parts)
    images = render_plots(results)
    save_plots(images, options.folder / "plots")
    write_page(report_page(results, images), options.folder / "report.html")
    facts = {**describe(), "threads": "1 a network", "networks at a time": options.jobs}
    rows = [network.model_dump(mode="json", exclude={"curve", "zeros"}) for network in results.networks]
    content = {
        "benchmark": "ternary_fashion_mnist",
        "command": f"{COMMAND} --seeds {options.seeds} --jobs {options.jobs}",
        "config": results.config,
        "machine": facts,
        "summaries": [summary.model_dump(mode="json") for summary in results.summaries],
        "networks": rows,
        "notes": results.notes,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "ternary_fashion_mnist.json").write_text(json.dumps(content, indent=2) + "\n")
    title = "# Ternary ResNet-20 against the unquantized one, Fashion-MNIST"
    (RESULTS / "ternary_fashion_mnist.md").write_text(f"{title}\n\n`{content['command']}`\n\n{table(results, facts)}\n")
    print(table(results, facts))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
