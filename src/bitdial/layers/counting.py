"""Taking the ledger of a model: one example runs through it, and each layer that computes a product is written down."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.layers.convert import reasons_against
from bitdial.layers.ledger import Ledger, LedgerRow
from bitdial.layers.modes import evaluating
from bitdial.layers.names import check_model, plain_names
from bitdial.layers.quantized import QuantizedLayer
from bitdial.numerics import UNQUANTIZED

_LOOK_UPS = (nn.Embedding, nn.EmbeddingBag)  # they multiply nothing


def cost(model: nn.Module, example_input: Any, *, count: Literal["layer", "cpt"] = "layer") -> Ledger:
    """Take the ledger of a model by running one example through it.

    Args:
        model: quantized or not; nothing in it is changed, random state included.
        example_input: what the model takes, with a batch dimension; a tuple is passed as separate arguments, a mapping
            as keyword arguments.
        count: see `Ledger`.

    Returns:
        The ledger, per example: the batch dimension is divided out.

    Raises:
        BitdialError: no linear or convolution layer was reached, `example_input` has no example, `count` is unknown.
    """
    if count not in ("layer", "cpt"):
        raise BitdialError(f"count must be 'layer' or 'cpt', got {count!r}")
    check_model(model)
    arguments, named, batch = arguments_of(example_input)
    rows: dict[str, LedgerRow] = {}

    def record(name: str, layer: nn.Module, inputs: tuple[Any, ...], more: dict[str, Any], output: Tensor) -> None:
        weight: Tensor = layer.weight  # type: ignore[assignment]
        x: Tensor = inputs[0] if inputs else next(iter(more.values()))
        macs = output.numel() * (weight.numel() // weight.shape[0]) // batch
        bits = [getattr(layer, f"{part}_bits", None) for part in ("weight", "activation", "gradient")]
        w, a, g = (UNQUANTIZED if b is None else float(b.item()) for b in bits)
        quantizer = layer.quantizer if isinstance(layer, QuantizedLayer) else None
        before = rows.get(name)
        bias = getattr(layer, "bias", None)
        per_channel = getattr(layer, "granularity", "") == "channel"
        rows[name] = LedgerRow(
            name=name,
            kind=type(layer).__name__,
            macs=macs + (before.macs if before else 0),
            weights=weight.numel(),
            parameters=weight.numel() + (bias.numel() if bias is not None else 0),
            scales=(weight.shape[0] if per_channel else 1) * (quantizer.scales if quantizer else 1),
            quantized=quantizer is not None,
            needs_input_gradient=x.requires_grad or bool(before and before.needs_input_gradient),
            weight_bits=quantizer.weight_width(w) if quantizer else w,
            activation_bits=a,
            gradient_bits=g,
            fixed_weight_bits=quantizer.fixed_bits if quantizer else None,
        )

    modules = plain_names(model)
    layers = {n: m for n, m in modules.items() if isinstance(m, (nn.Linear, nn.Conv1d, nn.Conv2d))}
    handles = [
        layer.register_forward_hook(lambda m, i, k, o, name=name: record(name, m, i, k, o), with_kwargs=True)
        for name, layer in layers.items()
    ]
    parameters = list(model.parameters())
    frozen = [p.requires_grad for p in parameters]
    try:
        for parameter in parameters:  # a frozen layer still hands its input's gradient on
            parameter.requires_grad_(parameter.is_floating_point())
        # Uncompiled: the hooks would break a compiled graph.
        eager = torch.compiler.set_stance("force_eager")
        with eager, evaluating(model), torch.random.fork_rng(), torch.inference_mode(False), torch.enable_grad():
            model(*arguments, **named)
    finally:
        for handle in handles:
            handle.remove()
        for parameter, needed in zip(parameters, frozen, strict=True):
            parameter.requires_grad_(needed)
    if not rows:
        raise BitdialError(
            f"model must use Linear, Conv1d or Conv2d layers, got {type(model).__name__} where the example reached none"
        )
    # The dial's order is the model's order of definition, so that lists of widths mean the same in both.
    ordered = tuple(rows[name] for name in layers if name in rows)
    learned = (m.weight_quantizer for m in layers.values() if isinstance(m, QuantizedLayer) and m.weight_quantizer)
    counted = sum(row.parameters for row in ordered) + sum(p.numel() for m in learned for p in m.parameters())
    buffers = sum(
        b.numel() for m in model.modules() if not isinstance(m, QuantizedLayer) for b in m.buffers(recurse=False)
    )
    uncounted = {**dict.fromkeys(layers), **reasons_against(modules)}.keys() - rows.keys()
    return Ledger(
        rows=ordered,
        other_values=sum(p.numel() for p in parameters) - counted + buffers,
        count=count,
        uncounted=tuple(n for n in modules if n in uncounted and not isinstance(modules[n], _LOOK_UPS)),
    )


def arguments_of(example: Any) -> tuple[tuple[Any, ...], dict[str, Any], int]:
    """What to call the model with, and how many examples that is."""
    named = dict(example) if isinstance(example, Mapping) else {}
    positional = () if named else example if isinstance(example, tuple) else (example,)
    tensors = [value for value in (*positional, *named.values()) if isinstance(value, Tensor) and value.dim()]
    if not tensors or not len(tensors[0]):
        raise BitdialError(
            "example_input must hold a tensor with a batch of at least one, "
            f"got {f'shape {tuple(tensors[0].shape)}' if tensors else reprlib.repr(example)}; "
            "pass for instance torch.zeros(1, 3, 32, 32)"
        )

    def usable(value: Any) -> Any:
        with torch.inference_mode(False):
            return value.clone() if isinstance(value, Tensor) and value.is_inference() else value

    return tuple(map(usable, positional)), {k: usable(v) for k, v in named.items()}, len(tensors[0])
