"""Codecs under the loop: the cost, and the balance of its two parts, which is that of a loop by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from bitdial.compression import AdaptiveGammaScheduler, BalancedOptimizer, FactorizedPrior, TaskWeights
from bitdial.compression.photographs import CropLoader
from bitdial.compression.rate_distortion import Balance, RateDistortion
from bitdial.errors import BitdialError
from bitdial.evaluation.sweep import evaluate
from bitdial.recipes.compress.options import CompressConfig
from bitdial.recipes.compress.work import work_of
from bitdial.training import LoopConfig, TrainingDiverged, TrainingState, fit, make_fabric, random_state
from bitdial.training.step.memory import is_out_of_memory
from tests.training.running import FileSaver, load

LAMBDA = 0.01


def codec() -> FactorizedPrior:
    torch.manual_seed(0)
    return FactorizedPrior(4, 4)


def pictures(count: int = 4, batch: int = 2) -> list[Tensor]:
    """Smooth pictures with a little noise."""
    draw = torch.Generator().manual_seed(1)
    places = torch.linspace(0, 3, 32)
    waves = torch.rand(count, batch, 3, 1, 1, generator=draw)
    smooth = 0.5 + 0.3 * torch.sin(places[:, None] * (1 + waves) + places * waves)
    return list((smooth + 0.05 * torch.rand(smooth.shape, generator=draw)).clamp(0, 1))


def train(
    batches: Sequence[Tensor],
    steps: int = 4,
    model: Any = None,
    balance: Any = True,
    lr: float = 0.01,
    options: dict[str, Any] | None = None,
    **more: Any,
) -> tuple[TrainingState, Balance | None]:
    model = codec() if model is None else model
    torch.manual_seed(5)
    task = RateDistortion(LAMBDA)
    weights = TaskWeights(lr=0.05)
    made = Balance(task, weights, **(balance if isinstance(balance, dict) else {})) if balance is not False else None
    loop = LoopConfig(steps=steps, max_grad_norm=1.0, **(options or {}))
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    fabric = make_fabric(accelerator="cpu")
    hooks = [made] if made is not None else []
    return fit(fabric, model, optimizer, task, batches, loop, hooks=hooks, **more), made


def weights_of(state: TrainingState) -> list[Tensor]:
    return [parameter.detach() for parameter in state.model.parameters()]


def same(one: TrainingState, other: TrainingState) -> bool:
    return all(map(torch.equal, weights_of(one), weights_of(other)))


class TestCost:
    def test_is_lambda_times_squared_error_in_grey_levels_plus_bits(self) -> None:
        model, images = codec().eval(), pictures()[0]
        coded = model(images)
        output = RateDistortion(LAMBDA).loss(model, images)
        mse = (255 * coded.images - 255 * images).square().mean()
        bpp = (coded.z_bits.sum() + coded.y_bits.sum()) / (2 * 32 * 32)
        torch.testing.assert_close(output.loss, LAMBDA * mse + bpp)
        torch.testing.assert_close(output.metrics["distortion"] + output.metrics["bpp"], output.loss.detach())

    def test_scores_are_means_over_pictures_of_any_size_with_values_cut(self) -> None:
        model = codec()
        images = [pictures()[0][:1], pictures()[1][:1, :, :17, :23]]
        scores = evaluate(model, images, task=RateDistortion(LAMBDA))
        model.eval()
        by_hand = []
        for image in images:
            coded = model(image)
            error = (coded.images.clamp(0, 1) - image).square().mean().item()
            bpp = (coded.z_bits + coded.y_bits.sum(1)).item() / image[0, 0].numel()
            by_hand.append((LAMBDA * 255**2 * error + bpp, bpp, -10 * math.log10(error)))
        for name, values in zip(("loss", "bpp", "psnr"), zip(*by_hand, strict=True), strict=True):
            assert scores[name] == pytest.approx(sum(values) / 2, rel=1e-5)

    @pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "many", None, True])
    def test_lambda_is_a_number_above_zero(self, value: Any) -> None:
        with pytest.raises(BitdialError, match="lambda must be"):
            RateDistortion(value)


class TestBalance:
    @pytest.mark.parametrize("options", [{}, {"warmup_steps": 2}, {"every": 3}, {"same_noise": False}], ids=str)
    def test_is_the_balanced_optimizer_of_a_loop_by_hand(self, options: dict[str, Any]) -> None:
        batches = pictures()
        state, balance = train(batches, steps=8, balance=options)
        model = codec()
        torch.manual_seed(5)
        task = RateDistortion(LAMBDA)
        names = {"every": "second_forward_every"}
        inner = torch.optim.Adam(model.parameters(), lr=0.01)
        optimizer = BalancedOptimizer(
            inner, w_lr=0.05, max_norm=1.0, **{names.get(name, name): value for name, value in options.items()}
        )
        for images in [*batches, *batches]:
            optimizer.step(lambda images=images: task.losses(model(images), images))
        assert balance is not None
        assert torch.equal(balance.weights.w, optimizer.w)
        assert balance.second_forwards == optimizer.second_forwards
        for one, other in zip(weights_of(state), model.parameters(), strict=True):
            assert torch.equal(one, other)

    def test_history_has_weights_and_losses_of_every_step(self) -> None:
        state, balance = train(pictures(), steps=5, balance={"warmup_steps": 2})
        history = state.history
        assert history["p_rate"][:2] == [1.0, 1.0]
        for distortion, rate in zip(history["p_distortion"][2:], history["p_rate"][2:], strict=True):
            assert distortion + rate == pytest.approx(1)
        assert history["w_rate"][1] == 0.0
        assert history["w_rate"][-1] == balance.weights.w[1].item() != 0
        assert history["loss"] == pytest.approx(
            [sum(both) for both in zip(history["distortion"], history["bpp"], strict=True)], rel=1e-5
        )

    def test_a_batch_that_is_not_finite_is_skipped_counted_and_moves_nothing(self) -> None:
        batches = pictures(3)
        batches[1] = torch.full_like(batches[1], math.nan)
        state, balance = train(batches, steps=3)
        assert (state.applied_steps, state.control.not_finite) == (2, 1)
        assert balance.second_forwards == 2
        assert torch.isfinite(balance.weights.w).all()
        assert all(bool(each.isfinite().all()) for each in weights_of(state))

    def test_batches_that_are_never_finite_stop_the_run(self) -> None:
        with pytest.raises(TrainingDiverged, match="the loss was not a finite number in 10 steps in a row"):
            train([torch.full((2, 3, 32, 32), math.nan)] * 4, steps=20)

    def test_draws_as_many_random_numbers_as_plain_training(self) -> None:
        train(pictures(), balance=False)
        plain = random_state()["torch"]
        train(pictures())
        assert torch.equal(random_state()["torch"], plain)

    @pytest.mark.parametrize("stop", [1, 2, 4, 5, 7])
    def test_resumes_exactly_at_any_step(self, stop: int, tmp_path: Any) -> None:
        def options(weights: TaskWeights) -> dict[str, Any]:
            return {"warmup_steps": 2, "every": 2, "gamma": AdaptiveGammaScheduler(weights, "cosine", total_epochs=2)}

        def run(steps: int, **more: Any) -> tuple[TrainingState, Balance]:
            model = codec()
            torch.manual_seed(5)
            task, weights = RateDistortion(LAMBDA), TaskWeights(lr=0.05)
            balance = Balance(task, weights, **options(weights))
            optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
            fabric, loop = make_fabric(accelerator="cpu"), LoopConfig(steps=steps)
            return fit(fabric, model, optimizer, task, pictures(), loop, hooks=[balance], **more), balance

        whole, balance = run(8)
        saver = FileSaver(tmp_path)
        run(stop, checkpoints=saver)
        again, resumed = run(8, resume=load(saver.paths[-1]))
        assert same(whole, again)
        assert torch.equal(balance.weights.w, resumed.weights.w)
        assert balance.weights.gamma == resumed.weights.gamma
        assert whole.history == again.history
        assert balance.second_forwards == resumed.second_forwards == 3

    def test_several_batches_of_a_step_are_looked_at_by_the_last(self) -> None:
        state, balance = train(pictures(), steps=2, options={"gradient_accumulation_steps": 2})
        assert (state.step, balance.second_forwards) == (2, 2)
        assert state.history["bpp"][-1] > 0

    def test_a_step_that_runs_out_of_memory_is_balanced_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes = []

        class Small(FactorizedPrior):
            def forward(self, images: Tensor) -> Any:
                sizes.append(len(images))
                if len(images) > 1:
                    raise torch.OutOfMemoryError("out of memory")
                return super().forward(images)

        torch.manual_seed(0)
        assert is_out_of_memory(torch.OutOfMemoryError("out of memory"))
        state, balance = train(pictures(), steps=2, model=Small(4, 4))
        assert balance.second_forwards == 2
        assert set(sizes[1:]) == {1}
        assert state.control.memory_retries == 1


class TestGamma:
    def test_moves_after_every_epoch_and_is_logged(self) -> None:
        task, weights, model = RateDistortion(LAMBDA), TaskWeights(), codec()
        scheduler = AdaptiveGammaScheduler(weights, "linear", 0.006, 0.002, total_epochs=4)
        balance = Balance(task, weights, gamma=scheduler)
        optimizer = torch.optim.Adam(model.parameters())
        fabric = make_fabric(accelerator="cpu")
        state = fit(fabric, model, optimizer, task, pictures(2), LoopConfig(epochs=4), hooks=[balance])
        assert state.history["gamma"] == pytest.approx([0.006, 0.006, 0.005, 0.005, 0.004, 0.004, 0.003, 0.003])
        assert weights.gamma == pytest.approx(0.002)

    def test_decays_where_the_mean_cost_of_epochs_is_flat(self) -> None:
        task, weights, model = RateDistortion(LAMBDA), TaskWeights(), codec()
        scheduler = AdaptiveGammaScheduler(weights, "adaptive", 0.006, 0.002, total_epochs=6, window_size=2)
        balance = Balance(task, weights, gamma=scheduler)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.0)  # nothing is learned: every window is flat
        fabric = make_fabric(accelerator="cpu")
        state = fit(fabric, model, optimizer, task, pictures(2), LoopConfig(epochs=6), hooks=[balance])
        assert state.history["gamma"][::2] == pytest.approx([0.006, 0.006, 0.004, 0.004, 0.003, 0.003])


@pytest.mark.slow
def test_without_a_warm_up_lambda_has_no_effect() -> None:
    """While losses are far above 1, the gradient of their logarithms does not know lambda."""
    work = work_of(CompressConfig())
    held_out = [images[:, :, :192, :192] for images in work.loaders(0).test]

    def trained(value: float, warmup_steps: int) -> dict[str, float]:
        torch.manual_seed(0)
        model, task = FactorizedPrior(8, 8), RateDistortion(value)
        balance = Balance(task, TaskWeights(), warmup_steps=warmup_steps)
        optimizer, loop = torch.optim.Adam(model.parameters(), 2e-3), LoopConfig(steps=300, max_grad_norm=1.0)
        fit(
            make_fabric(accelerator="cpu"),
            model,
            optimizer,
            task,
            CropLoader(work.train, 48, 4, crops=40),
            loop,
            hooks=[balance],
        )
        return evaluate(model, held_out, task=task)

    low, high = (trained(value, 0) for value in (0.0018, 0.0483))
    assert high["bpp"] == pytest.approx(low["bpp"], rel=0.05)
    assert high["psnr"] == pytest.approx(low["psnr"], abs=0.3)
    low, high = (trained(value, 200) for value in (0.0018, 0.0483))
    assert high["bpp"] > 1.08 * low["bpp"]
