"""Overflows: skipped, counted, answered by a lower scale, then by a wider format, and said calmly."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from torch import nn

from bitdial.errors import BitdialError
from bitdial.training import TrainingDiverged
from bitdial.training.mixed_precision import AdaptiveMixedPrecisionTrainer, MixedPrecisionConfig, MixedPrecisionTrainer
from tests.training.mixed_precision.by_hand import batches, same_state, small_net
from tests.training.mixed_precision.faults import NotFiniteIn, Scaled

LOG = "bitdial.training.mixed_precision"


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01)


def test_one_overflow_is_skipped_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    model, data = small_net(), batches(12)
    optimizer, trainer = sgd(model), MixedPrecisionTrainer(MixedPrecisionConfig(init_scale=2.0**10))
    criterion = Scaled(1e30, at={4, 8})
    before, outcomes = {}, []
    with caplog.at_level(logging.INFO, LOG):
        for index, (x, y) in enumerate(data, start=1):
            before[index] = copy.deepcopy(dict(model.named_parameters()))
            outcomes.append(trainer.train_step(model, optimizer, criterion, x, y))
            moved = any(not torch.equal(p, before[index][name]) for name, p in model.named_parameters())
            assert moved is (index not in (4, 8))
            assert all(p.grad is None for p in model.parameters())
    assert [index for index, outcome in enumerate(outcomes, start=1) if outcome.skipped] == [4, 8]
    assert [outcome.stepped for outcome in outcomes] == [not outcome.skipped for outcome in outcomes]
    assert [outcome.scale for outcome in outcomes] == [1024.0] * 3 + [512.0] * 4 + [256.0] * 5
    summary = trainer.get_performance_summary()
    assert (
        summary["performance"] | {"skipped_steps": 2, "training_steps": 12, "applied_steps": 10}
        == summary["performance"]
    )
    assert summary["scaler_info"]["current_scale"] == 256.0
    (record,) = caplog.records
    text = record.getMessage()
    assert text.startswith("step 4: a gradient was too large for float16 at the loss scale 1024; the step is skipped")
    assert "the scale is now 512" in text
    assert record.levelno == logging.WARNING


def test_scale_that_is_held_skips_and_stays() -> None:
    model, trainer = small_net(), MixedPrecisionTrainer(MixedPrecisionConfig(use_dynamic_loss_scaling=False))
    optimizer, criterion = sgd(model), Scaled(1e30, at={2})
    outcomes = [trainer.train_step(model, optimizer, criterion, x, y) for x, y in batches(4)]
    assert [outcome.skipped for outcome in outcomes] == [False, True, False, False]
    assert {outcome.scale for outcome in outcomes} == {2.0**16}


def test_without_scaling_small_gradients_pass_unscaled() -> None:
    model, trainer = small_net(), MixedPrecisionTrainer(MixedPrecisionConfig(use_grad_scaling=False))
    outcome = trainer.train_step(model, sgd(model), nn.CrossEntropyLoss(), *batches(1)[0])
    assert outcome.stepped
    assert outcome.scale == 1.0
    assert trainer.get_performance_summary()["scaler_info"]["enabled"] is False


def test_for_ever_stops_at_the_floor_never_at_zero() -> None:
    """PyTorch's own scaler reaches exactly 0 here; without a wider format to take, training stops with a sentence."""
    model = small_net()
    trainer = MixedPrecisionTrainer(MixedPrecisionConfig(init_scale=2.0**6, min_scale=4.0, overflow_patience=3))
    optimizer, data = sgd(model), batches(1)[0]
    scales = []

    def forty_steps() -> None:
        for _ in range(40):
            scales.append(trainer.train_step(model, optimizer, Scaled(1e30), *data).scale)

    with pytest.raises(TrainingDiverged, match=r"a gradient was not a finite number in 3 steps in a row.*step 7, in f"):
        forty_steps()
    assert scales == [32, 16, 8, 4, 4, 4]
    assert trainer.get_performance_summary()["scaler_info"]["overflows"] == 7


