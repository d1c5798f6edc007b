"""A layer that computes in a format of its own, whatever surrounds it, without becoming another object.

The layer's class is swapped for a subclass made on the fly, as torch itself does in ``parametrize`` and
``fully_shard``. Why not hooks: a forward hook that leaves autocast is a second function which an exception, a thread of
DataParallel or a graph break can part from the first. Why not an own ``forward`` on the instance: copies and replicas
would keep calling the original's. A class has neither trouble, adds no name to the state dict, and keeps `isinstance`.
"""

from __future__ import annotations

import copy
import functools
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn

from bitdial.training.step.formats import FORWARD_BFLOAT16, LayerFormat, autocast_dtype, needs_float8

_made: weakref.WeakValueDictionary[type, type] = weakref.WeakValueDictionary()


class PolicyLayer:
    """What the made classes share. Its state stands on the instance, so that a copy of a layer has its own."""

    _bitdial_base: type[nn.Module]
    _bitdial_format: LayerFormat | None = None  # None: as the surroundings have it
    _bitdial_owner: Any = None  # whose policies these are; a copy of the layer has a copy, which is nobody
    _bitdial_float8: Any = None  # a float8 layer's configuration while its forward product is in bfloat16

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Pickle and copy by the class that was there before: the made one cannot be imported."""
        reduced = super().__reduce_ex__(max(int(protocol), 2))
        made = type(self)
        if "_bitdial_base" in vars(made) and isinstance(reduced, tuple) and reduced[1] == (made,):
            return (_rebuild, (self._bitdial_base,), *reduced[2:])
        return reduced


def is_float8_class(kind: type) -> bool:
    """Whether a class is torchao's float8 linear layer or made from it (told by name: torchao need not be there)."""
    return any(one.__name__ == "Float8Linear" and one.__module__.startswith("torchao.") for one in kind.__mro__)


def is_float8_layer(module: nn.Module) -> bool:
    """Whether it is of such a class."""
    return is_float8_class(type(module))


def cover(module: nn.Module, owner: object) -> None:
    """Make a layer able to follow formats; until `turn` is called it computes as before.

    Raises:
        TypeError: the object cannot change its class.
    """
    module.__class__ = policy_class(type(module))
    vars(module)["_bitdial_owner"] = owner


def uncover(module: nn.Module) -> None:
    """Take it off again. Where something else has swapped the class since, ours stays below it and does nothing."""
    turn(module, None)
    vars(module).pop("_bitdial_format", None)
    vars(module).pop("_bitdial_owner", None)
    base = vars(type(module)).get("_bitdial_base")
    if base is not None:
        module.__class__ = base


def turn(module: nn.Module, format: LayerFormat | None) -> None:
    """Set the format that a covered layer computes in from now on."""
    if is_float8_layer(module):
        config: Any = vars(module).pop("_bitdial_float8", None) or module.config
        if format == FORWARD_BFLOAT16:
            from torchao.float8 import CastConfig, ScalingType

            vars(module)["_bitdial_float8"] = config
            # The casts for the backward products stand in fields of their own, which keep their values.
            off = {
                name: CastConfig(scaling_type=ScalingType.DISABLED, target_dtype=getattr(config, name).target_dtype)
                for name in ("cast_config_input", "cast_config_weight")
            }
            config = replace(config, **off)
        module.config = config
    vars(module)["_bitdial_format"] = format


def owner_of(module: nn.Module) -> object | None:
    """What `cover` was given; of a copy, a copy of that; None: the layer follows no policies."""
    return vars(module).get("_bitdial_owner")


def is_covered(module: nn.Module) -> bool:
    """Whether a layer follows policies (its own ones, or as a copy those of the time when it was copied)."""
    return owner_of(module) is not None


