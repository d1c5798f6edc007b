"""Layers compute in the format that the policies give them, in every form that policies have."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from bitdial.training.mixed_precision import PrecisionPolicies, apply_policies, parse_policies, remove_policies
from bitdial.training.step.policy_layers import to_float32
from tests.training.probing import Net, seen, tokens

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


def observed(policies: Any, *, around: torch.dtype | None = None, step: int = 0) -> dict[str, torch.dtype | None]:
    """Apply policies, run a batch, check that `dtypes` tells what the layers were seen to do, and return that."""
    model = Net()
    applied = apply_policies(model, policies)
    applied.set_step(step)
    with torch.autocast("cpu", around or BF16, enabled=around is not None):
        model(tokens())
    found = seen(model)
    told = applied.dtypes()
    assert {name: dtype for name, dtype in found.items() if name in told} == {
        name: told[name] for name in found if name in told
    }
    return found


# --- forms --------------------------------------------------------------------------------------------------------


def test_a_map_keeps_attention_and_head_in_float32_inside_bfloat16() -> None:
    found = observed({"*.attention*": "float32", "head": torch.float32}, around=BF16)
    wide = {name for name, dtype in found.items() if dtype == F32}
    assert wide == {"head"} | {f"blocks.{i}.attention{part}" for i in (0, 1) for part in ("", ".qkv", ".out")}
    assert {dtype for name, dtype in found.items() if name not in wide} == {BF16}


def test_without_autocast_around_a_layer_still_computes_in_its_format() -> None:
    found = observed([("*", "float32"), ("*.mlp", "bfloat16"), ("head", "fp16")])
    assert found["blocks.0.mlp.0"] == found["blocks.1.mlp.2"] == BF16
    assert found["head"] == F16
    assert found["stem"] == found["blocks.1.attention"] == F32


def test_the_last_rule_that_names_a_layer_holds() -> None:
    found = observed([("blocks", "bfloat16"), ("blocks.1", "float32"), ("blocks.1.mlp.2", "bfloat16"), ("head", F32)])
    assert found["blocks.0.attention"] == BF16
    assert found["blocks.1.attention"] == found["blocks.1.mlp.0"] == F32
    assert found["blocks.1.mlp.2"] == BF16


def test_an_unnamed_layer_follows_what_is_around_it() -> None:
    assert observed({"head": "float32"}, around=F16)["stem"] == F16
    assert observed({"head": "float32"})["stem"] == F32


@pytest.mark.parametrize(("pattern", "name"), [("<first>", "stem"), ("<last>", "head")])
def test_first_and_last_are_the_layers_with_a_weight_matrix(pattern: str, name: str) -> None:
    found = observed({pattern: "float32"}, around=BF16)
    assert [layer for layer, dtype in found.items() if dtype == F32] == [name]


@pytest.mark.parametrize("keys", [(0, 3, 5), ("0", "3", "5")])
def test_a_map_of_steps_changes_at_its_steps(keys: tuple[Any, ...]) -> None:
    stages = dict(zip(keys, ["float32", "bfloat16", F16], strict=True))
    formats = [observed({"*": "float32", "head": stages}, step=step)["head"] for step in range(7)]
    assert formats == [F32, F32, F32, BF16, BF16, F16, F16]


def test_a_function_of_the_step_is_a_schedule() -> None:
    model = Net()
    applied = apply_policies(model, [("*", "float32"), ("head", lambda step: "bfloat16" if step % 2 else F32)])
    outputs = []
    for step in (0, 1, 2, 3):
        applied.set_step(step)
        outputs.append(model(tokens()).dtype)
    assert outputs == [F32, BF16, F32, BF16]


def test_steps_may_go_back_as_after_a_resume() -> None:
    model = Net()
    applied = apply_policies(model, {"*": {0: "bfloat16", 10: "float32"}})
    applied.set_step(12)
    assert model(tokens()).dtype == F32
    applied.set_step(9)
    assert model(tokens()).dtype == BF16


# --- the plain form -----------------------------------------------------------------------------------------------


def test_the_plain_form_goes_through_yaml_even_where_maps_are_sorted() -> None:
    policies = parse_policies([("z*", "fp16"), ("<last>", {"0": "float8", "900": "bfloat16"}), ("a", torch.float32)])
    plain = policies.to_plain()
    assert plain == [["z*", "float16"], ["<last>", {0: "float8", 900: "bfloat16"}], ["a", "float32"]]
    assert parse_policies(yaml.safe_load(yaml.safe_dump(plain, sort_keys=True))) == policies


def test_parsed_policies_pass_unchanged() -> None:
    policies = parse_policies({"head": "float32"})
    assert isinstance(policies, PrecisionPolicies)
    assert parse_policies(policies) is policies


# --- what a covered layer computes --------------------------------------------------------------------------------


def test_a_policy_computes_what_autocast_by_hand_computes() -> None:
    model = Net()
    with torch.autocast("cpu", BF16):
        expected = model(tokens())
    expected.float().sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    apply_policies(model, {"*": "bfloat16"})
    output = model(tokens())
    output.float().sum().backward()
    assert torch.equal(output, expected)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True) if p.grad is not None)
    assert len(gradients) == len(list(model.parameters()))


def test_float32_takes_inputs_of_any_floating_dtype_and_leaves_others() -> None:
    class Takes(nn.Module):
        def forward(self, x: Tensor, more: dict[str, Any], *, mask: Tensor) -> tuple[Any, ...]:
            return x.dtype, more["pair"][1].dtype, more["index"].dtype, mask.dtype

    model = Takes()
    apply_policies(model, {"*": "float32"})
    half = torch.ones(2, dtype=F16)
    more = {"pair": [1, half.bfloat16()], "index": torch.arange(2)}
    assert model(half, more, mask=half.double()) == (F32, F32, torch.int64, F32)
    assert more["pair"][1].dtype == BF16  # the caller's own is not changed


def test_containers_without_a_narrow_tensor_are_handed_on_themselves() -> None:
    collected: list[Any] = [torch.ones(1)]
    assert to_float32(collected) is collected
    assert to_float32((collected, None, "x"))[0] is collected
    packed = nn.utils.rnn.pack_sequence([torch.ones(2, 3).bfloat16()])
    assert to_float32(packed).data.dtype == F32
    assert type(to_float32(packed)) is type(packed)


def test_one_weight_in_two_formats_gets_each_of_them() -> None:
    """Autocast's cache of cast weights would give the second one the first one's dtype."""
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6))
    model[1].weight = model[0].weight
    apply_policies(model, {"1": "float16"})
    with torch.autocast("cpu", BF16):
        assert model(torch.randn(2, 6)).dtype == F16
        assert model[0](torch.randn(2, 6)).dtype == BF16


def test_an_exception_inside_leaves_autocast_as_it_was() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            assert torch.is_autocast_enabled("cpu")
            raise RuntimeError("inside")

    model = nn.Sequential(Fails())
    apply_policies(model, {"0": "bfloat16"})
    with pytest.raises(RuntimeError, match="inside"):
        model(torch.ones(1))
    assert not torch.is_autocast_enabled("cpu")
    with torch.autocast("cpu", F16):
        with pytest.raises(RuntimeError, match="inside"):
            model(torch.ones(1))
        assert torch.get_autocast_dtype("cpu") == F16


def test_a_layer_without_any_tensor_or_on_a_device_without_autocast_runs() -> None:
    class Makes(nn.Module):
        def forward(self) -> Tensor:
            return torch.ones(2, 2) @ torch.ones(2, 2)

    model = Makes()
    apply_policies(model, {"*": "bfloat16"})
    assert model().dtype == BF16
    layer = nn.Sequential(nn.Linear(4, 4, device="meta"))
    apply_policies(layer, {"0": "float32"})
    assert layer(torch.ones(2, 4, device="meta", dtype=BF16)).dtype == F32


# --- on and off ---------------------------------------------------------------------------------------------------


def test_removing_gives_back_the_model_as_it_was() -> None:
    model = Net()
    before = {name: (type(module), set(vars(module))) for name, module in model.named_modules()}
    keys, expected = list(model.state_dict()), model(tokens())
    applied = apply_policies(model, {"*": "bfloat16"})
    assert model(tokens()).dtype == BF16
    applied.remove()
    applied.remove()
    assert {name: (type(module), set(vars(module))) for name, module in model.named_modules()} == before
    assert list(model.state_dict()) == keys
    assert torch.equal(model(tokens()), expected)
    assert applied.dtypes() == {}


def test_names_classes_and_state_dict_stay_while_policies_are_on() -> None:
    model, bare = Net(), Net()
    apply_policies(model, {"*": "bfloat16"})
    assert list(model.state_dict()) == list(bare.state_dict())
    assert [name for name, _ in model.named_modules()] == [name for name, _ in bare.named_modules()]
    assert all(isinstance(mine, type(theirs)) for mine, theirs in zip(model.modules(), bare.modules(), strict=True))
    assert repr(model) == repr(bare)
    model.load_state_dict(bare.state_dict())
    with torch.autocast("cpu", BF16):
        assert torch.equal(model(tokens()), bare(tokens()))


def test_what_is_sliced_out_of_a_covered_container_has_no_policy_of_its_own() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    apply_policies(model, {"*": {0: "bfloat16", 1: "float32"}})
    assert model[:2](torch.ones(1, 4)).dtype == BF16  # the layers in it have theirs
    remove_policies(model)
    assert model[:2](torch.ones(1, 4)).dtype == F32


def test_the_format_is_written_only_where_it_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitdial.training.step import policies

    turned: list[Any] = []
    real = policies.turn
    monkeypatch.setattr(policies, "turn", lambda module, format: (turned.append(module), real(module, format)))
    applied = apply_policies(Net(), [("*", "bfloat16"), ("head", {0: "float32", 5: "float16"})])
    turned.clear()
    for step in range(1, 10):
        applied.set_step(step)
    assert len(turned) == 1


def test_a_policy_can_be_taken_off_a_copy_and_put_on_anew() -> None:
    model = Net()
    policies = parse_policies({"*": {0: "bfloat16", 5: "float32"}})
    apply_policies(model, policies)
    twin = copy.deepcopy(model)
    remove_policies(twin)
    applied = apply_policies(twin, policies)
    applied.set_step(5)
    assert (twin(tokens()).dtype, model(tokens()).dtype) == (F32, BF16)
