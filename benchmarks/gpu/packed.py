"""Products on packed weights by the kernels in Triton: exact first, then timed beside cuBLAS, cuDNN, torch and torchao.

Subjects take turns within one run; ratios are to the half-precision product of the same round. A turn is many calls in
one CUDA graph, by the GPU's clock, so that what Python takes to launch a kernel stands in nobody's figures. The calls
go round copies of the weights that are larger together than the cache of the GPU: weights come from memory.
A subject that fails is recorded with its error, and the others go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.gpu.parts import Bench, Row

if TYPE_CHECKING:
    from torch import Tensor

    from bitdial.runtime.gpu import PackedWeight

ROUNDS, CALLS = 15, 20
"""Turns of a subject, and calls in a turn at least."""
BEYOND_CACHE = 160e6
"""Bytes of all copies of the weights together: more than the caches of today's GPUs, 50 to 126 MB."""
LIMITS = {"exact": 45.0, "few rows": 45.0, "many rows": 45.0, "convolutions": 45.0}
FLOAT = "float16"


class Product(NamedTuple):
    """A matrix product of ``(rows, depth)`` with weights ``(out, depth)``."""

    rows: int
    out: int
    depth: int

    @property
    def work(self) -> int:
        """Multiply-accumulates."""
        return self.rows * self.out * self.depth


class Convolution(NamedTuple):
    """One of 3 x 3 with borders of 1, on square images."""

    batch: int
    channels: int
    out: int
    size: int
    stride: int

    @property
    def work(self) -> int:
        """Multiply-accumulates."""
        return self.batch * self.out * self.channels * 9 * (self.size // self.stride) ** 2


Shape = Product | Convolution
Calls = list[Callable[[], Any]]
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


Make = Callable[[Bench], tuple[Calls, int]]
"""Gives a call for each copy of the weights, and the bytes of one copy."""


def subjects(shape: Shape) -> dict[str, Make]:
    """What is timed, by name; each is made when its turn comes, as it may fail."""
    ours: dict[str, Make] = {
        "bitdial, 2 bits, int8": partial(_packed, shape, 2, False),
        "bitdial, 2 bits, float16": partial(_packed, shape, 2, True),
        "bitdial, 4 bits, int8": partial(_packed, shape, 4, False),
    }
    if isinstance(shape, Convolution):
        return {FLOAT: partial(_half_convolution, shape), **ours, "torch._int_mm, unfolded": partial(_unfolded, shape)}
    return {
        FLOAT: partial(_half_product, shape),
        **ours,
        "torch._int_mm": partial(_int_mm, shape),
        "torchao int8 weights": partial(_torchao, shape, "Int8WeightOnlyConfig"),
        "torchao int4 weights": partial(_torchao, shape, "Int4WeightOnlyConfig"),
    }


def _copies(one: int, bench: Bench) -> int:
    return 1 if bench.device != "cuda" else max(1, min(64, -(-int(BEYOND_CACHE) // one)))


def _packed(shape: Shape, bits: int, is_half: bool, bench: Bench) -> tuple[Calls, int]:
    import torch

    from bitdial.runtime.gpu import pack, packed_conv2d, packed_matmul

    largest = 1 if bits == 2 else 7
    sizes = (shape.out, shape.depth) if isinstance(shape, Product) else (shape.out, shape.channels, 3, 3)
    weight = pack(torch.randint(-largest, largest + 1, sizes).to(torch.int8), bits=bits).to(bench.device)
    x = _inputs(shape, bench)
    x = x if is_half else (x * 40).round().clamp(-128, 127).to(torch.int8)
    epilogue: dict[str, Any] = {
        "scale": torch.rand(shape.out, device=bench.device), "bias": torch.rand(shape.out, device=bench.device),
        "dtype": torch.float16,
    }  # fmt: skip

    def call(own: PackedWeight) -> Tensor:
        if isinstance(shape, Product):
            return packed_matmul(x, own, **epilogue)
        return packed_conv2d(x, own, stride=shape.stride, padding=1, **epilogue)

    weights = [weight, *(_cloned(weight) for _ in range(_copies(weight.nbytes, bench) - 1))]
    return [partial(call, each) for each in weights], weight.nbytes


def _cloned(weight: PackedWeight) -> PackedWeight:
    from dataclasses import replace

    return replace(weight, data=weight.data.clone())


def _inputs(shape: Shape, bench: Bench) -> Tensor:
    import torch

    sizes = (
        (shape.rows, shape.depth) if isinstance(shape, Product) else (shape.batch, shape.channels, *[shape.size] * 2)
    )
    x = torch.randn(sizes, device=bench.device, dtype=torch.float16)
    return x if isinstance(shape, Product) else x.to(memory_format=torch.channels_last)


def _half_product(shape: Product, bench: Bench) -> tuple[Calls, int]:
    import torch

    x, one = _inputs(shape, bench), 2 * shape.out * shape.depth
    bias = torch.rand(shape.out, device=bench.device).half()
    weights = [
        torch.randn(shape.out, shape.depth, device=bench.device, dtype=torch.float16)
        for _ in range(_copies(one, bench))
    ]
    return [partial(torch.nn.functional.linear, x, each, bias) for each in weights], one


def _half_convolution(shape: Convolution, bench: Bench) -> tuple[Calls, int]:
    import torch

    x, one = _inputs(shape, bench), 18 * shape.out * shape.channels
    torch.backends.cudnn.benchmark = True
    bias = torch.rand(shape.out, device=bench.device).half()
    weights = [
        torch.randn(shape.out, shape.channels, 3, 3, device=bench.device, dtype=torch.float16).to(
            memory_format=torch.channels_last
        )
        for _ in range(_copies(one, bench))
    ]
    return [partial(torch.nn.functional.conv2d, x, each, bias, shape.stride, 1) for each in weights], one


def _int_mm(shape: Product, bench: Bench) -> tuple[Calls, int]:
    """Sums alone: no scale, no bias."""
    import torch

    x = torch.randint(-128, 128, (shape.rows, shape.depth), device=bench.device).to(torch.int8)
    one = shape.out * shape.depth
    weights = [
        torch.randint(-1, 2, (shape.out, shape.depth), device=bench.device).to(torch.int8)
        for _ in range(_copies(one, bench))
    ]
    return [partial(torch._int_mm, x, each.T) for each in weights], one


def _unfolded(shape: Convolution, bench: Bench) -> tuple[Calls, int]:
    """The product of a convolution whose pixels were gathered before, which nobody can do for free."""
    pixels = shape.batch * (shape.size // shape.stride) ** 2
    return _int_mm(Product(pixels, shape.out, 9 * shape.channels), bench)


def _torchao(shape: Product, name: str, bench: Bench) -> tuple[Calls, int]:
    import torch
    import torchao.quantization as torchao  # type: ignore[import-untyped,unused-ignore]

    one = shape.out * shape.depth // (2 if "Int4" in name else 1)
    x = _inputs(shape, bench).bfloat16()
    layers = []
    for _ in range(_copies(one, bench)):
        layer = torch.nn.Sequential(torch.nn.Linear(shape.depth, shape.out)).to(bench.device, torch.bfloat16)
        torchao.quantize_(layer, getattr(torchao, name)())
        if type(layer[0].weight) is torch.nn.Parameter:
            raise RuntimeError("torchao left the layer as it was")
        layers.append(layer.requires_grad_(False))
    return [partial(layer, x) for layer in layers], one


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
