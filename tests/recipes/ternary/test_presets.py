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
