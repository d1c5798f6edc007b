"""Weights in shards: every process holds a part of each weight, of its gradient and of the optimizer's state.

`fully_shard`, PyTorch's own, changes a module for good: its class, its hooks, its parameters. So `fit` trains a twin
of the model that it was given. The twin has the model's buffers, so that a dial, which writes into buffers, turns both;
its weights are its own, in shards, and are put back into the model when training ends.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bitdial.errors import BitdialError, RunInterrupted
from bitdial.training.batches import to_device
from bitdial.training.seeding import preserved_random_state

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from torch.distributed.device_mesh import DeviceMesh

    from bitdial.training.state import TrainingState

SMALLEST_GROUP = 1_000_000
"""Weights that are gathered together, at least: fewer, and the processes talk more than they compute."""


def is_sharded(fabric: Fabric) -> bool:
    """Whether a run on these devices keeps its weights in shards."""
    return bool(getattr(fabric.strategy, "shards_weights", False)) and fabric.world_size > 1


def check_shardable(model: nn.Module) -> None:
    """Refuse a model that cannot be cut.

    Raises:
        BitdialError: a parameter without dimensions, or trainable ones of several dtypes.
    """
    dtypes = {parameter.dtype: name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if len(dtypes) > 1:
        found = ", ".join(f"{str(dtype).removeprefix('torch.')} ('{name}')" for dtype, name in dtypes.items())
        raise BitdialError(
            f"strategy fsdp needs all trained parameters in one dtype, got {found}; keep them in float32, or use "
            "strategy ddp"
        )
    for name, parameter in model.named_parameters():
        if parameter.dim() == 0:
            raise BitdialError(
                f"strategy fsdp cuts parameters along their first dimension, got '{name}' without dimensions; give it "
                "the shape [1], or use strategy ddp"
            )


def twin_of(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of a model with weights of its own, and the model's very buffers, which go to the device.

    The weights of both go to the host: those of the twin reach the device in shards.
    """
    check_shardable(model)
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = buffer.to(device)
    for parameter in model.parameters():
        parameter.data = parameter.data.cpu()
    return copy.deepcopy(model, {id(buffer): buffer for buffer in model.buffers()})


@contextmanager
def in_shards(state: TrainingState, model: nn.Module) -> Iterator[None]:
    """Hold the weights of a run in shards inside of the body; after it they are whole again, and in `model`.

    An error in the body leaves `model` with the weights that training began with, and the optimizer without a state:
    nobody may wait for processes that have perhaps stopped. A stop on request is no error: all agreed on it.

    Args:
        state: of the run, ready to train; its model is a `twin_of` the model, its optimizer over the parameters of
            `model`.
        model: as it was given to `fit`.
    """
    from torch.distributed.device_mesh import init_device_mesh

    fabric, twin, average = state.fabric, state.model, state.ema
    mesh = init_device_mesh(fabric.device.type, (fabric.world_size,))
    given = list(model.parameters())
    with preserved_random_state():
        for network in (twin,) if average is None else (twin, average.module):
            _take_first(network, fabric.device)
        _fill(model, twin)  # a resumed run has loaded its weights into the twin
        _shard(twin, mesh)
        twin.register_forward_pre_hook(_share_buffers)
        if average is not None:
            _shard(average.module, mesh)
        shards = list(twin.parameters())
        _move_optimizer(state.optimizer, given, shards, _cut)
    agreed = False
    try:
        yield
        agreed = True
    except RunInterrupted:
        agreed = True
        raise
    finally:
        if agreed:
            _fill(model, twin)
        state.model = fabric.to_device(model)
        if average is not None:
            sharded_average, average.module = average.module, copy.deepcopy(model).requires_grad_(False)
            if agreed:
                _fill(average.module, sharded_average)
        _move_optimizer(state.optimizer, shards, given, (lambda value, _: whole(value)) if agreed else None)


def whole(value: Any) -> Any:
    """Return a tensor whole if it is in shards, and anything else as it is. Every process must ask."""
    gather = getattr(value, "full_tensor", None)
    return value if gather is None else gather()


