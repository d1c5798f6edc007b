"""What a configuration asks of single layers: float8 where the format is float8, and the policies."""

from __future__ import annotations

from torch import nn

from bitdial.layers.names import plain_names
from bitdial.training.mixed_precision.applied_policies import AppliedPolicies, apply_policies
from bitdial.training.mixed_precision.control import PrecisionControl
from bitdial.training.mixed_precision.covering import govern
from bitdial.training.mixed_precision.float8 import convert_to_float8, is_float8_layer
from bitdial.training.mixed_precision.formats import FLOAT8
from bitdial.training.mixed_precision.policies import PolicyRule, PrecisionPolicies

FIRST_AND_LAST = ("<first>", "<last>")


def prepare_layers(model: nn.Module, control: PrecisionControl, *, emulate: bool = False) -> AppliedPolicies | None:
    """Make the layers of a model follow the formats of a run, in place; the handle turns them as steps go by.

    In a float8 run the linear layers become float8 layers (first and last ones stay), which follow the run's format
    where that changes. The configuration's own policies come after, and win.

    Args:
        model: bare; on the device that trains, or on its way there.
        control: of the run.
        emulate: compute float8 products in wider numbers, on any device (for tests).

    Returns:
        None where nothing is asked of single layers.

    Raises:
        BitdialError: a policy that matches nothing, or that its layers or their device cannot follow.
    """
    own = control.config.policies
    rules = () if own is None else own.rules
    if control.config.format == FLOAT8:
        if not any(is_float8_layer(module) for module in model.modules()):
            convert_to_float8(model, skip=FIRST_AND_LAST, emulate=emulate, device=control.device)
        modules = plain_names(model)
        governed = govern(plain_names(model, every_name=True), rules)
        free = [name for name, each in modules.items() if is_float8_layer(each) and each not in governed]
        rules = (*(PolicyRule(name, lambda _: control.format) for name in free), *rules)
    if not rules:
        return None
    control.layers = apply_policies(model, PrecisionPolicies(rules))
    return control.layers
