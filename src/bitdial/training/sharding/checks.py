"""What does not go together with weights in shards, and how it is said."""

from __future__ import annotations

from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from bitdial.errors import BitdialError
from bitdial.training.optimizers import parts_of


def check_shardable(model: nn.Module, optimizer: Optimizer | None = None, processes: int = 1) -> None:
    """Refuse a model, or an optimizer over its parameters, that does not go together with weights in shards.

    Raises:
        BitdialError: a parameter that cannot be cut, or cannot be replaced by a part of it; parameters of several
            dtypes; for Muon a matrix with fewer rows than there are processes.
    """
    dtypes: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        if is_lazy(parameter):
            raise BitdialError(
                f"strategy fsdp needs parameters with a shape, got the lazy '{name}'; run the model once before"
            )
        if parameter.dim() == 0:
            raise BitdialError(
                f"strategy fsdp cuts parameters along their first dimension, got '{name}' without dimensions; give it "
                "the shape [1], or use strategy ddp"
            )
        if getattr(parameter, "_backward_hooks", None) or getattr(parameter, "_post_accumulate_grad_hooks", None):
            raise BitdialError(
                f"strategy fsdp puts parts in the place of parameters, got '{name}' with a hook, which the parts would "
                "not have; take the hook off, or use strategy ddp"
            )
        if parameter.requires_grad:
            dtypes.setdefault(str(parameter.dtype).removeprefix("torch."), name)
    if len(dtypes) > 1:
        found = ", ".join(f"{dtype} ('{name}')" for dtype, name in dtypes.items())
        raise BitdialError(
            f"strategy fsdp needs all trained parameters in one dtype, got {found}; keep them in float32, or use "
            "strategy ddp"
        )
    names = {parameter: name for name, parameter in model.named_parameters()}
    for part in () if optimizer is None else parts_of(optimizer):
        if type(part).__name__ != "Muon":
            continue
        for parameter in (each for group in part.param_groups for each in group["params"]):
            if parameter.shape[0] < processes:
                raise BitdialError(
                    f"muon with strategy fsdp needs a row of every matrix for each of the {processes} processes, got "
                    f"'{names.get(parameter, '?')}' of shape {list(parameter.shape)}; use adamw, or strategy ddp"
                )


def explained(error: Exception) -> str | None:
    """Return a sentence for an error of PyTorch about weights in shards; None for any other."""
    if isinstance(error, BitdialError):
        return None
    text = " ".join(str(error).split())
    if "does not support deepcopy" in text:
        return (
            "a model with its weights in shards cannot be copied, got copy.deepcopy of it (in an evaluation, a hook or "
            "a task); read weights inside of bitdial.training.whole_weights(model), or use strategy ddp"
        )
    if "mixed torch.Tensor and DTensor" in text or "setStorage" in text:
        return (
            "weights in shards are whole only while their layer is called, got an operation on a part (weights used "
            "without calling their layer, a penalty on weights in the loss, or an optimizer that mixes tensors); call "
            f"the layer, or use strategy ddp ({text[:120]})"
        )
    if "RegisterPostBackwardFunction" in text:
        return (
            "a block of a model in shards must not change its input in place, got one that does (such as "
            "ReLU(inplace=True) at its start); set inplace=False there, or use strategy ddp"
        )
    if any(name in text for name in ("DTensor", "DeviceMesh", "sharding strategy", "placement", "fsdp::", "FSDP")):
        return f"this does not go together with weights in shards: {text[:200]}; do without it, or use strategy ddp"
    return None
