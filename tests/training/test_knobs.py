"""Knobs: one hook for whatever a schedule turns; and several passes over one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitdial.errors import BitdialError
from bitdial.layers import BitDial, cost, quantize
from bitdial.training import (
    Classification,
    Hook,
    Knob,
    LoopConfig,
    MixedPrecisionConfig,
    StepResult,
    TaskOutput,
    TrainingState,
    fit,
    make_fabric,
    seed_everything,
)
from bitdial.training.knobs import BitOpsCounter, mean_width


def network() -> nn.Module:
    seed_everything(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def batches(count: int = 4, size: int = 6) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(size, 4, generator=generator), torch.arange(size) % 3) for _ in range(count)]


def train(model: nn.Module, task: Any = None, data: Any = None, **options: Any) -> TrainingState:
    settings = options.pop("settings", {"steps": 4})
    return fit(
        make_fabric(accelerator="cpu"),
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        task or Classification(),
        batches() if data is None else data,
        LoopConfig(**settings),
        **options,
    )


class TestKnob:
    def test_it_turns_when_the_value_changes_and_is_logged_under_its_name(self) -> None:
        turned: list[float] = []
        state = train(network(), hooks=[Knob("gamma", lambda step: step // 2, turned.append)])
        assert turned == [0, 1, 2]  # after the last step it stands at what would come next
        assert state.history["gamma"] == [0, 0, 1, 1]

    def test_it_resumes_from_the_step_alone(self) -> None:
        saved: dict[str, Any] = {}

        class Saver:
            def save_checkpoint(
                self, epoch: int, model: Any, optimizer: Any, metric: float, *_: Any, **extra: Any
            ) -> Any:
                saved.update(extra, epoch=epoch, model_state_dict=model, optimizer_state_dict=optimizer)
                return "x"

        train(network(), hooks=[Knob("k", float, lambda _: None)], checkpoints=Saver(), settings={"steps": 3})
        turned: list[float] = []
        train(network(), hooks=[Knob("k", float, turned.append)], resume=saved, settings={"steps": 5})
        assert turned == [3, 4, 5]

    def test_its_value_may_scale_the_learning_rate(self) -> None:
        state = train(network(), hooks=[Knob("k", float, lambda _: None, rate=lambda value: 1 / (1 + value))])
        assert state.history["learning_rate"] == pytest.approx([0.1, 0.05, 0.1 / 3, 0.025])

    def test_bits_of_a_dial_and_a_floating_point_format_are_turned_alike(self) -> None:
        model = quantize(network())
        dial = BitDial(model)
        formats: list[str] = []
        knobs = [
            Knob("bits", lambda step: 8 if step < 2 else 4, dial.set),
            Knob("format", lambda step: ("float32", "bfloat16")[step % 2], formats.append, shown=len),
        ]
        state = train(model, hooks=knobs)
        assert dial.weights == [4]
        assert formats == ["float32", "bfloat16", "float32", "bfloat16", "float32"]
        assert state.history["bits"] == [8, 8, 4, 4]

    def test_two_of_one_name_are_refused_before_anything_is_trained(self) -> None:
        turned: list[float] = []
        twice = [Knob("gamma", float, turned.append), Knob("gamma", float, turned.append)]
        with pytest.raises(BitdialError, match="two knobs are called 'gamma'"):
            train(network(), hooks=twice)
        assert turned == []

    def test_what_changes_is_no_float(self) -> None:
        knob: Knob[tuple[float, ...]] = Knob("bits", lambda step: (2.0, 4.0), lambda _: None, shown=sum)
        assert train(network(), hooks=[knob]).history["bits"] == [6] * 4


def test_what_the_dial_says_and_what_it_costs_are_two_means() -> None:
    model = quantize(network(), skip=["0"])  # two layers are quantized, one counts with 32 bits
    dial, ledger = BitDial(model), cost(model, torch.zeros(1, 4))
    counter = BitOpsCounter(lambda step: (2.0, 4.0), ledger, dial.gradients)
    knob: Knob[tuple[float, ...]] = Knob("bits", lambda step: (2.0, 4.0), dial.set, shown=mean_width)
    state = train(model, hooks=[knob, counter])
    assert state.history["bits"] == [3.0] * 4
    assert state.history["cost_weighted_bits"] == pytest.approx([(32 * 32 + 2 * 64 + 4 * 24) / 120] * 4)
    assert counter.dial_sum == 12.0


def test_hooks_get_the_batches_of_the_step_and_whether_it_was_applied() -> None:
    seen: list[tuple[int, bool, int]] = []

    class Watch(Hook):
        def after_step(self, state: TrainingState, result: StepResult) -> None:
            seen.append((len(result.batches), result.applied, result.output.examples))

    data = batches(3)
    train(network(), data=data, hooks=[Watch()], settings={"epochs": 1, "gradient_accumulation_steps": 2})
    assert seen == [(2, True, 6), (1, True, 6)]
    seen.clear()
    bad = [(x * float("inf"), y) for x, y in batches(1)]
    precision = MixedPrecisionConfig(dtype="bfloat16", overflow_patience=5)
    train(network(), data=[*data, *bad], hooks=[Watch()], settings={"epochs": 1}, precision=precision)
    assert [applied for _, applied, _ in seen] == [True, True, True, False]


@dataclass(frozen=True)
class Part:
    batch: Any
    factor: float


class Twice(Classification):
    """Two losses over one batch, each with a backward pass of its own."""

    factors: Sequence[float] = (1.0, 3.0)

    def passes(self, batch: Any) -> list[Part]:
        return [Part(batch, factor) for factor in self.factors]

    def examples(self, batch: Part) -> int:
        return super().examples(batch.batch)

    def loss(self, model: nn.Module, batch: Part) -> TaskOutput:
        output = super().loss(model, batch.batch)
        return TaskOutput(output.loss * batch.factor, output.examples, output.metrics)


class TestPasses:
    def test_the_gradient_is_the_mean_of_the_passes(self) -> None:
        twice, once = network(), network()
        state = train(twice, Twice())

        class Doubled(Classification):
            def loss_of(self, logits: Tensor, batch: Any) -> TaskOutput:
                output = super().loss_of(logits, batch)
                return TaskOutput(output.loss * 2, output.examples, output.metrics)

        other = train(once, Doubled())
        assert state.history["loss"] == pytest.approx(other.history["loss"], rel=1e-5)
        pairs = zip(twice.parameters(), once.parameters(), strict=True)
        assert all(torch.allclose(one, two, atol=1e-6) for one, two in pairs)
        assert (state.step, state.epoch) == (4, 1)

    def test_together_with_accumulation(self) -> None:
        seen: list[int] = []

        class Watch(Hook):
            def after_step(self, state: TrainingState, result: StepResult) -> None:
                seen.append(result.passes)
                assert len(result.batches) == 2

        train(network(), Twice(), hooks=[Watch()], settings={"epochs": 1, "gradient_accumulation_steps": 2})
        assert seen == [2, 2]

    def test_what_they_cost_is_the_sum(self) -> None:
        model = quantize(network())
        ledger = cost(model, batches()[0][0][:1])
        counter = BitOpsCounter(lambda step: ((2.0,), (8.0,)), ledger, [32])
        state = train(model, Twice(), hooks=[counter])
        once = [ledger.step_bitops((bits,), (bits,), [32]).total for bits in (2.0, 8.0)]
        assert counter.bitops == pytest.approx(4 * 6 * sum(once))
        mean = (ledger.average_bits((2.0,)) + ledger.average_bits((8.0,))) / 2
        assert counter.bits_sum / state.step == pytest.approx(mean)

    def test_no_pass_at_all_is_refused(self) -> None:
        class Never(Twice):
            factors = ()

        with pytest.raises(BitdialError, match="passes must give at least one"):
            train(network(), Never())


def test_a_score_in_the_old_form_is_refused_with_a_sentence() -> None:
    from bitdial.evaluation import evaluate_loss_accuracy

    class Old(Classification):
        def score(self, model: nn.Module, batch: Any) -> Any:
            return torch.tensor(1.0), torch.tensor(2), 6

    with pytest.raises(BitdialError, match="sums by name and their count"):
        evaluate_loss_accuracy(network(), batches(), task=Old())
