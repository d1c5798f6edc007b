"""How the kernels of a GPU are cut into tiles, chosen by trying; and what is other where Triton interprets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from triton import knobs

INTERPRETED = bool(knobs.runtime.interpret)
"""Whether Triton runs kernels without a GPU."""


def stored(dtype: torch.dtype) -> torch.dtype:
    """What a kernel writes for a type of PyTorch: the interpreter cuts bfloat16 off instead of rounding it."""
    return torch.float32 if INTERPRETED and dtype == torch.bfloat16 else dtype


def kind_of(dtype: torch.dtype) -> Any:
    """What inputs of a type of PyTorch are multiplied as; the interpreter, which is NumPy's, has no bfloat16."""
    kinds = {torch.float16: tl.float16, torch.bfloat16: tl.float32 if INTERPRETED else tl.bfloat16}
    return kinds.get(dtype, tl.int8)


def _configurations(names: Sequence[str], interpreted: tuple[int, ...], *chosen: tuple[int, ...]) -> list[Any]:
    """Sizes of tiles by name, warps and stages to choose among on a GPU; those that are interpreted, without one."""
    return [
        triton.Config(dict(zip(names, sizes, strict=False)), num_warps=sizes[-2], num_stages=sizes[-1])
        for sizes in ([interpreted] if INTERPRETED else chosen)
    ]


def fitting(configurations: list[Any], given: dict[str, Any], **known: Any) -> list[Any]:
    """Those whose tiles have not far more rows than there are, nor far fewer."""
    most, least = max(given["size"], 16), min(given["size"], 64)
    return [each for each in configurations if least <= each.kwargs["ROWS"] <= most] or configurations[:2]


def timed(call: Callable[[], Any], quantiles: Sequence[float]) -> Any:
    """Shorter than Triton's own: a network has many shapes, and its first batch waits for all of them."""
    return triton.testing.do_bench(call, warmup=5, rep=20, quantiles=quantiles)


# A line is a byte of 4, 2 or 1 outputs, so 32 lines are up to 128 columns of the output.
PRODUCT = _configurations(
    ("ROWS", "LINES", "DEPTH"), (64, 16, 32, 4, 1),
    (16, 16, 128, 4, 4), (16, 32, 128, 4, 4), (32, 32, 64, 4, 4), (64, 16, 64, 4, 4), (64, 32, 64, 4, 4),
    (128, 16, 64, 4, 4), (128, 32, 64, 8, 3), (128, 64, 64, 8, 3),
)  # fmt: skip
VECTOR = _configurations(("LINES", "DEPTH"), (16, 32, 4, 1), (2, 512, 4, 3), (4, 1024, 8, 3), (8, 256, 4, 3))
EACH = _configurations(("ROWS", "CHANNELS"), (64, 16, 4, 1), (16, 64, 4, 3), (64, 32, 4, 3), (64, 64, 4, 3))
