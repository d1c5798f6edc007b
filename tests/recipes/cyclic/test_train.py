"""Training with cyclic and with static precision: each option does what it says."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitdial import BitDial, cost, quantize
from bitdial.errors import BitdialError
from bitdial.evaluation.equal_cost import ledger_of
from bitdial.layers import QuantizedLayer
from bitdial.recipes.cyclic import (
    PhaseResult,
    PhaseSetup,
    StaticPrecisionConfig,
    evaluate_cyclic_training,
    train_with_cpt,
    train_with_static_precision,
)
from bitdial.recipes.cyclic.recipe import CycleCheckpoints
from bitdial.training import MetricsLog, seed_everything
from tests.recipes.cyclic.tiny import (
    BATCH,
    LAYERS,
    batches,
    loaders,
    model_config,
    network,
    precision,
    training,
    weights,
)


def cpt(*, setup: PhaseSetup | None = None, teacher: nn.Module | None = None, **changes: Any) -> PhaseResult:
    """Train the tiny network; `changes` go to the training and, where it has no such field, to the precision."""
    known = type(training()).model_fields
    mine = {name: value for name, value in changes.items() if name in known}
    cyclic = {name: value for name, value in changes.items() if name not in known}
    seed_everything(0)
    return train_with_cpt(
        network(), loaders(), training(**mine), precision(**cyclic), model_config(), teacher=teacher, setup=setup
    )


def static(bits: Any, model: nn.Module | None = None, **changes: Any) -> PhaseResult:
    seed_everything(0)
    return train_with_static_precision(
        network() if model is None else model, bits, loaders(), training(), None, model_config(), **changes
    )


class Watch:
    """Notes the widths and the learning rate of every training step of every layer, in the forward pass itself."""

    def __init__(self, model: nn.Module) -> None:
        self.widths: list[list[float]] = []
        self.model = model

    def __enter__(self) -> Watch:
        layers = [m for m in self.model.modules() if isinstance(m, QuantizedLayer)]

        def note(module: nn.Module, inputs: Any) -> None:
            if self.model.training:
                self.widths.append([float(layer.weight_bits) for layer in layers])

        self.handle = layers[0].register_forward_pre_hook(note)
        return self

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


class TestCyclic:
    def test_every_step_of_the_history_runs_at_the_pattern(self) -> None:
        model = quantize(network())
        with Watch(model) as watch:
            result = train_with_cpt(model, loaders(), training(), precision(), model_config())
        assert watch.widths == [[b] * LAYERS for b in (8, 4, 2, 4, 8)] * 4
        history = result.history
        assert history.step == list(range(20))
        assert history.cycle_boundaries == [0, 5, 10, 15, 20]
        assert result.iterations == 20
        assert all(math.isfinite(loss) for loss in history.loss)
        assert result.model is model

    def test_it_learns(self) -> None:
        result = cpt(num_cpt_iterations=60)
        (score,) = evaluate_cyclic_training(result.model, loaders().test, [8], recalibration_batches=batches(0))
        assert score.accuracy > 0.6  # chance is a quarter
        assert sum(result.history.loss[-10:]) < 0.6 * sum(result.history.loss[:10])

    def test_same_seed_same_weights(self) -> None:
        assert torch.equal(weights(cpt().model), weights(cpt().model))

    def test_average_bits_and_bitops_by_hand(self) -> None:
        """Three layers of 24 x 24 at the dial's width, the first (8 x 24) and last (24 x 4) at 32."""
        result = cpt()
        inner, outer = 3 * 24 * 24, 8 * 24 + 24 * 4
        mean = (8 + 4 + 2 + 4 + 8) / 5
        assert result.average_bits == pytest.approx((inner * mean + outer * 32) / (inner + outer))
        # forward w a, input gradient w g (not for the layer that reads the input), weight gradient a g; g = 32
        per_step = [inner * (b * b + b * 32 + b * 32) for b in (8, 4, 2, 4, 8)]
        fixed = outer * 32 * 32 * 3 - 8 * 24 * 32 * 32
        assert result.bitops == pytest.approx(BATCH * 4 * (sum(per_step) + 5 * fixed))

    def test_gradient_bits_reach_the_layers_and_the_cost(self) -> None:
        coarse, plain = cpt(gradient_bits=8), cpt()
        assert BitDial(coarse.model).gradients == [8.0] * LAYERS
        assert BitDial(plain.model).gradients == [32.0] * LAYERS
        assert coarse.bitops < 0.7 * plain.bitops
        assert not torch.equal(weights(coarse.model), weights(plain.model))
        assert not torch.equal(weights(cpt(gradient_bits=3).model), weights(coarse.model))

    def test_layer_wise_cycling(self) -> None:
        model = quantize(network())
        with Watch(model) as watch:
            train_with_cpt(
                model, loaders(), training(), precision(layer_wise_cycling=True, layer_cycle_offset=1), model_config()
            )
        assert watch.widths[:3] == [[8, 4, 2], [4, 2, 4], [2, 4, 8]]

    def test_learning_rate_follows_the_bits_in_the_history_and_in_the_log(self, tmp_path: Path) -> None:
        plain = cpt()
        with MetricsLog(tmp_path, tensorboard=False) as log:
            scaled = cpt(adjust_lr_with_bits=True, log_interval=1, setup=PhaseSetup(log=log))
        factors = [b / a for a, b in zip(plain.history.learning_rate, scaled.history.learning_rate, strict=True)]
        assert factors == pytest.approx([1.0, 0.75, 0.5, 0.75, 1.0] * 4)
        lines = (tmp_path / "metrics.csv").read_text().splitlines()
        column = lines[0].split(",").index("learning_rate")
        assert [float(line.split(",")[column]) for line in lines[1:]] == scaled.history.learning_rate

    def test_warm_up_then_a_cosine(self) -> None:
        rates = cpt(warmup_steps=4, learning_rate=0.2).history.learning_rate
        assert rates[:4] == pytest.approx([0.05, 0.1, 0.15, 0.2])
        assert rates[4] == pytest.approx(0.2)
        assert all(later < earlier for earlier, later in pairwise(rates[4:]))
        assert rates[-1] < 0.01

    def test_accumulation_equals_the_larger_batch(self) -> None:
        """Without batch norm, four batches of 16 make the step that one batch of 64 makes."""
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 12), nn.Tanh(), nn.Linear(12, 4))
        small = batches(0, 8)
        large = [
            (torch.cat([x for x, _ in small[i : i + 4]]), torch.cat([y for _, y in small[i : i + 4]])) for i in (0, 4)
        ]
        options = {"num_cpt_iterations": 6, "warmup_steps": 0}
        width = precision(bit_width_pattern=[32])
        split, whole = copy.deepcopy(plain), copy.deepcopy(plain)
        one = train_with_cpt(
            split, (small, small), training(gradient_accumulation_steps=4, **options), width, model_config()
        )
        other = train_with_cpt(whole, (large, large), training(**options), width, model_config())
        assert weights(split) == pytest.approx(weights(whole), abs=1e-5)
        assert one.bitops == other.bitops

    def test_clipping_bounds_what_a_step_moves(self) -> None:
        start = weights(_seeded())
        options: dict[str, Any] = {"num_cpt_iterations": 1, "warmup_steps": 0, "learning_rate": 0.1, "weight_decay": 0}
        clipped = weights(cpt(max_grad_norm=0.01, **options).model)
        assert float((clipped - start).norm()) == pytest.approx(0.1 * 0.01, rel=0.01)
        assert float((weights(cpt(**options).model) - start).norm()) > 0.01

    def test_autocast_computes_in_bfloat16(self) -> None:
        seen: list[torch.dtype] = []
        model = quantize(network())
        last: Any = model[-1]
        last.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
        train_with_cpt(model, loaders(), training(use_amp=True), precision(), model_config())
        half = torch.float16 if torch.cuda.is_available() else torch.bfloat16
        assert half in seen
        assert next(model.parameters()).dtype == torch.float32

    def test_distillation_follows_the_teacher(self) -> None:
        """A teacher that always says class 2 pulls the student there, the more so the larger alpha."""
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(8, 4))
        with torch.no_grad():
            teacher[1].weight.zero_()
            teacher[1].bias.copy_(torch.tensor([0.0, 0.0, 20.0, 0.0]))
        kept = weights(teacher)

        def share(alpha: float) -> float:
            model = cpt(teacher=teacher, distillation_alpha=alpha, num_cpt_iterations=40).model.eval()
            with torch.no_grad():
                return float((model(torch.cat([x for x, _ in batches(5)])).argmax(dim=1) == 2).float().mean())

        assert share(0.0) < 0.5
        assert share(1.0) > 0.95
        assert torch.equal(weights(teacher), kept)

    def test_distillation_without_a_teacher_is_refused(self) -> None:
        with pytest.raises(BitdialError, match="teacher"):
            cpt(distillation_alpha=0.5)

    def test_teacher_is_ignored_at_alpha_0(self) -> None:
        assert torch.equal(weights(cpt(teacher=network()).model), weights(cpt().model))

    def test_cycle_checkpoints(self, tmp_path: Path) -> None:
        result = cpt(setup=PhaseSetup(hooks=[CycleCheckpoints(tmp_path / "cycles", 5)]))
        files = sorted((tmp_path / "cycles").iterdir())
        assert [file.name for file in files] == [f"cycle-{n:04d}.pt" for n in (1, 2, 3, 4)]
        last = torch.load(files[-1], weights_only=True)
        model = quantize(network())
        model.load_state_dict(last)
        assert torch.equal(weights(model), weights(result.model))

    def test_evaluations_in_between_go_to_the_log_and_change_nothing(self, tmp_path: Path) -> None:
        with MetricsLog(tmp_path, tensorboard=False) as log:
            watched = cpt(eval_interval=10, setup=PhaseSetup(log=log))
        assert "val_accuracy" in (tmp_path / "metrics.csv").read_text()
        assert torch.equal(weights(watched.model), weights(cpt().model))

    def test_a_loss_that_is_not_finite_stops_with_a_sentence(self) -> None:
        bad = [(x * float("inf"), y) for x, y in batches(0)]
        with pytest.raises(BitdialError, match="loss became nan at step 1"):
            train_with_cpt(network(), (bad, bad), training(), precision(), model_config())

    def test_loaders_as_a_pair_or_a_triple(self) -> None:
        data = loaders()
        seed_everything(0)
        pair = train_with_cpt(network(), (data.train, data.test), training(), precision(), model_config())
        assert torch.equal(weights(pair.model), weights(cpt().model))
        with pytest.raises(BitdialError, match="train, test"):
            train_with_cpt(network(), [data.train], training())
        with pytest.raises(BitdialError, match="at least one batch"):
            train_with_cpt(network(), ([], []), training())

    def test_a_quantized_model_is_taken_as_it_is(self) -> None:
        model = quantize(network(), skip=())
        train_with_cpt(model, loaders(), training(num_cpt_iterations=2), precision(), model_config())
        assert len(BitDial(model)) == LAYERS + 2

    def test_works_on_any_schedule(self) -> None:
        model = quantize(network())
        with Watch(model) as watch:
            train_with_cpt(
                model, loaders(), training(), precision(), model_config(), schedule=lambda step, layer: 2 + layer
            )
        assert watch.widths == [[2, 3, 4]] * 20


