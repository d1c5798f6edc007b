"""The packed runtime beside other runtimes: whole networks, and one product of a matrix with a vector, in one run.

Run with ``python -m benchmarks.runtime [--models ...] [--batch 1 32] [--threads 1 2] [--rounds N]``. All ways compute
the same network with the same weights (random, on their grid) on the same batch of noise, and take turns within each
round, in an order that rotates; a ratio is taken within a round. On one thread it is processor time, which other
programs do not add to; on several the clock's. ONNX Runtime's and OpenVINO's int8 are made by their own quantizers
(``quantize_static`` per channel; nncf), calibrated on the batch.

Networks: ResNet-18 (for 32x32) and ResNet-20 with ternary weights, MobileNetV2 with 4 bits, a transformer of 4 layers,
128 tokens of 256 features, with ternary weights; activations have 8 bits, first and last layers stay in floating point.

The product: 4096 x 4096 ternary weights in 2 bits with a vector of 8-bit codes, against PyTorch's float32 product, the
cache emptied before each, both on one thread. How many of the instructions that count the processor does in a second
is measured too: it bounds what kernels can reach.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import bitdial
from benchmarks.machine import describe
from bitdial.export.calibration import ActivationGrid, calibrated
from bitdial.machine import processor, versions
from bitdial.models import build_model
from bitdial.numerics.native.build import library
from bitdial.runtime.kernels.structures import vector_units
from bitdial.runtime.operations import Convolve, Operation, Shape
from bitdial.runtime.peers import BITDIAL, FLOAT32, PEERS, Case, Timed, in_floats, measured
from bitdial.runtime.program import Program
from bitdial.runtime.weights import Weights

RESULTS = Path(__file__).parent / "results"
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "resnet18": {"quantizer": "ternary"},
    "resnet20": {"quantizer": "ternary"},
    "mobilenetv2": {"weights": 4},
    "transformer": {"quantizer": "ternary"},
}
TOKENS, FEATURES, LAYERS = 128, 256, 4
SIDE = 4096

_RATES = """
#include <stdint.h>
#define FOUR(x) x x x x
void multiply_floats(int64_t n) {
  for (int64_t i = 0; i < n; i++) __asm__ volatile(FOUR(
    "vfmadd231ps %%ymm14,%%ymm15,%%ymm0\\n vfmadd231ps %%ymm14,%%ymm15,%%ymm1\\n vfmadd231ps %%ymm14,%%ymm15,%%ymm2\\n"
    "vfmadd231ps %%ymm14,%%ymm15,%%ymm3\\n vfmadd231ps %%ymm14,%%ymm15,%%ymm4\\n vfmadd231ps %%ymm14,%%ymm15,%%ymm5\\n"
    "vfmadd231ps %%ymm14,%%ymm15,%%ymm6\\n vfmadd231ps %%ymm14,%%ymm15,%%ymm7\\n vfmadd231ps %%ymm14,%%ymm15,%%ymm8\\n"
    "vfmadd231ps %%ymm14,%%ymm15,%%ymm9\\n") ::: "memory");
}
void multiply_bytes(int64_t n) {
  for (int64_t i = 0; i < n; i++) __asm__ volatile(FOUR(
    "vpmaddubsw %%ymm14,%%ymm15,%%ymm8\\n vpaddw %%ymm8,%%ymm0,%%ymm0\\n vpmaddubsw %%ymm14,%%ymm15,%%ymm9\\n"
    "vpaddw %%ymm9,%%ymm1,%%ymm1\\n vpmaddubsw %%ymm14,%%ymm15,%%ymm10\\n vpaddw %%ymm10,%%ymm2,%%ymm2\\n"
    "vpmaddubsw %%ymm14,%%ymm15,%%ymm11\\n vpaddw %%ymm11,%%ymm3,%%ymm3\\n") ::: "memory");
}
"""


class Transformer(nn.Module):
    """Layers of attention with norms before them, as in GPT-2 and ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([_Layer() for _ in range(LAYERS)])
        self.first, self.head = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens ``(batch, TOKENS, FEATURES)`` to logits."""
        x = self.first(x)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(x.mean(1))
        return logits


class _Layer(nn.Module):
    heads = 4

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.LayerNorm(FEATURES), nn.LayerNorm(FEATURES)
        self.query, self.key, self.value, self.out = (nn.Linear(FEATURES, FEATURES) for _ in range(4))
        self.up, self.act, self.down = nn.Linear(FEATURES, 4 * FEATURES), nn.GELU(), nn.Linear(4 * FEATURES, FEATURES)

    def forward(self, x: Tensor) -> Tensor:
        """One layer."""
        y = self.before(x)
        q, k, v = (
            part(y).view(-1, TOKENS, self.heads, FEATURES // self.heads).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, TOKENS, FEATURES)
        x = x + self.out(mixed)
        out: Tensor = x + self.down(self.act(self.up(self.after(x))))
        return out


def network(name: str) -> tuple[nn.Module, nn.Module]:
    """A network on static grids, and the same in floating point."""
    torch.manual_seed(0)
    is_transformer = name == "transformer"
    model = Transformer() if is_transformer else build_model(name, num_classes=10, in_channels=3, image_size=32)
    bitdial.quantize(model, **{"activations": 8, **NETWORKS[name]})
    model.train()(batch(name, 16))
    made = calibrated(model)
    return made, in_floats(made)


def batch(name: str, count: int) -> Tensor:
    """Noise in the shape of its inputs."""
    shape = (TOKENS, FEATURES) if name == "transformer" else (3, 32, 32)
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(count))


def rates() -> dict[str, float]:
    """Products in a second on one thread, in 10^9, as the processor's instructions allow."""
    loaded = ctypes.CDLL(str(library(_RATES.encode())))
    found = {}
    for name, each in (("multiply_floats", 40 * 8), ("multiply_bytes", 16 * 32)):
        function, count = getattr(loaded, name), 1_000_000
        function.argtypes, function.restype = [ctypes.c_int64], None
        times = []
        for _ in range(5):
            start = time.thread_time()
            function(count)
            times.append(time.thread_time() - start)
        found[name] = each * count / min(times) / 1e9
    return found