def policy_class(base: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of a layer's class that follows formats; the same one for every layer of the class."""
    if issubclass(base, PolicyLayer):
        return base
    made = _made.get(base)
    if made is None:
        names = {
            "__module__": base.__module__,
            "__qualname__": base.__qualname__,
            "__doc__": base.__doc__,
            "_bitdial_base": base,
            "forward": _forward_of(base),
        }
        make: Any = type(base)
        made = _made[base] = make(base.__name__, (PolicyLayer, base), names)
    return made


def _rebuild(base: type[nn.Module]) -> nn.Module:
    made = policy_class(base)
    return made.__new__(made)


def _forward_of(base: type[nn.Module]) -> Callable[..., Any]:
    """Return the `forward` of a made class; its signature is that of the class below."""
    attention = issubclass(base, nn.MultiheadAttention)
    float8 = is_float8_class(base)

    @functools.wraps(base.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        format = self._bitdial_format
        if format is None:
            return base.forward(self, *args, **kwargs)
        # A float8 layer out of float8 is the linear layer that it was made from, on the same weight.
        inner = nn.Linear.forward if float8 and not needs_float8(format) else base.forward
        dtype = autocast_dtype(format)
        wide = dtype == torch.float32
        tensor = _first_tensor((args, kwargs))
        if tensor is None:
            tensor = next(self.parameters(), None)
        kind = "cpu" if tensor is None else tensor.device.type
        if wide:
            args, kwargs = to_float32(args), to_float32(kwargs)
        elif attention:
            args, kwargs = _cast_query(args, kwargs, dtype)
        if not _has_autocast(kind):
            return inner(self, *args, **kwargs)
        enabled = torch.is_autocast_enabled(kind)
        if not enabled if wide else enabled and torch.get_autocast_dtype(kind) == dtype:
            return inner(self, *args, **kwargs)
        # Autocast's cache of cast weights does not ask for the dtype: a weight that is used in two formats would come
        # back in the wrong one.
        with torch.autocast(kind, enabled=False) if wide else torch.autocast(kind, dtype=dtype, cache_enabled=False):
            return inner(self, *args, **kwargs)

    return forward


def to_float32(value: Any) -> Any:
    """Return tensors of other floating-point dtypes as float32, inside tuples, lists and dictionaries too.

    What holds none is returned itself, so that a layer may still write into a list that it was given.
    """
    # No map_tensors: this stands in compiled graphs, at every layer; and it hands on what need not change.
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() and value.dtype != torch.float32 else value
    if isinstance(value, dict):
        cast = {key: to_float32(one) for key, one in value.items()}
        if all(cast[key] is one for key, one in value.items()):
            return value
        if type(value) is dict:
            return cast
        shallow = copy.copy(value)  # of its own kind, such as a dictionary with attributes
        shallow.update(cast)
        return shallow
    if isinstance(value, (tuple, list)):
        items = [to_float32(one) for one in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        if isinstance(value, list):
            return items
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value


def _cast_query(args: tuple[Any, ...], kwargs: dict[str, Any], dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """Cast an attention layer's query, key and value.

    Handed float32 in evaluation it would take a fused kernel, which autocast on a CPU does not reach.
    """
    names = ("query", "key", "value")
    given = dict(zip(names, args, strict=False)) | {name: kwargs[name] for name in names if name in kwargs}
    cast: dict[str, Any] = {}
    for name, tensor in given.items():
        # One tensor in three places stays one, so that its projections are still taken at once.
        same = next((cast[other] for other in cast if given[other] is tensor), None)
        cast[name] = tensor.to(dtype) if same is None else same
    positional = tuple(cast[name] for name in names[: len(args)])
    return (*positional, *args[3:]), {name: cast.get(name, value) for name, value in kwargs.items()}


def _has_autocast(kind: str) -> bool:
    return torch.amp.is_autocast_available(kind)


# As `torch.compiler.assume_constant_result`, which would load the compiler; older ones cannot trace the question.
_has_autocast._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _first_tensor(value: Any) -> Tensor | None:
    # No next(tensors(...)): older compilers cannot trace a generator.
    if isinstance(value, Tensor):
        return value
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):  # not a union: the compiler of torch 2.9 cannot trace one
        for one in value:
            found = _first_tensor(one)
            if found is not None:
                return found
    return None
