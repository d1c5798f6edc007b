"""What a user can get wrong with policies, and the sentence that says so; the model is left as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from bitdial.errors import BitdialError
from bitdial.training.mixed_precision import apply_policies, convert_to_float8, parse_policies, remove_policies
from tests.training.probing import Net, tokens

NOT_PARSED: dict[str, tuple[Any, str]] = {
    "nothing": (None, "policies must be a map such as {'head': 'float32'} or a list of pairs"),
    "a text": ("head: float32", "policies must be a map"),
    "a number": (16, "policies must be a map"),
    "no rule in a map": ({}, "policies must have at least one rule, got none"),
    "no rule in a list": ([], "policies must have at least one rule, got none"),
    "a list of names": (["head"], "policy 0 of the list must be a pair (pattern, dtype), got 'head'"),
    "three parts": ([("a", "float32"), ("a", "b", "c")], "policy 1 of the list must be a pair"),
    "a pattern that is a number": ({3: "float32"}, "a policy's pattern must be a text"),
    "an empty pattern": ({"": "float32"}, "a policy's pattern must be a text"),
    "a mistyped dtype": (
        {"head": "bflaot16"},
        "policy 'head': dtype must be one of float32, bfloat16, float16, float8, got 'bflaot16'; did you mean 'bf",
    ),
    "an integer dtype": ({"head": torch.int8}, "policy 'head': dtype must be one of"),
    "float64": ({"head": torch.float64}, "policy 'head': dtype must be one of"),
    "no dtype": ({"head": None}, "policy 'head': dtype must be one of"),
    "a list as dtype": ({"head": ["float32"]}, "policy 'head': dtype must be one of"),
    "no steps": ({"head": {}}, "policy 'head' must have steps that ascend from 0, got none"),
    "steps from 5 on": ({"head": {5: "float32"}}, "policy 'head' must have steps that ascend from 0, got 5"),
    "steps that fall": (
        {"head": {0: "float8", 9000: "bfloat16", 900: "float32"}},
        "must have steps that ascend from 0, got 0, 9000, 900",
    ),
    "one step twice": ({"head": {0: "float32", "0": "float16"}}, "must have steps that ascend from 0, got 0, 0"),
    "a negative step": (
        {"head": {-1: "float32"}},
        "policy 'head' must map steps, whole numbers of 0 or more, to dtypes",
    ),
    "a step in words": ({"head": {"start": "float32"}}, "to dtypes, got step 'start'"),
    "a broken step": ({"head": {0: "float32", 1.5: "float16"}}, "to dtypes, got step 1.5"),
    "a step that is a truth": ({"head": {False: "float32"}}, "to dtypes, got step False"),
    "a dtype of a later step": ({"head": {0: "float32", 7: "int8"}}, "policy 'head' at step 7: dtype must be one of"),
    "a function that gives a width": ({"head": lambda step: 8}, "policy 'head' at step 0: dtype must be one of"),
}


@pytest.mark.parametrize("name", NOT_PARSED)
def test_not_policies(name: str) -> None:
    spec, sentence = NOT_PARSED[name]
    with pytest.raises(BitdialError) as caught:
        parse_policies(spec)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


class OwnForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.layer.forward = lambda x: x  # type: ignore[method-assign]


def attention() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


NOT_APPLIED: dict[str, tuple[Callable[[], nn.Module], Any, str]] = {
    "a mistyped name": (
        Net, {"haed": "float32"}, "policy pattern must match a layer, got 'haed'; the nearest names are 'head'"
    ),
    "a mistyped pattern": (
        Net, {"*.atention*": "float32"}, "got '*.atention*'; the nearest names are 'blocks.0.attention'"
    ),
    "a name that is like none": (
        Net, {"xyzzy": "float32"}, "got 'xyzzy'; the model's parts are stem, blocks, head"
    ),
    "a name that is like none of many": (
        lambda: nn.Sequential(*(nn.Linear(2, 2) for _ in range(12))), {"xyzzy": "float32"},
        "the model's parts are 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more, the last of them 11"
    ),
    "the second rule matches nothing": (Net, {"*": "bfloat16", "blocks.2": "float32"}, "got 'blocks.2'; the nearest"),
    "a container that holds nothing": (
        lambda: nn.Sequential(nn.ModuleList()), {"0": "float32"}, "policy pattern must match a layer, got '0'"
    ),
    "the last of a model without matrices": (
        lambda: nn.Sequential(nn.ReLU()), {"<last>": "float32"}, "policy pattern must match a layer, got '<last>'"
    ),
    "a rule that later ones cover": (
        Net, {"head": "float32", "*": "bfloat16"}, "policy 'head' must have a layer left to it, got none"
    ),
    "float8 without float8 layers": (
        Net, {"blocks": "float8"},
        "policy 'blocks' must cover a float8 layer to give float8, got none; call convert_to_float8"
    ),
    "float8 from a later step on": (Net, {"blocks": {0: "bfloat16", 9: "float8"}}, "must cover a float8 layer"),
    "a forward product of a layer that is not float8": (
        Net, {"head": "bfloat16_forward"}, "must cover a float8 layer to give bfloat16_forward"
    ),
    "a model in bfloat16": (
        lambda: Net().bfloat16(), {"head": "float32"},
        'layer "head" must have float32 parameters to follow a policy of float32, got bfloat16',
    ),
    "a model in float64": (lambda: Net().double(), {"head": "bfloat16"}, "must have float32 parameters"),
    "float32 later on": (lambda: Net().half(), {"head": {0: "bfloat16", 5: "float32"}}, "got float16; keep"),
    "a forward on the instance": (
        OwnForward, {"layer": "bfloat16"}, 'layer "layer" must have the forward of its class'
    ),
    "a lazy layer": (
        lambda: nn.Sequential(nn.LazyLinear(3)), {"*": "bfloat16"}, 'layer "0" must have its shape, got LazyLinear'
    ),
    "traced code": (
        lambda: nn.Sequential(torch.fx.symbolic_trace(nn.Sequential(nn.Linear(4, 4)))), {"0": "bfloat16"},
        'layer "0" must be a plain module, got traced or scripted code',
    ),
    "a part that its attention never calls": (
        attention, {"self_attn.out_proj": "bfloat16"},
        'layer "self_attn.out_proj" must follow the policy of its MultiheadAttention',
    ),
    "a part with a rule of its own": (
        attention, {"*": "float32", "*.out_proj": "bfloat16"}, "got a rule '*.out_proj' of its own; name 'self_attn'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_APPLIED)
def test_policies_that_a_model_cannot_follow(name: str) -> None:
    make, spec, sentence = NOT_APPLIED[name]
    model = make()
    before = {name: (type(module), list(vars(module))) for name, module in model.named_modules()}
    with pytest.raises(BitdialError) as caught:
        apply_policies(model, spec)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert {name: (type(module), list(vars(module))) for name, module in model.named_modules()} == before


@pytest.mark.parametrize(
    "apply", [lambda model: apply_policies(model, {"*": "float32"}), remove_policies, convert_to_float8]
)
@pytest.mark.parametrize("model", [None, "net", Net, torch.zeros(2)])
def test_not_a_model(apply: Callable[[Any], Any], model: Any) -> None:
    with pytest.raises(BitdialError, match=r"model must be a torch\.nn\.Module, got"):
        apply(model)


@pytest.mark.parametrize("make", [lambda: Net(), lambda: nn.DataParallel(Net())])
def test_twice_on_one_model_and_on_its_copy(make: Callable[[], nn.Module]) -> None:
    model = make()
    apply_policies(model, {"head": "bfloat16"})
    for covered in (model, copy.deepcopy(model)):
        with pytest.raises(BitdialError, match="model must have no policies yet, got one that follows some"):
            apply_policies(covered, {"*": "float32"})


@pytest.mark.parametrize("step", [-1, 1.0, "3", None, True, torch.tensor(2)])
def test_not_a_step(step: Any) -> None:
    applied = apply_policies(Net(), {"head": {0: "bfloat16", 1: "float32"}})
    with pytest.raises(BitdialError, match="step must be a whole number of 0 or more, got"):
        applied.set_step(step)


def test_a_step_after_removal() -> None:
    applied = apply_policies(Net(), {"head": {0: "bfloat16", 1: "float32"}})
    applied.remove()
    with pytest.raises(BitdialError, match="policies must be in force to set their step, got removed ones"):
        applied.set_step(1)


def test_a_step_of_a_handle_whose_policies_another_has_replaced() -> None:
    model = Net()
    old = apply_policies(model, {"head": {0: "bfloat16", 1: "float32"}})
    remove_policies(model)
    new = apply_policies(model, {"head": "float16"})
    with pytest.raises(BitdialError, match="policies must be in force to set their step, got ones taken off"):
        old.set_step(1)
    old.remove()
    assert model(tokens()).dtype == torch.float16
    assert new.dtypes() == {"head": torch.float16}


def test_a_function_that_gives_what_layers_cannot_follow_changes_nothing() -> None:
    model = Net()
    later = {0: "bfloat16", 1: "float8", 2: "seven", 3: "bfloat16"}
    applied = apply_policies(model, [("*", {0: "float32", 1: "bfloat16"}), ("head", lambda step: later[step])])
    with pytest.raises(BitdialError, match="policy 'head' must cover a float8 layer"):
        applied.set_step(1)
    with pytest.raises(BitdialError, match="policy 'head' at step 2: dtype must be one of"):
        applied.set_step(2)
    assert applied.dtypes()["stem"] == torch.float32
    applied.set_step(3)
    assert applied.dtypes()["stem"] == torch.bfloat16


def test_a_function_has_no_plain_form() -> None:
    with pytest.raises(BitdialError, match="policy 'head' must be a dtype or a map step -> dtype to be written"):
        parse_policies({"head": lambda step: "float32"}).to_plain()
