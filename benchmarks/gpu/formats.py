"""Time and memory of a training step in float32, with TF32 off and on, and in narrower formats.

Measured by `benchmark_mixed_precision`, one network and one format at a time: 256 images of 3x32x32 for ResNet-18, 16
sequences of 512 tokens for a transformer of 98 million parameters. On a GPU "float32" stands as torch is set, which
lets convolutions use TF32 and products not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.parts import Bench, Row

NETWORKS = {"ResNet-18": "ResNet-18 32x32", "transformer": "transformer 100M"}  # as the part "tax" calls them
FORMATS = ("float16", "bfloat16", "float8")
ROUNDS = 30


def cases(toy: bool) -> Mapping[str, float]:
    """Each format for each network; float8 is for linear layers, of which ResNet-18 has one, too small for it."""
    pairs = [(dtype, name) for dtype in FORMATS for name in NETWORKS]
    return {f"{dtype}, {name}": 25.0 for dtype, name in pairs if (dtype, name) != ("float8", "ResNet-18")}


def measure(case: str, bench: Bench) -> list[Row]:
    """A row for float32 and one for the format; on a GPU also float32 with TF32 off and on."""
    from benchmarks.gpu.tax import build, warm_up
    from benchmarks.mixed_precision import measure_formats

    warm_up(bench.device)
    dtype, name = case.split(", ")
    rows = measure_formats({name: build(NETWORKS[name], bench)}, (dtype,), 2 if bench.toy else ROUNDS, bench.device)
    problems = [row["note"] for row in rows if "note" in row]
    if problems and bench.device == "cuda":  # a CPU has no float8, and the toy run is content to hear that
        raise RuntimeError(problems[0])
    return rows


def table(rows: Sequence[Row]) -> list[str]:
    """One row a format."""
    lines = [
        "| network | batch | format | step, ms | speedup (quartiles) | memory, MB |",
        "|---|---|---|--:|--:|--:|",
    ]
    kinds: dict[str, Any] = {}
    for row in rows:
        head = f"| {row['model']} | {'x'.join(map(str, row['batch']))} | {row['format']} |"
        if "note" in row:
            lines.append(f"{head} {row['note']} | | |")
            continue
        kinds[row["memory_kind"]] = None
        spread = row["speedup_quartiles"]
        between = f" ({spread[0]:.2f}-{spread[1]:.2f})" if spread else ""
        lines.append(f"{head} {row['ms']:.1f} | {row['speedup']:.2f}{between} | {row['memory_mb']:.1f} |")
    return [*lines, "", f"A float32 row belongs to the rows after it. Memory: {', '.join(kinds)}."]
