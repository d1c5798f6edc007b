"""Quantized networks trained in float32 and in bfloat16: the same accuracy? Cyclic and ternary recipes, paired by seed.

Run with ``OMP_NUM_THREADS=2 python -m benchmarks.precision_accuracy [--seeds N] [--formats bfloat16 ...]``; takes about
ten minutes for three seeds. Every run is the command line of a user, on digits with a ResNet-20. The two formats of a
seed begin with the same weights and see the same batches; their difference comes with a 95% Student t interval.
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from bitdial.cli import main as bitdial
from bitdial.evaluation.statistics import interval, paired_difference

RESULTS = Path(__file__).parent / "results"
COMMANDS = {
    "cyclic, 4 bits": shlex.split(
        "train cyclic --model resnet20 --steps 400 --cyclic.cycle_length 40 --num_static_iterations 40 "
        "--model_options.bit_widths 4 8 --static.test_configurations '{4bit: 4}' --static.compare_to_baseline false "
        "--experiment.plot_metrics false --experiment.analyze_cycles false"
    ),
    "ternary": shlex.split("train ternary --model resnet20 --epochs 25"),
}
"""What is trained, in a user's words."""


def accuracies(name: str, run: Path) -> dict[int, float]:
    """Return test accuracy by seed: of the cyclic arm at 4 bits, or of the ternary network."""
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    if name == "ternary":
        return {network["seed"]: network["test"]["accuracy"] for network in results["networks"]}
    arms = [arm for arm in results["arms"] if arm["name"] == "cpt"]
    return {arm["seed"]: next(s["accuracy"] for s in arm["scores"] if s["bits"] == 4) for arm in arms}


def measure(name: str, precision: str, seeds: int, folder: Path) -> dict[int, float]:
    """Train with a recipe in one format; return test accuracy by seed."""
    run = folder / f"{name.split(',')[0]}-{precision}"
    status = bitdial([*COMMANDS[name], "--precision", precision, "--seeds", str(seeds), "--run_dir", str(run)])
    if status != 0:
        raise SystemExit(f"`bitdial {' '.join(COMMANDS[name])} --precision {precision}` ended with {status}")
    return accuracies(name, run)


def table(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table, accuracies in percent."""
    lines = [
        "| recipe | format | accuracy (%) | minus float32, paired (points) | within the seeds' interval |",
        "|---|---|--:|--:|---|",
    ]
    for row in results["rows"]:
        mean = _spread(row["accuracy"])
        difference = _spread(row["difference"]) if row["difference"] else ""
        inside = {None: "", True: "yes", False: "no"}[row["within"]]
        lines.append(f"| {row['recipe']} | {row['format']} | {mean} | {difference} | {inside} |")
    facts = ", ".join(f"{key} {value}" for key, value in results["machine"].items())
    commands = "\n".join(f"- {name}: `bitdial {shlex.join(words)}`" for name, words in COMMANDS.items())
    return "\n".join([*lines, "", f"{results['seeds']} seeds, digits. Machine: {facts}.", "", commands])


def _spread(value: dict[str, Any]) -> str:
    half = (value["high"] - value["low"]) / 2 if value["low"] is not None else None
    return f"{100 * value['mean']:.2f}" + (f" +- {100 * half:.2f}" if half is not None else "")


def main() -> None:
    """Measure, print the table and write ``results/precision_accuracy.json`` and ``.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--formats", nargs="+", default=["bfloat16"])
    parser.add_argument("--recipes", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in options.recipes:
            wide = measure(name, "float32", options.seeds, Path(folder))
            base = interval(list(wide.values()))
            rows.append(_row(name, "float32", base.model_dump(), None, None, list(wide.values())))
            for precision in options.formats:
                narrow = measure(name, precision, options.seeds, Path(folder))
                difference = paired_difference([narrow[seed] for seed in wide], list(wide.values()))
                own = interval(list(narrow.values()))
                within = None
                if difference.low is not None and difference.high is not None:
                    within = difference.low <= 0 <= difference.high
                rows.append(
                    _row(name, precision, own.model_dump(), difference.model_dump(), within, list(narrow.values()))
                )
    results = {"benchmark": "precision_accuracy", "machine": describe(), "seeds": options.seeds, "rows": rows}
    (RESULTS / "precision_accuracy.json").write_text(json.dumps(results, indent=2) + "\n")
    (RESULTS / "precision_accuracy.md").write_text(table(results) + "\n")
    print(table(results))


def _row(
    recipe: str, format: str, accuracy: dict[str, Any], difference: dict[str, Any] | None, within: bool | None,
    seeds: list[float],
) -> dict[str, Any]:  # fmt: skip
    return {
        "recipe": recipe, "format": format, "accuracy": accuracy, "difference": difference, "within": within,
        "by_seed": seeds,
    }  # fmt: skip


if __name__ == "__main__":
    main()
