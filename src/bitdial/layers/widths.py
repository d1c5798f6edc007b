"""Where a layer keeps its widths: in tensors, for one compiled graph at every width, and out of reach of averages."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from bitdial.numerics import check_bits

WIDTHS = ("weight_bits", "activation_bits", "gradient_bits")
SQUARES = "squared_bits"
"""Entry of a state with the squares of the widths: the mean of squares is not the square of a mean."""

_TURNS = 64
"""How many turns of the dial between a forward pass and its backward pass a layer remembers."""


class HoldsWidths(nn.Module):
    """A layer with the 0-dim tensors of `WIDTHS`, each of which may be None.

    They are no buffers, and a state holds copies of them: what averages the parameters and buffers, or the state, of a
    model in place does not meet them. A state in which widths were averaged all the same is told by their squares, and
    loading it leaves the layer's own.
    """

    weight: Any

    @property
    def squared_bits(self) -> Tensor:
        """The squares of those widths that there are."""
        return torch.stack([width.detach().square() for width in held_widths(self).values()])

    @squared_bits.setter
    def squared_bits(self, value: Tensor) -> None:
        """`functional_call` sets every entry of a state; the widths are set beside."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._turns: deque[tuple[int, dict[str, float]]] = deque(maxlen=_TURNS)
        self._written: dict[str, tuple[Tensor, int, float]] = {}

    def turn(self, widths: Mapping[str, float]) -> None:
        """Write widths, by name, and remember what they were, for forward passes that wait for their backward pass."""
        before: dict[str, float] = {}
        for name, width in widths.items():
            tensor: Tensor = getattr(self, name)
            written, version, value = self._written.get(name, (None, 0, 0.0))
            # To read a number from a device would wait for it.
            before[name] = value if written is tensor and version == tensor._version else tensor.item()
            tensor.fill_(width)
            self._written[name] = tensor, tensor._version, width
        if before != widths:
            self._turns.append((torch.autograd._get_sequence_nr(), before))  # type: ignore[attr-defined]

    def widths_at(self, node: int) -> dict[str, float]:
        """Those widths that have been turned since the node of autograd of this number was made, as they were."""
        return {k: v for until, widths in reversed(self._turns) if node < until for k, v in widths.items()}

    def widths_to(self, device: torch.device) -> None:
        """Bring the widths where the input is: some who place a model, or a copy of it, know of buffers only."""
        for name, width in held_widths(self).items():
            setattr(self, name, width.to(device))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, width in held_widths(self).items():
            setattr(self, name, fn(width))
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, width in held_widths(self).items():
            destination[prefix + name] = width if keep_vars else width.detach().clone()
        destination[prefix + SQUARES] = self.squared_bits

    def _load_from_state_dict(
        self, state: Any, prefix: str, metadata: Any, strict: bool, missing: list[str], *rest: Any
    ) -> None:
        super()._load_from_state_dict(state, prefix, metadata, strict, missing, *rest)
        held, unexpected = held_widths(self), rest[0]
        known = {prefix + name for name in (*held, SQUARES)}
        unexpected[:] = [key for key in unexpected if key not in known]
        given = {name: state[prefix + name] for name in held if prefix + name in state}
        if strict:
            missing += [prefix + name for name in held if name not in given]
        squares = dict(zip(held, state[prefix + SQUARES].tolist(), strict=False)) if prefix + SQUARES in state else {}
        for name, value in given.items():
            if not self.weight.is_meta:
                self._take(name, value, squares.get(name), prefix + name)

    @torch.no_grad()
    def _take(self, name: str, value: Tensor, square: float | None, key: str) -> None:
        number, own = float(value), getattr(self, name)
        if square is not None and abs(number**2 - square) > 4 * torch.finfo(value.dtype).eps * square:
            if own.is_meta or abs(own.item() - number) > 0.01:
                warnings.warn(
                    "the state holds an average of widths, and the layers keep the widths that they have; turn the "
                    "dial where others are meant",
                    stacklevel=2,
                )
            return
        check_bits(number, key)
        if own.is_meta:
            setattr(self, name, torch.tensor(number, dtype=torch.float32, device=self.weight.device))
        else:
            own.fill_(number)


def held_widths(module: nn.Module) -> dict[str, Tensor]:
    """The widths of a layer by name; none where it is no quantized one."""
    if not isinstance(module, HoldsWidths):
        return {}
    return {name: width for name in WIDTHS if (width := getattr(module, name)) is not None}


def copy_widths(mine: nn.Module, theirs: nn.Module) -> None:
    """Give a copy of a model the widths of the model."""
    copies, originals = ([w for m in model.modules() for w in held_widths(m).values()] for model in (mine, theirs))
    if copies:
        torch._foreach_copy_(copies, originals)
