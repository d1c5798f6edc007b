"""What validation at random widths costs: against as many evaluations by hand, at the same widths; and its figure.

Run with ``OMP_NUM_THREADS=1 python -m benchmarks.random_widths [--rounds 9]``; takes one to three minutes. The subjects
take turns within each round in an order that rotates, and a ratio is taken to the loop by hand of the same round.

Subjects, each for four configurations over the same four batches of 64 images, on a ResNet-20:
    by hand: turn the dial, ``model.eval()``, ``torch.no_grad()``, cross-entropy and accuracy of every batch.
    as they are: `validate_random_bitwidths` with ``reestimate=False``.
    re-estimated: the same with batch-norm statistics re-estimated on those four batches at each configuration.
The figure is drawn and written as PNG, for 4 and for 500 configurations; its seconds are those of the processor.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.machine import describe, keep_freed_memory
from benchmarks.timing import quartiles, take_turns
from bitdial.evaluation import plot_bitwidth_vs_accuracy, validate_random_bitwidths
from bitdial.layers import BitDial, quantize
from bitdial.models import build_model

RESULTS = Path(__file__).parent / "results"
CONFIGURATIONS, OPTIONS = 4, (2, 4, 8)
BY_HAND, AS_THEY_ARE, REESTIMATED = "by hand", "as they are", "re-estimated"


def by_hand(model: nn.Module, batches: list[Any], configurations: list[list[float]]) -> list[float]:
    """Evaluate as a user would without this package's functions; return the losses."""
    dial, losses = BitDial(model), []
    model.eval()
    with torch.no_grad():
        for widths in configurations:
            dial.set(widths)
            loss, right, count = torch.zeros(()), torch.zeros((), dtype=torch.int64), 0
            for x, y in batches:
                logits = model(x)
                loss += functional.cross_entropy(logits, y, reduction="sum")
                right += (logits.argmax(1) == y).sum()
                count += len(y)
            losses.append(float(loss) / count)
            assert 0 <= int(right) <= count
    model.train()
    return losses


def measure(rounds: int) -> dict[str, dict[str, float]]:
    """Return seconds of each subject, and ratios to the loop by hand."""
    torch.manual_seed(0)
    model = quantize(build_model("resnet20", num_classes=10, in_channels=3, image_size=32))
    batches = [(torch.randn(64, 3, 32, 32), torch.randint(10, (64,))) for _ in range(4)]
    model(batches[0][0])  # gives the ranges of activations a value

    def validate(*, reestimate: bool) -> Any:
        more = {"reestimate": reestimate, "verbose": False}
        return validate_random_bitwidths(model, batches, None, None, CONFIGURATIONS, OPTIONS, **more)

    found = validate(reestimate=False)
    configurations = [list(each.widths) for each in found.configurations]
    assert np.allclose(found.losses, by_hand(model, batches, configurations), rtol=1e-5)
    subjects: dict[str, Callable[[], object]] = {
        BY_HAND: lambda: by_hand(model, batches, configurations),
        AS_THEY_ARE: lambda: validate(reestimate=False),
        REESTIMATED: lambda: validate(reestimate=True),
    }
    times = take_turns(subjects, rounds)
    result = {f"{name}, s": quartiles(values) for name, values in times.items()}
    for name in (AS_THEY_ARE, REESTIMATED):
        ratios = [mine / plain for mine, plain in zip(times[name], times[BY_HAND], strict=True)]
        result[f"{name}, ratio"] = quartiles(ratios)
    return result | figures(rounds)


def figures(rounds: int) -> dict[str, dict[str, float]]:
    """Return seconds of the processor that the figure takes, drawn and written."""
    generator, result = np.random.default_rng(0), {}
    for count in (4, 500):
        bits = generator.choice(OPTIONS, (count, 20)).mean(1)
        accuracies = np.clip(0.9 - 0.5 * np.exp(-bits / 2) + 0.01 * generator.standard_normal(count), 0, 1)
        times = []
        for _ in range(rounds):
            began = time.process_time()
            plot_bitwidth_vs_accuracy(bits, accuracies, 5).savefig(io.BytesIO(), format="png")
            times.append(time.process_time() - began)
        result[f"figure of {count}, s of CPU"] = quartiles(times)
    return result


def table(results: dict[str, Any], facts: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    lines = ["| what | median | quartiles |", "|---|--:|--:|"]
    for name, row in results.items():
        lines.append(f"| {name} | {row['median']:.3f} | {row['low']:.3f} to {row['high']:.3f} |")
    return "\n".join([*lines, "", f"Machine: {', '.join(f'{key} {value}' for key, value in facts.items())}."])


def main() -> None:
    """Measure, print the table and write ``results/random_widths.json`` and ``.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    keep_freed_memory()
    results, facts = measure(options.rounds), describe()
    command = f"python -m benchmarks.random_widths --rounds {options.rounds}"
    content = {"benchmark": "random_widths", "command": command, "machine": facts, "results": results}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "random_widths.json").write_text(json.dumps(content, indent=2) + "\n")
    text = table(results, facts)
    (RESULTS / "random_widths.md").write_text(f"# Validation at random widths\n\n`{command}`\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
