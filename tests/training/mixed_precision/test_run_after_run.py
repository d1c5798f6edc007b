"""Runs one after the other on one model, and runs that are taken up again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitdial.errors import BitdialError
from bitdial.training import Classification, LoopConfig, TrainingDiverged, fit, make_fabric
from bitdial.training.mixed_precision import (
    AdaptiveMixedPrecisionTrainer,
    MixedPrecisionConfig,
    MixedPrecisionTrainer,
    train_with_mixed_precision,
)
from tests.training.mixed_precision.by_hand import batches, small_net
from tests.training.mixed_precision.faults import NotFiniteIn

CRITERION = nn.CrossEntropyLoss()


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1)


class TestRunsOneAfterTheOther:
    POLICIES = MixedPrecisionConfig(dtype="bfloat16", policies={"head": "float32"})

    def test_a_model_comes_back_without_policies(self) -> None:
        model = small_net()
        for _ in range(2):
            train_with_mixed_precision(model, batches(2), sgd(model), CRITERION, 1, self.POLICIES)
            assert type(model.head) is nn.Linear
        with pytest.raises(BitdialError, match="gave no batch"):
            train_with_mixed_precision(model, [], sgd(model), CRITERION, 1, self.POLICIES)
        assert type(model.head) is nn.Linear

    def test_also_from_a_run_that_could_not_begin(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        with pytest.raises(BitdialError, match="the checkpoint does not fit the model"):
            fit(
                make_fabric(accelerator="cpu"), model, sgd(model), Classification(), batches(2), LoopConfig(steps=2),
                precision=MixedPrecisionConfig(dtype="bfloat16", policies={"1": "float32"}),
                resume={"model_state_dict": {"x": torch.ones(1)}},
            )  # fmt: skip
        assert type(model[1]) is nn.Linear

    def test_prepared_anew_without_policies(self) -> None:
        model, trainer = small_net(), MixedPrecisionTrainer(self.POLICIES.model_copy())
        trainer.prepare_model(model)
        trainer.config.policies = None
        trainer.prepare_model(model)
        assert trainer.train_step(model, sgd(model), CRITERION, *batches(1)[0]).stepped


class TestTakenUpAgain:
    def test_policies_go_on_at_their_step_without_the_scalers_state(self) -> None:
        config = MixedPrecisionConfig(
            dtype="bfloat16", save_scaler_state=False, policies={"1": {0: "bfloat16", 3: "float32"}}
        )
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        outputs: list[torch.dtype] = []
        model[1].register_forward_hook(lambda module, inputs, output: outputs.append(output.dtype))
        resume = None
        for steps in (4, 6):
            state = fit(
                make_fabric(accelerator="cpu"), model, sgd(model), Classification(), batches(10),
                LoopConfig(steps=steps), precision=config, resume=resume,
            )  # fmt: skip
            resume = state.state_dict()
        assert outputs == [torch.bfloat16] * 3 + [torch.float32] * 3
        assert (state.control.steps, state.control.applied_steps) == (6, 6)

    def test_in_the_middle_of_a_row_of_lost_steps(self) -> None:
        """What the first of them found decides at the last whether a wider format is taken: here it would not help."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), NotFiniteIn(torch.bfloat16, torch.float32))
        config = MixedPrecisionConfig(dtype="bfloat16", overflow_patience=2)
        trainer, optimizer, data = AdaptiveMixedPrecisionTrainer(config), sgd(model), batches(1)[0]
        trainer.train_step(model, optimizer, CRITERION, *data)
        again = AdaptiveMixedPrecisionTrainer(config)
        assert again.load_state_dict(trainer.state_dict()) == []
        with pytest.raises(TrainingDiverged, match="first seen in the output of layer '2'"):
            again.train_step(model, optimizer, CRITERION, *data)

    def test_half_of_a_state_is_never_taken(self) -> None:
        trainer = AdaptiveMixedPrecisionTrainer()
        state = {**trainer.state_dict(), "scaler": {"scale": -1.0, "growth_tracker": 0}}
        trainer._reduce_mixed_precision_aggressiveness()
        before = trainer.state_dict()
        with pytest.raises(BitdialError, match="damaged"):
            trainer.load_state_dict(state)
        assert trainer.state_dict() == before

    def test_on_another_device_counters_and_voice_stay(self) -> None:
        trainer = MixedPrecisionTrainer(MixedPrecisionConfig(dtype="float32", save_scaler_state=False))
        said: list[str] = []
        trainer.control.tell, trainer.control.steps = said.append, 7
        with torch.device("meta"):
            trainer.prepare_model(nn.Linear(2, 2))
        assert trainer.control.device.type == "meta"
        assert trainer.control.steps == 7
        trainer.control.tell("hello")
        assert said == ["hello"]