def test_for_ever_takes_wider_formats_one_by_one(caplog: pytest.LogCaptureFixture) -> None:
    """float16 -> bfloat16 -> float32, each said with its step, in the log and in the summary."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), NotFiniteIn(torch.bfloat16), nn.Linear(16, 4))
    before = copy.deepcopy(model)
    trainer = AdaptiveMixedPrecisionTrainer(MixedPrecisionConfig(init_scale=4.0, overflow_patience=3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-20)
    with caplog.at_level(logging.INFO, LOG):
        outcomes = [trainer.train_step(model, optimizer, Scaled(1e20), x, y) for x, y in batches(10)]
    assert [outcome.stepped for outcome in outcomes] == [False] * 8 + [True] * 2
    assert same_state(model, before) != []
    adaptations = trainer.get_adaptation_summary()
    assert adaptations["total_adaptations"] == 2
    assert adaptations["current_config"]["dtype"] == "float32"
    assert [(each["step"], each["from"], each["to"]) for each in adaptations["history"]] == [
        (5, "float16", "bfloat16"),
        (8, "bfloat16", "float32"),
    ]
    assert adaptations["history"][0]["reason"] == (
        "3 steps in a row were lost in float16 at the lowest loss scale, 1, first seen in the gradient of the "
        "parameter '3.bias'"
    )
    assert "the output of layer '2' (NotFiniteIn)" in adaptations["history"][1]["reason"]
    assert trainer.get_performance_summary()["format_changes"] == adaptations["history"]
    assert "step 5: the format changes from float16 to bfloat16" in caplog.text
    assert len(caplog.records) == 5  # one for the first overflow, then a first loss and a change for each format


def test_back_to_the_format_asked_for_after_a_stable_stretch() -> None:
    fragile = NotFiniteIn(torch.bfloat16)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), fragile, nn.Linear(16, 4))
    config = MixedPrecisionConfig(dtype="bfloat16", overflow_patience=2, recovery_interval=5)
    trainer, optimizer = AdaptiveMixedPrecisionTrainer(config), sgd(model)
    formats = []
    for index, (x, y) in enumerate(batches(40)):
        fragile.on = index < 10
        trainer.train_step(model, optimizer, nn.CrossEntropyLoss(), x, y)
        formats.append(trainer.get_performance_summary()["precision"])
    # lost 2, stable 5 in float32, lost 2 again, then stable for twice as long, and back for good
    assert formats == ["bfloat16"] + ["float32"] * 5 + ["bfloat16"] * 2 + ["float32"] * 10 + ["bfloat16"] * 22
    reasons = [each["reason"] for each in trainer.get_adaptation_summary()["history"]]
    assert reasons[1] == "5 steps in a row were stable"
    assert reasons[3] == "10 steps in a row were stable"


class TestAdaptedByHand:
    def test_a_worse_run_takes_a_wider_format_and_a_good_one_comes_back(self) -> None:
        trainer = AdaptiveMixedPrecisionTrainer(MixedPrecisionConfig())
        assert trainer.adapt_config(0.80, 0.90) == "now in bfloat16: accuracy is 0.8, against 0.9 of the baseline"
        assert trainer.adapt_config({"loss": 0.505}, {"loss": 0.5}).startswith("now in float16: nothing is lost")
        assert trainer.adapt_config({"loss": 0.6, "accuracy": 0.9}, {"loss": 0.5, "accuracy": 0.9}) == (
            "now in bfloat16: loss is 0.6, against 0.5 of the baseline"
        )
        assert trainer.adapt_config({"step_time": 0.2}, {"step_time": 0.1}).startswith("now in float32: step_time is")
        assert trainer.adapt_config(0.1, 0.9).startswith("stays in float32, the widest")
        summary = trainer.get_adaptation_summary()
        assert summary["total_adaptations"] == 4
        assert summary["current_config"]["dtype"] == "float32"

    def test_never_narrower_than_asked_for(self) -> None:
        trainer = AdaptiveMixedPrecisionTrainer(MixedPrecisionConfig(dtype="bfloat16"))
        assert trainer._increase_mixed_precision_aggressiveness().startswith("stays in bfloat16, the format asked for")
        assert trainer._reduce_mixed_precision_aggressiveness() == "now in float32: asked for"
        assert trainer._increase_mixed_precision_aggressiveness() == "now in bfloat16: asked for"

    def test_numbers_of_other_libraries(self) -> None:
        numpy = pytest.importorskip("numpy")
        said = AdaptiveMixedPrecisionTrainer().adapt_config(numpy.float32(0.9), torch.tensor([0.9]))
        assert "nothing is lost: accuracy 0.9 (baseline 0.9)" in said

    def test_several_numbers_are_none(self) -> None:
        with pytest.raises(BitdialError, match=r"accuracy must be a finite number, got tensor"):
            AdaptiveMixedPrecisionTrainer().adapt_config(torch.ones(2), 1.0)  # type: ignore[arg-type]
