"""What advice on precision is based on: size and kind of a network's work, the device's formats, the memory left."""

from __future__ import annotations

import math
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.layers import cost
from bitdial.layers.ledger import arguments_of
from bitdial.training.step.formats import good_at_bfloat16, good_at_float16, parse_device

GB = 1 << 30
"""Bytes of a GB, as memory is sold."""

MACS_PER_VALUE = 64
"""What moving one value between two layers counts as, in multiply-accumulates: while memory reads and writes 8 bytes, a
processor or GPU computes about that many in float32 (10-20 floating-point operations for each byte)."""

_LOOK_UPS = (nn.Embedding, nn.EmbeddingBag)
_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)


def check_batch_size(batch_size: Any) -> int:
    """Return a batch size.

    Raises:
        BitdialError: it is not a whole number from 1 up.
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise BitdialError(f"batch_size must be a whole number from 1 up, got {batch_size!r}; give the examples a step")
    return batch_size


def count_parameters(model: Any) -> int:
    """Return the number of a model's parameters, shared ones once.

    Raises:
        BitdialError: it is no model, has no parameters, or some whose shapes are not known yet.
    """
    if not isinstance(model, nn.Module):
        raise BitdialError(f"model must be a torch.nn.Module, got {type(model).__name__}; pass the model itself")
    parameters = list(model.parameters())
    if any(isinstance(each, nn.parameter.UninitializedParameter) for each in parameters):
        raise BitdialError("model must know its shapes, got lazy layers without; run one batch through it first")
    total = sum(each.numel() for each in parameters)
    if not total:
        raise BitdialError(f"model must have parameters, got {type(model).__name__} without; pass a network")
    return total


def device_of(model: nn.Module, device: torch.device | str | None = None) -> torch.device:
    """Return the device that advice is about: the one given, else the model's.

    A model on the meta device has none yet: then the machine's GPU, or its processor.

    Raises:
        BitdialError: a device that this build of torch does not know, or a GPU that is not there.
    """
    if device is None:
        device = next(model.parameters()).device
    found = parse_device(device)
    if found.type == "meta":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (found.index or 0) >= count:
            raise BitdialError(f"device must be one that is here, got {found} on a machine with {count} GPUs; use cpu")
    return found


def narrow_format(device: torch.device) -> torch.dtype:
    """Return the narrow format that a device is better at.

    bfloat16 where that is native, else float16 where that is; where neither is, the one that torch computes less slowly
    there: bfloat16 on a processor, float16 on a GPU.
    """
    if good_at_bfloat16(device):
        return torch.bfloat16
    return torch.bfloat16 if device.type == "cpu" and not good_at_float16(device) else torch.float16


def memory_in_gb(available_memory: Any, device: torch.device) -> float:
    """Return the memory to count with in GB: the number given, else what is free on the device now.

    Raises:
        BitdialError: not a positive finite number.
    """
    if available_memory is None:
        if device.type == "cuda":
            return torch.cuda.mem_get_info(device)[0] / GB
        return psutil.virtual_memory().available / GB
    usable = isinstance(available_memory, int | float) and not isinstance(available_memory, bool)
    if not usable or not math.isfinite(available_memory) or available_memory <= 0:
        raise BitdialError(
            f"available_memory must be a number of GB above 0, got {available_memory!r}; leave it out to ask the device"
        )
    return float(available_memory)


def share_of_products(model: nn.Module, example_input: Any = None) -> float:
    """Return which share of a network's work is convolutions and matrix products, which a narrow format speeds up.

    Args:
        model: any network; left as it is.
        example_input: as for `bitdial.cost`. With one, the share is ``macs / (macs + MACS_PER_VALUE * values)``: macs
            are the multiply-accumulates of linear and convolution layers, values what all other layers put out. Without
            one, it is the share of weights that belong to products, look-up tables left out.

    Returns:
        A number in [0, 1].

    Raises:
        BitdialError: an example that the network cannot take.
    """
    return _share_of_weights(model) if example_input is None else _share_of_work(model, example_input)


def _share_of_weights(model: nn.Module) -> float:
    seen: set[int] = set()
    products = total = 0
    for module in model.modules():
        if isinstance(module, _LOOK_UPS):
            seen.update(id(each) for each in module.parameters(recurse=False))
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) not in seen:
                seen.add(id(parameter))
                total += parameter.numel()
                if parameter.dim() > 1 and not isinstance(module, _NORMS):
                    products += parameter.numel()
    return products / total if total else 0.0


def _share_of_work(model: nn.Module, example_input: Any) -> float:
    values = 0

    def count(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal values
        if isinstance(output, Tensor):
            values += output.numel()

    others = [
        module
        for module in model.modules()
        if not any(module.children()) and not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, *_LOOK_UPS))
    ]
    handles = [module.register_forward_hook(count) for module in others]
    try:
        macs = cost(model, example_input).macs
    except BitdialError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:  # as torch says it
        raise BitdialError(f"the network cannot take the example_input: {' '.join(str(error).split())}") from error
    finally:
        for handle in handles:
            handle.remove()
    *_, examples = arguments_of(example_input)
    return macs / (macs + MACS_PER_VALUE * values / examples)
