"""Policies on a model: which layer follows which rule, and the handle that turns their formats as steps go by."""

from __future__ import annotations

from typing import Any

from torch import nn

from bitdial.errors import BitdialError
from bitdial.layers.names import plain_names
from bitdial.training.step.formats import LayerFormat, check_device, format_name, needs_float8, plain_dtype
from bitdial.training.step.layers.policies import (
    PrecisionPolicies,
    Stages,
    check_attention,
    check_kind,
    check_parameters,
    govern,
    parse_policies,
)
from bitdial.training.step.layers.policy_layers import cover, is_covered, is_float8_layer, owner_of, turn, uncover


def apply_policies(model: nn.Module, policies: Any) -> AppliedPolicies:
    """Have layers of a model compute in the formats that policies give them, from step 0 on.

    A covered layer runs under autocast at its format, whatever autocast is around it: float32 with autocast off and
    floating-point inputs cast to float32; bfloat16 and float16 with autocast on and inputs as they come (weights stay
    as they are, so a float16 policy needs a loss scaler like any float16 run). float8 holds for float8 layers
    (`convert_to_float8`); all else that it covers computes in bfloat16. Outputs flow on in the format they have.

    Names of modules, parameters and the state dict stay the same. A copy of the model keeps the formats of the moment
    when it was copied, and its own handle is had by `remove_policies` and applying anew.

    Args:
        model: any module, bare, compiled or wrapped for distributed training. Quantize it and convert it to float8
            first.
        policies: any form that `parse_policies` reads, or what it returned.

    Raises:
        BitdialError: a pattern that matches nothing, a rule without effect, a layer or a device that cannot follow its
            rule, or a model that has policies already. The model is then unchanged.
    """
    return AppliedPolicies(model, parse_policies(policies))


def remove_policies(model: nn.Module) -> None:
    """Take policies off a model that has no handle: a copy, or one that was unpickled. Without policies: nothing.

    Raises:
        BitdialError: not a module.
    """
    for module in _modules(model).values():
        if is_covered(module):
            uncover(module)
        _give_fused_kernels_back(module)


