"""The options: what they refuse, what they mean, and that every one of them is explained."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from bitdial.configuration import load_config, to_yaml
from bitdial.errors import BitdialError
from bitdial.recipes.cyclic import (
    PRESETS,
    CyclicConfig,
    CyclicPrecisionConfig,
    CyclicTrainingConfig,
    ExperimentConfig,
    ModelConfig,
    StaticPrecisionConfig,
)

ALL = [
    ModelConfig,
    CyclicTrainingConfig,
    CyclicPrecisionConfig,
    StaticPrecisionConfig,
    ExperimentConfig,
    CyclicConfig,
]


@pytest.mark.parametrize("config", ALL)
def test_every_field_has_a_default_and_a_sentence(config: type[BaseModel]) -> None:
    config()
    for name, field in config.model_fields.items():
        assert field.description, name
        assert field.description.rstrip().endswith("."), name


def test_defaults_of_the_specification() -> None:
    model, cyclic, static = ModelConfig(), CyclicPrecisionConfig(), StaticPrecisionConfig()
    assert (model.bit_widths, model.default_bit_width) == ([2, 4, 8, 16], 8)
    assert (cyclic.cycle_length, cyclic.bit_width_pattern) == (20, [8, 4, 2, 4, 8])
    assert (cyclic.transition_steps, cyclic.layer_cycle_offset, cyclic.gradient_bits) == (2, 2, 32)
    assert cyclic.lr_scale_factors == {2: 0.5, 4: 0.75, 8: 1.0, 16: 1.0}
    assert cyclic.progression_rate == 0.9
    assert static.test_configurations == {
        "2bit": 2, "4bit": 4, "8bit": 8, "mixed_2_4": [2, 4], "mixed_4_8": [4, 8],
    }  # fmt: skip
    assert (static.finetune_lr_scale, static.compare_to_baseline) == (0.5, True)
    assert not any((cyclic.use_reverse_cycle, cyclic.smooth_transitions, cyclic.layer_wise_cycling))
    assert not any((cyclic.adjust_lr_with_bits, cyclic.progressive_cycles))


def test_fields_of_the_specification_exist() -> None:
    fields = {
        CyclicTrainingConfig: (
            "num_cpt_iterations num_static_iterations warmup_steps batch_size learning_rate weight_decay "
            "gradient_accumulation_steps max_grad_norm use_amp distillation_alpha distillation_temperature "
            "eval_interval log_interval seed"
        ),
        ExperimentConfig: (
            "experiment_name seeds ablations analyze_cycles plot_metrics save_cycle_checkpoints results_dir"
        ),
        ModelConfig: "name bit_widths default_bit_width skip_layers",
    }
    for config, names in fields.items():
        assert set(names.split()) <= config.model_fields.keys()


BAD: list[tuple[type[BaseModel], dict[str, Any], str]] = [
    (ModelConfig, {"bit_widths": [0]}, "greater than or equal to 1"),
    (ModelConfig, {"bit_widths": []}, "at least 1 item"),
    (ModelConfig, {"default_bit_width": 33}, "less than or equal to 32"),
    (ModelConfig, {"default_bit_width": "x"}, "valid number"),
    (ModelConfig, {"bits": 3}, "not permitted"),
    (ModelConfig, {"quantizer": "linear"}, "'uniform', 'dorefa', .* or 'nested'"),
    (CyclicTrainingConfig, {"num_cpt_iterations": 0}, "greater than or equal to 1"),
    (CyclicTrainingConfig, {"distillation_alpha": 1.5}, "less than or equal to 1"),
    (CyclicTrainingConfig, {"max_grad_norm": 0}, "greater than 0"),
    (CyclicTrainingConfig, {"learning_rate": -1}, "greater than 0"),
    (CyclicPrecisionConfig, {"bit_width_pattern": []}, "at least 1 item"),
    (CyclicPrecisionConfig, {"cycle_length": 4}, "cycle_length must be at least the number of widths"),
    (CyclicPrecisionConfig, {"smooth_transitions": True, "transition_steps": 5}, "transition_steps must not exceed"),
    (CyclicPrecisionConfig, {"profile": "cosine_repeatd"}, "cosine_repeated"),
    (CyclicPrecisionConfig, {"profile": "cosine_repeated", "smooth_transitions": True}, "already continuous"),
    (CyclicPrecisionConfig, {"lr_scale_factors": {}}, "factors above 0"),
    (CyclicPrecisionConfig, {"lr_scale_factors": {4: 0}}, "factors above 0"),
    (CyclicPrecisionConfig, {"lr_scale_factors": {64: 1}}, "less than or equal to 32"),
    (CyclicPrecisionConfig, {"progression_rate": 1.5}, "less than or equal to 1"),
    (StaticPrecisionConfig, {"test_configurations": {"a": []}}, "at least one width"),
    (StaticPrecisionConfig, {"test_configurations": {"a": "regressive"}}, "progressive"),
    (StaticPrecisionConfig, {"test_configurations": {"../a": 2}}, "letters, digits"),
    (StaticPrecisionConfig, {"test_configurations": {"a": [2, 40]}}, r"in \[1, 32\], got 40"),
    (StaticPrecisionConfig, {"test_configurations": {"a": float("nan")}}, "should be a finite number"),
    (ExperimentConfig, {"ablations": ["no_cicling"]}, "no_cycling"),
    (ExperimentConfig, {"seeds": 0}, "greater than or equal to 1"),
]


@pytest.mark.parametrize(("config", "values", "says"), BAD, ids=lambda case: str(case)[:40])
def test_refuses(config: type[BaseModel], values: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        config(**values)


@pytest.mark.parametrize(("config", "values", "says"), BAD[:3] + BAD[7:8] + BAD[10:12], ids=lambda case: str(case)[:40])
def test_assignment_is_validated_and_a_refused_one_changes_nothing(
    config: type[BaseModel], values: dict[str, Any], says: str
) -> None:
    made = config()
    before = made.model_copy(deep=True)
    ((name, value),) = values.items()
    with pytest.raises(ValidationError, match=says):
        setattr(made, name, value)
    assert made == before


def test_configurations_can_be_changed() -> None:
    config = CyclicPrecisionConfig()
    config.bit_width_pattern = [6, 3]
    config.cycle_length = 4
    assert [config.schedule()(step) for step in range(4)] == [6, 6, 3, 3]


def test_an_ablation_named_twice_is_one_arm() -> None:
    config = ExperimentConfig(ablations=["no_cycling", "random_cycling", "no_cycling"])
    assert config.ablations_on == ["no_cycling", "random_cycling"]


def test_ablations_are_switched_by_name_as_scripts_do() -> None:
    config, other = ExperimentConfig(), ExperimentConfig()
    assert config.ablations_on == []
    config.ablations["random_cycling"] = True
    config.ablations["no_cycling"] = False
    assert config.ablations_on == ["random_cycling"]
    assert other.ablations_on == []
    assert ExperimentConfig(ablations={"fixed_pattern": True}).ablations_on == ["fixed_pattern"]
    assert ExperimentConfig(**config.model_dump()).ablations_on == ["random_cycling"]
    config.ablations["random_cicling"] = True
    with pytest.raises(BitdialError, match="got 'random_cicling'; did you mean 'random_cycling'"):
        _ = config.ablations_on


@pytest.mark.parametrize(
    "words",
    [
        ["no_cycling", "random_cycling"],
        ["{no_cycling: true, random_cycling: true}"],
        ["[no_cycling, random_cycling]"],
        ["{no_cycling: true, random_cycling: true, fixed_pattern: false}"],
    ],
)
def test_ablations_on_the_command_line(words: list[str]) -> None:
    config = load_config(CyclicConfig, PRESETS, ["--experiment.ablations", *words])
    assert config.experiment.ablations_on == ["no_cycling", "random_cycling"]


def test_one_ablation_on_the_command_line() -> None:
    config = load_config(CyclicConfig, PRESETS, ["--experiment.ablations", "no_cycling"])
    assert config.experiment.ablations_on == ["no_cycling"]


@pytest.mark.parametrize("how", [["{}"], ["--preset", "{}"], ["--preset={}"]])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_by_word_and_by_flag(name: str, how: list[str]) -> None:
    config = load_config(CyclicConfig, PRESETS, [word.format(name) for word in how])
    cyclic = config.cyclic
    if name == "conservative":
        assert (cyclic.bit_width_pattern, cyclic.cycle_length, cyclic.smooth_transitions) == ([8, 6, 4, 6, 8], 40, True)
    elif name == "aggressive":
        assert (cyclic.bit_width_pattern, cyclic.cycle_length) == ([8, 2, 8, 2], 10)
        assert not cyclic.smooth_transitions
    else:
        assert (config.seeds, config.experiment.ablations_on) == (3, ["random_cycling"])
        assert config.experiment.analyze_cycles
        assert config.experiment.save_cycle_checkpoints


def test_a_flag_wins_over_the_preset() -> None:
    config = load_config(CyclicConfig, PRESETS, ["conservative", "--cyclic.cycle-length", "60"])
    assert (config.cyclic.cycle_length, config.cyclic.smooth_transitions) == (60, True)


def test_yaml_reads_back_the_same(tmp_path: Any) -> None:
    config = load_config(
        CyclicConfig, PRESETS, ["research", "--static.test_configurations", "{a: [2, 3.5], b: progressive}"]
    )
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert load_config(CyclicConfig, PRESETS, ["--config", str(tmp_path / "c.yaml")]) == config


def test_steps_and_epochs_are_those_of_the_cyclic_phase() -> None:
    batches = [None] * 22
    assert CyclicConfig().training(batches).num_cpt_iterations == 400
    assert CyclicConfig(steps=7).training(batches).num_cpt_iterations == 7
    assert CyclicConfig(epochs=3).training(batches).num_cpt_iterations == 66
    accumulating = CyclicConfig(epochs=3, gradient_accumulation_steps=4).training(batches)
    assert accumulating.num_cpt_iterations == 3 * 6  # the last step of an epoch takes the two batches that are left


def test_shared_flags_reach_the_training() -> None:
    config = load_config(
        CyclicConfig, PRESETS, ["--lr", ".02", "--weight-decay", "0", "--seed", "5", "--batch_size", "8"]
    )
    got = config.training([])
    assert (got.learning_rate, got.weight_decay, got.seed, got.batch_size) == (0.02, 0.0, 5, 8)
    assert load_config(CyclicConfig, PRESETS, ["--learning_rate", ".02"]).training([]).learning_rate == 0.02


@pytest.mark.parametrize("name", ["cosine_repeated", "CT", "rex_triangular_horizontal"])
def test_a_profile_moves_between_the_ends_of_the_pattern(name: str) -> None:
    bits = CyclicPrecisionConfig(profile=name, cycle_length=16).schedule()
    seen = [bits(step) for step in range(32)]
    assert (min(seen), max(seen)) == (2, 8)
