"""The floating-point formats that a run, or a layer of it, can compute in, by name, and what a device makes of them."""

from __future__ import annotations

import importlib.util
from typing import Any, Final, Literal

import torch

from bitdial.errors import BitdialError, suggest
from bitdial.training.options import FORMAT_NAMES

FLOAT8 = torch.float8_e4m3fn
"""What the name float8 stands for: forward values in e4m3, gradients in e5m2 (torchao chooses, layer by layer)."""

FORWARD_BFLOAT16: Final = "bfloat16_forward"
"""A float8 layer whose forward product is taken in bfloat16, while those of the backward pass stay in float8."""

LayerFormat = torch.dtype | Literal["bfloat16_forward"]
"""What a layer computes in: a dtype, or for float8 layers `FORWARD_BFLOAT16`."""

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float8": FLOAT8}
"""Name -> dtype, widest first."""

WIDER = {torch.float16: torch.bfloat16, FLOAT8: torch.bfloat16, torch.bfloat16: torch.float32}
"""What a run falls back to when a format's numbers overflow again and again."""


def to_dtype(value: Any) -> torch.dtype:
    """Return the dtype that a name or a dtype stands for; raise a `BitdialError` if it is not one of `FORMATS`."""
    if isinstance(value, torch.dtype) and value in FORMATS.values():
        return value
    name = str(value).removeprefix("torch.").lower()
    name = FORMAT_NAMES.get(name, name)
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise BitdialError(f"dtype must be one of {known}, got {str(value)!r}{suggest(name, FORMATS)}")
    return FORMATS[name]


def format_name(format: LayerFormat) -> str:
    """Return the name of one of the `FORMATS`, or of a layer's format."""
    return format if isinstance(format, str) else next(name for name, known in FORMATS.items() if known == format)


def parse_device(device: Any) -> torch.device:
    """Return the device that a name or a device stands for, else raise a `BitdialError`; it may not be here."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise BitdialError(f"device must be a device's name, got {device!r}; e.g. cpu or cuda") from error


def needs_float8(format: LayerFormat) -> bool:
    """Whether only float8 layers can follow this format to the letter."""
    return format in (FLOAT8, FORWARD_BFLOAT16)


def autocast_dtype(format: LayerFormat) -> torch.dtype:
    """What autocast is set to under a format: float8 layers sit in a bfloat16 network."""
    return torch.bfloat16 if isinstance(format, str) or format == FLOAT8 else format


def check_device(dtype: torch.dtype, device: torch.device | str) -> None:
    """Refuse a format that a device cannot compute in.

    Raises:
        BitdialError: float8 without torchao or on anything but an NVIDIA GPU of compute capability 8.9 or newer; any
            mixed format on a device without autocast.
    """
    kind = torch.device(device).type
    if dtype not in (FLOAT8, torch.float32) and not torch.amp.is_autocast_available(kind):
        raise BitdialError(f"{format_name(dtype)} needs a device with autocast, got {kind}; use float32")
    if dtype != FLOAT8:
        return
    got, capability = kind, (0, 0)
    if kind == "cuda" and torch.cuda.is_available():
        capability = torch.cuda.get_device_capability()
        got = f"{torch.cuda.get_device_name()} with {capability[0]}.{capability[1]}"
    if capability < (8, 9):
        needs = "float8 needs an NVIDIA GPU of compute capability 8.9 or newer (Ada, Hopper, Blackwell)"
        raise BitdialError(f"{needs}, got {got}; use bfloat16")
    check_torchao()


def check_torchao() -> None:
    """Refuse float8 with a `BitdialError` where torchao is not installed, or is made for another torch."""
    if importlib.util.find_spec("torchao") is None:
        raise BitdialError("float8 needs torchao, got none; pip install 'bitdial[float8]', or use bfloat16")
    try:
        importlib.import_module("torchao.float8")
    except (ImportError, AttributeError) as error:
        raise BitdialError(
            f"float8 needs a torchao that goes with torch {torch.__version__}, got one that cannot be imported "
            f"({error}); install a release of about the same time as torch, or use bfloat16"
        ) from error


def good_at_bfloat16(device: torch.device | str) -> bool:
    """Whether a device computes in bfloat16 natively: GPUs since Ampere, processors with AMX or AVX-512 BF16."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return kind == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def good_at_float16(device: torch.device | str) -> bool:
    """Whether a device computes in float16 natively: GPUs since Volta, Apple's, processors with AMX FP16."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (7, 0)
    if kind == "cpu":
        return torch.cpu._is_amx_fp16_supported()
    return kind == "mps"


def is_native(dtype: torch.dtype, device: torch.device | str) -> bool:
    """Whether a device computes in a format without emulating it."""
    if dtype == torch.bfloat16:
        return good_at_bfloat16(device)
    return good_at_float16(device) if dtype == torch.float16 else True


def best_format(device: torch.device | str) -> torch.dtype:
    """Return what ``precision="auto"`` means on a device: bfloat16 where it is native, else float16, else float32."""
    if good_at_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if good_at_float16(device) else torch.float32


def narrow_format(device: torch.device | str) -> torch.dtype:
    """Return the narrow format that a device is better at: the `best_format`, where that is narrow.

    Else the one that torch computes less slowly there: bfloat16 on a processor, float16 on a GPU.
    """
    best = best_format(device)
    if best != torch.float32:
        return best
    return torch.bfloat16 if torch.device(device).type == "cpu" else torch.float16


def mixed_precision_context(
    enabled: bool = True, dtype: torch.dtype | str = torch.float16, *, device: torch.device | str | None = None
) -> torch.autocast:
    """Return a context in which convolutions and matrix products compute in a narrow format.

    Put forward pass and loss into it, the backward pass outside. float16 also needs a loss scale
    (`torch.amp.GradScaler`, or `MixedPrecisionTrainer`, which brings its own).

    Args:
        enabled: False computes in float32, also inside another such context.
        dtype: a dtype or its name, "float16", "bfloat16" or "float32"; float32 is the same as not enabled.
        device: where the network computes; CUDA where there is a GPU, else the CPU.

    Raises:
        BitdialError: an unknown format, float8 (its layers must be converted, which a context cannot), a device without
            autocast or a GPU that is not there.
    """
    wanted = to_dtype(dtype)
    if wanted == FLOAT8:
        raise BitdialError("dtype must be float32, bfloat16 or float16 in a context, got float8; use bfloat16")
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = parse_device(device).type
    if kind == "cuda" and not torch.cuda.is_available():
        raise BitdialError("device must be one that is here, got cuda on a machine without a GPU; use cpu")
    if not torch.amp.is_autocast_available(kind):
        raise BitdialError(f"device must be one with autocast, got {kind}; use cpu or cuda")
    if not enabled or wanted == torch.float32:
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=False)  # a dtype that every device accepts here
    return torch.autocast(kind, dtype=wanted)
