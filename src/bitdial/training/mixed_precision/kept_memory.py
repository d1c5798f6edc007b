"""What training keeps in memory: measured, on any device, for one network at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

KEPT = "kept for the backward pass"
ALLOCATED = "peak allocated on the GPU"


class KeptBytes:
    """Counts the bytes that autograd keeps for the backward pass; every storage once, however many tensors share it."""

    def __init__(self, excluded: Iterable[Tensor]) -> None:
        self._excluded = {_place(each) for each in excluded}
        self._sizes: dict[int, int] = {}

    @property
    def total(self) -> int:
        """Bytes so far."""
        return sum(self._sizes.values())

    def add(self, tensor: Tensor) -> Tensor:
        """Take notice of a tensor that is being saved."""
        place = _place(tensor)
        if place not in self._excluded:
            self._sizes[place] = max(self._sizes.get(place, 0), _bytes(tensor))
        return tensor


@contextmanager
def kept_bytes(model: nn.Module) -> Iterator[KeptBytes]:
    """Count what autograd saves while the body runs forward, parameters and buffers of `model` left out.

    Copies of parameters in a narrower format do count: they take memory until the backward pass is over. What a custom
    function keeps as plain attributes is not seen.
    """
    counted = KeptBytes([*model.parameters(), *model.buffers()])
    with torch.autograd.graph.saved_tensors_hooks(counted.add, lambda tensor: tensor):
        yield counted


def _place(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):  # sparse and other layouts have no storage of their own
        return -id(tensor)


def _bytes(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().nbytes()
    except (RuntimeError, NotImplementedError):
        return tensor.numel() * tensor.element_size()


def peak_on_gpu(device: torch.device, before: int, step: Callable[[], object]) -> int:
    """Return the highest number of bytes allocated during a step, less those that were allocated `before`."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before
