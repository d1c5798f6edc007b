"""Weights in shards made whole again: to save them, or to read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from bitdial.training.devices import is_distributed
from bitdial.trees import map_tensors

if TYPE_CHECKING:
    from lightning.fabric import Fabric


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
