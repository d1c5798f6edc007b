"""Stopped and taken up again in the middle, a run is the one that never stopped; a damaged state is refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitdial.errors import BitdialError
from bitdial.training.mixed_precision import AdaptiveMixedPrecisionTrainer, MixedPrecisionConfig, MixedPrecisionTrainer
from tests.training.mixed_precision.by_hand import batches, same_state, small_net
from tests.training.mixed_precision.faults import NotFiniteIn, Scaled


def troubled() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), NotFiniteIn(torch.bfloat16), nn.Dropout(0.2), nn.Linear(16, 4)
    )


CONFIG = MixedPrecisionConfig(init_scale=2.0**20, growth_interval=4, overflow_patience=2, recovery_interval=6)


def steps(trainer: MixedPrecisionTrainer, model: nn.Module, optimizer: Any, schedule: Any, data: Any) -> list[Any]:
    criterion = Scaled(1e6)  # overflows float16 until the scale has come down
    outcomes = [trainer.train_step(model, optimizer, criterion, x, y, scheduler=schedule) for x, y in data]
    return [(repr(each.loss), each.scale, each.stepped) for each in outcomes]


def parts(model: nn.Module) -> tuple[Any, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9)
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)


@pytest.mark.parametrize("at", [1, 7, 22, 31])
def test_exact_at_any_step(at: int, tmp_path: Path) -> None:
    data = batches(60)
    torch.manual_seed(9)
    whole, whole_trainer = troubled(), AdaptiveMixedPrecisionTrainer(CONFIG)
    optimizer, schedule = parts(whole)
    expected = steps(whole_trainer, whole, optimizer, schedule, data)
    history = whole_trainer.get_adaptation_summary()["history"]
    assert len(history) >= 2

    torch.manual_seed(9)
    first, trainer = troubled(), AdaptiveMixedPrecisionTrainer(CONFIG)
    optimizer, schedule = parts(first)
    before = steps(trainer, first, optimizer, schedule, data[:at])
    torch.save(
        {"trainer": trainer.state_dict(), "model": first.state_dict(), "optimizer": optimizer.state_dict(),
         "schedule": schedule.state_dict(), "random": torch.get_rng_state()},
        tmp_path / "state.pt",
    )  # fmt: skip
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    again, trainer = troubled(), AdaptiveMixedPrecisionTrainer(CONFIG)
    optimizer, schedule = parts(again)
    again.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    schedule.load_state_dict(state["schedule"])
    torch.set_rng_state(state["random"])
    assert trainer.load_state_dict(state["trainer"]) == []
    after = steps(trainer, again, optimizer, schedule, data[at:])

    assert before + after == expected
    assert same_state(again, whole) == []
    assert trainer.get_adaptation_summary()["history"] == history
    mine, theirs = trainer.get_performance_summary(), whole_trainer.get_performance_summary()
    for summary in (mine, theirs):
        for name in ("total_time", "average_step_time", "median_step_time"):
            del summary["performance"][name]
    assert mine == theirs


def trained() -> MixedPrecisionTrainer:
    model, trainer = small_net(), MixedPrecisionTrainer(MixedPrecisionConfig(init_scale=2.0**24))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for x, y in batches(12):
        trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), x, y)
    return trainer


class TestFile:
    def test_round_trip(self, tmp_path: Path) -> None:
        trainer, other = trained(), MixedPrecisionTrainer(MixedPrecisionConfig(init_scale=2.0**24))
        path = trainer.save_scaler_state(tmp_path / "scaler.json")
        assert other.load_scaler_state(path) == []
        assert other.state_dict() == trainer.state_dict()
        assert [each.name for each in tmp_path.iterdir()] == ["scaler.json"]

    @pytest.mark.parametrize("cut", [0, 1, 40, -1])
    def test_cut_short(self, cut: int, tmp_path: Path) -> None:
        path = trained().save_scaler_state(tmp_path / "scaler.json")
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(BitdialError, match=r"scaler.json, which is damaged or something else"):
            MixedPrecisionTrainer().load_scaler_state(path)

    def test_every_flipped_digit_is_noticed(self, tmp_path: Path) -> None:
        path = trained().save_scaler_state(tmp_path / "scaler.json")
        text = path.read_text()
        places = [index for index, letter in enumerate(text) if letter.isdigit()]
        assert len(places) > 20
        for place in places:
            path.write_text(text[:place] + str((int(text[place]) + 1) % 10) + text[place + 1 :])
            with pytest.raises(BitdialError, match="damaged"):
                MixedPrecisionTrainer().load_scaler_state(path)

    @pytest.mark.parametrize("content", [b"", b"[]", b"null", b"{}", b"\xff\xfe\x00", b'{"bitdial": 1}'])
    def test_something_else(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(BitdialError, match="damaged or something else"):
            MixedPrecisionTrainer().load_scaler_state(tmp_path / "x")

    def test_nothing_there(self, tmp_path: Path) -> None:
        with pytest.raises(BitdialError, match="which is not there"):
            MixedPrecisionTrainer().load_scaler_state(tmp_path / "x")


class TestOtherScalers:
    def test_the_state_of_a_disabled_one(self) -> None:
        """PyTorch raises a RuntimeError here."""
        trainer = MixedPrecisionTrainer()
        disabled = torch.amp.GradScaler("cpu", enabled=False)
        assert trainer.load_state_dict(disabled.state_dict()) == [
            "the saved scaler was switched off: the loss scale starts at 65536"
        ]

    def test_the_state_of_pytorchs_own(self) -> None:
        theirs = torch.amp.GradScaler("cpu", init_scale=512.0)
        theirs.load_state_dict({**theirs.state_dict(), "_growth_tracker": 77})
        trainer = MixedPrecisionTrainer()
        assert trainer.load_state_dict(theirs.state_dict()) == []
        assert trainer.state_dict()["scaler"] == {"scale": 512.0, "growth_tracker": 77}

    def test_one_that_had_reached_zero(self) -> None:
        trainer = MixedPrecisionTrainer()
        (note,) = trainer.load_state_dict({"scale": 0.0, "_growth_tracker": 0})
        assert note == "the saved loss scale of 0 is below min_scale: it starts at 1"
        assert trainer.control.scaler.scale == 1.0

    @pytest.mark.parametrize(
        "state",
        [
            {"scale": float("nan"), "_growth_tracker": 0}, {"scale": float("inf"), "_growth_tracker": 0},
            {"scale": -1.0, "_growth_tracker": 0}, {"scale": "big", "_growth_tracker": 0}, {"_growth_tracker": 0},
            {"scale": None, "_growth_tracker": 0}, {"scale": 1.0, "_growth_tracker": -1}, {"scale": True},
            {"scale": 1.0},
        ],
    )  # fmt: skip
    def test_one_that_no_scaler_can_have_had(self, state: dict[str, Any]) -> None:
        trainer = MixedPrecisionTrainer()
        before = trainer.state_dict()
        with pytest.raises(BitdialError, match="damaged"):
            trainer.load_state_dict(state)
        assert trainer.state_dict() == before


@pytest.mark.parametrize(
    "change",
    [
        {"format": "float12"}, {"format": None}, {"asked_format": 3}, {"steps": -1}, {"steps": "many"}, {"parts": None},
        {"overflows": float("nan")}, {"history": None}, {"history": [{"step": 1}]}, {"history": 3}, {"scaler": None},
        {"scaler": {"scale": -2.0, "growth_tracker": 0}}, {"parts": 0},
    ],
)  # fmt: skip
def test_own_state_that_no_run_can_have_had(change: dict[str, Any]) -> None:
    state = {**trained().state_dict(), **change}
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(init_scale=2.0**24))
    before = copy.deepcopy(trainer.state_dict())
    with pytest.raises(BitdialError):
        trainer.load_state_dict(state)
    assert trainer.state_dict() == before, "half a state was taken"


def test_a_missing_key_is_a_sentence() -> None:
    state = trained().state_dict()
    del state["parts"]
    with pytest.raises(BitdialError, match="damaged: 'parts'"):
        MixedPrecisionTrainer().load_state_dict(state)


def test_another_format_is_said() -> None:
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16"))
    (note,) = trainer.load_state_dict(trained().state_dict())
    assert note == "the run was to compute in float16 before, now in bfloat16: it does not go on bit for bit"
    assert trainer.get_performance_summary()["precision"] == "bfloat16"
    assert trainer.control.steps == 12


def test_nothing_is_kept_where_nothing_is_wanted() -> None:
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(save_scaler_state=False))
    assert trainer.state_dict() == {}
    assert json.dumps(trained().state_dict())
