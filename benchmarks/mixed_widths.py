"""Do mixed widths beat one width for all at the same size? ResNet-20 on Fashion-MNIST, trained at 2 to 8 bits.

Run with ``OMP_NUM_THREADS=1 python -m benchmarks.mixed_widths [--steps 500] [--seeds 3] [--folder FOLDER]``; some 15
minutes for a seed on one core. Training starts from a float network (see `benchmarks.fashion`; 6 epochs); each step
goes forward and backward twice, with widths drawn anew for every layer (`joint_quantization`). `search_widths` then
chooses under the size of the packed model at a uniform width, by half of the test images (or the first `--images` of
them); the other half is looked at once, for what was chosen. Batch-norm statistics are re-estimated on training images
for every score. Differences are paired by seed; intervals are 95% Student t intervals. Where the budget is the size at
a width that was not trained, the search's own uniform width is a narrower one; the untrained width itself is scored
too, as a dial can be turned anywhere.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.fashion import BATCH, images, joint_network, normalised
from benchmarks.machine import describe
from bitdial.evaluation import search_widths, sweep
from bitdial.evaluation.statistics import interval, paired_difference, verdict
from bitdial.evaluation.wording import percent, points, span
from bitdial.files import write_atomically
from bitdial.layers import cost

RESULTS = Path(__file__).parent / "results"
WIDTHS = (2, 3, 4, 6, 8)
EPOCHS = 6
HALF = 5000


def measure(seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one network, search under the size at each of the budgets (bits), and score the results on test images."""
    x, y = normalised(images(), "test")
    model = joint_network(
        f"mixed-{options.steps}",
        seed,
        options.folder,
        epochs=EPOCHS,
        test=(x[HALF:], y[HALF:]),
        training_method="joint_quantization",
        bitwidth_options=list(WIDTHS),
        steps=options.steps,
        batch_size=BATCH,
        lr=0.06,
        validation_function="simple",
    )
    held_out = list(zip(x[: options.images].split(250), y[: options.images].split(250), strict=True))
    test = list(zip(x[HALF:].split(250), y[HALF:].split(250), strict=True))
    recalibration = [(part, part) for part in normalised(images(), "train", 1024)[0].split(256)]
    ledger = cost(model, x[:1])

    def tested(widths: list[Any]) -> list[float]:
        return [s.accuracy for s in sweep(model, test, widths, recalibration_batches=recalibration)]

    row: dict[str, Any] = {"seed": seed, "budgets": []}
    uniform = sorted({*WIDTHS, *options.budgets})
    row["uniform"] = dict(zip([f"{bits:g}" for bits in uniform], tested(uniform), strict=True))
    for bits in options.budgets:
        began = time.perf_counter()
        found = search_widths(
            model,
            held_out,
            budget=ledger.size_bytes(bits),
            options=WIDTHS,
            ledger=ledger,
            recalibration_batches=recalibration[:2],
        )
        row["budgets"].append(
            {
                "bits": bits,
                "bytes": ledger.size_bytes(bits),
                "uniform_bits": found.uniform.widths[0],
                "uniform_bytes": found.uniform.cost,
                "uniform_test": row["uniform"][f"{found.uniform.widths[0]:g}"],
                "mixed_bytes": found.mixed.cost,
                "mixed_bits": found.mixed.average_bits,
                "mixed_test": tested([found.mixed.widths])[0],
                "widths": dict(zip(found.layers, found.mixed.widths, strict=True)),
                "held_out_difference": found.mixed.accuracy - found.uniform.accuracy,
                "said": found.sentence,
                "search_seconds": round(time.perf_counter() - began, 1),
            }
        )
    return row


def table(rows: list[dict[str, Any]], facts: dict[str, Any], steps: int) -> str:
    """Return the results as Markdown, with what they allow to say."""
    lines = [
        "| budget: size at | seed | all layers there, % | best trained uniform, % | mixed, % (mean bits) | "
        "bytes of the three | mixed minus the first, points |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    said = []
    for place, budget in enumerate(rows[0]["budgets"]):
        found = [row["budgets"][place] for row in rows]
        there = [row["uniform"][f"{budget['bits']:g}"] for row in rows]
        for row, one, same in zip(rows, found, there, strict=True):
            cells = [
                f"{budget['bits']:g} bits",
                f"{row['seed']}",
                f"{100 * same:.2f}",
                f"{100 * one['uniform_test']:.2f} at {one['uniform_bits']:g} bits",
                f"{100 * one['mixed_test']:.2f} ({one['mixed_bits']:.2f})",
                f"{one['bytes']:,} / {one['uniform_bytes']:,.0f} / {one['mixed_bytes']:,.0f}",
                points(one["mixed_test"] - same, digits=2),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        gap = paired_difference([one["mixed_test"] for one in found], there)
        words = {
            "better": "mixed widths are better",
            "worse": "mixed widths are worse",
            "inside the interval": "no difference that these seeds can tell from chance",
            "no interval": "one seed, which tells nothing about chance",
        }[verdict(gap)]
        ends = f" (95% interval {span(gap)})" if gap.low is not None else ""
        what = f"mixed widths minus all layers there {points(gap.mean, digits=2)} points{ends}"
        said.append(f"- Within the size at {budget['bits']:g} bits: {what}; {words}.")
    uniform = ", ".join(
        f"{bits} bits {percent(interval([row['uniform'][bits] for row in rows]))}" for bits in rows[0]["uniform"]
    )
    said.append(f"- Test accuracy with every layer at one width: {uniform}.")
    said.append(f"- {steps} steps of two passes from a float network of {EPOCHS} epochs.")
    facts_text = ", ".join(f"{key} {value}" for key, value in facts.items())
    return "\n".join([*lines, "", *said, "", f"Machine: {facts_text}; shared with other work."])


def main() -> None:
    """Train, search, print the table and write ``results/mixed_widths.json`` and ``.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=float, nargs="+", default=[4.0, 3.0, 2.5], help="widths whose size it is")
    parser.add_argument("--images", type=int, default=2000, help="that the search looks at, at most 5000")
    parser.add_argument("--folder", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        path = options.folder / f"mixed-{options.steps}-seed{seed}.json"
        if not path.exists():
            write_atomically(path, json.dumps(measure(seed, options)))
        rows.append(json.loads(path.read_text()))
        print(json.dumps(rows[-1]), flush=True)
    facts = describe()
    command = f"python -m benchmarks.mixed_widths --steps {options.steps} --seeds {options.seeds}"
    content = {"benchmark": "mixed_widths", "command": command, "machine": facts, "rows": rows}
    write_atomically(options.results / "mixed_widths.json", json.dumps(content, indent=2) + "\n")
    text = table(rows, facts, options.steps)
    title = "# Mixed widths against one width at equal size, ResNet-20, Fashion-MNIST"
    write_atomically(options.results / "mixed_widths.md", f"{title}\n\n`{command}`\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
