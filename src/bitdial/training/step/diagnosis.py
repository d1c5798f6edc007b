"""Which layer went wrong first, when a loss or a gradient is not a finite number.

Watching every layer at every step would cost more than mixed precision gives. So nothing is watched; when a step went
wrong, it is done once more, from the same buffers and random state, with every layer watched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bitdial.layers.names import uncompiled
from bitdial.training.devices import is_distributed
from bitdial.trees import tensors


@dataclass(frozen=True, slots=True)
class Culprit:
    """Where a value that is not finite was born."""

    layer: str
    """Empty for the model's input, or its loss."""
    what: str
    """In words: "the output of layer 'head' (Linear)"."""
    on_the_way_back: bool = False
    curable: bool = False
    """Whether the same step is finite in float32, so that a wider format would help."""


def first_not_finite(model: nn.Module, losses: Callable[[], Iterable[Tensor]]) -> Culprit | None:
    """Do a step again and return the first layer whose output, or else gradient, is not finite; None: all are, now.

    Args:
        model: plain, not wrapped for several processes: nothing is sent.
        losses: gives the loss of one forward pass after the other, scaled as it was, to go backward from. All are gone
            through, whatever is found: where weights are in shards, the processes must do the same passes.
    """
    for name, parameter in model.named_parameters():
        if not _finite(parameter):
            return Culprit(name.rpartition(".")[0], f"the parameter '{name}', which is not finite itself")
    with ExitStack() as hooks, uncompiled():
        watch = _Watch(model, hooks)
        for loss in losses():
            if watch.found is None and not bool(torch.isfinite(loss)):
                watch.found = Culprit("", "the loss, though every layer's output was finite")
            loss.backward()  # type: ignore[no-untyped-call]
    # Asked in any case: on gradients in shards, it is a conversation. Backward, the last one was the first.
    names = [name for name, p in model.named_parameters() if p.grad is not None and not _finite(p.grad)]
    if watch.found is None and names:
        return Culprit(names[-1].rpartition(".")[0], f"the gradient of the parameter '{names[-1]}'", True)
    return watch.found


def agreed(culprit: Culprit | None) -> Culprit | None:
    """Let every process know what one of them found: they must decide alike."""
    if not is_distributed():
        return culprit
    found: list[Culprit | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, culprit)
    # a gradient that is not finite reaches all of them where weights are in shards; its cause is what one saw before
    return min((each for each in found if each is not None), key=lambda each: each.on_the_way_back, default=None)


class _Watch:
    """Hooks on every layer that stop looking once something was found."""

    def __init__(self, model: nn.Module, hooks: ExitStack) -> None:
        self.found: Culprit | None = None
        hooks.enter_context(model.register_forward_pre_hook(self._input, with_kwargs=True))
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_hook(partial(self._output, name)))
            if next(module.children(), None) is None:
                hooks.enter_context(module.register_forward_hook(partial(self._gradient, name)))

    def _input(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.found is None and not _finite((args, kwargs)):
            self.found = Culprit("", "the model's input: look for bad values in the data")

    def _output(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.found is not None or _finite(output):
            return
        kind = type(module).__name__
        if not name:
            self.found = Culprit("", f"the output of the model ({kind})")
        elif _finite(inputs):
            self.found = Culprit(name, f"the output of layer '{name}' ({kind})")
        else:
            self.found = Culprit(name, f"what reaches layer '{name}' ({kind}) from an operation before it")

    def _gradient(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        """Watch the gradient that flows out of a layer at its input, given that what came in at its output is sound."""
        sound = True

        def arrives(gradient: Tensor) -> None:
            nonlocal sound
            sound = sound and _finite(gradient)

        def leaves(gradient: Tensor) -> None:
            if self.found is None and sound and not _finite(gradient):
                kind = type(module).__name__
                self.found = Culprit(name, f"the gradient that layer '{name}' ({kind}) passes back", True)

        outputs = [each for each in _floats(output) if each.requires_grad]
        for tensor in outputs:
            tensor.register_hook(arrives)  # type: ignore[no-untyped-call]
        for tensor in _floats(inputs):
            if tensor.requires_grad and not any(tensor is each for each in outputs):
                tensor.register_hook(leaves)  # type: ignore[no-untyped-call]


def _floats(value: Any) -> Iterator[Tensor]:
    return (tensor for tensor in tensors(value) if tensor.is_floating_point())


@torch.no_grad()
def _finite(value: Any) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in _floats(value))
