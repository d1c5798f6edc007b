"""The dial: the handle that turns a model's widths, by hand or as a schedule says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from bitdial.errors import BitdialError
from bitdial.layers.convert import match_layers
from bitdial.layers.names import check_model, plain_names
from bitdial.layers.quantized import QuantizedLayer
from bitdial.numerics import check_bits
from bitdial.schedules import LayerSchedule

Bits = float | Sequence[float]
"""One width for every layer that is meant, or a list with one for each."""

_BUFFERS = {"weights": "weight_bits", "activations": "activation_bits", "gradients": "gradient_bits"}


class BitDial:
    """Reads and turns the widths of a model's quantized layers: all, a pattern of names, or one.

    The widths live in the model, as tensors: the dial has no state of its own, any number of dials may hold one model,
    and a state dict of the model brings them along. Turning a dial writes tensors and never recompiles a graph.

    Args:
        model: a model that went through `bitdial.quantize` (bare, or wrapped for distributed training or compiled).

    Attributes:
        names: the quantized layers' names, in the model's order.

    Raises:
        BitdialError: the model has no quantized layer.

    Example:
        >>> import torch
        >>> import bitdial as bd
        >>> net = torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(4)])
        >>> dial = bd.BitDial(bd.quantize(net))
        >>> dial.set(4)
        >>> dial.weights
        [4.0, 4.0]
    """

    def __init__(self, model: nn.Module) -> None:
        check_model(model)
        modules = plain_names(model)
        layers = {name: m for name, m in modules.items() if isinstance(m, QuantizedLayer)}
        if not layers:
            raise BitdialError("model must have quantized layers, got none; call bitdial.quantize(model) first")
        self._model, self._layers = modules[""], layers
        self.names = tuple(layers)

    def __len__(self) -> int:
        """Number of quantized layers."""
        return len(self.names)

    def __repr__(self) -> str:
        """One line a layer: name and widths."""
        rows = zip(self.names, self.weights, self.activations, strict=True)
        return "BitDial(\n" + "".join(f"  {n}: weights={w:g}, activations={a:g}\n" for n, w, a in rows) + ")"

    @property
    def weights(self) -> list[float]:
        """Width of each layer's weights, in the order of `names`."""
        return self._read("weights")

    @property
    def activations(self) -> list[float]:
        """Width of each layer's input activations, in the order of `names`."""
        return self._read("activations")

    @property
    def gradients(self) -> list[float]:
        """Width of each layer's gradients, in the order of `names`; 32 where gradients are not quantized."""
        return self._read("gradients")

    def set(
        self,
        bits: Bits | None = None,
        *,
        weights: Bits | None = None,
        activations: Bits | None = None,
        gradients: Bits | None = None,
        layers: str = "*",
    ) -> None:
        """Turn the dial. Either every value is good and all are written, or none is.

        Ternary weights know two settings: at 32 they are unquantized, at any other width ternary, which reads 1.585.

        Args:
            bits: width of weights and activations.
            weights, activations, gradients: width of one part; they take precedence over `bits`.
            layers: name or pattern of the layers that are meant (``"layer1.*"``, ``"<first>"``).

        Raises:
            BitdialError: a width outside [1, 32], a list of the wrong length, a pattern without a match, or gradient
                widths for a model that was built without gradient quantization.
        """
        chosen = self.names if layers == "*" else match_layers(self.names, layers, model=self._model)
        wanted = {
            "weights": bits if weights is None else weights,
            "activations": bits if activations is None else activations,
            "gradients": gradients,
        }
        turned: dict[QuantizedLayer, dict[str, float]] = {}
        for part, value in wanted.items():
            if value is None:
                continue
            for name, width in zip(chosen, spread(value, len(chosen)), strict=True):
                width = check_bits(width, f'layer "{name}"')
                layer = self._layers[name]
                if getattr(layer, _BUFFERS[part]) is None:
                    if width == 32:
                        continue
                    raise BitdialError(
                        f'gradients of layer "{name}" must stay at 32 bits, got {width:g}; '
                        "build the model with quantize(model, gradients=...) to quantize them"
                    )
                number = layer.quantizer.weight_width(width) if part == "weights" else width
                turned.setdefault(layer, {})[_BUFFERS[part]] = number
        with torch.no_grad():
            for layer, widths in turned.items():
                layer.turn(widths)

    @contextmanager
    def held(self, bits: Bits | None = None, *, layers: str = "*", **parts: Bits | None) -> Iterator[BitDial]:
        """Turn the dial, as `set` does, for the length of a ``with`` block, and back at its end, errors included."""
        before = self.state_dict()
        try:
            self.set(bits, layers=layers, **parts)
            yield self
        finally:
            self.load_state_dict(before)

    def state_dict(self) -> dict[str, dict[str, float]]:
        """Every width as plain numbers: part -> layer name -> width."""
        return {part: dict(zip(self.names, self._read(part), strict=True)) for part in _BUFFERS}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Turn the dial to what `state_dict` gave.

        Raises:
            BitdialError: the state is of a model with other layers.
        """
        widths: dict[str, Any] = {}
        for part in _BUFFERS:
            given = state.get(part, {}) if isinstance(state, Mapping) else state
            if not isinstance(given, Mapping) or set(given) != set(self.names):
                got = (", ".join(map(str, given)) or "none") if isinstance(given, Mapping) else type(given).__name__
                raise BitdialError(
                    f"dial state must have {part} for the layers {', '.join(self.names)}, "
                    f"got {got}; load it into the model that it came from"
                )
            widths[part] = [given[name] for name in self.names]
        self.set(**widths)

    def _read(self, part: str) -> list[float]:
        buffers = [getattr(layer, _BUFFERS[part]) for layer in self._layers.values()]
        return [32.0 if buffer is None else float(buffer.item()) for buffer in buffers]


def spread(value: Bits, count: int) -> Sequence[Any]:
    """Return one width for each of `count` layers; a list of another length is refused with a `BitdialError`."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [value] * count
    if len(value) != count:
        raise BitdialError(f"a list of bits must have one for each of the {count} layers, got {len(value)}")
    return value


