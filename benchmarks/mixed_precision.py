"""What mixed precision costs and gains: our stepping against a loop by hand, and the formats side by side.

Run with ``OMP_NUM_THREADS=2 python -m benchmarks.mixed_precision [--only overhead|formats] [--rounds N] [--tiny]``;
on two cores `overhead` and `formats` take some minutes each. Whatever is compared takes turns within each round, in an
order that rotates; reported are medians, and medians and quartiles of the ratio within the same round. On a machine
that others use too, set ``OMP_NUM_THREADS=1``: two threads that wait for one another suffer most.

Parts:
    overhead: a training step of `MixedPrecisionTrainer` (``track_performance=True``) against the loop of PyTorch's
        documentation on an equal copy of the network: zero_grad, autocast, backward, SGD with momentum; in float16
        around ``torch.amp.GradScaler``. On a CPU, with networks of 1 to 5 million parameters and batches such that a
        step takes 20 to 150 ms, on one thread: threads that wait for one another would count as work. The processor
        time of the process hardly feels what else runs on the machine; the wall clock does. Beyond the loop by hand,
        ours looks at every loss and gradient for values that are not finite, keeps batch norm's statistics and the
        random state to put back, and takes times.
    formats: float32 against bfloat16 and float16, by `benchmark_mixed_precision`: step time, and the bytes that
        autograd keeps for the backward pass.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.gpu.formats import table as formats_table
from benchmarks.machine import describe, keep_freed_memory
from bitdial.errors import BitdialError
from bitdial.models import build_model
from bitdial.training.mixed_precision import MixedPrecisionConfig, MixedPrecisionTrainer, benchmark_mixed_precision
from bitdial.training.mixed_precision.benchmark import quartiles

RESULTS = Path(__file__).parent / "results"
VOCABULARY = 1024
Case = tuple[nn.Module, Tensor, Tensor]


class Block(nn.Module):
    """Attention and perceptron, each behind a norm and around a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[batch, length, width]` to the same."""
        batch, length, width = x.shape
        parts = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


def transformer(width: int, depth: int, heads: int, vocabulary: int = VOCABULARY) -> nn.Module:
    """Return a causal language model, `[batch, length]` -> `[batch, vocabulary, length]`."""

    class Swap(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.transpose(1, 2)

    blocks = [Block(width, heads) for _ in range(depth)]
    head = nn.Linear(width, vocabulary)
    return nn.Sequential(nn.Embedding(vocabulary, width), *blocks, nn.LayerNorm(width), head, Swap())


def convnet() -> nn.Module:
    """Return a convolutional network of 1.1 million parameters for 3x32x32."""
    layers: list[nn.Module] = []
    for inner, out in ((3, 64), (64, 128), (128, 256), (256, 256)):
        stride = 1 if inner == 3 else 2
        layers += [nn.Conv2d(inner, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10)
    )


def perceptron() -> nn.Module:
    """Return a perceptron of 4.2 million parameters for 3x32x32."""
    return build_model("mlp", num_classes=10, in_channels=3, image_size=32, **{"hidden": 1024})


def images(model: nn.Module, batch: int, side: int = 32) -> Case:
    return model, torch.randn(batch, 3, side, side), torch.randint(10, (batch,))


def tokens(model: nn.Module, batch: int, length: int, vocabulary: int = VOCABULARY) -> Case:
    drawn = torch.randint(vocabulary, (batch, length + 1))
    return model, drawn[:, :-1].contiguous(), drawn[:, 1:].contiguous()


def overhead_cases(dtype: str, *, tiny: bool) -> dict[str, Case]:
    """Networks of 1 to 5 million parameters, with batches that take 20 to 150 ms a step on two cores."""
    if tiny:
        return {"MLP": images(perceptron(), 2)}
    if dtype == "float16":  # converted there and back on most processors, so that a small batch takes as long
        return {
            "MLP": images(perceptron(), 16),
            "CNN": images(convnet(), 2, 16),
            "transformer": tokens(transformer(256, 2, 4), 1, 16),
        }
    return {
        "MLP": images(perceptron(), 512),
        "CNN": images(convnet(), 16),
        "transformer": tokens(transformer(256, 4, 4), 8, 64),
        "transformer, 128 tokens": tokens(transformer(256, 4, 4), 4, 32),  # more weights to look at than work
    }


def parameters_of(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


def by_hand(case: Case, dtype: str) -> Callable[[], None]:
    """The loop of PyTorch's documentation, a step at a time."""
    model, x, y = case
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    scaler = torch.amp.GradScaler(x.device.type) if dtype == "float16" else None

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(x.device.type, dtype=getattr(torch, dtype)):
            loss = criterion(model(x), y)
        if scaler is None:
            loss.backward()
            optimizer.step()
        else:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()

    return step


def by_trainer(case: Case, dtype: str) -> Callable[[], None]:
    """The same step of `MixedPrecisionTrainer`."""
    model, x, y = case
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    criterion = nn.CrossEntropyLoss()
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype=dtype, track_performance=True))  # type: ignore[arg-type]
    model = trainer.prepare_model(model)
    return lambda: (trainer.train_step(model, optimizer, criterion, x, y), None)[1]


def measure_overhead(rounds: int, *, tiny: bool) -> list[dict[str, Any]]:
    rows = []
    for dtype in ("float16", "bfloat16"):
        for name, case in overhead_cases(dtype, tiny=tiny).items():
            model, x, y = case
            steps = [by_hand((copy.deepcopy(model), x, y), dtype), by_trainer((copy.deepcopy(model), x, y), dtype)]
            wall: list[list[float]] = [[], []]
            busy: list[list[float]] = [[], []]
            for each in range(-3, rounds):
                for turn in range(2):
                    index = (each + turn) % 2
                    began, worked = time.perf_counter(), time.process_time()
                    steps[index]()
                    if each >= 0:
                        busy[index].append(time.process_time() - worked)
                        wall[index].append(time.perf_counter() - began)
            rows.append({
                "model": name, "parameters": parameters_of(model), "batch": list(x.shape), "format": dtype,
                "rounds": rounds, "ms_by_hand": 1e3 * quartiles(wall[0])[1], "ms": 1e3 * quartiles(wall[1])[1],
                "cpu_ratio": _ratio(busy), "wall_ratio": _ratio(wall),
            })  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def _ratio(times: list[list[float]]) -> list[float]:
    """Lower quartile, median and upper quartile of ours to the loop by hand."""
    return list(quartiles([ours / hand for hand, ours in zip(*times, strict=True)]))


def measure_formats(cases: dict[str, Case], dtypes: tuple[str, ...], rounds: int, device: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, (model, x, y) in cases.items():
        head = {"model": name, "parameters": parameters_of(model), "batch": list(x.shape), "rounds": rounds}
        for dtype in dtypes:
            try:
                result = benchmark_mixed_precision(model, (x, y), rounds, dtype=dtype, device=device)
            except BitdialError as error:
                rows.append({**head, "format": dtype, "note": str(error)})
                continue
            plain = result.rows[0]
            for row in result.rows:
                narrow = row is result.rows[1]
                rows.append({
                    **head, "format": row.name, "run": dtype,
                    "ms": 1e3 * row.seconds, "memory_mb": row.memory_bytes / 1e6,
                    "speedup": result.speedup if narrow else plain.seconds / row.seconds,
                    "speedup_quartiles": list(result.speedup_quartiles) if narrow else None,
                    "memory_kind": result.memory_kind,
                })  # fmt: skip
            print(name, result.verdict, flush=True)
    return rows


def cpu_cases(*, tiny: bool) -> dict[str, Case]:
    resnet = build_model("resnet18", num_classes=10, in_channels=3, image_size=32)
    if tiny:
        return {"ResNet-18": images(resnet, 2, 8)}
    return {"ResNet-18": images(resnet, 8), "transformer": tokens(transformer(256, 4, 4), 8, 64)}


def markdown(results: dict[str, Any]) -> str:
    lines: list[str] = []
    if "overhead" in results:
        lines += [
            "## A step of MixedPrecisionTrainer against the loop by hand",
            "",
            "| network | parameters | batch | format | by hand, ms | bitdial, ms | bitdial / by hand, processor time "
            "(quartiles) | the same, wall clock |",
            "|---|--:|---|---|--:|--:|--:|--:|",
        ]
        for row in results["overhead"]["rows"]:
            ratios = [f"{each[1]:.3f} ({each[0]:.3f}-{each[2]:.3f})" for each in (row["cpu_ratio"], row["wall_ratio"])]
            lines.append(
                f"| {row['model']} | {row['parameters'] / 1e6:.1f}M | {'x'.join(map(str, row['batch']))} | "
                f"{row['format']} | {row['ms_by_hand']:.1f} | {row['ms']:.1f} | {' | '.join(ratios)} |"
            )
        lines += [_conditions(results["overhead"])]
    if "formats" in results:
        lines += [
            "## Formats on a CPU",
            "",
            *formats_table(results["formats"]["rows"]),
            _conditions(results["formats"]),
        ]
    return "\n".join(lines).rstrip() + "\n"


def _conditions(part: dict[str, Any]) -> str:
    facts = ", ".join(f"{key} {value}" for key, value in part["machine"].items())
    small = "Tiny sizes: these figures say nothing. " if part["tiny"] else ""
    rounds = sorted({row["rounds"] for row in part["rows"]})
    return f"\n{small}Rounds: {rounds[0]}. Load average before the run: {part['load_before']}. Machine: {facts}.\n"


def measure(part: str, rounds: int | None, *, tiny: bool) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    if part == "overhead":
        torch.set_num_threads(1)
        return measure_overhead(rounds or 60, tiny=tiny)
    return measure_formats(cpu_cases(tiny=tiny), ("bfloat16", "float16"), rounds or 10, "cpu")


def main() -> None:
    """Measure, print the tables and write ``results/mixed_precision.json`` and ``.md``; parts not run stay in them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["overhead", "formats"], help="others keep theirs")
    parser.add_argument("--rounds", type=int, help="default: 60 for overhead, 10 for formats")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to try the script")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to write to")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 2:
        parser.error(f"--rounds must be at least 2, got {options.rounds}")
    parts = options.only or ["overhead", "formats"]
    threads = int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads()))
    file = options.results / "mixed_precision.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"benchmark": "mixed_precision"}
    keep_freed_memory()
    for part in parts:
        load = round(os.getloadavg()[0], 2)
        torch.set_num_threads(threads)
        rows = measure(part, options.rounds, tiny=options.tiny)
        facts = describe(packages=("torchvision", "torchao"))
        results[part] = {"machine": facts, "load_before": load, "tiny": options.tiny, "rows": rows}
    options.results.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=1) + "\n")
    file.with_suffix(".md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
