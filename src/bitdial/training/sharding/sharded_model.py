"""A model whose weights are in shards for a while, and made whole again: to save them, or to read them.

The cutting, gathering and scattering are those of PyTorch's `fully_shard`. It changes a module for good: its class, its
hooks, its parameters. Here that is taken back in the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.layers.widths import HoldsWidths
from bitdial.training.devices import is_distributed
from bitdial.trees import map_tensors

if TYPE_CHECKING:
    from lightning.fabric import Fabric
    from torch.distributed.device_mesh import DeviceMesh

SMALLEST_GROUP = 1_000_000
"""Weights that are gathered together, at least: fewer, and the processes talk more than they compute."""

_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def is_sharded(fabric: Fabric) -> bool:
    """Whether a run keeps its weights in shards on these devices; one process does so if it is a group of its own."""
    return bool(getattr(fabric.strategy, "shards_weights", False)) and (fabric.world_size > 1 or is_distributed())


def whole(value: Any) -> Any:
    """Return a tensor whole if it is in shards, and anything else as it is. Every process must ask."""
    gather = getattr(value, "full_tensor", None)
    return value if gather is None else gather()


def gathered(fabric: Fabric, state: dict[str, Any]) -> dict[str, Any]:
    """Return a nested state with whole tensors, for the first process to save. Every process must ask.

    What is in shards goes, whole, to the host of the first process; in the others an empty tensor stands for it.
    Without shards the state comes back as it is.
    """

    def gather(tensor: Tensor) -> Tensor:
        if not hasattr(tensor, "full_tensor"):
            return tensor
        full: Tensor = tensor.full_tensor()
        return full.cpu() if fabric.is_global_zero else full.new_empty(0)

    filled: dict[str, Any] = map_tensors(gather, state) if is_sharded(fabric) else state
    return filled


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Let every layer of a model have its whole weights inside of the body, to read them; nothing without shards.

    Every process must come here. What is written into them is lost.
    """
    groups: list[Any] = [module for module in model.modules() if hasattr(module, "unshard")]
    try:
        for group in groups:
            group.unshard()
        yield
    finally:
        for group in groups:
            group.reshard()


class ShardedModel:
    """A model whose weights are in shards, until it is restored.

    Every process takes the first one's weights, as DistributedDataParallel has it.
    """

    def __init__(self, model: nn.Module, mesh: DeviceMesh, device: torch.device) -> None:
        self.model = model
        self.given = list(model.parameters())
        """The model's parameters; they wait on the host meanwhile, with the values that they had."""
        self._device = device
        for module in model.modules():
            if isinstance(module, HoldsWidths):  # sharding moves parameters and buffers
                module.widths_to(device)
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
            """What takes their place: this process's part of each."""
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

        With `gather` they get what was trained, and every process must come here; else they keep what they had.
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


def _without_views(output: Any) -> Any:
    """Return a block's output with copies for views.

    What gathers a block's weights again on the way back hangs on its output, and falls off when a view is written into,
    as in ``out += shortcut``.
    """
    return map_tensors(lambda tensor: tensor.clone() if tensor._is_view() else tensor, output)


def groups_of(model: nn.Module) -> list[nn.Module]:
    """Return the modules whose weights are gathered together, inner ones first; the model itself gathers the rest.

    A group is gathered when its module is called, so it must be one that is: the elements of lists and sequences are,
    as blocks of a network, while other modules may only lend their weights to the one around them (the projection
    inside of `torch.nn.MultiheadAttention`). Of these, the smallest with `SMALLEST_GROUP` weights or more that are in
    no smaller group. Where layers share a weight, it belongs to the smallest group with all of them.
    """
    owners: dict[nn.Parameter, set[nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, set()).add(module)
    found: list[nn.Module] = []
    taken: set[nn.Parameter] = set()

    def visit(module: nn.Module, *, is_element: bool) -> None:
        for child in module.children():
            visit(child, is_element=isinstance(module, _LISTS))
        left = {parameter for parameter in module.parameters() if parameter not in taken}
        alone = all(owners[parameter] <= {*module.modules()} for parameter in left)
        is_list = isinstance(module, nn.ModuleList | nn.ModuleDict)
        if is_element and alone and not is_list and sum(p.numel() for p in left) >= SMALLEST_GROUP:
            found.append(module)
            taken.update(left)

    visit(model, is_element=False)
    return found
