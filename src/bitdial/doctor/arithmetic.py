"""Number formats and products, each really tried on a tiny tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from bitdial.doctor.findings import Finding

INT8_SHAPES = ((32, 64, 32), (48, 256, 40), (17, 1024, 8))
"""(rows, inner, columns): inner long enough for sums that leave 16 bits; CUDA asks for rows > 16 and multiples of 8."""


def arithmetic() -> Iterator[Finding]:
    """Try every format on every kind of device that is here."""
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        for dtype in (torch.bfloat16, torch.float16):
            yield _tried(f"{device} autocast {_short(dtype)}", partial(_autocast, device, dtype))
        for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
            yield _tried(f"{device} convert {_short(dtype)}", partial(_float8_conversion, device, dtype))
        yield _tried(f"{device} float8 matmul", partial(_float8_matmul, device))
        yield _tried(f"{device} int8 matmul", partial(int8_matmul, device))


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

    Some processors saturate 16-bit partial sums and return wrong results without an error.

    Args:
        device: Where to multiply.
        multiply: Takes int8 tensors of shapes (M, K) and (K, N), returns int32 of shape (M, N).

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
