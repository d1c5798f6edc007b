"""The comparison: which arms there are, what each does, and what each costs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bitdial import BitDial, cost, quantize
from bitdial.errors import BitdialError
from bitdial.evaluation import ArmResult
from bitdial.evaluation.equal_cost import batches_in_step, matched_steps
from bitdial.recipes.cyclic import (
    CyclicPrecisionConfig,
    CyclicResults,
    ExperimentConfig,
    ModelConfig,
    StaticPrecisionConfig,
    compare_bit_configurations,
    schedule_bitops,
)
from bitdial.recipes.cyclic.arms import ablation_schedule, plan_arms
from bitdial.recipes.cyclic.options import CyclicConfig, ModelOptions
from bitdial.recipes.cyclic.recipe import CYCLIC, CyclicRun
from bitdial.recipes.work import OwnWork
from bitdial.training import RunFolder, Setup
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


def compare(**changes: Any) -> CyclicResults:
    options: dict[str, Any] = {
        "model_config": model_config(),
        "training": training(),
        "precision": precision(),
        "static": StaticPrecisionConfig(test_configurations={"4bit": 4, "mixed": [2, 4]}),
    }
    return compare_bit_configurations(network, loaders, **{**options, **changes})


def options(**changes: Any) -> CyclicConfig:
    settings: dict[str, Any] = {
        "model_options": ModelOptions(bit_widths=[2, 4, 8]),
        "cyclic": precision(),
        "static": StaticPrecisionConfig(test_configurations={"4bit": 4}),
        "num_cpt_iterations": 20,
        "num_static_iterations": 8,
        "warmup_steps": 2,
        "batch_size": BATCH,
        "log_interval": 5,
    }
    return CyclicConfig(**{**settings, **changes})


def run(folder: Path | None = None, *, make_loaders: Any = loaders, seeds: Any = (0,), **changes: Any) -> CyclicRun:
    """A run of the engine on the tiny network."""
    work = OwnWork(network, lambda seed, rank, world: make_loaders(seed))
    setup = changes.pop("setup", Setup())
    return CyclicRun(CYCLIC, options(**changes), work, seeds, setup, None if folder is None else RunFolder(folder))


def arm(results: CyclicResults, name: str) -> ArmResult:
    return next(arm for arm in results.arms if arm.name == name)


@pytest.fixture(scope="module")
def results() -> CyclicResults:
    every = ExperimentConfig(ablations=["no_cycling", "fixed_pattern", "random_cycling", "layer_independent"])
    static = StaticPrecisionConfig(test_configurations={"4bit": 4, "mixed": [2, 4], "down": "progressive"})
    return compare(experiment=every, static=static, precision=precision(smooth_transitions=True, transition_steps=1))


class TestArms:
    def test_all_arms_in_order(self, results: CyclicResults) -> None:
        assert [arm.name for arm in results.arms] == [
            "baseline_fp32", "cpt", "static_4bit", "static_mixed", "static_down", "matched_cost",
            "ablation_no_cycling", "ablation_fixed_pattern", "ablation_random_cycling", "ablation_layer_independent",
        ]  # fmt: skip

    def test_each_is_measured_at_each_target_width_and_unquantized(self, results: CyclicResults) -> None:
        for found in results.arms:
            assert [score.bits for score in found.scores] == [2, 4, 8, 32]

    def test_what_each_would_ship(self, results: CyclicResults) -> None:
        ships = {found.name: (found.own.bits, found.own_label) for found in results.arms}
        assert ships["baseline_fp32"] == (32, "32")
        assert ships["cpt"] == ships["matched_cost"] == ships["ablation_no_cycling"] == (8, "8")
        assert ships["static_4bit"] == (4, "4")
        assert ships["static_mixed"] == (pytest.approx(8 / 3), "2/4 alternating")
        assert ships["static_down"] == (2, "2")

    def test_what_each_trains_at(self, results: CyclicResults) -> None:
        def widths(name: str) -> list[float]:
            return arm(results, name).history.bits

        assert widths("baseline_fp32") == pytest.approx([32] * 20)
        assert widths("cpt") == pytest.approx([8, 4, 2, 4, 8] * 4)
        assert widths("static_4bit") == pytest.approx([4] * 8)
        assert widths("static_mixed") == pytest.approx([8 / 3] * 8)
        assert widths("static_down") == pytest.approx([8, 8, 8, 4, 4, 4, 2, 2])
        assert widths("matched_cost")[0] == pytest.approx(8)
        assert widths("ablation_no_cycling") == pytest.approx([8] * 20)
        assert widths("ablation_fixed_pattern") == pytest.approx([8, 4, 2, 4, 8] * 4)
        assert set(map(round, widths("ablation_random_cycling"))) == {2, 4, 8}
        assert widths("ablation_random_cycling") != pytest.approx([8, 4, 2, 4, 8] * 4)

    def test_lengths(self, results: CyclicResults) -> None:
        steps = {found.name: found.iterations for found in results.arms}
        assert steps["baseline_fp32"] == steps["cpt"] == steps["ablation_random_cycling"] == 20
        assert steps["static_4bit"] == steps["static_down"] == 8
        assert steps["matched_cost"] < 20

    def test_cost_and_time_of_a_fine_tune_hold_those_of_the_run_it_starts_from(self, results: CyclicResults) -> None:
        before, tuned = arm(results, "cpt"), arm(results, "static_4bit")
        assert tuned.bitops == tuned.bitops_own + before.bitops
        assert tuned.seconds == tuned.seconds_own + before.seconds  # type: ignore[operator]
        assert before.bitops == before.bitops_own

    def test_learning_rates(self, results: CyclicResults) -> None:
        assert arm(results, "static_4bit").history.learning_rate[0] == pytest.approx(0.05)
        warm = [arm(results, name).history.learning_rate[:2] for name in ("cpt", "baseline_fp32", "matched_cost")]
        assert warm == [pytest.approx([0.05, 0.1])] * 3

    def test_only_the_cyclic_arm_has_cycles_to_analyse(self, results: CyclicResults) -> None:
        assert [(found.arm, len(found.cycles)) for found in results.cycles] == [("cpt", 4)]
        assert 0 <= results.cycles[0].stability_score <= 1

    def test_accuracy_per_average_bit_ranking_and_reason(self, results: CyclicResults) -> None:
        comparison = results.comparison
        assert sorted(comparison.ranking) == sorted(found.name for found in results.arms)
        for row in comparison.summaries:
            assert row.accuracy_per_bit == pytest.approx(100 * row.own.mean / row.average_bits)
        assert comparison.reason.startswith(
            f"{comparison.recommended} at {comparison.recommended_label} bits is recommended"
        )
        assert comparison.recommended not in ("baseline_fp32", "ablation_no_cycling")

    def test_results_file(self, results: CyclicResults, tmp_path: Path) -> None:
        assert CyclicResults.load(results.save(tmp_path / "r.json")).comparison == results.comparison


class TestMatchedCost:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"precision": precision(gradient_bits=8)},
            {"precision": precision(layer_wise_cycling=True, layer_cycle_offset=1)},
            {"precision": precision(profile="cosine_repeated", bit_width_pattern=[3, 8])},
            {"training": training(num_cpt_iterations=23, gradient_accumulation_steps=3)},
            {"training": training(num_cpt_iterations=1)},
            {"model_config": model_config(default_bit_width=16)},
            {"model_config": model_config(default_bit_width=3)},
        ],
        ids=lambda value: str(value)[:50],
    )
    def test_bitops_equal_those_of_the_cyclic_phase_to_half_a_step(self, changes: dict[str, Any]) -> None:
        results = compare(static=StaticPrecisionConfig(test_configurations={}), **changes)
        cyclic, matched = arm(results, "cpt"), arm(results, "matched_cost")
        assert matched.kind == "matched"
        accumulation = changes.get("training", training()).gradient_accumulation_steps
        step = matched.bitops / matched.iterations if accumulation == 1 else _largest_step(matched, accumulation)
        assert abs(matched.bitops - cyclic.bitops) <= 0.5 * step * (1 + 1e-9)

    def test_schedule_bitops_is_what_training_counts(self) -> None:
        results = compare(static=StaticPrecisionConfig(test_configurations={}))
        model = quantize(network())
        ledger = cost(model, batches(0)[0][0][:1])
        total = schedule_bitops(ledger, precision().layer_schedule(), LAYERS, 20)
        assert arm(results, "cpt").bitops == pytest.approx(BATCH * total)

    def test_nearest_number_of_steps(self) -> None:
        assert [matched_steps(total, 10) for total in (1, 10, 14.9, 15, 25.1, 30)] == [1, 1, 1, 2, 3, 3]
        assert matched_steps(35, 10, lambda step: 2 if step == 0 else 1) == 3  # 20 + 10 + 10 is nearer than 20 + 10

    def test_steps_at_the_end_of_an_epoch_are_shorter(self) -> None:
        sizes = batches_in_step(batches(0, 10), 4)
        assert [sizes(step) for step in range(7)] == [4, 4, 2, 4, 4, 2, 4]
        assert [batches_in_step(batches(0, 8), 4)(step) for step in range(3)] == [4, 4, 4]
        assert batches_in_step(iter([]), 4)(9) == 4


def _largest_step(found: ArmResult, accumulation: int) -> float:
    batches_done = sum(batches_in_step(batches(0), accumulation)(step) for step in range(found.iterations))
    return found.bitops / batches_done * accumulation


class TestAblations:
    model = ModelConfig()

    def walk(self, name: Any, config: CyclicPrecisionConfig, steps: int, seed: int = 0) -> list[list[float]]:
        bits = ablation_schedule(name, config, self.model, layers=LAYERS, seed=seed)
        return [[bits(step, layer) for layer in range(LAYERS)] for step in range(steps)]

    def test_fixed_pattern_drops_every_refinement(self) -> None:
        refined = CyclicPrecisionConfig(
            bit_width_pattern=[8, 2], cycle_length=4, use_reverse_cycle=True, smooth_transitions=True,
            progressive_cycles=True, layer_wise_cycling=True,
        )  # fmt: skip
        assert self.walk("fixed_pattern", refined, 8) == [[b] * LAYERS for b in (8, 8, 2, 2, 8, 8, 2, 2)]

    def test_random_cycling_draws_the_same_widths_held_as_long(self) -> None:
        config = CyclicPrecisionConfig(bit_width_pattern=[8, 4, 2], cycle_length=6)
        seen = [row[0] for row in self.walk("random_cycling", config, 120)]
        assert set(seen) == {8, 4, 2}
        assert seen[::2] == seen[1::2]
        assert seen != [config.schedule()(step) for step in range(120)]
        assert seen != [row[0] for row in self.walk("random_cycling", config, 120, seed=1)]

    def test_layer_independent_gives_each_layer_an_offset_of_its_own(self) -> None:
        config = CyclicPrecisionConfig(bit_width_pattern=[8, 7, 6, 5, 4, 3], cycle_length=6)
        rows = self.walk("layer_independent", config, 12)
        cycle = [8, 7, 6, 5, 4, 3]
        for layer in range(LAYERS):
            column = [row[layer] for row in rows]
            start = cycle.index(column[0])
            assert column == [cycle[(start + step) % 6] for step in range(12)]
        assert len(set(rows[0])) > 1

    def test_learning_rate_factors_hold_in_ablations_too(self) -> None:
        results = compare(
            experiment=ExperimentConfig(ablations=["fixed_pattern"]),
            precision=precision(adjust_lr_with_bits=True),
            static=StaticPrecisionConfig(test_configurations={}),
        )
        rates = [arm(results, name).history.learning_rate for name in ("cpt", "ablation_fixed_pattern")]
        assert rates[0] == rates[1]


class TestSeeds:
    def test_intervals_over_seeds(self) -> None:
        results = compare(seeds=3, static=StaticPrecisionConfig(test_configurations={}))
        assert {found.seed for found in results.arms} == {0, 1, 2}
        for row in results.comparison.summaries:
            assert row.own.n == row.seeds == 3
            assert row.own.low is not None
            assert row.own.low <= row.own.mean <= row.own.high  # type: ignore[operator]

    def test_a_seed_gives_the_same_whatever_ran_before_it(self) -> None:
        bare = StaticPrecisionConfig(test_configurations={})
        both, alone = compare(seeds=[4, 7], static=bare), compare(seeds=[7], static=bare)
        after = [found for found in both.arms if found.seed == 7]
        for one, other in zip(after, alone.arms, strict=True):
            assert one.scores == other.scores
            assert one.history.loss == other.history.loss

    def test_number_from_the_experiment(self) -> None:
        bare = StaticPrecisionConfig(test_configurations={}, compare_to_baseline=False)
        results = compare(
            experiment=ExperimentConfig(seeds=2), static=bare, training=training(seed=5, num_cpt_iterations=5)
        )
        assert sorted({found.seed for found in results.arms}) == [5, 6]
        assert results.config["experiment"]["seeds"] == 2

    @pytest.mark.parametrize("seeds", [0, [], [1, 1]])
    def test_refuses(self, seeds: Any) -> None:
        with pytest.raises(BitdialError, match="seeds"):
            compare(seeds=seeds)


class TestStarts:
    def test_fine_tunes_start_from_the_cyclic_weights_and_others_from_scratch(self, tmp_path: Path) -> None:
        """A fine-tune whose learning rate is next to nothing ends where it started: at the cyclic model."""
        still = StaticPrecisionConfig(test_configurations={"4bit": 4}, finetune_lr_scale=1e-12)
        job = run(tmp_path, static=still)
        job.arms()
        cyclic, tuned, matched = (job.load_arm(name, 0) for name in ("cpt", "static_4bit", "matched_cost"))
        assert weights(tuned) == pytest.approx(weights(cyclic), abs=1e-6)
        assert weights(matched) != pytest.approx(weights(cyclic), abs=1e-2)

    def test_the_baseline_teaches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        teachers: dict[str, tuple[Any, float]] = {}
        plain_fit = Setup.fit

        def watched(setup: Setup, model: nn.Module, optimizer: Any, task: Any, *rest: Any, **named: Any) -> Any:
            assert setup.progress is not None
            teachers[setup.progress.label.split()[0]] = (getattr(task, "teacher", None), getattr(task, "alpha", 0.0))
            return plain_fit(setup, model, optimizer, task, *rest, **named)

        monkeypatch.setattr(Setup, "fit", watched)
        results = compare(training=training(distillation_alpha=0.5))
        assert teachers.pop("baseline_fp32") == (None, 0.0)
        teacher = teachers["cpt"][0]
        assert teacher is not None
        assert BitDial(teacher).weights == [32] * LAYERS
        assert all(found == (teacher, 0.5) for found in teachers.values())
        assert {"cpt", "static_4bit", "matched_cost"} <= teachers.keys()
        assert math.isfinite(arm(results, "cpt").own.loss)

    def test_distillation_without_the_baseline_is_refused(self) -> None:
        with pytest.raises(BitdialError, match="compare_to_baseline"):
            compare(training=training(distillation_alpha=0.5), static=StaticPrecisionConfig(compare_to_baseline=False))

    def test_a_progressive_arm_needs_a_step_for_each_width(self) -> None:
        down = StaticPrecisionConfig(test_configurations={"down": "progressive"})
        with pytest.raises(BitdialError, match="num_static_iterations must be at least 3"):
            compare(training=training(num_static_iterations=2), static=down)

    def test_no_baseline(self) -> None:
        arms = plan_arms(options(static=StaticPrecisionConfig(compare_to_baseline=False)))
        assert arms[0].name == "cpt"


class TestFiles:
    def test_finished_arms_are_not_trained_again(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = run(tmp_path).arms()
        log = (tmp_path / "metrics.csv").read_text()

        def fail(*args: Any, **kwargs: Any) -> Any:
            raise AssertionError("trained again")

        monkeypatch.setattr(Setup, "fit", fail)
        assert run(tmp_path).arms() == first
        assert (tmp_path / "metrics.csv").read_text() == log

    def test_one_more_seed_trains_only_that(self, tmp_path: Path) -> None:
        first = run(tmp_path).arms()
        both = run(tmp_path, seeds=[0, 1]).arms()
        assert both[: len(first)] == first
        assert {found.seed for found in both[len(first) :]} == {1}

    def test_a_damaged_last_checkpoint_is_not_taken_for_the_trained_model(self, tmp_path: Path) -> None:
        job = run(tmp_path, setup=Setup(checkpoint_interval=5))
        job.arms()
        newest = max((tmp_path / "checkpoints" / "cpt-seed0").glob("*.pt"))
        newest.write_bytes(newest.read_bytes()[:1000])
        with pytest.raises(BitdialError, match=r"damaged.*remove .*arm\.json and resume"):
            job.load_arm("cpt", 0)

    def test_an_arm_that_was_not_trained_cannot_be_loaded(self, tmp_path: Path) -> None:
        with pytest.raises(BitdialError, match="not trained to its end"):
            run(tmp_path).load_arm("cpt", 0)

    def test_divergence_names_the_arm(self) -> None:
        bad = [(torch.full_like(x, float("nan")), y) for x, y in batches(0)]
        job = run(make_loaders=lambda seed: type(loaders())(bad, bad, bad))
        with pytest.raises(BitdialError, match=r"baseline_fp32 \(1/4\): the loss became nan"):
            job.arms()

    def test_ctrl_c_outside_of_the_steps_says_how_to_go_on(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def pressed(*args: Any, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

        monkeypatch.setattr("bitdial.recipes.recipe.sweep", pressed)
        with pytest.raises(
            BitdialError, match=r"baseline_fp32 \(1/4\): stopped by Ctrl-C .* to go on: the same command"
        ):
            run(tmp_path).arms()


def test_memory_is_given_back_when_the_configuration_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr("bitdial.recipes.run.release_memory", lambda: events.append("released"))
    plain_fit = Setup.fit

    def watched(*args: Any, **named: Any) -> Any:
        events.append("trained")
        return plain_fit(*args, **named)

    monkeypatch.setattr(Setup, "fit", watched)
    run().arms()
    assert events == ["trained", "released"] * 4


def test_loaders_and_the_network_may_be_given_as_they_are() -> None:
    once: dict[str, Any] = {"model_config": model_config(), "training": training(), "precision": precision()}
    made, given = compare_bit_configurations(network, loaders, **once), loaders()
    torch.manual_seed(0)
    again = compare_bit_configurations(network(), (given.train, given.test), **once)
    assert [arm.own for arm in again.arms] == [arm.own for arm in made.arms]
    with pytest.raises(BitdialError, match=r"loaders must be \(train, test\)"):
        compare_bit_configurations(network, ([],))
