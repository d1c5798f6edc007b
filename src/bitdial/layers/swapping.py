"""Making a layer another one without another object: what someone holds of it, or has hung on it, stays good."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def take_place(new: nn.Module, layer: nn.Module) -> None:
    """Make a layer what `new` is, a layer of another class on the same parameters.

    Whoever holds the layer then holds the new one; its hooks, their handles and all else that it has stay.
    """
    own = vars(layer)
    for store in ("_buffers", "_modules"):
        own[store].update(vars(new)[store])
    own.update({name: value for name, value in vars(new).items() if name not in own})
    layer.__class__ = type(new)


def reason_to_leave(layer: nn.Module, added: Sequence[str] = ()) -> str | None:
    """Why a layer must not be made another, that has `added` names: what someone has done to it would be lost."""
    if layer._parameters.get("weight") is None:
        return "its weight is computed by a hook (weight_norm, spectral_norm, pruning)"
    if "forward" in vars(layer):
        return "its forward was replaced by another function"
    taken = next((name for name in added if hasattr(layer, name)), None)
    return f"it has {taken} of its own" if taken else None


def leave_fused_path(module: nn.Module) -> None:
    """Have torch's transformer layers call their linear layers in evaluation too, not hand weights to one kernel."""
    if isinstance(module, nn.TransformerEncoderLayer):
        module.activation_relu_or_gelu = 0
    if isinstance(module, nn.TransformerEncoder):
        module.use_nested_tensor = False
