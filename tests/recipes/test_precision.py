"""What is wrong with a network on its devices is found before a run begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from bitdial.cli import main
from bitdial.errors import BitdialError
from bitdial.models import build_model
from bitdial.recipes.devices import check_layers, decided, tell_if_slow
from bitdial.recipes.joint.options import JointConfig
from bitdial.training import MixedPrecisionConfig, OptimizerConfig, build_optimizer

FLOAT32 = MixedPrecisionConfig(enabled=False)


def devices(count: int, *, sharded: bool) -> Any:
    strategy = SimpleNamespace(shards_weights=sharded)
    return SimpleNamespace(world_size=count, strategy=strategy, device=torch.device("cpu"))


def test_ten_classes_on_sixteen_devices_with_muon() -> None:
    model = build_model("mlp", num_classes=10, in_channels=1, image_size=8)
    optimizer = build_optimizer(model, OptimizerConfig(optimizer="muon", learning_rate=0.01))
    check_layers(model, FLOAT32, devices(8, sharded=True), optimizer)
    check_layers(model, FLOAT32, devices(16, sharded=False), optimizer)
    with pytest.raises(BitdialError, match=r"muon with strategy fsdp needs a row of every matrix .* shape \[10, "):
        check_layers(model, FLOAT32, devices(16, sharded=True), optimizer)


def test_a_parameter_without_dimensions() -> None:
    model = nn.Linear(2, 2)
    model.register_parameter("scale", nn.Parameter(torch.ones(())))
    check_layers(model, FLOAT32, devices(1, sharded=True))
    with pytest.raises(BitdialError, match="got 'scale' without dimensions"):
        check_layers(model, FLOAT32, devices(2, sharded=True))


@pytest.mark.parametrize(
    ("speeds", "chosen"),
    [
        ({"bfloat16": 1.7, "float16": 0.1}, "bfloat16"),
        ({"bfloat16": 1.7, "float16": 1.75}, "bfloat16"),  # about as fast, and needs no loss scale
        ({"bfloat16": 0.4, "float16": 2.0}, "float16"),
        ({"bfloat16": 1.05, "float16": 0.1}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_is_the_format_that_was_timed_as_the_fastest(
    speeds: dict[str, float], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitdial.recipes.devices.product_speeds", lambda _: speeds)
    assert decided(JointConfig(precision="auto"), devices(1, sharded=False)).precision == chosen
    assert decided(JointConfig(precision="auto"), devices(2, sharded=False)).precision == "auto"
    assert decided(JointConfig(precision="float16"), devices(1, sharded=False)).precision == "float16"


def test_auto_stays_what_it_was_when_a_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "joint", "--model", "tiny_cnn", "--no_sensitivity", "--precision", "auto"]
    monkeypatch.setattr("bitdial.recipes.devices.product_speeds", lambda _: {"bfloat16": 1.7})
    assert main([*words, "--steps", "2", "--run_dir", str(tmp_path / "run")]) == 0
    assert "precision auto: bfloat16, as products were timed on this cpu" in capsys.readouterr().err
    assert "precision: bfloat16" in (tmp_path / "run" / "config.yaml").read_text()
    monkeypatch.setattr("bitdial.recipes.devices.product_speeds", lambda _: {"bfloat16": 0.1})
    assert main([*words, "--steps", "2", "--resume", str(tmp_path / "run")]) == 0


def test_a_format_that_is_slower_here_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = SimpleNamespace(is_global_zero=True, device=torch.device("cpu"))
    monkeypatch.setattr("bitdial.recipes.devices.product_speeds", lambda _: {"bfloat16": 1.6, "float16": 0.125})
    tell_if_slow(MixedPrecisionConfig(dtype="bfloat16"), place)  # type: ignore[arg-type]
    tell_if_slow(FLOAT32, place)  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""
    tell_if_slow(MixedPrecisionConfig(dtype="float16"), place)  # type: ignore[arg-type]
    assert "float16 products take 8.0 times as long as float32's on this cpu" in capsys.readouterr().err