class AppliedPolicies:
    """The handle of policies that are in force on a model; made by `apply_policies`.

    Attributes:
        policies: the rules.
    """

    def __init__(self, model: nn.Module, policies: PrecisionPolicies) -> None:
        modules = _modules(model)
        if any(is_covered(module) for module in modules.values()):
            raise BitdialError(
                "model must have no policies yet, got one that follows some; remove() them from what apply_policies "
                "returned, or call remove_policies(model) on a copy"
            )
        self.policies = policies
        self._owner: object | None = object()
        self._rule_of = govern(modules, policies.rules)
        self._names = {name: module for name, module in modules.items() if module in self._rule_of}
        self._first_names = {module: name for name, module in reversed(self._names.items())}
        for module in self._rule_of:
            check_kind(self._first_names[module], module)
        check_attention(modules, self._rule_of, policies.rules)
        formats = policies.at(0)
        for index, rule in enumerate(policies.rules):
            stages = rule.schedule.formats if isinstance(rule.schedule, Stages) else formats[index : index + 1]
            for format in dict.fromkeys(stages):
                self._check(index, format)
        self._fused = [module for module in _transformers(modules) if self._rule_of.keys() & {*module.modules()}]
        for module in self._rule_of:
            try:
                cover(module, self._owner)
            except TypeError as error:
                self.remove()
                name, kind = self._first_names[module], type(module).__name__
                raise BitdialError(
                    f'layer "{name}" must be of a class that can be subclassed, got {kind} ({error}); name other layers'
                ) from error
        for module in self._fused:
            _take_fused_kernels(module)
        self._formats: tuple[LayerFormat, ...] = ()
        self.set_step(0)

    def __repr__(self) -> str:
        """One line a layer: name and format."""
        rows = (f"  {name or '(model)'}: {format_name(format)}\n" for name, format in self.dtypes().items())
        return "AppliedPolicies(\n" + "".join(rows) + ")"

    def set_step(self, step: int) -> None:
        """Put the formats of a step in force; call it before the step's forward pass. Cheap when nothing changes.

        Nothing needs saving: after a resume, set the step.

        Raises:
            BitdialError: a step below 0; a schedule that gives a format its layers cannot follow; policies that were
                taken off. No format is then changed.
        """
        if self._owner is None:
            raise BitdialError("policies must be in force to set their step, got removed ones; apply them again")
        formats = self.policies.at(step)
        if formats == self._formats:
            return
        before = self._formats or (None,) * len(formats)
        changed = {index for index, pair in enumerate(zip(before, formats, strict=True)) if pair[0] != pair[1]}
        turning = [(module, formats[index]) for module, index in self._rule_of.items() if index in changed]
        for index in sorted(changed):
            self._check(index, formats[index])
        if any(owner_of(module) is not self._owner for module, _ in turning):
            raise BitdialError("policies must be in force to set their step, got ones taken off; apply them again")
        for module, format in turning:
            turn(module, format)
        self._formats = formats

    def dtypes(self) -> dict[str, LayerFormat]:
        """What each covered layer computes in now: name -> dtype, or ``"bfloat16_forward"``.

        The model itself is called ``""``. Under a float8 policy a layer that is not a float8 layer reads bfloat16.
        """
        if self._owner is None:
            return {}
        found: dict[str, LayerFormat] = {}
        for name, module in self._names.items():
            format = self._formats[self._rule_of[module]]
            found[name] = format if is_float8_layer(module) else plain_dtype(format)
        return found

    def remove(self) -> None:
        """Take it all off: every layer is of its own class again and follows what surrounds it. Twice is once."""
        mine = [m for m in self._rule_of if self._owner is not None and owner_of(m) is self._owner]
        self._owner = None
        for module in mine:
            uncover(module)
        for module in self._fused if mine else ():
            _give_fused_kernels_back(module)

    def _check(self, index: int, format: LayerFormat) -> None:
        """Refuse a format that a layer under this rule, or its device, cannot compute in."""
        pattern = self.policies.rules[index].pattern
        modules = [module for module, governing in self._rule_of.items() if governing == index]
        float8_layers = [module for module in modules if is_float8_layer(module)]
        if needs_float8(format) and not float8_layers:
            raise BitdialError(
                f"policy {pattern!r} must cover a float8 layer to give {format_name(format)}, got none; "
                "call convert_to_float8(model) first"
            )
        dtype = plain_dtype(format)
        for module in modules:
            check_parameters(self._first_names[module], module, dtype)
        for device in {p.device for m in modules for p in m.parameters(recurse=False) if not p.is_meta}:
            check_device(dtype, device)


def _modules(model: Any) -> dict[str, nn.Module]:
    if not isinstance(model, nn.Module):
        raise BitdialError(f"model must be a torch.nn.Module, got {type(model).__name__}; pass the model itself")
    return plain_names(model, every_name=True)


def _transformers(modules: dict[str, nn.Module]) -> list[nn.Module]:
    return [module for module in dict.fromkeys(modules.values()) if isinstance(module, tuple(_FUSED))]


_FUSED = {
    nn.TransformerEncoderLayer: ("activation_relu_or_gelu", 0),
    nn.TransformerEncoder: ("use_nested_tensor", False),
}


def _take_fused_kernels(module: nn.Module) -> None:
    """In evaluation torch's transformer hands bare weights to one fused kernel, past the layers that they belong to."""
    for kind, (name, off) in _FUSED.items():
        if isinstance(module, kind):
            vars(module).setdefault("_bitdial_fused", getattr(module, name))
            setattr(module, name, off)


def _give_fused_kernels_back(module: nn.Module) -> None:
    for kind, (name, _) in _FUSED.items():
        if isinstance(module, kind) and "_bitdial_fused" in vars(module):
            setattr(module, name, vars(module).pop("_bitdial_fused"))
