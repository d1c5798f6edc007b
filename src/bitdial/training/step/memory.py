"""When memory runs out: how that is recognised, what must be put back before a step is tried again, and halves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bitdial.errors import BitdialError
from bitdial.training.optimizers import parts_of
from bitdial.training.tasks import Count
from bitdial.trees import map_tensors, tensors

RETRIES = 3
"""How often one step is tried again, each time at half the micro-batch."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the host; anything else is somebody else's."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text.lower() or any(one in text for one in _SAID))


_SAID = (
    "DefaultCPUAllocator: can't allocate memory", "DefaultCPUAllocator: not enough memory",
    "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
)  # fmt: skip


class Snapshot:
    """What a forward pass changes besides gradients: a model's buffers, and the random state of CPU and device.

    Buffers (batch norm's statistics, activation ranges) are put back by name and by value, whether they were written
    into, replaced, or made only then.
    """

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        self._model, self._device = model, device
        self._owners: list[tuple[Any, dict[str, Tensor | None]]] = []
        self._ids: list[int] = []
        self._live: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._random: tuple[Tensor, Tensor | None] | None = None

    def take(self) -> None:
        """Remember now."""
        owners = _buffers_of_modules(self._model)
        ids = [id(each) for owner in owners for each in owner.values()]
        if ids == self._ids and len(owners) == len(self._owners):  # the usual step: no buffer came or went
            _copy(self._kept, self._live)
        else:
            self._owners, self._ids = [(owner, dict(owner.items())) for owner in owners], ids
            self._live = [b for _, own in self._owners for b in own.values() if b is not None and _can_be_written(b)]
            self._kept = [each.detach().clone() for each in self._live]
        on_gpu = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        self._random = torch.get_rng_state(), on_gpu

    def restore(self) -> None:
        """Put everything back to where it was."""
        assert self._random is not None, "take first"
        self.restore_buffers()
        on_cpu, on_gpu = self._random
        torch.set_rng_state(on_cpu)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu, self._device)

    def restore_buffers(self) -> None:
        """Put the buffers alone back."""
        for owner, own in self._owners:
            if [*map(id, owner.values())] != [*map(id, own.values())] and isinstance(owner, dict):
                owner.clear()
                owner.update(own)
        _copy(self._live, self._kept)


def _buffers_of_modules(model: nn.Module) -> list[Any]:
    """Return the live mapping of buffers of every module that has any; walks faster than ``model.modules()``.

    A layer that is used twice is there twice, which does no harm.
    """
    seen: set[int] = set()
    owners: list[Any] = []
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is None:
            continue
        if module._buffers:
            owners.append(module._buffers)
        if module._modules and id(module) not in seen:
            seen.add(id(module))
            waiting += module._modules.values()
    return owners


def _can_be_written(buffer: Tensor) -> bool:
    """Whether a buffer can change in place: one that shows the same memory twice, as `expand` makes it, cannot."""
    shared = buffer.layout == torch.strided and torch._debug_has_internal_overlap(buffer) == 1
    return not (shared or buffer.is_inference())


@torch.no_grad()
def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    if targets:
        torch._foreach_copy_(targets, sources)


def versions(optimizer: Optimizer) -> tuple[list[Tensor], list[int]]:
    """Return parameters and their states as they are before an update, and the count of changes of each."""
    tensors: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    tensors += [v for _, _, s in _states(optimizer) for v in s.values() if isinstance(v, Tensor)]
    return tensors, [each._version for each in tensors]


def forget_new_state(optimizer: Optimizer, before: tuple[list[Tensor], list[int]], problem: str) -> None:
    """Take off what an update that ran out of memory made, so that it can be repeated.

    Raises:
        BitdialError: it had moved something already.
    """
    tensors, counts = before
    if [each._version for each in tensors] != counts:
        raise BitdialError(
            f"out of memory in the middle of the optimizer's update ({' '.join(problem.split())[:200]}); it cannot be "
            "repeated: go on from the last checkpoint with a smaller batch"
        )
    known = {id(each) for each in tensors}
    for part, parameter, state in _states(optimizer):
        if any(isinstance(value, Tensor) and id(value) not in known for value in state.values()):
            del part.state[parameter]


def _states(optimizer: Optimizer) -> list[tuple[Optimizer, Any, dict[str, Any]]]:
    """The states of single parameters, with the optimizer that holds each; some keep other things beside them."""
    items = [(part, key, state) for part in parts_of(optimizer) for key, state in part.state.items()]
    return [(part, key, state) for part, key, state in items if isinstance(state, dict)]


def split(batch: Any, parts: int) -> list[Any]:
    """Cut a batch into `parts` along its first dimension, as evenly as that goes; fewer where it has fewer examples.

    Tensors are cut, wherever they stand in the batch; all else goes into every part as it is. A tensor whose first
    dimension differs from `batch_size` is no row of examples, and is not cut.
    """
    size = batch_size(batch)
    count = min(parts, size)
    if count <= 1:
        return [batch]

    def rows(part: int) -> Any:
        mine = slice(size * part // count, size * (part + 1) // count)
        return map_tensors(lambda each: each[mine] if each.dim() > 0 and each.shape[0] == size else each, batch)

    return [rows(part) for part in range(count)]


def shares(counts: Sequence[Count | float]) -> list[Any]:
    """Return the weight of each part's mean in that of the whole, by what they are means over; alike where nothing is.

    A float, or a 0-dim tensor where a count is one.
    """
    total: Any = sum(counts)
    if isinstance(total, Tensor):
        return [count / total.clamp(min=torch.finfo(torch.float32).tiny) for count in counts]
    return [count / total if total else 1 / len(counts) for count in counts]


def joined(parts: Sequence[Any]) -> Any | None:
    """Undo `split`: put the tensors of all parts below each other; None where one is not along the examples."""
    columns = [*zip(*(tensors(part) for part in parts), strict=True)]
    sizes = [batch_size(part) for part in parts]
    if any([*each.shape[:1]] != [size] for column in columns for each, size in zip(column, sizes, strict=True)):
        return None
    waiting = iter(columns)
    return map_tensors(lambda _: torch.cat(next(waiting)), parts[0])


def batch_size(batch: Any) -> int:
    """Return the first dimension of the first tensor of a batch; 1 where there is none.

    Of a pair it is the first one that data and target share (class weights may lie before the examples); 1 where they
    share none, for then nobody knows how to cut them.
    """
    if isinstance(batch, tuple | list) and len(batch) > 1:
        data, target = ([int(each.shape[0]) for each in tensors(part) if each.dim() > 0] for part in batch[:2])
        return next((size for size in data if size in target or not target), 1)
    return next((int(each.shape[0]) for each in tensors(batch) if each.dim() > 0), 1)