def gathered(fabric: Fabric, state: dict[str, Any]) -> dict[str, Any]:
    """Return a nested state with whole tensors, for the first process to save. Every process must ask.

    What is in shards goes, whole, to the host of the first process; in the others an empty tensor stands for it.
    Without shards the state comes back as it is.
    """

    def gather(value: Any) -> Any:
        if hasattr(value, "full_tensor"):
            full = value.full_tensor()
            return full.cpu() if fabric.is_global_zero else full.new_empty(0)
        if isinstance(value, dict):
            filled = copy.copy(value)  # a state dict keeps its metadata
            filled.update({key: gather(each) for key, each in value.items()})
            return filled
        return [gather(each) for each in value] if isinstance(value, list) else value

    filled: dict[str, Any] = gather(state) if is_sharded(fabric) else state
    return filled


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Let every layer of a model have its whole weights inside of the body, to read them; nothing without shards.

    Every process must come here.
    """
    from torch.distributed.fsdp import FSDPModule

    groups = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for group in groups:
        group.unshard()
    try:
        yield
    finally:
        for group in groups:
            group.reshard()


@torch.no_grad()
def _take_first(model: nn.Module, device: torch.device) -> None:
    """Give every process the first one's weights, as DistributedDataParallel does: each may have drawn its own."""
    for parameter in model.parameters():
        message = parameter.detach().to(device)
        torch.distributed.broadcast(message, src=0)
        parameter.copy_(message)


@torch.no_grad()
def _fill(target: nn.Module, source: nn.Module) -> None:
    """Give a plain model the weights of another, which may be in shards, and its buffers."""
    for mine, theirs in zip(target.parameters(), source.parameters(), strict=True):
        mine.copy_(whole(theirs))
    for own, other in zip(target.modules(), source.modules(), strict=True):
        own._buffers.update(other._buffers)


def _shard(model: nn.Module, mesh: DeviceMesh) -> None:
    from torch.distributed.fsdp import fully_shard

    for group in [*_groups(model), model]:
        group.register_forward_hook(lambda module, inputs, output: _without_views(output))
        # Also the outermost one gives the whole weights back after each pass: what is between two steps is in shards.
        fully_shard(group, mesh=mesh, reshard_after_forward=True)


def _without_views(output: Any) -> Any:
    """Return a block's output with copies for views.

    What gathers a block's weights again on the way back hangs on its output, and falls off when a view is written into,
    as in ``out += shortcut``.
    """
    if isinstance(output, Tensor):
        return output.clone() if output._is_view() else output
    if isinstance(output, dict):
        filled = copy.copy(output)
        filled.update({key: _without_views(each) for key, each in output.items()})
        return filled
    if type(output) in (tuple, list):
        return type(output)(_without_views(each) for each in output)
    return output


def _groups(model: nn.Module) -> list[nn.Module]:
    """Return the modules whose weights are gathered together, inner ones first, without the model itself.

    Blocks of at least `SMALLEST_GROUP` weights that are called as modules are. Where layers share a weight, it belongs
    to the smallest module with all of them.
    """
    owners: dict[nn.Parameter, set[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, set()).add(module)
    found: list[nn.Module] = []
    taken: set[nn.Parameter] = set()

    def visit(module: nn.Module) -> None:
        for child in module.children():
            visit(child)
        inside = {*module.modules()}
        left = {parameter for parameter in module.parameters() if parameter not in taken}
        own = {parameter for parameter in left if owners[parameter] <= inside}
        called = not isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterList | nn.ParameterDict)
        if module is not model and called and own == left and sum(p.numel() for p in own) >= SMALLEST_GROUP:
            found.append(module)
            taken.update(own)

    visit(model)
    return found


def _move_optimizer(
    optimizer: Optimizer,
    before: list[nn.Parameter],
    after: list[nn.Parameter],
    convert: Callable[[Any, nn.Parameter], Any] | None,
) -> None:
    """Let an optimizer go on with other parameters, its state converted; without a state where `convert` is None."""
    new = dict(zip(before, after, strict=True))
    for part in getattr(optimizer, "parts", (optimizer,)):
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


@torch.compiler.disable  # type: ignore[untyped-decorator]
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
