"""What a loader of any kind remembers: the generators that it draws from and the numbers that it counts with."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bitdial.training.seeding import preserved_random_state

_LEFT_ALONE = (Tensor, np.ndarray, nn.Module, Iterator, type, ModuleType, FunctionType, BuiltinFunctionType, MethodType)
_LONGEST, _DEEPEST = 64, 8  # longer lists and dictionaries are data; a generator lies no deeper in a loader
Place = tuple[str, ...]
Part = tuple[Place, Callable[[Any], None], Any]


class LoaderState:
    """The memory of a loader, and of the samplers, data sets and loaders that it holds.

    It is made of generators (of torch, NumPy and Python), of numbers that have changed since this object was made, and
    of whether workers run. What hides elsewhere, in an iterator or a closure, is not found.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        self._first = {place: value for place, _, value in parts_of(loader) if _is_number(value)}

    def set_epoch(self, epoch: int) -> None:
        """Tell the loader, and the loaders and samplers in it. A data set is told by who made it."""
        for place, _, value in parts_of(self.loader):
            if "dataset" not in place and hasattr(value, "set_epoch"):
                value.set_epoch(epoch)

    def loaders(self) -> dict[str, DataLoader[Any]]:
        """Every `DataLoader` in it by its place."""
        return {".".join(place): part for place, _, part in parts_of(self.loader) if isinstance(part, DataLoader)}

    def state_dict(self) -> dict[str, Any]:
        """Return ``{generators, numbers, workers}``, each by place."""
        parts = list(parts_of(self.loader))
        changed = {place: part for place, _, part in parts if _is_number(part) and part != self._first.get(place)}
        return {
            "generators": {".".join(place): _read(part) for place, _, part in parts if _is_generator(part)},
            "numbers": {".".join(place): _plain(number) for place, number in changed.items()},
            "workers": [name for name, loader in self.loaders().items() if _has_workers(loader)],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back whatever has its place in this loader; see `differs`."""
        with preserved_random_state():  # workers that run draw no seed at the beginning of an epoch, starting ones do
            for name, loader in self.loaders().items():
                if name in state["workers"] and not _has_workers(loader):
                    iter(loader)
        for place, put, part in list(parts_of(self.loader)):
            name = ".".join(place)
            if _is_generator(part) and name in state["generators"]:
                _write(part, state["generators"][name])
            elif _is_number(part) and name in state["numbers"]:
                number = state["numbers"][name]
                put(number if type(part) in (int, float) else type(part)(number))

    def differs(self, state: Mapping[str, Any]) -> bool:
        """Whether the loader that was saved had other generators."""
        here = {".".join(place): _read(part) for place, _, part in parts_of(self.loader) if _is_generator(part)}
        return {n: type(s) for n, s in here.items()} != {n: type(s) for n, s in state["generators"].items()}


def parts_of(loader: Any) -> Iterator[Part]:
    """Yield place, setter and value of everything that a loader consists of, itself first."""
    seen: set[int] = set()
    waiting: list[Part] = [((), lambda _: None, loader)]
    while waiting:
        place, put, value = waiting.pop(0)
        if _is_number(value):
            yield place, put, value
            continue
        if id(value) in seen or (place and isinstance(value, _LEFT_ALONE)):
            continue
        seen.add(id(value))
        yield place, put, value
        if not _is_generator(value) and len(place) < _DEEPEST:
            waiting += [((*place, str(key)), _setter(value, key), part) for key, part in _inside(value)]


def _inside(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return list(items) if len(value) <= _LONGEST else []
    return list(getattr(value, "__dict__", {}).items())


def _setter(owner: Any, key: Any) -> Callable[[Any], None]:
    def put(value: Any) -> None:
        if not isinstance(owner, tuple):
            (owner if isinstance(owner, dict | list) else vars(owner))[key] = value

    return put


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _plain(number: Any) -> int | float:
    """The number without its class: a checkpoint takes no other than Python's own."""
    return int(number) if isinstance(number, int | np.integer) else float(number)


def _is_generator(value: Any) -> bool:
    return isinstance(value, torch.Generator | np.random.Generator | np.random.RandomState | random.Random)


def _has_workers(loader: DataLoader[Any]) -> bool:
    return getattr(loader, "_iterator", None) is not None


def _read(generator: Any) -> Tensor | str:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        state: Any = generator.getstate()
    elif isinstance(generator, np.random.Generator):
        state = generator.bit_generator.state
    else:
        state = generator.get_state(legacy=False)
    return json.dumps(state, default=lambda array: array.tolist())


def _write(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())
    elif isinstance(generator, random.Random):
        version, words, gauss = json.loads(state)
        generator.setstate((version, tuple(words), gauss))
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = json.loads(state)
    else:
        generator.set_state(json.loads(state))