class PrecisionScheduler:
    """Turns every layer of a model to what a schedule says, one iteration at a time.

    The dial stands at iteration 0 from the start; call `step` after each training step, as with a learning-rate
    scheduler. The widths are a pure function of the iteration, so every process of a distributed run has the same.

    Args:
        model_or_dial: a quantized model, or a dial of one.
        schedule: ``(step, layer) -> width`` in [1, 32].
        gradients: width of the gradients throughout; 32 leaves them unquantized.

    Raises:
        BitdialError: the model has no quantized layers, or the schedule gives a width outside [1, 32].
    """

    def __init__(self, model_or_dial: nn.Module | BitDial, schedule: LayerSchedule, *, gradients: float = 32) -> None:
        self.dial = model_or_dial if isinstance(model_or_dial, BitDial) else BitDial(model_or_dial)
        self.schedule = schedule
        self.iteration = 0
        self.dial.set(gradients=gradients)
        self._turn()

    @property
    def bits(self) -> list[float]:
        """Width of each layer at this iteration, in the order of ``dial.names``."""
        return [float(self.schedule(self.iteration, layer)) for layer in range(len(self.dial))]

    def step(self) -> None:
        """Move one iteration on and turn the dial."""
        self.iteration += 1
        self._turn()

    def state_dict(self) -> dict[str, Any]:
        """Where the scheduler stands, as plain numbers."""
        return {"iteration": self.iteration}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where `state_dict` stood, and turn the dial there.

        Raises:
            BitdialError: the state has no iteration of 0 or more.
        """
        iteration = state.get("iteration")
        if isinstance(iteration, bool) or not isinstance(iteration, int) or iteration < 0:
            raise BitdialError(f"scheduler state must have an iteration of 0 or more, got {iteration!r}")
        self.iteration = iteration
        self._turn()

    def _turn(self) -> None:
        self.dial.set(self.bits)
