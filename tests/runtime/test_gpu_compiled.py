"""Kernels compile for GPUs that are not here: whatever their inputs, widths and configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton")
from bitdial.runtime.gpu import configurations, kernels  # noqa: E402  # it imports Triton

pytestmark = pytest.mark.skipif(
    configurations.INTERPRETED or "nvidia" not in triton.backends.backends,
    reason="Triton has no compiler for NVIDIA's GPUs",
)
INPUTS = {"*u8": "int8", "*i8": "int8", "*fp16": "fp16", "*bf16": "bf16"}
PACKINGS = {2: (1, -1), 4: (1, -8), 8: (1, -128)}
FLOATS = ("inverse", "low", "high", "shift")
ONES = ("taps", "columns_of", "out_height", "out_width", "stride_y", "stride_x", "apart_y", "apart_x", "zero")
"""Arguments for which Triton compiles the number 1 in."""


@pytest.fixture(autouse=True)
def _no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def compiled(kernel: Any, pointers: dict[str, str], known: dict[str, Any], capability: int, config: Any = None) -> Any:
    """Compile a kernel in a configuration, with arguments of 1 where it has no borders."""
    while not isinstance(kernel, triton.runtime.jit.JITFunction):
        kernel = kernel.fn
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages} if config else {}
    known = {**known, **(config.kwargs if config else {})}
    ones = {} if known.get("BORDERS", True) else dict.fromkeys(ONES, 1)
    known |= {name: value for name, value in ones.items() if name in kernel.arg_names}
    kinds = {name: "fp32" if name in FLOATS else "i32" for name in kernel.arg_names}
    kinds |= {**pointers, **dict.fromkeys(known, "constexpr")}
    source = triton.compiler.ASTSource(fn=kernel, signature=kinds, constexprs=known)
    target = triton.backends.compiler.GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options=options)


def product_compiled(x: str, bits: int, plain: bool, capability: int, config: Any, kernel: Any = None) -> Any:
    """`product`, or another kernel, plain or with all that it can have."""
    stride, least = PACKINGS[bits]
    kind = getattr(triton.language, {"int8": "int8", "fp16": "float16", "bf16": "bfloat16"}[INPUTS[x]])
    whole = INPUTS[x] == "int8"
    y = ("*i32" if plain else "*fp32") if whole else x
    pointers = {"x": x, "data": "*u8", "y": y, "sums": "*i32", "scale": "*fp32", "bias": "*fp32"}
    known = {"BITS": bits, "STRIDE": stride, "LEAST": least, "KIND": kind, "SCALED": not plain, "BIASED": not plain}
    if kernel is None:
        return compiled(
            kernels.product, pointers, {**known, "BORDERS": not plain, "RAGGED": not plain}, capability, config
        )
    ragged = {} if kernel is kernels.each else {"RAGGED": not plain}
    return compiled(kernel, pointers, {**known, **ragged}, capability, config)


def test_whole_numbers_go_to_tensor_cores() -> None:
    made = product_compiled("*u8", 2, False, 80, kernels.PRODUCT[3])
    assert "mma.sync.aligned.m16n8k32.row.col" in made.asm["ptx"]
    assert "s32.s8.s8.s32" in made.asm["ptx"]


@pytest.mark.slow
@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("bits", PACKINGS)
@pytest.mark.parametrize("x", INPUTS)
@pytest.mark.parametrize("capability", [80, 90])
def test_every_kernel_compiles(capability: int, x: str, bits: int, plain: bool) -> None:
    for config in kernels.PRODUCT if bits == 2 else kernels.PRODUCT[-1:]:
        assert product_compiled(x, bits, plain, capability, config).asm["cubin"]
    for kernel, configs in ((kernels.vector, kernels.VECTOR), (kernels.each, kernels.EACH)):
        assert product_compiled(x, bits, plain, capability, configs[-1], kernel).asm["cubin"]


@pytest.mark.slow
@pytest.mark.parametrize("x", ["*fp32", "*fp16", "*bf16"])
def test_encoding_compiles(x: str) -> None:
    assert compiled(kernels.encode, {"x": x, "y": "*i8"}, {"SIZE": 1024}, 80).asm["cubin"]
