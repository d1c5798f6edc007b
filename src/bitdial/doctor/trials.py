"""The examination: facts, and what is really tried: number formats and products on tiny tensors, and what is compiled.

What is compiled (torch.compile, the native kernels) is tried in a process of its own: a compiler that hangs or crashes
must not take the doctor along.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch

from bitdial.doctor.findings import Finding
from bitdial.doctor.machine import accelerators, machine, optional_packages, software
from bitdial.machine import product_speeds

INT8_SHAPES = ((32, 64, 32), (48, 256, 40), (17, 1024, 8))
"""(rows, inner, columns): inner long enough for sums that leave 16 bits; CUDA asks for rows > 16 and multiples of 8."""

TIME_LIMIT = 120.0
"""Seconds given to one trial; a first compilation on a slow machine takes half a minute."""

_TRIAL = """
import sys, time
import torch
device = sys.argv[1]
def f(x, bits):
    return torch.round(torch.sigmoid(x) * torch.exp2(bits)).sum()
x, bits = torch.linspace(-1, 1, 64, device=device, requires_grad=True), torch.tensor(4.0, device=device)
start = time.perf_counter()
y = torch.compile(f, fullgraph=True)(x, bits)
y.backward()
assert torch.allclose(y, f(x, bits)), "the compiled function returns something else"
print(f"{time.perf_counter() - start:.0f}")
"""


_KERNELS = """
from bitdial.numerics import native
print(native.unavailable() or "")
"""


_RUNTIME = """
from bitdial.runtime.kernels.structures import vector_units
from bitdial.runtime.network import why_no_kernels
from bitdial.runtime.substitution import onednn_saturates
print(why_no_kernels())
print({None: "none", True: "saturates", False: "exact"}[onednn_saturates()])
print(" ".join(vector_units()))
"""
_ON_GPU = """
from bitdial.runtime.gpu import why_no_triton
print(why_no_triton("cuda"))
"""
ONEDNN = {
    "exact": "int8 of oneDNN: exact",
    "saturates": "int8 of oneDNN: exact up to 7 bits, as the processor has no VNNI; wider layers in floating point",
    "none": "no int8 of oneDNN: fake quantization in floating point",
}
"""What the packed runtime takes where there are no kernels, and what that is worth."""


def arithmetic() -> Iterator[Finding]:
    """Try every format on every kind of device that is here."""
    for device in devices():
        for dtype in (torch.bfloat16, torch.float16):
            yield _tried(f"{device} autocast {_short(dtype)}", partial(_autocast, device, dtype))
        for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
            yield _tried(f"{device} convert {_short(dtype)}", partial(_float8_conversion, device, dtype))
        for name, speed in product_speeds(device).items():
            told = f"{speed:.2g} times as fast as in float32"
            if speed < 1:
                told = f"slower here: {1 / speed:.2g} times as long as in float32"
            yield Finding("arithmetic", f"{device} products {name}", told, speed >= 1)
        yield _tried(f"{device} float8 matmul", partial(_float8_matmul, device))
        yield _tried(f"{device} int8 matmul", partial(int8_matmul, device))


def devices() -> list[str]:
    """Return the kinds of device that are here and computed on."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def _tried(name: str, trial: Callable[[], str]) -> Finding:
    """Run a trial, which returns what it saw or raises."""
    try:
        return Finding("arithmetic", name, trial(), True)
    except Exception as error:  # whatever a backend raises is the finding
        return Finding("arithmetic", name, next(iter(str(error).splitlines()), type(error).__name__)[:120], False)


def _autocast(device: str, dtype: torch.dtype) -> str:
    """Train one step of a tiny layer, as autocast would be used."""
    layer = torch.nn.Linear(8, 8, device=device)
    with torch.autocast(device, dtype):
        y = layer(torch.ones(4, 8, device=device))
    y.float().sum().backward()
    gradient = layer.weight.grad
    if y.dtype != dtype:
        raise RuntimeError(f"autocast left the product in {_short(y.dtype)}")
    if gradient is None or not bool(gradient.isfinite().all()):
        raise RuntimeError("the gradient is not finite")
    return "a step forward and backward"


def _float8_conversion(device: str, dtype: torch.dtype) -> str:
    x = torch.tensor([-2.0, 0.0, 0.5, 1.75], device=device)
    if not torch.equal(x.to(dtype).float(), x):
        raise RuntimeError("values that the format holds exactly came back changed")
    return "there and back"