def matrix_vector(rounds: int) -> dict[str, Any]:
    """A product of a matrix that lies in memory with a vector, on one thread: packed, and in float32."""
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    codes = draw.integers(-1, 2, (SIDE, SIDE, 1, 1), np.int32)
    source, shape = Shape(SIDE, 1, 1), Shape(SIDE, 1, 1)
    kind = Convolve(Weights(codes, 1, 255), ActivationGrid(1.0, 0, 256, 0.0, 255.0))
    program = Program([Operation(kind, ["x"], "y", shape, source)], {"x": source}, {"y": shape})
    x = torch.from_numpy(draw.integers(0, 256, (1, 1, 1, SIDE))).float()
    full, flat = torch.from_numpy(codes.reshape(SIDE, SIDE)).float(), x.reshape(SIDE)
    assert torch.equal(program([x], 1, 1)[0].flatten(), full @ flat)
    other = np.zeros(2**27, np.uint8)
    times: dict[str, list[float]] = {"packed": [], "float32": []}
    for _ in range(rounds):
        for name, run in (("packed", lambda: program([x], 1, 1)), ("float32", lambda: full @ flat)):
            other += 1  # what was in the cache is not any more
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    ratio = statistics.median(b / a for a, b in zip(times["packed"], times["float32"], strict=True))
    return {name: round(1000 * statistics.median(each), 4) for name, each in times.items()} | {"ratio": round(ratio, 2)}


def table(title: str, found: Mapping[str, Timed]) -> list[str]:
    """Lines of a table in Markdown."""
    base = found.get(FLOAT32)
    base = base if base is not None and not base.failure else None
    lines = [f"### {title}", "", "| way | ms | times ONNX Runtime float32 | difference |", "|---|---|---|---|"]
    order = sorted((each.median, name) for name, each in found.items() if not each.failure)
    for _, name in order:
        each = found[name]
        speed = f"{each.times_faster(base):.2f}" if base else "-"
        mark = "**" if name == BITDIAL else ""
        lines.append(f"| {mark}{name}{mark} | {1000 * each.median:.2f} | {speed} | {each.difference:.1e} |")
    lines += ["", *(f"{name}: not measured ({each.failure})." for name, each in found.items() if each.failure), ""]
    return lines


def ratios(found: Mapping[str, Timed]) -> dict[str, float | str]:
    """How many times as fast as each other way the kernels are."""
    own = found[BITDIAL]
    if own.failure:
        return {}
    others = {name: each for name, each in found.items() if name != BITDIAL and not each.failure}
    told: dict[str, float | str] = {name: round(own.times_faster(each), 3) for name, each in others.items()}
    int8 = [name for name in others if PEERS[name].arithmetic == "int8"]
    if int8:
        told["best int8 peer"] = min(int8, key=lambda name: others[name].median)
    return told


def main() -> None:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 32])
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--ways", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(max(options.threads)))
    facts = {"processor": processor(), "vector_units": vector_units(), "rates": rates(), "machine": describe()}
    facts["versions"] = versions(("torch", "onnxruntime", "openvino", "nncf"))
    product = matrix_vector(options.rounds)
    results: list[dict[str, Any]] = []
    lines: list[str] = []
    for name in options.models:
        model, plain = network(name)
        for threads in options.threads:
            for count in options.batch:
                x = batch(name, count)
                found = measured(Case(model, model, plain, x, threads, (x,)), tuple(options.ways), options.rounds)
                title = f"{name}, batch {count}, {threads} thread{'s' * (threads > 1)}"
                mine = table(title, found)
                print("\n".join(mine), flush=True)
                lines += mine
                ways = {way: vars(each) | {"seconds": list(each.seconds)} for way, each in found.items()}
                row = {"network": name, "batch": count, "threads": threads, "kernels": ratios(found), "ways": ways}
                results.append(row)
                write(options.out, facts, product, results, lines)
    write(options.out, facts, product, results, lines)


def write(out: Path, facts: dict[str, Any], product: dict[str, Any], results: list[Any], lines: list[str]) -> None:
    """The tables and the numbers behind them."""
    floats, small = facts["rates"]["multiply_floats"], facts["rates"]["multiply_bytes"]
    installed = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    told = [
        "# The packed runtime beside others",
        "",
        f"{facts['processor']} ({', '.join(facts['vector_units'])}), a shared machine of {os.cpu_count()} cores on "
        f"which {os.getloadavg()[2]:.1f} programs wanted to run in the last quarter of an hour; {installed}.",
        "",
        f"On one thread this processor does {floats:.0f} x 10^9 products of float32 in a second, and "
        f"{small:.0f} x 10^9 of bytes added up in 16 bits: {small / floats:.2f} times as many, which "
        "bounds what ternary kernels can gain but for convolutions of 3 x 3, which take fewer products.",
        "",
        f"A product of {SIDE} x {SIDE} weights with a vector, from memory, on one thread: packed in 2 bits "
        f"{product['packed']} ms, float32 {product['float32']} ms, {product['ratio']} times as fast.",
        "",
    ]
    out.mkdir(parents=True, exist_ok=True)
    (out / "runtime.md").write_text("\n".join([*told, *lines]).rstrip() + "\n", encoding="utf-8")
    record = {**facts, "matrix_vector": product, "results": results}
    (out / "runtime.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
