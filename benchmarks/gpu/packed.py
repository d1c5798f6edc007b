"""Products on packed weights by the kernels in Triton: exact first, then timed beside cuBLAS, cuDNN, torch and torchao.

Subjects take turns within one run; ratios are to the half-precision product of the same round. A turn is many calls in
one CUDA graph, by the GPU's clock, so that what Python takes to launch a kernel stands in nobody's figures. The calls
go round copies of the weights that are larger together than the cache of the GPU: weights come from memory.
A subject that fails is recorded with its error, and the others go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.gpu.packed_subjects import FLOAT, Calls, Convolution, Product, Shape, subjects
from benchmarks.gpu.parts import Bench, Row

ROUNDS, CALLS = 15, 20
"""Turns of a subject, and calls in a turn at least."""
LIMITS = {"exact": 45.0, "few rows": 45.0, "many rows": 45.0, "convolutions": 45.0}
SHAPES: dict[str, list[Shape]] = {
    "few rows": [Product(rows, out, 4096) for out in (4096, 11008) for rows in (1, 16)],
    "many rows": [Product(256, 4096, 4096), Product(256, 11008, 4096), Product(8192, 4096, 4096)],
    "convolutions": [
        Convolution(256, 64, 64, 32, 1), Convolution(256, 64, 128, 32, 2), Convolution(256, 128, 128, 16, 1),
        Convolution(256, 256, 256, 8, 1), Convolution(256, 512, 512, 4, 1),
    ],
}  # fmt: skip
TOY: dict[str, list[Shape]] = {
    "few rows": [Product(1, 64, 32)], "many rows": [Product(20, 64, 32)], "convolutions": [Convolution(1, 16, 16, 4, 1)]
}  # fmt: skip


def cases(toy: bool) -> Mapping[str, float]:
    """Whether sums are exact, then the times."""
    return LIMITS


def measure(case: str, bench: Bench) -> list[Row]:
    """The sums that were compared; or a row for each shape and subject."""
    if bench.device == "cpu":
        os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported
    if case == "exact":
        return list(_exact(bench))
    shapes = (TOY if bench.toy else SHAPES)[case]
    rows: list[Row] = []
    for number, shape in enumerate(shapes):
        share = bench.seconds_left / (len(shapes) - number)
        rows += _timed(case, shape, bench, share)
    return rows


def _exact(bench: Bench) -> Iterator[Row]:
    """Compare sums on the device with the same in 64 bits, at the ends of the codes and at random."""
    import torch

    from bitdial.runtime.gpu import pack, packed_conv2d, packed_matmul
    from bitdial.runtime.gpu.reference import reference_conv2d, reference_matmul

    torch.manual_seed(0)
    wrong: list[str] = []
    for rows, out, depth in [(1, 70, 130), (40, 130, 96), (37, 67, 45)]:
        for largest in (1, 7, 127):
            w = torch.randint(-largest, largest + 1, (out, depth)).to(torch.int8)
            x = torch.randint(256, (rows, depth)).to(torch.uint8)
            x[0] = 255
            y = packed_matmul(x.to(bench.device), pack(w).to(bench.device), zero_point=9)
            right = torch.equal(y.cpu().long(), reference_matmul(x, w, zero_point=9))
            name = f"product of {rows} x {depth} with {out}, weights to {largest}"
            wrong += [] if right else [name]
            yield {"case": "exact", "what": name, "sums": y.numel()}
    for channels, out, groups in [(64, 64, 1), (5, 9, 1), (6, 10, 2), (40, 40, 40)]:
        w = torch.randint(-1, 2, (out, channels // groups, 3, 3)).to(torch.int8)
        x = torch.randint(256, (2, channels, 9, 8)).to(torch.uint8)
        given: dict[str, Any] = {"padding": 1, "stride": 2, "zero_point": 100}
        y = packed_conv2d(x.to(bench.device), pack(w, groups).to(bench.device), **given)
        right = torch.equal(y.cpu().long(), reference_conv2d(x, w, groups=groups, **given))
        name = f"convolution of {channels} channels with {out}, {groups} groups"
        wrong += [] if right else [name]
        yield {"case": "exact", "what": name, "sums": y.numel()}
    if wrong:
        raise AssertionError(f"wrong sums: {'; '.join(wrong)}")


def _timed(case: str, shape: Shape, bench: Bench, seconds: float) -> list[Row]:
    """A row for each subject of one shape."""
    import torch

    from benchmarks.timing import on_device, quartiles, stopwatch, take_turns

    rows: list[Row] = []
    steps: dict[str, Callable[[], Any]] = {}
    counts: dict[str, int] = {}
    held: dict[str, int] = {}
    head = {"case": case, "shape": type(shape).__name__.lower(), **shape._asdict()}
    for name, make in subjects(shape).items():
        torch.manual_seed(0)
        try:
            calls, held[name] = make(bench)
            steps[name], counts[name] = _together(calls, bench)
        except Exception as error:  # a peer that cannot do it is reported as that
            rows.append(
                {**head, "subject": name, "note": f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]}
            )
            if bench.device == "cuda":
                torch.cuda.synchronize()  # an error that stays with the device ends the case here
    clock = on_device if bench.device == "cuda" else stopwatch
    times = take_turns(steps, 2 if bench.toy else ROUNDS, seconds=0.6 * seconds, clock=clock)
    for name, each in times.items():
        one = quartiles([1e6 * value / counts[name] for value in each])["median"]
        row: Row = {**head, "subject": name, "us": one, "rounds": len(each), "weight_bytes": held[name]}
        row["tera_macs"] = shape.work / one / 1e6
        if FLOAT in times:
            pairs = zip(each, times[FLOAT], strict=True)
            row["ratio"] = quartiles([mine / counts[name] / (other / counts[FLOAT]) for mine, other in pairs])
        rows.append(row)
    return rows


def _together(calls: Calls, bench: Bench) -> tuple[Callable[[], Any], int]:
    """All calls as one action, and how many they are; on a GPU as a graph."""
    import torch

    for call in calls:  # compiles, and tries configurations
        call()
    if bench.device != "cuda":
        return calls[0], 1
    count = -(-CALLS // len(calls)) * len(calls)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(count):
            calls[number % len(calls)]()
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay, count


def table(rows: Sequence[Row]) -> list[str]:
    """What was compared, then one row a subject."""
    compared = [row for row in rows if row["case"] == "exact"]
    lines: list[str] = []
    if compared:
        sums = sum(row["sums"] for row in compared)
        lines += [f"Exact: {sums} sums of {len(compared)} products and convolutions equal those in 64 bits.", ""]
    lines += [
        "| shape | subject | us | x float16 (quartiles) | weights, GB/s | 10^12 products/s |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        if row["case"] == "exact":
            continue
        start = f"| {_told(row)} | {row['subject']} |"
        lines.append(
            f"{start} not measured: {row['note'].replace('|', '/')} | | | |"
            if "note" in row
            else f"{start} {_figures(row)} |"
        )
    return [
        *lines,
        "",
        "Weights come from memory; launching is not counted; torch._int_mm neither scales nor adds a bias.",
    ]


def _told(row: Row) -> str:
    if row["shape"] == "product":
        return f"{row['rows']} x {row['depth']} by {row['out']}"
    return f"{row['batch']} x {row['channels']} x {row['size']}², {row['out']} outputs, stride {row['stride']}"


def _figures(row: Row) -> str:
    ratio = row.get("ratio")
    told = f"{ratio['median']:.2f} ({ratio['low']:.2f}-{ratio['high']:.2f})" if ratio else ""
    return f"{row['us']:.1f} | {told} | {row['weight_bytes'] / row['us'] / 1e3:.0f} | {row['tera_macs']:.1f}"
