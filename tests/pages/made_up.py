"""A page of every kind, of made-up results: nothing is trained for it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bitdial.commands import compare_run
from bitdial.compression.codec_points import Point
from bitdial.evaluation import LayerSensitivity, Spread, WidthScore, WidthValidation, describe_machine, wording
from bitdial.evaluation.page import Page
from bitdial.evaluation.results import History
from bitdial.evaluation.shipped import Entry, Shipped, headline, notes, place
from bitdial.evaluation.width_validation import ConfigurationScore
from bitdial.recipes.compress import report as compress
from bitdial.recipes.compress.results import CodecHistory, CodecResult, CompressResults
from bitdial.recipes.cyclic import report as cyclic
from bitdial.recipes.joint import report as joint
from bitdial.recipes.joint.results import EpochScores, JointResult, JointResults
from bitdial.recipes.ternary import NetworkResult, TernaryResults
from bitdial.recipes.ternary import report as ternary
from bitdial.recipes.ternary.results import Curve, Score, Sizes, summarise
from tests.evaluation.fabricate import confusions, fabricate

LAYERS = [f"layer{1 + number // 6}.{number % 6 // 2}.conv{1 + number % 2}" for number in range(18)]
STEPS = list(range(120))
FALLING = [0.2 + 2 * math.exp(-step / 30) + 0.05 * math.sin(step) for step in STEPS]
RATES = [0.05 * (1 + math.cos(math.pi * step / 120)) for step in STEPS]


def common(recipe: str) -> dict[str, Any]:
    return {
        "created": "2026-01-01T00:00:00+00:00",
        "command": f"bitdial train {recipe} --dataset digits",
        "config": {"model": "resnet20", "dataset": "digits", "epochs": 8},
        "machine": describe_machine(),
        "class_names": ["one", "another class", "a class with a long name"],
    }


def cyclic_page(folder: Path) -> Page:
    results = fabricate(seeds=3, iterations=160)
    return cyclic.report_page(results, cyclic.render(results))


def ternary_page(folder: Path) -> Page:
    """Six experiments with two seeds each, and the log of their training."""
    names = ["float", "twn", "ttq", "twn_augmented", "ttq_augmented", "lsq"]
    rows = ["experiment,seed,step,train_loss,learning_rate,flips/a,flips/b"]
    networks = []
    for number, name in enumerate(names):
        for seed in (0, 1):
            accuracy = 0.93 - 0.004 * number + 0.002 * seed
            rows += [
                f"{name},{seed},{step},{FALLING[step] + number / 9},{RATES[step]},0.02,0.01" for step in STEPS[::6]
            ]
            networks.append(ternary_network(name, seed, accuracy))
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    summaries, reference = summarise(networks)
    results = TernaryResults(**common("ternary"), networks=networks, summaries=summaries, reference=reference)
    return ternary.report_page(results, ternary.render_plots(results, folder / "metrics.csv"))


def ternary_network(name: str, seed: int, accuracy: float) -> NetworkResult:
    score = Score(accuracy=accuracy, loss=0.3, confusion=confusions(accuracy))
    epochs = list(range(1, 31))
    reached: list[float | None] = [accuracy - 0.7 * math.exp(-epoch / 4) for epoch in epochs]
    sizes = {"packed_weights": 270000, "weights": 54000, "scales": 80, "file": 61000, "memory": 1100000}
    return NetworkResult(
        experiment=name,
        seed=seed,
        quantizer="none" if name == "float" else name,
        activation_bits=32,
        asked={"epochs": 30, "steps": None, "patience": None},
        epochs=30,
        steps=300,
        stopped_early=False,
        seconds=12.0,
        shipped="best",
        shipped_epoch=29,
        validation=score,
        test=score,
        test_last=score,
        parameters=272000,
        zeros={} if name == "float" else {layer: 0.3 + 0.01 * at for at, layer in enumerate(LAYERS)},
        sizes=None if name == "float" else Sizes(**sizes, float32_weights=1080000, float32=1090000),
        file=f"models/{name}-seed{seed}.pt",
        curve=Curve(
            epoch=epochs,
            train_loss=[2.0] * 30,
            train_accuracy=reached,
            validation_loss=[2.0] * 30,
            validation_accuracy=reached,
            learning_rate=[0.1] * 30,
        ),
    )


def joint_page(folder: Path) -> Page:
    draws = [
        ConfigurationScore(widths=(2.0,), average_bits=2 + at / 5, accuracy=0.7 + at / 100, loss=1.0)
        for at in range(20)
    ]
    accuracies = Spread.of([each.accuracy for each in draws])
    spreads = {"accuracy": accuracies, "loss": Spread.of([1.0]), "bits": Spread.of([2.0, 6.0])}
    networks = [
        JointResult(
            name="joint",
            seed=seed,
            scores=[
                WidthScore(bits=bits, accuracy=accuracy, loss=0.4, confusion=confusions(accuracy))
                for bits, accuracy in ((2.0, 0.80 + seed / 100), (4.0, 0.96), (8.0, 0.961))
            ],
            relative_bitops=[0.01, 0.03, 0.07],
            size_bytes=[70000, 140000, 270000],
            average_bits=4.5,
            bitops=2e12,
            seconds=30.0,
            steps=120,
            history=History(step=STEPS, loss=FALLING, learning_rate=RATES, bits=[2.0 + step % 7 for step in STEPS]),
            epochs=[EpochScores(epoch=at + 1, step=30 * at + 30, **spreads) for at in range(4)],
            validation=WidthValidation(
                layers=("conv1",), configurations=tuple(draws), correlation=0.9, reestimated=True, **spreads
            ),
            sensitivity=[
                LayerSensitivity(layer=layer, accuracy_drop=0.01, loss_rise=0.3 / (1 + at), low=2, high=8, weights=2304)
                for at, layer in enumerate(LAYERS)
            ],
        )
        for seed in (0, 1)
    ]
    results = JointResults(**common("joint"), networks=networks, ship_bits=4.0, sentence="Ship 4 bits.")
    return joint.report_page(results, joint.draw(results))


def compare_page(folder: Path) -> Page:
    """Five runs of several recipes, of one to three seeds."""
    entries = [
        Entry(
            f"runs/{name}",
            recipe,
            Shipped(f"{name} at {bits} bits", scores, bytes=bits * 9000, bitops=2e12, seconds=30.0),
            "digits",
            "a",
            "b",
        )
        for name, recipe, bits, scores in (
            ("cyclic-with-a-long-name-12", "cyclic", 4, {0: 0.97, 1: 0.971, 2: 0.968}),
            ("joint-1", "joint", 8, {0: 0.96, 1: 0.955}),
            ("ternary-1", "ternary", 2, {0: 0.93, 1: 0.92, 2: 0.924}),
            ("ternary-2", "ternary", 2, {0: 0.95}),
        )
    ]
    codec = Shipped("\u03bb 0.013", {0: 31.2}, measure="PSNR", rate=0.25, seconds=50.0)
    entries.append(Entry("runs/compress-1", "compress", codec, "photographs", "c", "d"))
    placed = place(entries)
    names = [each.name for each in entries]
    differ = {f"group_{at}.an_option_{at}": [str(at), "32", wording.MISSING, "[2.0, 4.0, 8.0]", "x"] for at in range(9)}
    alone = {f"other_{at}": ["x", *[wording.MISSING] * 4] for at in range(3)}
    return compare_run.page_of(placed, headline(placed), notes(entries), names, differ | alone)


def compress_page(folder: Path) -> Page:
    networks = [codec(lambda_value, seed) for lambda_value in (0.0067, 0.013, 0.025) for seed in (0, 1)]
    results = CompressResults(**common("compress"), networks=networks, sentence="The codec gives 30 dB.")
    return compress.report_page(results, compress.draw(results))


def codec(lambda_value: float, seed: int) -> CodecResult:
    def point(name: str, part: Any, rate: float, psnr: float) -> Point:
        pixels = 2**20
        return Point("a.png", name, part, rate, None, int(rate * pixels / 8), pixels, rate, psnr, 0.9, 0.1, 0.1)

    rate = 0.2 + 20 * lambda_value
    points = [point("bitdial", "own", rate + seed / 50, 29 + 120 * lambda_value)]
    for at, kind in enumerate(("JPEG", "WebP", "AVIF")):
        points.append(point(kind, "size", rate, 29.5 + at))
        points += [point(kind, "curve", 0.1 * 2**step, 24 + at + 2.2 * step) for step in range(5)]
    half = [0.5 + 0.3 * math.sin(step / 9) for step in STEPS]
    pairs = [(share, 1 - share) for share in half]
    return CodecResult(
        name=f"codec_{lambda_value}",
        seed=seed,
        lambda_value=lambda_value,
        model_id="0" * 32,
        parameters=90000,
        points=points,
        seconds=40.0,
        steps=120,
        warmup_steps=30,
        history=CodecHistory(
            step=STEPS, loss=FALLING, learning_rate=RATES, distortion=FALLING, bpp=half, w=pairs, p=pairs, gamma=RATES
        ),
    )
