"""Balanced training of a codec against the plain sum of its losses: curves, BD-rate where they overlap, cost of a step.

Run with ``OMP_NUM_THREADS=1 python -m benchmarks.balanced [--seeds 3] [--steps 500] [--jobs 2] [--folder FOLDER]``;
about an hour on two cores. What is finished is kept in the folder, so a run that was stopped goes on when it is started
again.

A small mean-scale hyperprior (0.2 million parameters) is trained from new weights on the left parts of the two
photographs that ship with scikit-learn, in batches of 8 squares of 96 pixels, for three lambdas; measured are real
files of the right parts, decoded again. One thing at a time: the plain sum and the balance (after a warm-up of half the
steps, with the recipe's gamma), each with Adam and with CautiousAdam, which the published results used. All take the
same number of steps; what a step costs is by the time of the processor, with both kinds taking turns in one process.

Quantized: the networks of the plain sum with weights and activations at 8 and at 6 bits, quantized after training
(ranges of activations from 20 training batches), whose decoder computes in whole numbers; and their files.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.machine import describe
from bitdial.compression import bd_rate, psnr
from bitdial.compression.codec import Codec
from bitdial.errors import BitdialError
from bitdial.evaluation import Interval, interval, paired_difference
from bitdial.files import write_atomically
from bitdial.layers import quantize
from bitdial.recipes.compress.options import CompressConfig
from bitdial.recipes.compress.train import train
from bitdial.recipes.compress.work import PictureWork, work_of
from bitdial.recipes.recipe import Arm, Bench
from bitdial.training import Setup, make_fabric, seed_everything

RESULTS = Path(__file__).parent / "results"
LAMBDAS = (0.0035, 0.013, 0.0483)
BITS = (8, 6)
ARMS: dict[str, dict[str, Any]] = {
    "plain": {"use_balanced": False},
    "balanced": {},
    "plain, cautious": {"use_balanced": False, "optimizer": "cautious_adam"},
    "balanced, cautious": {"optimizer": "cautious_adam"},
}
PAIRS = (("balanced", "plain"), ("balanced, cautious", "plain, cautious"), ("plain, cautious", "plain"))


def prepared(arm: str, value: float, seed: int, steps: int) -> Bench[CompressConfig]:
    """A new network on the photographs."""
    options = CompressConfig(lambda_value=value, seed=seed, steps=steps, crop=96, **ARMS[arm])
    work = work_of(options)
    seed_everything(seed)
    setup = Setup(make_fabric(accelerator="cpu"), task=work.task)
    return Bench(options, work, seed, work.build(), work.loaders(seed), setup)


def files_of(model: nn.Module, work: PictureWork) -> tuple[float, float]:
    """Bits per pixel of all files together, and the mean PSNR of what they decode to."""
    codec = Codec(model)  # type: ignore[arg-type]
    bits, pixels, quality = 0, 0, []
    for picture in work.test:
        data = codec.compress(picture)
        back = codec.decompress(data).pixels
        bits, pixels = bits + 8 * len(data), pixels + picture[0].numel()
        quality.append(psnr(picture[None].double() / 255, back[None].double() / 255).item())
    return bits / pixels, sum(quality) / len(quality)


def measure(arm: str, value: float, seed: int, steps: int) -> dict[str, float]:
    """Rate and quality of one trained codec."""
    bench = prepared(arm, value, seed, steps)
    state = train(Arm("codec"), bench)
    assert isinstance(bench.work, PictureWork)
    rate, quality = files_of(state.model, bench.work)
    found = {"bpp": rate, "psnr": quality, "cost": state.scores["loss"]}
    for bits in BITS if arm == "plain" else ():
        found[f"bpp{bits}"], found[f"psnr{bits}"] = files_of(quantized(state.model, bits, bench), bench.work)
    return found


@torch.no_grad()
def quantized(model: nn.Module, bits: int, bench: Bench[CompressConfig]) -> nn.Module:
    """A copy with weights and activations at a width, all but the first layer, so that it decodes in whole numbers."""
    made = quantize(deepcopy(model), weights=bits, activations=bits, skip=("<first>",)).train()
    for images in islice(bench.loaders.train, 20):
        made(images)
    return made


def step_costs(rounds: int) -> dict[str, float]:
    """Seconds of the processor for 10 steps of each arm; medians of rounds in which all take turns."""
    seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for _ in range(rounds):
        for arm in ARMS:
            bench = prepared(arm, LAMBDAS[1], 0, 10)
            options = bench.options.model_copy(update={"warmup_steps": 0})
            begun = time.process_time()
            train(Arm("codec"), Bench(options, bench.work, 0, bench.model, bench.loaders, bench.setup))
            seconds[arm].append(time.process_time() - begun)
    return {arm: sorted(found)[len(found) // 2] for arm, found in seconds.items()}


def text_of(value: Interval, digits: int, sign: str = "") -> str:
    """The mean with its interval."""
    half = "" if value.half is None else f" ± {value.half:.{digits}f}"
    return f"{value.mean:{sign}.{digits}f}{half}"


def table(found: dict[str, dict[str, float]], costs: dict[str, float], seeds: range) -> list[str]:
    """Every arm at every lambda, then BD-rates."""

    def values(arm: str, value: float, name: str) -> list[float]:
        return [found[f"{arm}|{value:g}|{seed}"][name] for seed in seeds]

    lines = [
        "| training | lambda | bits per pixel | PSNR, dB | held-out cost | cost of a step |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for arm in ARMS:
        for value in LAMBDAS:
            cells = [
                text_of(interval(values(arm, value, name)), digits)
                for name, digits in (("bpp", 3), ("psnr", 2), ("cost", 2))
            ]
            lines.append(f"| {arm} | {value:g} | {' | '.join(cells)} | {costs[arm] / costs['plain']:.2f} |")
    lines += ["", "| plain, then quantized | lambda | bits per pixel | PSNR, dB | dB from float | bits from float |"]
    lines.append("|---|--:|--:|--:|--:|--:|")
    for bits in BITS:
        for value in LAMBDAS:
            rate, quality = (values("plain", value, f"{name}{bits}") for name in ("bpp", "psnr"))
            gap = paired_difference(quality, values("plain", value, "psnr"))
            more = paired_difference([*map(math.log, rate)], [*map(math.log, values("plain", value, "bpp"))])
            cells = [text_of(interval(rate), 3), text_of(interval(quality), 2), text_of(gap, 2, "+")]
            cells.append(f"{100 * math.expm1(more.mean):+.1f}%")
            lines.append(f"| {bits} bits | {value:g} | {' | '.join(cells)} |")
    lines += ["", "Paired by seed:", ""]
    for arm, anchor in PAIRS:
        rates, why = [], ""
        for seed in seeds:
            curves = [
                [found[f"{each}|{value:g}|{seed}"][name] for value in LAMBDAS]
                for each in (anchor, arm)
                for name in ("bpp", "psnr")
            ]
            try:
                rates.append(bd_rate(*curves))
            except BitdialError as error:
                why = str(error)
        rate = text_of(interval(rates), 1, "+") + "%" if rates else ""
        counted = "" if len(rates) == len(seeds) else f" ({len(rates)} of {len(seeds)} seeds; else: {why})"
        gaps = [
            paired_difference(
                [math.log(each) for each in values(arm, value, "cost")],
                [math.log(each) for each in values(anchor, value, "cost")],
            )
            for value in LAMBDAS
        ]
        told = ", ".join(f"{100 * math.expm1(gap.mean):+.1f}%" for gap in gaps)
        lines.append(
            f"- {arm} against {anchor}: BD-rate {rate or 'none'}{counted}; held-out cost at the lambdas {told}."
        )
    return lines


def main() -> None:
    """Train, measure, print, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("runs/balanced"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=3, metavar=("ARM", "LAMBDA", "SEED"), help="measure one codec, and no more")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    def file(arm: str, value: float, seed: int) -> Path:
        return Path(options.folder, f"{arm.replace(', ', '-')}-{value:g}-{options.steps}-seed{seed}.json")

    if options.one is not None:
        arm, value, seed = options.one[0], float(options.one[1]), int(options.one[2])
        write_atomically(file(arm, value, seed), json.dumps(measure(arm, value, seed, options.steps)))
        return
    wanted = [(arm, value, seed) for seed in range(options.seeds) for arm in ARMS for value in LAMBDAS]

    def run(job: tuple[str, float, int]) -> None:
        if not file(*job).exists():
            more = ["--steps", str(options.steps), "--folder", str(options.folder)]
            words = [sys.executable, "-m", "benchmarks.balanced", "--one", job[0], str(job[1]), str(job[2]), *more]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            print(*job, file(*job).read_text(), flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, wanted))
    found = {f"{arm}|{value:g}|{seed}": json.loads(file(arm, value, seed).read_text()) for arm, value, seed in wanted}
    facts = ", ".join(f"{key} {value}" for key, value in describe().items())
    text = "\n".join(
        [
            *table(found, step_costs(options.rounds), range(options.seeds)),
            "",
            f"{options.seeds} seeds, {options.steps} steps; intervals are 95%. Machine: {facts}.",
        ]
    )
    print(text)
    write_atomically(Path(options.results, "balanced.md"), text + "\n")
    write_atomically(
        Path(options.results, "balanced.json"), json.dumps({"machine": describe(), "found": found}, indent=1)
    )


if __name__ == "__main__":
    main()
