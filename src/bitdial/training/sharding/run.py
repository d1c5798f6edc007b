"""A run with weights in shards: what goes together with them, model, average, optimizer, and what processes share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from bitdial.errors import BitdialError, RunInterrupted
from bitdial.training.batches import to_device
from bitdial.training.optimizers import parts_of
from bitdial.training.seeding import preserved_random_state
from bitdial.training.sharding.sharded_model import ShardedModel, whole

if TYPE_CHECKING:
    from bitdial.training.state import TrainingState


def check_shardable(model: nn.Module, optimizer: Optimizer | None, processes: int) -> None:
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


@contextmanager
def in_shards(state: TrainingState) -> Iterator[None]:
    """Hold the weights of a run in shards inside of the body; after it they are whole again, on the run's device.

    The state is ready to train; its weights may still be on the host.

    An error in the body leaves the model with the weights that training began with, and the optimizer without a state:
    nobody may wait for processes that have perhaps stopped. A stop on request is no error: all agreed on it.

    Raises:
        BitdialError: what the body did does not go together with weights in shards.
    """
    from torch.distributed.device_mesh import init_device_mesh

    device = state.fabric.device
    mesh = init_device_mesh(device.type, (state.fabric.world_size,))
    networks = [state.model] if state.ema is None else [state.model, state.ema.module]
    with preserved_random_state():
        sharded = [ShardedModel(network, mesh, device) for network in networks]
        trained = sharded[0]
        _move_optimizer(state.optimizer, trained.given, trained.parts, _cut)
    sharing = state.model.register_forward_pre_hook(torch.compiler.disable(_share_buffers))  # type: ignore[no-untyped-call]
    gather = False
    try:
        yield
        gather = True
    except RunInterrupted:
        gather = True
        raise
    except Exception as error:
        sentence = _explained(error)
        if sentence is not None:
            raise BitdialError(sentence) from error
        raise
    finally:
        sharing.remove()
        try:
            for each in sharded:
                each.restore(gather=gather)
            convert = (lambda value, _: whole(value)) if gather else None
            _move_optimizer(state.optimizer, trained.parts, trained.given, convert)
        finally:
            # torch's caches keep the mesh, and it the connections, whose threads would abort the process at its end
            getattr(mesh, "_pg_registry", {}).clear()


def _explained(error: Exception) -> str | None:
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


def _move_optimizer(
    optimizer: Optimizer,
    before: list[nn.Parameter],
    after: list[nn.Parameter],
    convert: Callable[[Any, nn.Parameter], Any] | None,
) -> None:
    """Let an optimizer go on with other parameters, its state converted; without a state where `convert` is None."""
    new = dict(zip(before, after, strict=True))
    for part in parts_of(optimizer):
        states = dict(part.state)
        part.state.clear()
        for group in part.param_groups:
            on_device = bool(group.get("capturable") or group.get("fused"))  # where such ones count their steps
            for index, parameter in enumerate(group["params"]):
                now = group["params"][index] = new.get(parameter, parameter)
                if convert is not None and parameter in states:
                    values = {name: convert(value, now) for name, value in states[parameter].items()}
                    part.state[now] = to_device(values, now.device) if on_device else values


def _cut(value: Any, parameter: nn.Parameter) -> Any:
    """Return what an optimizer keeps for a parameter, cut as the parameter is: what has its shape."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not (isinstance(parameter, DTensor) and isinstance(value, Tensor) and value.shape == parameter.shape):
        return value
    value = value.to(parameter.device)
    # every process has the same value: nothing needs to be sent
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def _share_buffers(model: nn.Module, inputs: Any) -> None:
    """Before a pass of training, give every process the first one's buffers, as DistributedDataParallel does."""
    if not (model.training and torch.is_grad_enabled()):
        return
    kinds: dict[torch.dtype, list[Tensor]] = {}
    for buffer in model.buffers():
        kinds.setdefault(buffer.dtype, []).append(buffer.detach())
    for buffers in kinds.values():
        message = torch.cat([buffer.reshape(-1) for buffer in buffers])
        torch.distributed.broadcast(message, src=0)
        parts = torch.split(message, [buffer.numel() for buffer in buffers])
        torch._foreach_copy_(buffers, [part.view_as(buffer) for part, buffer in zip(parts, buffers, strict=True)])
