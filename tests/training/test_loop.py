"""What the loop does to gradients, rates, scores and hooks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitdial.training import (
    Classification,
    EarlyStopping,
    Hook,
    LearningRateConfig,
    LoopConfig,
    MixedPrecisionConfig,
    Scored,
    StepResult,
    TaskOutput,
    TrainingDiverged,
    TrainingState,
    fit,
    learning_rate_factor,
    make_fabric,
    seed_everything,
)
from tests.training.running import FileSaver, StopAfter, config, network, task_data, train


def linear(inputs: int = 12, outputs: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs)


def sgd(model: nn.Module, lr: float = 0.5, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, **options)


def run(
    model: nn.Module, loader: Any, optimizer: Any = None, task: Any = None, fabric: Any = None, **options: Any
) -> TrainingState:
    settings = {key: options.pop(key) for key in list(options) if key in LoopConfig.model_fields}
    fabric = fabric if fabric is not None else make_fabric(accelerator="cpu")
    chosen = optimizer if optimizer is not None else sgd(model)
    return fit(fabric, model, chosen, task or Classification(), loader, LoopConfig(**settings), **options)


def test_the_loop_is_the_loop_one_would_write_by_hand() -> None:
    inputs, labels = task_data()
    batches = list(zip(inputs.split(8), labels.split(8), strict=True))
    by_hand = linear()
    optimizer = sgd(by_hand, momentum=0.9, weight_decay=1e-2)
    for _ in range(2):
        for x, y in batches:
            functional.cross_entropy(by_hand(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
    model = linear()
    run(model, batches, sgd(model, momentum=0.9, weight_decay=1e-2), epochs=2)
    assert torch.equal(model.weight, by_hand.weight)


def test_accumulated_gradients_are_those_of_one_large_batch() -> None:
    """Also where the micro-batches differ in size: 8 + 8 + 3 examples are one batch of 19."""
    inputs, labels = (part[:19] for part in task_data())
    whole, parts = linear(), linear()
    run(whole, [(inputs, labels)], epochs=1)
    state = run(
        parts, list(zip(inputs.split(8), labels.split(8), strict=True)), epochs=1, gradient_accumulation_steps=3
    )
    assert state.step == 1
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(state.history["loss"][0], functional.cross_entropy(linear()(inputs), labels).item())


def test_what_is_left_of_an_epoch_is_a_step_of_its_own() -> None:
    inputs, labels = task_data()
    batches = list(zip(inputs.split(8), labels.split(8), strict=True))  # 7
    state = run(linear(), batches, epochs=2, gradient_accumulation_steps=3)
    assert state.step == 6


def test_clipping_bounds_the_gradient() -> None:
    inputs, labels = task_data()
    free, clipped = linear(), linear()
    start = free.weight.detach().clone(), free.bias.detach().clone()
    run(free, [(inputs, labels)], sgd(free, lr=1.0), epochs=1)
    run(clipped, [(inputs, labels)], sgd(clipped, lr=1.0), epochs=1, max_grad_norm=0.01)

    def moved(model: Any) -> Tensor:
        return torch.cat([(model.weight - start[0]).flatten(), model.bias - start[1]])

    assert moved(free).norm() > 0.1
    torch.testing.assert_close(moved(clipped).norm(), torch.tensor(0.01), rtol=1e-3, atol=0)
    torch.testing.assert_close(moved(clipped) / moved(clipped).norm(), moved(free) / moved(free).norm())


def test_clipping_leaves_short_gradients_alone() -> None:
    inputs, labels = task_data()
    free, clipped = linear(), linear()
    run(free, [(inputs, labels)], epochs=1)
    run(clipped, [(inputs, labels)], epochs=1, max_grad_norm=1e6)
    assert torch.equal(free.weight, clipped.weight)


class Scale(Hook):
    """Set the factor on the learning rate to the next of a list."""

    def __init__(self, factors: list[float]) -> None:
        self.factors = iter(factors)

    def before_step(self, state: TrainingState) -> None:
        state.lr_scale = next(self.factors)


def test_a_factor_on_the_rate_composes_with_the_schedule_and_leaves_no_trace() -> None:
    x, y = torch.ones(1, 1), torch.zeros(1, dtype=torch.int64)
    factors = [0.5, 1.0, 0.25, 1.0, 0.75]
    schedule = learning_rate_factor(LearningRateConfig(warmup_steps=2), 5)
    state = run(linear(1, 2), [(x, y)] * 5, epochs=1, hooks=[Scale(factors)], learning_rate=schedule)
    expected = [0.5 * schedule(step) * factor for step, factor in enumerate(factors)]
    assert state.history["learning_rate"] == expected
    assert state.optimizer.param_groups[0]["lr"] == 0.5 * schedule(5)


def test_the_scaled_rate_is_what_moves_the_weights() -> None:
    inputs, labels = task_data()
    half, scaled = linear(), linear()
    run(half, [(inputs, labels)], sgd(half, lr=0.25), epochs=1)
    run(scaled, [(inputs, labels)], sgd(scaled, lr=0.5), epochs=1, hooks=[Scale([0.5])])
    assert torch.equal(half.weight, scaled.weight)


class Poison(Hook):
    """Spoil a weight after some step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        if state.step == self.step:
            next(state.model.parameters()).data.fill_(math.nan)


