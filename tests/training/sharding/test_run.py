"""Weights in shards, two processes over gloo: the training of DDP within rounding, and everything whole afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from bitdial.training import make_fabric, sharding
from tests.training.running import differences
from tests.training.sharding.cases import cases, in_each_process, network, run


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What both processes found, with whole weights and with shards."""
    root = tmp_path_factory.mktemp("sharding")
    for strategy in ("ddp_spawn", "fsdp_spawn"):
        make_fabric(devices=2, strategy=strategy, accelerator="cpu").launch(in_each_process, str(root))
    return {
        kind: [torch.load(root / f"{kind}{rank}.pt", weights_only=True) for rank in (0, 1)]
        for kind in ("whole", "shards")
    }


@pytest.mark.parametrize("case", list(cases(None)))
def test_trains_as_with_whole_weights(found: Any, case: str) -> None:
    """The same numbers, but for the order of sums; every process ends with the same weights."""
    whole, shards = found["whole"][0][case], found["shards"][0][case]
    assert whole["model"].keys() == shards["model"].keys()
    assert whole["optimizer"].keys() == shards["optimizer"].keys()
    loose = {"muon": 2e-2, "adamw": 2e-2}.get(case, 2e-4)  # both divide by what is as good as zero, or round to 8 bits
    torch.testing.assert_close(shards["loss"], whole["loss"], rtol=loose, atol=loose, equal_nan=True)
    for name, value in whole["model"].items():
        if not (case in ("adamw", "muon") and name.endswith("bias")):
            torch.testing.assert_close(shards["model"][name], value, rtol=loose, atol=loose)
    if case not in ("adamw", "muon"):
        torch.testing.assert_close(shards["optimizer"]["state"], whole["optimizer"]["state"], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(shards["average"], whole["average"], rtol=1e-3, atol=1e-4)
    assert shards["scores"]["accuracy"] == pytest.approx(whole["scores"]["accuracy"], abs=0.03)
    assert shards["trouble"] == whole["trouble"]
    others = found["shards"][1][case]
    statistics = ("running_", "range_", "0.mean")  # each process's own of its last batch, as in DDP
    different = differences(shards["model"], others["model"])
    assert [place for place in different if not any(each in place for each in statistics)] == []
    assert differences(shards["optimizer"], others["optimizer"]) == []
    assert not shards["class"].startswith("FSDP")


@pytest.mark.parametrize("case", ["float", "ttq", "adamw", "muon", "bfloat16"])
def test_holds_half_of_everything(found: Any, case: str) -> None:
    """Of two processes; the uneven layer gives the first a little more."""
    shares = [found["shards"][rank][case]["share"] for rank in (0, 1)]
    assert sum(shares) == pytest.approx(1.0)
    assert shares[0] == pytest.approx(0.5, abs=0.02)
    states = [found["shards"][rank][case]["state_share"] for rank in (0, 1)]
    assert states == pytest.approx(shares, abs=0.02)
    assert found["whole"][0][case]["share"] == 1.0


def test_blocks_are_gathered_one_by_one(found: Any) -> None:
    assert found["shards"][0]["float"]["groups"] == ["", "1.0", "2.0"]
    assert found["shards"][0]["shared"]["groups"] == ["", "2.0"]
    assert found["whole"][0]["float"]["groups"] == []


def test_resumes_bit_for_bit(found: Any) -> None:
    """In mid-epoch, with dropout, augmentation, averages and accumulation: as if never stopped."""
    shards = found["shards"][0]
    assert differences(shards["parts"], shards["run"]) == []


def test_a_checkpoint_is_that_of_whole_weights(found: Any) -> None:
    """Both kinds read one another's: the keys are the same, and a run may change between them."""
    shards, whole = found["shards"][0], found["whole"][0]
    changed = differences(shards["changed"], whole["run"])
    assert [place for place in changed if "keys" in place or "rng" in place] == []
    for name, value in whole["run"]["model_state_dict"].items():
        torch.testing.assert_close(shards["changed"]["model_state_dict"][name], value, rtol=1e-4, atol=1e-5)


def test_an_error_leaves_what_was_there(found: Any) -> None:
    for rank in (0, 1):
        after = found["shards"][rank]["error"]
        assert (after["said"], after["same"]) == ("a bug in a hook", True)
        torch.testing.assert_close(after["loss"], found["shards"][rank]["float"]["loss"])


def test_a_stop_leaves_what_was_reached(found: Any) -> None:
    for rank in (0, 1):
        assert found["shards"][rank]["stopped"] == {"differ": [], "momentum": []}


def test_the_given_model_is_the_one_that_trains(found: Any) -> None:
    """Its hooks are called, what is changed in it holds, and it ends in training mode."""
    for rank in (0, 1):
        shards, whole = found["shards"][rank]["changed from outside"], found["whole"][rank]["changed from outside"]
        assert (shards["seen"], shards["trains"]) == (whole["seen"], whole["trains"])
        assert shards["seen"] > 0
        assert found["shards"][rank]["channels last"]["kept"]


def test_one_device_has_nothing_to_cut() -> None:
    fabric = make_fabric(devices=1, strategy="fsdp", accelerator="cpu")
    assert not sharding.is_sharded(fabric)
    model = network()
    model.register_parameter("temperature", nn.Parameter(torch.tensor(1.0)))
    found = run(fabric, model)
    assert found["share"] == 1.0
