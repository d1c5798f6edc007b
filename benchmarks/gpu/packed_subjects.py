"""What products on packed weights are timed beside: each subject gives calls to time, or fails with a reason.

The calls go round copies of the weights that are larger together than the cache of the GPU, so that they come from
memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.gpu.parts import Bench

if TYPE_CHECKING:
    from torch import Tensor

    from bitdial.runtime.gpu import PackedWeight

BEYOND_CACHE = 160e6
"""Bytes of all copies of the weights together: more than the caches of today's GPUs, 50 to 126 MB."""
FLOAT = "float16"
"""The subject that all are set against."""


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
