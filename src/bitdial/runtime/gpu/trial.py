"""Whether the kernels of a GPU can be used here, with their sums tried before they are."""

from __future__ import annotations

import functools
import importlib.util

import torch

from bitdial.errors import BitdialError

OLDEST = (8, 0)
"""Compute capability of the first GPUs that Triton supports."""


def interpreted() -> bool:
    """Whether Triton runs kernels on the CPU (``TRITON_INTERPRET=1`` before it was imported)."""
    if importlib.util.find_spec("triton") is None:
        return False
    from bitdial.runtime.gpu.configurations import INTERPRETED

    return INTERPRETED


@functools.cache
def why_no_launch(device: torch.device) -> str:
    """Why kernels cannot be launched on a device; empty where they can."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed; PyTorch for CUDA brings it on Linux, elsewhere `pip install triton`"
    if interpreted():
        return ""
    if device.type != "cuda":
        return f"{device} is no GPU, and TRITON_INTERPRET=1, which runs kernels slowly without one, is not set"
    if not torch.cuda.is_available():
        return "PyTorch finds no GPU here"
    capability = torch.cuda.get_device_capability(device)
    if torch.version.hip is None and capability < OLDEST:
        has = ".".join(map(str, capability))
        return f"{torch.cuda.get_device_name(device)} has compute capability {has}, and Triton needs 8.0 at least"
    return ""


@functools.cache
def why_no_triton(device: torch.device | str = "cuda") -> str:
    """Why a device cannot compute on packed weights; empty where it can, and a small product had the right sums."""
    there = torch.device(device)
    if there.type == "cuda" and not torch.cuda.is_available():
        return "PyTorch finds no GPU here"
    reason = why_no_launch(there)
    if reason:
        return reason
    try:
        return "" if _right(there) else "what Triton compiled gives wrong sums"
    except Exception as error:  # of its compiler, of the system's, of the driver
        return f"Triton cannot compile for it ({' '.join(str(error).split())[:200] or type(error).__name__})"


def device_for(way: str | None, device: torch.device | str | None) -> torch.device:
    """Where a network is computed: on the CPU, unless a GPU or a way that needs one is asked for.

    Raises:
        BitdialError: it is no device of the CPU or of a GPU that is here.
    """
    if device is None and way == "triton" and not interpreted():
        if not torch.cuda.is_available():
            raise BitdialError("way triton needs a GPU, and PyTorch finds none here; leave way out")
        return torch.device("cuda")
    if device is None:
        return torch.device("cpu")
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda"):
        raise BitdialError(f"device must be cpu, cuda, or cuda:1 and so on, got {device!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found.type == "cuda" and (found.index or 0) >= count:
        told = f"{count} GPU{'s' * (count > 1)}" if count else "no GPU"
        raise BitdialError(f"device {found} is not here: PyTorch finds {told}; take cpu")
    return found


def _right(device: torch.device) -> bool:
    """Compare a small convolution and a product of one row, at the largest codes, with the same in wide integers."""
    from bitdial.runtime.gpu.packing import pack
    from bitdial.runtime.gpu.products import packed_conv2d, packed_matmul
    from bitdial.runtime.gpu.reference import reference_conv2d, reference_matmul

    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-1, 2, (20, 6, 3, 3), generator=generator).to(torch.int8)
    x = torch.tensor([0, 7, 255], dtype=torch.uint8)[torch.randint(3, (1, 6, 4, 4), generator=generator)]
    y = packed_conv2d(x.to(device), pack(codes).to(device), padding=1, zero_point=7)
    rows, flat = x.reshape(1, -1), torch.randint(-1, 2, (9, 96), generator=generator).to(torch.int8)
    z = packed_matmul(rows.to(device), pack(flat).to(device), zero_point=7)
    return torch.equal(y.cpu().long(), reference_conv2d(x, codes, padding=1, zero_point=7)) and torch.equal(
        z.cpu().long(), reference_matmul(rows, flat, zero_point=7)
    )
