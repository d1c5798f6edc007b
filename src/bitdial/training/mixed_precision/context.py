"""Autocast as a plain context, for a loop of your own."""

from __future__ import annotations

import torch

from bitdial.errors import BitdialError
from bitdial.training.mixed_precision.formats import FLOAT8, check_device, to_dtype


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
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError) as error:
        raise BitdialError(f"device must be a device's name, got {device!r}; e.g. cpu or cuda") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise BitdialError("device must be one that is here, got cuda on a machine without a GPU; use cpu")
    if not torch.amp.is_autocast_available(kind):
        raise BitdialError(f"device must be one with autocast, got {kind}; use cpu or cuda")
    if not enabled or wanted == torch.float32:
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=False)  # a dtype that every device accepts here
    check_device(wanted, kind)
    return torch.autocast(kind, dtype=wanted)
