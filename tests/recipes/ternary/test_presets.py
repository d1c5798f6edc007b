"""The presets: all there, all listed, all valid, and each does what its line says."""

from __future__ import annotations

import pytest

from bitdial.cli import main
from bitdial.configuration import load_config
from bitdial.recipes.ternary import PRESETS, TernaryConfig
from bitdial.recipes.ternary.options import summaries

NAMES = ("fresh", "resume", "conservative", "regularized", "quick", "autoaugment", "compare")


def load(name: str) -> TernaryConfig:
    return load_config(TernaryConfig, PRESETS, [name], prog="bitdial train ternary")


def test_those_of_the_specification_are_there() -> None:
    assert tuple(PRESETS) == NAMES


def test_the_list_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "ternary", "--list"]) == 0
    text = capsys.readouterr().out
    for name, summary in summaries().items():
        assert f"  {name} " in text
        assert summary.split()[0] in text
        assert summary.endswith("."), name


def test_each_does_what_it_says() -> None:
    configs = {name: load(name) for name in NAMES}
    assert configs["fresh"].epochs is not None
    assert configs["fresh"].epochs >= 200
    assert str(configs["resume"].resume) == "auto"
    assert configs["conservative"].lr < configs["fresh"].lr
    assert configs["conservative"].early_stopping
    assert configs["regularized"].cutmix
    assert configs["regularized"].mixup
    assert configs["regularized"].weight_decay > configs["fresh"].weight_decay
    assert configs["quick"].epochs == 3
    assert configs["autoaugment"].autoaugment
    quantizers = {each.quantizer for each in configs["compare"].each_arm().values()}
    assert quantizers == {"none", "twn", "absmean", "ttq", "ternary_lsq"}


@pytest.mark.parametrize(
    ("words", "warmup"),
    [
        ("fresh --epochs 2", 5 * 2 / 300), ("fresh --epochs 600", 5), ("conservative --epochs 10", 0.5),
        ("quick --epochs 1", 0.5 / 3), ("fresh --steps 20", None), ("fresh --epochs 2 --warmup_epochs 1", 1),
    ],
)  # fmt: skip
def test_the_warm_up_of_a_preset_fits_the_length_that_is_given(words: str, warmup: float | None) -> None:
    config = load_config(TernaryConfig, PRESETS, words.split(), prog="bitdial train ternary")
    assert config.warmup_epochs == (None if warmup is None else pytest.approx(warmup))


def test_what_the_user_rules_out_is_left_out_of_a_preset() -> None:
    def of(words: str) -> TernaryConfig:
        return load_config(TernaryConfig, PRESETS, words.split(), prog="bitdial train ternary")

    assert not of("conservative --validation_fraction 0").early_stopping
    chosen = of("autoaugment --randaugment")
    assert (chosen.autoaugment, chosen.randaugment, chosen.cutmix) == (False, True, True)
    heard = of("regularized --dataset vehicles --model signal_cnn")
    assert (heard.cutmix, heard.mixup, heard.random_erasing, heard.weight_decay) == (False, False, False, 1e-3)


def test_an_error_names_the_preset_that_set_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "ternary", "conservative", "--early_stopping_mode", "min"]) == 2
    assert "preset" not in capsys.readouterr().err  # of what the user gave alone
    assert main(["train", "ternary", "regularized", "--optimizer", "muon", "--lr", "nan"]) == 2
    assert "preset" not in capsys.readouterr().err
    assert main(["train", "ternary", "conservative", "--warmup_epochs", "400"]) == 2
    assert "got 400 (epochs is set by the preset 'conservative')" in " ".join(capsys.readouterr().err.split())
