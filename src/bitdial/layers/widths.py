"""Where a layer keeps its widths: in tensors, for one compiled graph at every width, and out of reach of averages."""

from __future__ import annotations

import threading
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.numerics import check_bits

WIDTHS = ("weight_bits", "activation_bits", "gradient_bits")
SQUARES = "squared_bits"
"""Entry of a state with the squares of the widths: the mean of squares is not the square of a mean."""

_TURNS = 64
"""How many turns of the dial between a forward pass and its backward pass a layer remembers."""


class _Thread(threading.local):
    """Tells threads apart: each counts the nodes of autograd on its own. A copy or a process of later has another."""

    def __init__(self) -> None:
        self.token = object()


_this = _Thread()


class HoldsWidths(nn.Module):
    """A layer with the 0-dim tensors of `WIDTHS`, each of which may be None.

    They are no buffers, and a state holds copies of them: what averages the parameters and buffers, or the state, of a
    model in place does not meet them. A state in which widths were averaged all the same is told by their squares, and
    loading it leaves the layer's own.
    """

    weight: Any
    _built: dict[str, float]
    _thread: object = None  # that of the last forward pass

    @property
    def squared_bits(self) -> Tensor:
        """The squares of those widths that there are."""
        return torch.stack([width.detach().square() for width in held_widths(self).values()])

    @squared_bits.setter
    def squared_bits(self, value: Tensor) -> None:
        """`functional_call` sets every entry of a state; the widths are set beside."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._turns: deque[tuple[object, int, dict[str, float]]] = deque(maxlen=_TURNS)
        self._written: dict[str, tuple[Tensor, int, float]] = {}

    def turn(self, widths: Mapping[str, float]) -> None:
        """Write widths, by name, and remember what they were, for forward passes that wait for their backward pass."""
        before: dict[str, float] = {}
        for name, width in widths.items():
            tensor: Tensor = getattr(self, name)
            if tensor.is_meta:  # it holds no value; that which it will have
                self._built[name] = width
                continue
            before[name] = self.width(name)
            tensor.fill_(width)
            self._written[name] = tensor, tensor._version, width
        if any(before[name] != widths[name] for name in before):
            number = torch.autograd._get_sequence_nr()  # type: ignore[attr-defined]
            self._turns.append((_this.token, number, before))

    def width(self, name: str) -> float:
        """A width as a number; what is known of it already is not read again, for a device would be waited for."""
        tensor: Tensor = getattr(self, name)
        if tensor.is_meta:
            return self._built[name]
        if tensor.is_inference():  # its changes are not counted
            return tensor.item()
        written, version, value = self._written.get(name, (None, 0, 0.0))
        if written is not tensor or version != tensor._version:
            value = tensor.item()
            self._written[name] = tensor, tensor._version, value
        return value

    def __getstate__(self) -> dict[str, Any]:
        """All that a copy has. Its tensors count their changes anew, so it knows no width yet."""
        return {**vars(self), "_written": {}}

    def passes_here(self) -> None:
        """Remember whose numbers the nodes of a forward pass have."""
        vars(self)["_thread"] = _this.token

    def widths_at(self, node: int) -> dict[str, float]:
        """Those widths that have been turned since the node of autograd of this number was made, as they were."""
        turns = ((until, widths) for thread, until, widths in reversed(self._turns) if thread is self._thread)
        return {k: v for until, widths in turns if node < until for k, v in widths.items()}

    def widths_to(self, device: torch.device) -> None:
        """Bring the widths where the input is: some who place a model, or a copy of it, know of buffers only."""
        self._change_widths(lambda width: width.to(device))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._change_widths(fn)
        return self

    @torch.inference_mode(False)  # a tensor made in it can never be turned outside of it
    def _change_widths(self, fn: Callable[[Tensor], Tensor]) -> None:
        for name, width in held_widths(self).items():
            setattr(self, name, fn(width))

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
        if self.weight.is_meta:
            return
        squares = dict(zip(held, _numbers(state, prefix + SQUARES, len(WIDTHS)), strict=False))
        for name, value in given.items():
            number = _numbers(state, prefix + name, 1)[0]
            eps = torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
            self._take(name, number, squares.get(name), eps, prefix + name)

    @torch.no_grad()
    def _take(self, name: str, number: float, square: float | None, eps: float, key: str) -> None:
        own = getattr(self, name)
        if square is not None and abs(number**2 - square) > 4 * eps * square:
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


def _numbers(state: Mapping[str, Any], key: str, most: int) -> list[float]:
    """The numbers of an entry of a state, of which there may be so many; none where there is no such entry."""
    if key not in state:
        return []
    value = state[key]
    if isinstance(value, Tensor) and not value.is_meta and 0 < value.numel() <= most:
        return value.flatten().tolist()
    got = f"shape {tuple(value.shape)} on {value.device}" if isinstance(value, Tensor) else repr(value)
    raise BitdialError(
        f"{key} of a state must be a tensor of {most} number{'s' * (most > 1)}, got {got}; "
        "load what model.state_dict() gave"
    )


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