def batches_with(value: float, at: int) -> list[tuple[Tensor, Tensor]]:
    inputs, labels = task_data()
    batches = [(x.clone(), y) for x, y in zip(inputs.split(8), labels.split(8), strict=True)]
    batches[at][0][0, 0] = value
    return batches


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(value: float, tmp_path: Path) -> None:
    saver = FileSaver(tmp_path)
    with pytest.raises(TrainingDiverged, match=r"loss became (nan|inf) at step 5 .*learning rate.*step4\.pt"):
        run(linear(), batches_with(value, 4), epochs=1, checkpoints=saver, checkpoint_interval=2, log_interval=50)
    assert [path.name.split("-")[1] for path in saver.paths] == ["step2.pt", "step4.pt"]


def test_spoilt_weights_are_never_saved(tmp_path: Path) -> None:
    saver = FileSaver(tmp_path)
    with pytest.raises(TrainingDiverged, match=r"weights are not finite after step 4.*step2\.pt"):
        run(linear(), batches_with(1.0, 0), epochs=1, checkpoints=saver, checkpoint_interval=2, hooks=[Poison(4)])
    assert len(saver.paths) == 1


def test_evaluating_leaves_no_trace_in_the_training(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    often, _ = train(tmp_path / "a", settings=config(eval_interval=1))
    never, _ = train(tmp_path / "b", settings=config(eval_interval=1000))
    assert often is not None
    assert never is not None
    assert torch.equal(often.model[0].weight, never.model[0].weight)


def test_modules_go_back_into_the_mode_they_were_in() -> None:
    model = network()

    class Freeze(Hook):
        def before_step(self, state: TrainingState) -> None:
            state.model[1].eval()

    inputs, labels = task_data()
    seen = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        seen.append([module.training for module in model.modules()])
        return {"accuracy": 0.0}

    run(model, [(inputs, labels)], epochs=1, evaluate=evaluate, hooks=[Freeze()])
    assert seen == [[False] * 6]
    assert [module.training for module in model] == [True, False, True, True, True]


def test_the_averaged_weights_are_evaluated() -> None:
    model, seen = network(), []
    inputs, labels = task_data()

    def evaluate(evaluated: nn.Module) -> dict[str, float]:
        seen.append(evaluated)
        return {"accuracy": 0.5}

    state = run(model, [(inputs, labels)], epochs=2, evaluate=evaluate, ema_decay=0.5)
    assert state.ema is not None
    assert seen == [state.ema.module] * 2
    assert state.evaluated_model is not model


def test_early_stopping_ends_the_run() -> None:
    scores = iter([0.1, 0.5, 0.4, 0.5, 0.3, 0.9])
    inputs, labels = task_data()
    state = run(
        linear(),
        [(inputs, labels)],
        epochs=6,
        evaluate=lambda _: {"accuracy": next(scores)},
        early_stopping=EarlyStopping(patience=3),
    )
    assert state.epoch == 5
    assert state.best_score == 0.5


def test_the_best_evaluations_are_saved(tmp_path: Path) -> None:
    scores = iter([0.1, 0.5, 0.4, 0.6])
    saver = FileSaver(tmp_path)
    inputs, labels = task_data()
    run(
        linear(),
        [(inputs, labels)],
        epochs=4,
        evaluate=lambda _: {"accuracy": next(scores)},
        checkpoints=saver,
        checkpoint_epochs=None,
    )
    assert saver.metric_values == [0.1, 0.5, 0.6]


def test_a_checkpoint_without_an_evaluation_has_no_score(tmp_path: Path) -> None:
    saver = FileSaver(tmp_path)
    inputs, labels = task_data()
    run(
        linear(),
        [(inputs, labels)] * 4,
        epochs=1,
        evaluate=lambda _: {"accuracy": 0.5},
        checkpoints=saver,
        checkpoint_interval=2,
    )
    assert math.isnan(saver.metric_values[0])
    assert saver.metric_values[1] == 0.5


def test_hooks_are_called_in_order(tmp_path: Path) -> None:
    calls: list[str] = []

    class Tell(Hook):
        def before_step(self, state: TrainingState) -> None:
            calls.append(f"before {state.step}")

        def after_step(self, state: TrainingState, result: StepResult) -> None:
            calls.append(f"after {state.step} of {result.output.examples}")

        def after_epoch(self, state: TrainingState) -> None:
            calls.append(f"epoch {state.epoch}")

        def metrics(self, state: TrainingState) -> Mapping[str, float]:
            calls.append("metrics")
            return {}

        def on_checkpoint(self, state: TrainingState, path: Path) -> None:
            calls.append("checkpoint")

    inputs, labels = task_data()
    run(linear(), [(inputs, labels)] * 2, epochs=1, hooks=[Tell()], checkpoints=FileSaver(tmp_path))
    assert calls == ["before 0", "after 1 of 52", "before 1", "after 2 of 52", "epoch 1", "metrics", "checkpoint"]


def test_history_can_be_thinned() -> None:
    inputs, labels = task_data()
    state = run(linear(), [(inputs, labels)] * 7, epochs=1, history_interval=3)
    assert state.history["step"] == [3, 6]


def test_steps_and_epochs_whichever_is_first() -> None:
    inputs, labels = task_data()
    assert run(linear(), [(inputs, labels)] * 4, steps=6, epochs=9).step == 6
    assert run(linear(), [(inputs, labels)] * 4, steps=60, epochs=2).step == 8


def test_schedules_count_applied_steps_only() -> None:
    """A float16 scaler that starts too high skips its first steps; warm-up must wait for it."""
    inputs, labels = task_data()
    state = run(
        linear(), [(inputs, labels)] * 40, epochs=1, learning_rate=lambda step: 1.0 / (1 + step),
        precision=MixedPrecisionConfig(init_scale=2.0**40),
    )  # fmt: skip
    assert state.step == 40
    assert 0 < state.applied_steps < 40
    skipped = state.step - state.applied_steps
    assert state.history["learning_rate"][: skipped + 2] == [0.5] * (skipped + 1) + [0.25]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_mixed_precision_learns_and_resumes(dtype: str, tmp_path: Path) -> None:
    precision = MixedPrecisionConfig(dtype=dtype)
    straight, _ = train(tmp_path, precision=precision)
    (tmp_path / "b").mkdir()
    _, saver = train(tmp_path / "b", stop=5, precision=precision)
    again, _ = train(tmp_path / "b", resume=torch.load(saver.paths[-1], weights_only=True), precision=precision)
    assert straight is not None
    assert again is not None
    assert torch.equal(again.model[0].weight, straight.model[0].weight)
    assert straight.history["loss"][-1] < straight.history["loss"][0]
    assert (tmp_path / "b" / "metrics.csv").read_text() == (tmp_path / "metrics.csv").read_text()


class NextToken:
    """Language modelling: batches are token ids ``[B, T]``, a prediction for each but the first."""

    def examples(self, batch: Tensor) -> int:
        return batch[:, 1:].numel()

    def logits(self, model: nn.Module, batch: Tensor) -> Tensor:
        logits: Tensor = model(batch[:, :-1])
        return logits.flatten(0, 1)

    def loss_of(self, logits: Tensor, batch: Tensor) -> TaskOutput:
        return TaskOutput(functional.cross_entropy(logits, batch[:, 1:].flatten()), self.examples(batch))

    def loss(self, model: nn.Module, batch: Tensor) -> TaskOutput:
        return self.loss_of(self.logits(model, batch), batch)

    def score(self, model: nn.Module, batch: Tensor) -> Scored:
        logits, targets = self.logits(model, batch), batch[:, 1:].flatten()
        summed = functional.cross_entropy(logits, targets, reduction="sum")
        return {"loss": summed, "accuracy": (logits.argmax(1) == targets).sum()}, len(targets)


def test_the_loop_assumes_neither_images_nor_classes() -> None:
    class Text:
        def __iter__(self) -> Iterator[Tensor]:
            for start in range(6):
                yield (torch.arange(9) + start).remainder(5).expand(4, 9)

    seed_everything(0)
    model = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 5))
    state = run(
        model, Text(), torch.optim.AdamW(model.parameters(), lr=0.05), NextToken(),
        epochs=10, gradient_accumulation_steps=2, monitor="perplexity", monitor_mode="min",
        evaluate=lambda m: {"perplexity": float(NextToken().loss(m, next(iter(Text()))).loss.exp())},
    )  # fmt: skip
    assert state.step == 30
    assert state.best_score is not None
    assert state.best_score < 1.3


def test_a_compiled_model_keeps_its_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *a, **k: compiled.append(self))
    model = linear()
    inputs, labels = task_data()
    saver = FileSaver(tmp_path)
    run(model, [(inputs, labels)], epochs=1, compile=True, checkpoints=saver)
    assert compiled == [model]  # the inner module, before it is wrapped
    assert list(torch.load(saver.paths[0], weights_only=True)["model_state_dict"]) == ["weight", "bias"]


def test_a_stop_without_checkpoints_says_that_nothing_was_saved() -> None:
    inputs, labels = task_data()
    with pytest.raises(ValueError, match=r"stopped by a test after step 1 of 4 .*nothing was saved"):
        run(linear(), [(inputs, labels)] * 4, epochs=1, hooks=[StopAfter(1)])
