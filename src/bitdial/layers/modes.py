"""The mode of every module, training or evaluation: changed for a while, and put back one by one.

One by one, because a model is seldom of one mode: frozen batch norms evaluate in a network that trains, and
``model.train()`` would wake them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """At the end of a ``with`` block, put every module back into the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Have every module in evaluation mode inside of a ``with`` block, and in its own again after it."""
    with modes_kept(model):
        model.eval()
        yield
