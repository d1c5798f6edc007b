"""Weights in shards: every process holds a part of each weight, of its gradient and of the optimizer's state.

The cutting, gathering and scattering are those of PyTorch's `fully_shard`. It changes a module for good: its class, its
hooks, its parameters. Here it is taken back when training ends, so that `fit` leaves the model that it was given.
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
from bitdial.training.shard_checks import explained
from bitdial.training.shard_groups import groups_of

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from torch.distributed.device_mesh import DeviceMesh

    from bitdial.training.state import TrainingState


def is_sharded(fabric: Fabric) -> bool:
    """Whether a run on these devices keeps its weights in shards."""
    return bool(getattr(fabric.strategy, "shards_weights", False)) and fabric.world_size > 1


@contextmanager
def in_shards(state: TrainingState) -> Iterator[None]:
    """Hold the weights of a run in shards inside of the body; after it they are whole again, on the run's device.

    An error in the body leaves the model with the weights that training began with, and the optimizer without a state:
    nobody may wait for processes that have perhaps stopped. A stop on request is no error: all agreed on it.

    Args:
        state: of the run, ready to train; the weights may still be on the host.

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
    sharing = state.model.register_forward_pre_hook(_share_buffers)
    gather = False
    try:
        yield
        gather = True
    except RunInterrupted:
        gather = True
        raise
    except Exception as error:
        sentence = explained(error)
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


class ShardedModel:
    """A model whose weights are in shards, until it is restored.

    Args:
        model: plain. Every process takes the first one's weights, as DistributedDataParallel has it.
        mesh: the processes.
        device: of this one.

    Attributes:
        model: the same.
        given: its parameters; they wait on the host meanwhile, with the values that they had.
        parts: what takes their place: this process's part of each.
    """

    def __init__(self, model: nn.Module, mesh: DeviceMesh, device: torch.device) -> None:
        self.model = model
        self.given = list(model.parameters())
        self._device = device
        self._before = [_Shape(module) for module in model.modules()]
        for parameter in self.given:
            message = parameter.detach().to(device, memory_format=torch.contiguous_format)
            torch.distributed.broadcast(message, src=0)
            with torch.no_grad():
                parameter.copy_(message)
        kept = [parameter.detach().cpu() for parameter in self.given]
        try:
            self._shard(mesh)
            self.parts = list(model.parameters())
        except BaseException:
            for shape in self._before:
                shape.grown()
                shape.restore()
            raise
        finally:
            for parameter, value in zip(self.given, kept, strict=True):
                parameter.data = value
        trained: list[Any] = [parameter for parameter in self.given if parameter.requires_grad]
        self._guards = [parameter.register_post_accumulate_grad_hook(_refuse) for parameter in trained]

    def _shard(self, mesh: DeviceMesh) -> None:
        from torch.distributed.fsdp import fully_shard

        for parameter in self.given:
            parameter.grad, parameter.data = None, parameter.data.contiguous()
        for group in [*groups_of(self.model), self.model]:
            group.register_forward_hook(lambda module, inputs, output: _without_views(output))
            # Also the outermost one lets go of its whole weights after each pass: between steps all are in shards.
            fully_shard(group, mesh=mesh, reshard_after_forward=True)
        with whole_weights(self.model):  # what is registered with the first gathering is there from now on
            pass
        for shape in self._before:
            shape.grown()

    def restore(self, *, gather: bool) -> None:
        """Give the model its own parameters back, on the device, and take everything off that sharding put on.

        Args:
            gather: fill them with what was trained; every process must then come here. Else they keep what they had.
        """
        for guard in self._guards:
            guard.remove()
        try:
            with torch.no_grad():
                for parameter, part in zip(self.given, self.parts, strict=True) if gather else ():
                    parameter.copy_(whole(part))
        finally:
            for parameter, part in zip(self.given, self.parts, strict=True):
                parameter.requires_grad_(part.requires_grad)
                parameter.data = parameter.data.to(self._device)
            for shape in self._before:
                shape.restore()


class _Shape:
    """What a module is before it is sharded, to be that again."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._class = type(module)
        self._parameters = dict(module._parameters)
        self._names = set(vars(module))
        self._hooks = self._keys()
        self._added: dict[str, set[Any]] = {}
        self._attributes: set[str] = set()

    def grown(self) -> None:
        """Notice what came with sharding: what comes later is somebody else's."""
        self._added = {name: keys - self._hooks.get(name, set()) for name, keys in self._keys().items()}
        self._attributes = set(vars(self.module)) - self._names

    def restore(self) -> None:
        """Take that away again."""
        from torch.distributed import _composable_state

        own = vars(self.module)
        for name, keys in self._added.items():
            for key in keys:
                own[name].pop(key, None)
        for name in self._attributes:
            own.pop(name, None)
        self.module.__class__ = self._class
        self.module._parameters.update(self._parameters)
        # else the module could not be sharded again
        getattr(_composable_state, "_module_state_mapping", {}).pop(self.module, None)

    def _keys(self) -> dict[str, set[Any]]:
        return {name: set(value) for name, value in vars(self.module).items() if "_hooks" in name and value is not None}


def _refuse(parameter: Tensor) -> None:
    raise BitdialError(
        "the loss must reach weights through the layers' outputs with strategy fsdp, got a gradient for a parameter "
        "that was kept from before training; use strategy ddp"
    )


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

    Every process must come here. What is written into them is lost.
    """
    from torch.distributed.fsdp import FSDPModule

    groups = [module for module in model.modules() if isinstance(module, FSDPModule)]
    try:
        for group in groups:
            group.unshard()
        yield
    finally:
        for group in groups:
            group.reshard()


def _without_views(output: Any) -> Any:
    """Return a block's output with copies for views.

    What gathers a block's weights again on the way back hangs on its output, and falls off when a view is written into,
    as in ``out += shortcut``.
    """
    if isinstance(output, Tensor):
        return output.clone() if output._is_view() else output
    if isinstance(output, dict):
        filled = copy.copy(output)
        for key, each in output.items():  # one by one: some kinds forbid update()
            filled[key] = _without_views(each)
        return filled
    if isinstance(output, tuple | list):
        parts = [_without_views(each) for each in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    return output


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
