"""Do mixed widths beat one width for all at the same size? ResNet-20 on Fashion-MNIST, trained jointly at 2, 4, 8 bits.

Run with ``OMP_NUM_THREADS=1 python -m benchmarks.mixed_widths [--steps 400] [--seeds 3]``; about ten minutes on a core
that others use too. Each step goes forward and backward twice, with widths drawn anew for every layer, on 64 of 10,000
training images of 14 x 14 pixels (halved, so that three seeds fit). `search_widths` then chooses under the size of the
packed model at a uniform width, by 1,000 other images of the training set; 5,000 test images are looked at once, for
what was chosen. Batch-norm statistics are re-estimated on training images for every score. Differences are paired by
seed; intervals are 95% Student t intervals. Where the budget is the
size at a width that was not trained, the search's own uniform width is a narrower one; the untrained width itself is
scored too, as a dial can be turned anywhere.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from benchmarks.machine import describe
from bitdial import schedules
from bitdial.data import ImageDataset, load_dataset, make_loader
from bitdial.evaluation import search_widths, sweep
from bitdial.evaluation.statistics import interval, paired_difference, verdict
from bitdial.evaluation.wording import percent, points, span
from bitdial.layers import BitDial, cost, quantize
from bitdial.models import build_model

RESULTS = Path(__file__).parent / "results"
WIDTHS = (2, 4, 8)
TRAINING, HELD_OUT, TEST = 10_000, 1_000, 5_000


def train(data: ImageDataset, seed: int, steps: int) -> nn.Module:
    """Return a ResNet-20 after so many steps of joint training."""
    torch.manual_seed(seed)
    model = quantize(build_model("resnet20", num_classes=10, in_channels=1, image_size=data.train.image_size))
    dial = BitDial(model)
    draw, layers = schedules.random_bits(WIDTHS, seed=seed), len(dial)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    loader = make_loader(data.train.subset(torch.arange(TRAINING)), 64, train=True, seed=seed, augment="none")
    step = 0
    while step < steps:
        for x, y in loader:
            for group in optimizer.param_groups:
                group["lr"] = 0.1 * min(1.0, (step + 1) / 20) * (1 + math.cos(math.pi * step / steps)) / 2
            optimizer.zero_grad()
            for number in (2 * step, 2 * step + 1):
                dial.set([draw(number * layers + layer) for layer in range(layers)])
                (functional.cross_entropy(model(x), y) / 2).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            step += 1
            if step == steps:
                break
        loader.set_epoch(loader.epoch + 1)
    return model


def measure(data: ImageDataset, seed: int, steps: int, budgets: list[float]) -> dict[str, Any]:
    """Train one network, search under the size at each of `budgets` (bits), and score the results on test images."""
    began = time.perf_counter()
    model = train(data, seed, steps)
    trained = time.perf_counter() - began
    parts = {
        "held_out": data.train.subset(torch.arange(TRAINING, TRAINING + HELD_OUT)),
        "test": data.test.subset(torch.arange(TEST)),
    }
    loaders = {name: list(make_loader(part, 250, train=False, seed=0)) for name, part in parts.items()}
    recalibration = list(make_loader(data.train.subset(torch.arange(1024)), 256, train=False, seed=0))
    ledger = cost(model, recalibration[0][0][:1])

    def tested(widths: list[Any]) -> list[float]:
        return [s.accuracy for s in sweep(model, loaders["test"], widths, recalibration_batches=recalibration)]

    row: dict[str, Any] = {"seed": seed, "train_seconds": round(trained, 1), "budgets": []}
    uniform = sorted({*WIDTHS, *budgets})
    row["uniform"] = dict(zip([f"{bits:g}" for bits in uniform], tested(uniform), strict=True))
    for bits in budgets:
        began = time.perf_counter()
        found = search_widths(
            model,
            loaders["held_out"],
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
    said.append(f"- {steps} steps: the networks would gain from more, and what a layer needs may then differ.")
    facts_text = ", ".join(f"{key} {value}" for key, value in facts.items())
    return "\n".join([*lines, "", *said, "", f"Machine: {facts_text}; shared with other work."])


def main() -> None:
    """Train, search, print the table and write ``results/mixed_widths.json`` and ``.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=float, nargs="+", default=[4.0, 3.0], help="widths whose size is the budget")
    options = parser.parse_args()
    data = load_dataset("fashion-mnist", image_size=14)
    rows = []
    for seed in range(options.seeds):
        rows.append(measure(data, seed, options.steps, options.budgets))
        print(json.dumps(rows[-1]), flush=True)
    facts = describe()
    command = f"python -m benchmarks.mixed_widths --steps {options.steps} --seeds {options.seeds}"
    content = {"benchmark": "mixed_widths", "command": command, "machine": facts, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "mixed_widths.json").write_text(json.dumps(content, indent=2) + "\n")
    text = table(rows, facts, options.steps)
    title = "# Mixed widths against one width at equal size, ResNet-20, Fashion-MNIST"
    (RESULTS / "mixed_widths.md").write_text(f"{title}\n\n`{command}`\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
