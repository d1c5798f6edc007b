"""One network for 2, 4, 8 and 32 bits against a network for each: ResNet-20 on Fashion-MNIST, the same forward passes.

Run with ``python -m benchmarks.any_precision [--seeds 3] [--steps 400] [--jobs 2] [--only twins|nested] [--folder
FOLDER]``. What is finished is kept in the folder, so a run that was stopped goes on when it is started again.

Every network of a seed begins with the same float network (see `benchmarks.fashion`; 6 epochs) and is trained by
``bitdial.run`` with batches of 128 and without augmentation. `any_precision` takes four passes a step, one for each
width; a twin is trained for one width alone, one pass a step and four times as many steps: the same number of forward
passes, and four times as many optimizer steps, along the whole of its learning-rate schedule. `alternating` takes one
pass a step, at one width after the other, so that it has as many steps as a twin. Post-training
quantization is the float network with its batch-norm statistics re-estimated at the width.

``nested``: the same training on grids whose codes are cut (nested) against training on rounded ones (uniform) whose
weights are then packed at 8 bits and cut, at 2, 3, 4 and 8 bits.

Accuracy is that of the 10,000 test images, looked at once a network, at the end. Intervals are 95% Student t intervals
over the seeds, differences are paired.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.fashion import BATCH, float_network, images, joint_network, normalised
from benchmarks.machine import describe
from bitdial.evaluation import Interval, interval, paired_difference, sweep
from bitdial.files import write_atomically
from bitdial.layers import batch_norm_per_width, quantize

RESULTS = Path(__file__).parent / "results"
WIDTHS = (2, 4, 8, 32)
CUT = (2, 3, 4, 8)
QUANTIZER = "lsq"
LEARNING_RATE = 0.06
EPOCHS = 6
"""Of the float network: enough to have little to gain from training on."""
ALONE = (*(f"alone-{width}" for width in WIDTHS), "ptq")
TOGETHER = ("any_precision", "alternating")
NESTED = ("cut", "rounded")


def loader(part: str, limit: int | None = None, size: int = 250) -> list[Any]:
    """Batches to score or to re-estimate from."""
    x, y = normalised(images(), part, limit)
    return list(zip(x.split(size), y.split(size), strict=True))


def scores(model: nn.Module, widths: tuple[int, ...]) -> dict[str, float]:
    """Accuracy at each width, batch-norm statistics re-estimated."""
    found = sweep(model, loader("test"), widths, recalibration_batches=loader("train", 4096, BATCH))
    return {f"{score.bits:g}": score.accuracy for score in found}


def train(name: str, seed: int, steps: int, folder: Path, **how: Any) -> nn.Module:
    """The trained network of an arm."""
    return joint_network(
        f"{name}-{steps}",
        seed,
        folder,
        epochs=EPOCHS,
        test=normalised(images(), "test"),
        steps=steps,
        batch_size=BATCH,
        lr=LEARNING_RATE,
        validation_function="simple",
        **how,
    )


def measure(arm: str, seed: int, steps: int, folder: Path) -> dict[str, float]:
    """Accuracy of an arm at each width it is for, and of rounded weights that are cut afterwards."""
    if arm == "ptq":
        return scores(quantize(float_network(seed, folder, EPOCHS), 32, 32), WIDTHS)
    if arm in TOGETHER:
        how: dict[str, Any] = {"training_method": arm, "bitwidth_options": list(WIDTHS), "quantizer": QUANTIZER}
        return scores(train(arm, seed, steps * (1 if arm == "any_precision" else len(WIDTHS)), folder, **how), WIDTHS)
    if arm in NESTED:
        how = {"training_method": "any_precision", "bitwidth_options": list(CUT), "nested": arm == "cut"}
        model = train(arm, seed, steps, folder, activation_quantizer="lsq", **how)
        found = scores(model, CUT)
        if arm == "rounded":
            found |= {f"{width} cut": value for width, value in scores(_cut(model, seed, folder), CUT).items()}
        return found
    width = int(arm.removeprefix("alone-"))
    how = {"training_method": "vanilla_single_precision_training", "bitwidth_options": [width], "quantizer": QUANTIZER}
    return scores(train(arm, seed, len(WIDTHS) * steps, folder, **how), (width,))


def _cut(model: nn.Module, seed: int, folder: Path) -> nn.Module:
    """The same network on nested grids: what its weights are once they were packed at 8 bits and cut."""
    nested = quantize(
        float_network(seed, folder, EPOCHS), 8, 8, nested=True, activation_quantizer="lsq", widths=list(CUT)
    )
    batch_norm_per_width(nested, list(CUT))
    nested.load_state_dict(model.state_dict())
    return nested


def text_of(value: Interval, sign: str = "") -> str:
    """Percent, or points, with the interval."""
    half = "" if value.half is None else f" ± {100 * value.half:.2f}"
    return f"{100 * value.mean:{sign}.2f}{half}"


def twins_table(found: dict[str, dict[str, float]], seeds: range, together: Sequence[str] = TOGETHER) -> list[str]:
    """Each width: its twin, the ways to train one network, the differences, post-training quantization."""

    def values(arm: str, width: int) -> list[float]:
        return [found[f"{arm}|{seed}"][str(width)] for seed in seeds]

    ways = "".join(f"{arm}, % | minus alone, points | " for arm in together)
    lines = [
        f"| bits | that width alone, % | {ways}post-training quantization, % |",
        f"|--:|--:|{'--:|--:|' * len(together)}--:|",
    ]
    for width in WIDTHS:
        twin = values(f"alone-{width}", width)
        cells = [text_of(interval(twin))]
        for arm in together:
            one = values(arm, width)
            cells += [text_of(interval(one)), text_of(paired_difference(one, twin), "+")]
        lines.append(f"| {width} | {' | '.join(cells)} | {text_of(interval(values('ptq', width)))} |")
    means = {
        arm: [sum(column) / len(WIDTHS) for column in zip(*(values(arm, width) for width in WIDTHS), strict=True)]
        for arm in (*together, "ptq")
    }
    lines.append(f"| mean | | {' | | '.join(text_of(interval(mean)) for mean in means.values())} |")
    over = "; ".join(f"{arm} {text_of(paired_difference(means[arm], means['ptq']), '+')}" for arm in together)
    return [*lines, "", f"Mean over the widths minus post-training quantization, points: {over}."]


def nested_table(found: dict[str, dict[str, float]], seeds: range) -> list[str]:
    """Each width: trained with cut codes, trained with rounded ones, and those cut afterwards."""
    lines = [
        "| bits | trained cut, % | trained rounded, % | rounded, cut afterwards, % | first minus last, points |",
        "|--:|--:|--:|--:|--:|",
    ]
    for width in CUT:
        cut = [found[f"cut|{seed}"][str(width)] for seed in seeds]
        rounded = [found[f"rounded|{seed}"][str(width)] for seed in seeds]
        after = [found[f"rounded|{seed}"][f"{width} cut"] for seed in seeds]
        cells = [text_of(interval(c)) for c in (cut, rounded, after)] + [text_of(paired_difference(cut, after), "+")]
        lines.append(f"| {width} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    """Measure, print, and write the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--folder", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--only", choices=("twins", "nested"))
    parser.add_argument("--together", nargs="+", choices=TOGETHER, default=TOGETHER, help="ways to train one network")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=2, metavar=("ARM", "SEED"), help="measure one arm with one seed, and no more")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)

    def file(arm: str, seed: int) -> Path:
        return Path(options.folder, f"{arm}-{options.steps}-seed{seed}.json")

    if options.one is not None:
        torch.set_num_threads(1)
        arm, seed = options.one[0], int(options.one[1])
        write_atomically(file(arm, seed), json.dumps(measure(arm, seed, options.steps, options.folder)))
        return
    twins = (*options.together, *ALONE)
    arms = [*(twins if options.only != "nested" else ()), *(NESTED if options.only != "twins" else ())]
    wanted = [(arm, seed) for seed in range(options.seeds) for arm in arms]

    def run(job: tuple[str, int]) -> None:
        if not file(*job).exists():
            more = ["--steps", str(options.steps), "--folder", str(options.folder)]
            words = [sys.executable, "-m", "benchmarks.any_precision", "--one", job[0], str(job[1]), *more]
            with Path(options.folder, f"{job[0]}-seed{job[1]}.log").open("a", encoding="utf-8") as log:
                subprocess.run(words, stdout=log, stderr=subprocess.STDOUT, check=True)
            print(*job, file(*job).read_text(), flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, wanted))
    found = {f"{arm}|{seed}": json.loads(file(arm, seed).read_text()) for arm, seed in wanted}
    note = [
        "",
        f"{options.seeds} seeds; {options.steps} steps of four passes of {BATCH} images from a float network of the "
        f"same seed; learning rate {LEARNING_RATE}; intervals are 95%, differences paired by seed.",
        f"Machine: {', '.join(f'{key} {value}' for key, value in describe().items())}.",
    ]
    twins_of = partial(twins_table, together=options.together)
    for part, table in (("twins", twins_of), ("nested", nested_table)):
        if options.only in (None, part):
            text = "\n".join([*table(found, range(options.seeds)), *note])
            print(text)
            name = {"twins": "any_precision", "nested": "nested"}[part]
            write_atomically(Path(options.results, f"{name}.md"), text + "\n")


if __name__ == "__main__":
    main()