def _seeded() -> nn.Module:
    seed_everything(0)
    return network()


class TestStatic:
    def test_one_width_for_all_layers(self) -> None:
        model = quantize(network())
        with Watch(model) as watch:
            result = static(4, model)
        assert watch.widths == [[4] * LAYERS] * 8
        assert BitDial(model).weights == [4] * LAYERS
        assert result.history.cycle_boundaries == []

    def test_a_list_alternates_over_the_layers(self) -> None:
        model = quantize(network())
        with Watch(model) as watch:
            result = static([2, 4], model)
        assert watch.widths == [[2, 4, 2]] * 8
        inner, outer = 24 * 24, 8 * 24 + 24 * 4
        assert result.average_bits == pytest.approx((inner * (2 + 4 + 2) + outer * 32) / (3 * inner + outer))

    def test_progressive_steps_down(self) -> None:
        model = quantize(network())
        with Watch(model) as watch:
            static("progressive", model, iterations=6)
        assert watch.widths == [[b] * LAYERS for b in (8, 8, 4, 4, 2, 2)]
        assert BitDial(model).weights == [2] * LAYERS

    def test_the_learning_rate_is_scaled_for_fine_tuning(self) -> None:
        assert static(4).history.learning_rate[0] == pytest.approx(0.05)
        seed_everything(0)
        scaled = train_with_static_precision(
            network(), 4, loaders(), training(), StaticPrecisionConfig(finetune_lr_scale=0.1), model_config()
        )
        assert scaled.history.learning_rate[0] == pytest.approx(0.01)
        assert static(4, learning_rate=0.3).history.learning_rate[0] == pytest.approx(0.3)

    def test_32_bits_is_the_unquantized_network(self) -> None:
        """Trained at 32 bits the quantized network walks exactly where a plain one does."""
        quantized = static(32).model
        plain = _seeded()
        optimizer = torch.optim.SGD(plain.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
        for step, (x, y) in enumerate(batches(0)[:8]):
            for group in optimizer.param_groups:
                group["lr"] = 0.05 * (0.5 * (1 + math.cos(math.pi * step / 8)))
            optimizer.zero_grad()
            nn.functional.cross_entropy(plain(x), y).backward()
            optimizer.step()
        assert weights(quantized) == pytest.approx(weights(plain), abs=1e-4)

    def test_gradient_bits_on_a_fresh_network(self) -> None:
        assert BitDial(static(8, gradient_bits=6).model).gradients == [6] * LAYERS

    def test_refuses(self) -> None:
        with pytest.raises(BitdialError, match="at least one width"):
            static([])
        with pytest.raises(ValueError, match=r"\[1, 32\]"):
            static(64)


class TestEvaluation:
    def test_scores_at_each_target_width_and_leaves_the_model(self) -> None:
        model = cpt(num_cpt_iterations=40).model
        before = {key: value.clone() for key, value in model.state_dict().items()}
        data = loaders()
        scores = evaluate_cyclic_training(
            model, data.test, [1, 8, [2, 4, 8]], recalibration_batches=data.recalibration, perplexity=True
        )
        assert [score.bits for score in scores] == pytest.approx([1, 8, 14 / 3])
        assert scores[1].accuracy > scores[0].accuracy
        assert scores[1].perplexity == pytest.approx(math.exp(scores[1].loss))
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())

    def test_statistics_are_reestimated_unless_switched_off(self) -> None:
        model, data = cpt().model, loaders()
        (with_,) = evaluate_cyclic_training(model, data.test, [2], recalibration_batches=data.recalibration)
        (without,) = evaluate_cyclic_training(model, data.test, [2], reestimate=False)
        assert with_.loss != without.loss
        model.eval()
        BitDial(model).set(2)
        x, y = torch.cat([x for x, _ in data.test]), torch.cat([y for _, y in data.test])
        with torch.no_grad():
            by_hand = nn.functional.cross_entropy(model(x), y)
        assert without.loss == pytest.approx(float(by_hand), rel=1e-5)


def test_ledger_is_taken_from_the_first_batch() -> None:
    model = quantize(network())
    assert ledger_of(model, batches(0)) == cost(model, batches(0)[0][0][:1])