def _float8_matmul(device: str) -> str:
    """Multiply 32 x 32 ones: every sum is exactly 32."""
    ones = torch.ones(32, 32, device=device).to(torch.float8_e4m3fn)
    scale = torch.ones((), device=device)
    product = torch._scaled_mm(ones, ones.t(), scale_a=scale, scale_b=scale, out_dtype=torch.bfloat16)
    if not bool((product == 32).all()):
        raise RuntimeError(f"wrong products: expected 32, got {product.min().item()} to {product.max().item()}")
    return "exact on ones"


def int8_matmul(device: str, multiply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = torch._int_mm) -> str:
    """Compare an int8 matrix product with the same product in wide integers.

    Some processors saturate 16-bit partial sums and return wrong results without an error. `multiply` takes int8
    tensors of shapes (M, K) and (K, N), and returns int32 of shape (M, N).

    Raises:
        RuntimeError: an entry differs.
    """
    generator = torch.Generator().manual_seed(0)
    for rows, inner, columns in INT8_SHAPES:
        a = torch.randint(-128, 128, (rows, inner), dtype=torch.int8, generator=generator)
        b = torch.randint(-128, 128, (inner, columns), dtype=torch.int8, generator=generator)
        a[0], b[:, 0] = 127, 127  # the largest sums, where 16 bits would saturate
        expected = (a.long() @ b.long()).int()
        got = multiply(a.to(device), b.to(device)).cpu()
        wrong = int((got != expected).sum())
        if wrong:
            raise RuntimeError(
                f"{wrong} of {expected.numel()} entries wrong at {rows}x{inner}x{columns}; not for use on this machine"
            )
    return "equal to the int32 reference"


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def compilation(device: str, *, limit: float = TIME_LIMIT, trial: str = _TRIAL) -> Finding:
    """Compile a tiny function on `device`, forward and backward, and compare it with the plain one."""
    name = f"{device} torch.compile"
    printed, failure = _in_process(trial, device, limit=limit)
    told = f"first call took {printed.split()[-1]} s" if failure is None else failure
    return Finding("compile", name, told, failure is None)


def native_kernels(*, limit: float = TIME_LIMIT, trial: str = _KERNELS) -> Finding:
    """Compile and try the kernels that make fake quantization on a CPU fast, or say why there are none."""
    printed, failure = _in_process(trial, limit=limit)
    reason = failure or printed.strip()
    without = f"{reason}; without them the same values take longer on a CPU"
    return Finding("compile", "native kernels", without if reason else "compiled; their values are right", not reason)


def packed_runtime(*, limit: float = TIME_LIMIT, trial: str = _RUNTIME) -> Finding:
    """Compile and try the kernels that run packed networks, or say what runs them instead."""
    printed, failure = _in_process(trial, limit=limit)
    lines = [*printed.splitlines(), "", "", ""]
    if failure is None and not lines[0]:
        return Finding(
            "compile", "packed runtime", f"compiled; its sums are exact ({lines[2] or 'no vector unit'})", True
        )
    instead = ONEDNN.get(lines[1], ONEDNN["none"])
    return Finding("compile", "packed runtime", f"{failure or lines[0]}; instead {instead}", False)


def packed_runtime_on_gpu(*, limit: float = TIME_LIMIT, trial: str = _ON_GPU) -> Finding:
    """Compile and try the kernels in Triton, or say why packed networks stay on the CPU."""
    if "cuda" not in devices():
        return Finding("compile", "packed runtime, cuda", "PyTorch finds no GPU here", False)
    printed, failure = _in_process(trial, limit=limit)
    reason = failure or printed.strip()
    without = f"{reason}; instead fake quantization in floating point"
    told = without if reason else "compiled by Triton; its sums are exact"
    return Finding("compile", "packed runtime, cuda", told, not reason)


def _in_process(trial: str, *arguments: str, limit: float) -> tuple[str, str | None]:
    """Run a trial; what it printed, and why it failed or None."""
    command = [sys.executable, "-c", trial, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return "", f"no result within {limit:g} s"
    if done.returncode == 0:
        return done.stdout, None
    lines = [line for line in done.stderr.splitlines() if "Error" in line] or done.stderr.splitlines() or ["no output"]
    return done.stdout, lines[-1].strip()[:200]


def examine(folder: Path | None = None, *, compile: bool = True) -> Iterator[Finding]:
    """Yield what this machine can do; `folder` is where runs would be written, by default the current one.

    With `compile` also try what is compiled here (torch.compile, the native kernels), which takes some seconds.
    """
    yield from machine(folder or Path.cwd())
    yield from software()
    yield from accelerators()
    yield from arithmetic()
    if compile:
        for device in devices():
            yield compilation(device)
        yield native_kernels()
        yield packed_runtime()
        yield packed_runtime_on_gpu()
    yield from optional_packages()
