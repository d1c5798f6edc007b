"""What an optimizer has moved: whether a step that ran out of memory in its update can be done again."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from bitdial.errors import BitdialError
from bitdial.training.optimizers import parts_of

Versions = tuple[list[Tensor], list[int]]
"""Tensors, and the count of changes of each."""


def versions(optimizer: Optimizer) -> Versions:
    """Return parameters and their states as they are before an update."""
    tensors: list[Tensor] = [p for group in optimizer.param_groups for p in group["params"]]
    tensors += [v for _, _, s in _states(optimizer) for v in s.values() if isinstance(v, Tensor)]
    return tensors, [each._version for each in tensors]


def forget_new_state(optimizer: Optimizer, before: Versions, problem: str) -> None:
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
