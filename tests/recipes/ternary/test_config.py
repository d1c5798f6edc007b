"""The options: their defaults, what they refuse, what follows from them, and that every one is explained."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from bitdial.configuration import load_config, to_yaml
from bitdial.errors import BitdialError
from bitdial.recipes.ternary import PRESETS, TernaryConfig

KNOWN_FLAGS = (
    "--model resnet18 --dataset cifar10 --epochs 500 --batch_size 128 --lr .1 --weight_decay 5e-4 --scheduler cosine "
    "--resume auto --early_stopping --early_stopping_patience 40 --label_smoothing .1 --cutmix --mixup "
    "--autoaugment --save_freq 20 --log_interval 100 --csv_log log.csv --workers 2 --optimizer sgd "
    "--quantizer ttq --activation_bits 8 --ema_decay .999 --warmup_epochs 5 --keep_last_n 3 --keep_best 1 "
    "--validation_fraction .1 --early_stopping_min_delta .001 --early_stopping_mode max --random_erasing "
    "--teacher runs/ternary-1 --devices 2 --num_nodes 1 --strategy ddp"
)


def load(words: str) -> TernaryConfig:
    return load_config(TernaryConfig, PRESETS, shlex.split(words), prog="bitdial train ternary")


def test_every_option_has_a_default_and_a_sentence() -> None:
    TernaryConfig()
    for name, field in TernaryConfig.model_fields.items():
        assert field.description, name
        assert field.description.rstrip().endswith("."), name


def test_defaults_of_the_specification() -> None:
    config = TernaryConfig()
    assert (config.optimizer, config.momentum, config.weight_decay, config.scheduler) == ("sgd", 0.9, 5e-4, "cosine")
    assert (config.early_stopping, config.early_stopping_patience, config.save_freq) == (False, 40, 20)
    assert config.skip_layers == ["<first>", "<last>"]
    assert config.standard_augmentation
    assert (
        (config.cutmix_alpha, config.cutmix_probability) == (config.mixup_alpha, config.mixup_probability) == (1, 0.5)
    )


def test_flags_as_people_know_them_with_hyphens_or_underscores() -> None:
    with_underscores = load(KNOWN_FLAGS)
    hyphens = " ".join(w.replace("_", "-") if w.startswith("--") else w for w in KNOWN_FLAGS.split())
    assert load(hyphens) == with_underscores
    assert load("--randaugment --mixup-alpha .01").randaugment  # excludes --autoaugment
    assert (with_underscores.epochs, with_underscores.quantizer, with_underscores.workers) == (500, "ttq", 2)


@pytest.mark.parametrize("scheduler", ["cosine", "step", "none", "onecycle"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
def test_schedulers_and_optimizers(scheduler: str, optimizer: str) -> None:
    config = load(f"--scheduler {scheduler} --optimizer {optimizer}")
    assert config.scheduler == scheduler  # "none" is a name here, not nothing
    assert config.lr == (0.1 if optimizer == "sgd" else 1e-3)
    assert load(f"--optimizer {optimizer} --lr .03").lr == 0.03


def test_quantizer_none_is_a_name() -> None:
    assert load("--quantizer none").is_float
    assert list(load("--quantizer none").each_arm()) == ["float"]


@pytest.mark.parametrize(
    ("words", "fraction", "best"),
    [
        ("", 0.1, 1),
        ("--keep_best 0", 0.0, 0),
        ("--keep_best 0 --early_stopping", 0.1, 0),
        ("--validation_fraction 0", 0.0, 0),
        ("--validation_fraction .2 --keep_best 3", 0.2, 3),
    ],
)
def test_images_are_held_out_where_something_is_chosen(words: str, fraction: float, best: int) -> None:
    config = load(words)
    assert (config.validation_fraction, config.keep_best) == (fraction, best)


def test_length() -> None:
    assert (load("").epochs, load("").steps) == (30, None)
    assert (load("--steps 7").epochs, load("--steps 7").steps) == (None, 7)
    assert (load("quick --steps 7").epochs, load("quick --steps 7").steps) == (None, 7)


@pytest.mark.parametrize(
    "words", ["", "compare --seeds 2", "regularized --optimizer adamw", "--steps 3 --scheduler none"]
)
def test_what_is_written_reads_back(words: str, tmp_path: Any) -> None:
    config = load(words)
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load(f"--config {tmp_path / 'config.yaml'}") == config


BAD = {
    "--label_smoothing .3": "less than or equal to 0.2",
    "--label_smoothing -.1": "greater than or equal to 0",
    "--epochs 0": "greater than or equal to 1",
    "--lr 0": "greater than 0",
    "--scheduler cosin": "did you mean 'cosine'?",
    "--optimizer sdg": "did you mean 'sgd'?",
    "--quantizer tnw": "did you mean 'twn'?",
    "--activation_bits 33": "less than or equal to 32",
    "--ema_decay 1": "less than 1",
    "--early_stopping_patience 0": "greater than or equal to 1",
    "--early_stopping_mode largest": "'max', 'min'",
    "--early_stopping_mode min": "early_stopping_mode must be max while accuracy is monitored",
    "--monitor loss --early_stopping_mode max": "early_stopping_mode must be min while loss is monitored",
    "--early_stopping --validation_fraction 0": "nothing is chosen by looking at test data",
    "--keep_best 2 --validation_fraction 0": "nothing is chosen by looking at test data",
    "--validation_fraction 1": "less than 1",
    "--autoaugment --randaugment": "exclude each other",
    "--warmup_epochs 5 --epochs 5": "warmup_epochs must be below the 5 epochs",
    "--teacher x --quantizer none": "needs a quantized student",
    "--epochs 3 --steps 3": "exclude each other",
    "--cutmix_alpha 0": "--cutmix_alpha: alpha must be a number in [0.01, 10000], got 0.0",
    "--cutmix-alpha .009": "got 0.009; it is the alpha of Beta(alpha, alpha)",
    "--mixup_alpha 10001": "--mixup_alpha: alpha must be a number in [0.01, 10000], got 10001.0",
    "--mixup_alpha nan": "--mixup_alpha: expected a finite number, got 'nan'",
    "--experiments '{a: {mixup_alpha: -1}}'": "experiments.a.mixup_alpha: alpha must be a number in [0.01, 10000]",
    "--cutmixx": "did you mean '--cutmix'?",
    "--experiments '{a/b: {}}'": "must hold only letters",
    "--experiments '{a: {lrr: 1}}'": "did you mean 'lr'?",
    "--experiments '{a: {lr: -1}}'": "experiments.a.lr: expected a value greater than 0",
    "--experiments '{a: {dataset: mnist}}'": "dataset is the same for all",
    "quickly": "did you mean 'quick'?",
}


@pytest.mark.parametrize("words", BAD)
def test_what_is_wrong_is_said_in_one_sentence(words: str) -> None:
    with pytest.raises(BitdialError) as caught:
        load(words)
    assert BAD[words] in str(caught.value)
    assert "\n" not in str(caught.value)


class TestExperiments:
    def test_differ_only_in_what_they_say(self) -> None:
        experiments = load("--experiments '{a: {quantizer: none}, b: {lr: .5}}' --cutmix").each_arm()
        assert experiments["a"].is_float
        assert (experiments["b"].lr, experiments["b"].quantizer) == (0.5, "twn")
        assert all(each.cutmix and not each.experiments for each in experiments.values())

    def test_another_optimizer_brings_its_own_learning_rate(self) -> None:
        experiments = load("--experiments '{a: {optimizer: adamw}, b: {optimizer: adamw, lr: .01}}'").each_arm()
        assert (experiments["a"].lr, experiments["b"].lr) == (1e-3, 0.01)

    def test_are_the_same_after_the_configuration_was_written_and_read(self, tmp_path: Any) -> None:
        config = load("--experiments '{a: {optimizer: adamw}, b: {steps: 3}}'")
        (tmp_path / "config.yaml").write_text(to_yaml(config))
        again = load(f"--config {tmp_path / 'config.yaml'}")
        assert again.each_arm() == config.each_arm()

    def test_one_that_counts_steps_among_others_that_count_epochs(self) -> None:
        experiments = load("--experiments '{a: {steps: 3}, b: {}}'").each_arm()
        assert (experiments["a"].steps, experiments["a"].epochs) == (3, None)
        assert (experiments["b"].steps, experiments["b"].epochs) == (None, 30)
