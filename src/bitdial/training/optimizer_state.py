"""Taking up an optimizer's state: what it had gathered comes from the file, how it is set from who built it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch.optim import Optimizer

from bitdial.errors import BitdialError
from bitdial.training.optimizers import parts_of

_OF_THE_SCHEDULE = ("params", "lr", "initial_lr")


def settings_of(optimizer: Optimizer) -> dict[str, Any]:
    """Class and settings of an optimizer, before a step or a hook has changed them, as plain values."""
    plain = (bool, int, float, str, tuple, list, type(None))
    groups = [
        {name: value for name, value in group.items() if name not in _OF_THE_SCHEDULE and isinstance(value, plain)}
        for group in optimizer.param_groups
    ]
    return {"class": _class_of(optimizer), "groups": groups}


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any], saved: Mapping[str, Any] | None = None) -> None:
    """Load an optimizer's state, but for the settings that differ from those that the saved one was built with.

    So a hook may move weight decay or momentum over a resume, and an optimizer may keep a count among its settings,
    while what is asked for now is not overruled by the file.

    Args:
        optimizer: as it was built for this run.
        state: its saved state.
        saved: `settings_of` the saved one when it was built; None: unknown, and every argument of the constructor is
            what it is now.

    Raises:
        BitdialError: the state is of another optimizer, or of one over other parameters.
    """
    own, before = _class_of(optimizer), [dict(group) for group in optimizer.param_groups]
    kind = own if saved is None else saved["class"]
    if kind != own:
        raise BitdialError(f"expected the state of {own}, got that of {kind}")
    try:
        optimizer.load_state_dict(dict(state))
    except (ValueError, KeyError, TypeError) as error:
        raise BitdialError(f"expected the state of {own} over the same parameters, got another ({error})") from error
    groups = list(zip(optimizer.param_groups, before, strict=True))
    needed = {name for part in parts_of(optimizer) for name in part.defaults}
    lacking = sorted({name for group, now in groups for name in needed & now.keys() - group.keys()})
    if lacking:
        raise BitdialError(f"expected the state of {own}, got one without {', '.join(lacking)}")
    then = [None] * len(before) if saved is None else saved["groups"]
    names = {name for part in parts_of(optimizer) for name in _arguments(part)}
    for (group, now), was in zip(groups, then, strict=True):
        for name, value in now.items():
            asked = name in names if was is None else name in was and not _same(was[name], value)
            if name not in _OF_THE_SCHEDULE and (asked or name not in group):
                group[name] = value


def _class_of(optimizer: Optimizer) -> str:
    return "+".join(type(part).__name__ for part in parts_of(optimizer))


def _arguments(optimizer: Optimizer) -> set[str]:
    above = type(optimizer).__mro__[: type(optimizer).__mro__.index(Optimizer)]
    return {name for kind in above for name in inspect.signature(kind).parameters}


def _same(one: Any, other: Any) -> bool:
    return (tuple(one) if isinstance(one, list) else one) == (tuple(other) if isinstance(other, list) else other)
