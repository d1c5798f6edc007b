"""The settings of mixed precision, and what they make of the layers of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import BeforeValidator, ConfigDict, Field, InstanceOf, PlainSerializer
from torch import nn

from bitdial.layers.convert import FIRST, LAST
from bitdial.layers.names import plain_names
from bitdial.training.options import ScaleOptions
from bitdial.training.step.float8 import convert_to_float8
from bitdial.training.step.formats import FLOAT8, format_name, to_dtype
from bitdial.training.step.policies import (
    AppliedPolicies,
    PolicyRule,
    PrecisionPolicies,
    apply_policies,
    govern,
    parse_policies,
)
from bitdial.training.step.policy_layers import is_float8_layer

if TYPE_CHECKING:
    from bitdial.training.step.control import PrecisionControl

Format = Annotated[torch.dtype, BeforeValidator(to_dtype), PlainSerializer(format_name, return_type=str)]
"""A dtype; in YAML and flags "float32", "bfloat16", "float16" or "float8"."""

LayerPolicies = Annotated[
    InstanceOf[PrecisionPolicies] | None,
    BeforeValidator(lambda value: None if value is None or value == {} else parse_policies(value)),
    PlainSerializer(lambda value: None if value is None else value.to_plain()),
]
"""Policies in any of their forms."""


class MixedPrecisionConfig(ScaleOptions):
    """In which floating-point format a network computes, and how gradients are kept inside of it."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    enabled: bool = True
    """Compute in `dtype`; False: in float32, as if it had never been asked for."""
    dtype: Format = torch.float16
    """Format of convolutions, products and activations; weights, sums and losses stay in float32."""
    use_grad_scaling: bool = True
    """float16: scale the loss at all."""
    log_scaling: bool = True
    """Say in the log when a step is skipped for the first time and when the format changes."""
    track_performance: bool = True
    """Measure the time of every step, and the peak memory where the device can tell."""
    save_scaler_state: bool = True
    """Keep scale, counters and adaptations in `state_dict`, so that a resumed run goes on exactly."""
    max_grad_norm: float | None = Field(default=None, gt=0.0, allow_inf_nan=True)  # inf: only measured
    """Scale the (unscaled) gradient down to this 2-norm where it is longer; None: never."""
    accumulation_steps: int = Field(default=1, ge=1)
    """Calls of `train_step` whose gradients make one optimizer step."""
    policies: LayerPolicies = None
    """Layers with a format of their own: a map pattern -> dtype such as ``{"head": "float32"}``, or any other form that
    `parse_policies` reads; None: all alike."""

    @property
    def has_float16_layers(self) -> bool:
        """Whether a policy lets a layer compute in float16 at some step (a function is asked for step 0)."""
        rules = () if self.policies is None else self.policies.rules
        return any(torch.float16 in rule.formats for rule in rules)

    @property
    def needs_scale(self) -> bool:
        """Whether a gradient may be a float16 one, which needs a loss scale."""
        return self.format == torch.float16 or self.has_float16_layers

    @property
    def format(self) -> torch.dtype:
        """The format in force: float32 where mixed precision is not enabled."""
        return self.dtype if self.enabled else torch.float32


def prepare_layers(model: nn.Module, control: PrecisionControl, *, emulate: bool = False) -> AppliedPolicies | None:
    """Make the layers of a model follow the formats of a run, in place; return the handle, None if none is to follow.

    The model is bare; on the device that trains, or on its way there. In a float8 run its linear layers become float8
    layers (first and last ones stay; `emulate` is for tests), which follow the run's format where that changes. The
    configuration's own policies come after, and win.

    Raises:
        BitdialError: a policy that matches nothing, or that its layers or their device cannot follow.
    """
    own = control.config.policies
    rules = () if own is None else own.rules
    if control.config.format == FLOAT8:
        if not any(is_float8_layer(module) for module in model.modules()):
            convert_to_float8(model, skip=(FIRST, LAST), emulate=emulate, device=control.device)
        modules = plain_names(model)
        governed = govern(plain_names(model, every_name=True), rules)
        free = [name for name, each in modules.items() if is_float8_layer(each) and each not in governed]
        rules = (*(PolicyRule(name, lambda _: control.format) for name in free), *rules)
    if not rules:
        return None
    control.layers = apply_policies(model, PrecisionPolicies(rules))
    return control.layers
