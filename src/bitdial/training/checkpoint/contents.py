"""What goes into a checkpoint: plain values that ``torch.load(weights_only=True)`` gives back, snapshot when asked."""

from __future__ import annotations

import contextlib
import copy
import ctypes
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

_LEAVES = frozenset(
    {type(None), bool, int, float, complex, str, bytes, bytearray, torch.dtype, torch.device, torch.Size, torch.layout}
)
_TENSORS = frozenset({torch.Tensor, torch.nn.Parameter})
_CONTAINERS = frozenset({dict, OrderedDict, Counter, list, tuple, set})


def prepare(
    state: dict[str, Any], tensor: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Copy the containers of `state`, turn numpy scalars into Python numbers and pass every tensor through `tensor`.

    Shared and recursive containers stay so. A numpy scalar (a metric that a scheduler keeps, say) becomes the number of
    the same value, because ``weights_only=True`` refuses numpy. With `tensor` an object of an unknown type is
    deep-copied, so that nothing in the result changes while training goes on; without, tensors stay as they are.

    Returns:
        The copy, and a line for every object whose type may not load again, such as ``"config: Namespace"``.
    """
    unknown: list[str] = []
    seen: dict[int, Any] = {}

    # No map_tensors: it must say where an unknown object stands, and what stands in two places must come out as one.
    def walk(value: Any, where: str) -> Any:
        kind = type(value)
        if kind in _LEAVES:
            return value
        if isinstance(value, torch.Tensor):
            if kind not in _TENSORS:
                unknown.append(f"{where}: {kind.__name__}")
            return value if tensor is None else tensor(value)
        if isinstance(value, np.generic):
            return value.item()
        if kind not in _CONTAINERS:
            unknown.append(f"{where}: {kind.__name__}")
            if tensor is not None:
                with contextlib.suppress(Exception):  # it cannot be pickled either, and that is where the user is told
                    return copy.deepcopy(value)
            return value
        if id(value) in seen:
            return seen[id(value)]
        if isinstance(value, dict):
            result = seen[id(value)] = type(value)()
            for key, item in value.items():
                result[walk(key, f"key of {where}")] = walk(item, f"{where}.{key}" if where else str(key))
            if hasattr(value, "__dict__"):
                result.__dict__.update(value.__dict__)  # the _metadata of a state dict
            return result
        if isinstance(value, list):
            items = seen[id(value)] = []
            items.extend(walk(item, f"{where}[{index}]") for index, item in enumerate(value))
            return items
        seen[id(value)] = type(value)(walk(item, f"{where}[{index}]") for index, item in enumerate(value))
        return seen[id(value)]

    return walk(state, ""), unknown


class Snapshot:
    """Copies a state to CPU memory that it keeps from one save to the next.

    Fresh memory costs several times more than the copying itself (the system hands it out page by page), so the second
    snapshot of a state of the same sizes is much quicker than the first. Tensors that share memory (tied weights,
    views) share it in the snapshot too. The price is one copy of the state in memory for as long as this object lives.
    """

    def __init__(self) -> None:
        self._buffers: defaultdict[int, list[torch.UntypedStorage]] = defaultdict(list)

    def take(self, state: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Return what `prepare` returns, with all tensors copied; it is valid until the next call."""
        free = self._buffers
        used: defaultdict[int, list[torch.UntypedStorage]] = defaultdict(list)
        copies: dict[tuple[torch.device, int, int], torch.UntypedStorage] = {}

        def copy_storage(source: torch.UntypedStorage) -> torch.UntypedStorage:
            size = source.nbytes()
            key = (source.device, source.data_ptr(), size)
            if key not in copies:
                target = free[size].pop() if free[size] else torch.empty(size, dtype=torch.uint8).untyped_storage()
                _copy_bytes(target, source)
                used[size].append(target)
                copies[key] = target
            return copies[key]

        def copy_tensor(value: torch.Tensor) -> torch.Tensor:
            if type(value) not in _TENSORS or not _simple(value):
                return value.detach().cpu().clone().requires_grad_(value.requires_grad)
            if not value.untyped_storage().nbytes():
                result = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype)
            else:
                storage = copy_storage(value.untyped_storage())
                result = torch.empty(0, dtype=value.dtype)
                result.set_(storage, value.storage_offset(), value.shape, value.stride())
            if isinstance(value, torch.nn.Parameter):
                return torch.nn.Parameter(result, value.requires_grad)
            return result.requires_grad_(value.requires_grad)

        result = prepare(state, copy_tensor)
        self._buffers = used  # sizes that this state no longer has are given back
        return result


def _copy_bytes(target: torch.UntypedStorage, source: torch.UntypedStorage) -> None:
    if source.device.type == "cpu":
        # torch would split each copy over its threads, and a core that is busy (with loading data, say) then holds up
        # every one of the many small copies; one core alone comes near the speed of memory.
        ctypes.memmove(target.data_ptr(), source.data_ptr(), source.nbytes())
    else:
        target.copy_(source, False)


def _simple(value: torch.Tensor) -> bool:
    strided = value.layout == torch.strided and not value.is_quantized and value.device.type != "meta"
    return strided and not value.is_conj() and not value.is_neg()
