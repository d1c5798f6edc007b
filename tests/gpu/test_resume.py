"""A run on a GPU that is stopped and resumed is the run that was never stopped, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from bitdial.cli import main
from bitdial.training import MixedPrecisionConfig, make_fabric
from tests.gpu.conftest import Device
from tests.training.running import differences, load, train

FORMATS = {
    "float32": None,
    "float16": MixedPrecisionConfig(dtype="float16", init_scale=2.0**16, growth_interval=3),
    "bfloat16": MixedPrecisionConfig(dtype="bfloat16"),
}


@pytest.mark.parametrize("stop", [1, 5, 8])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("format", FORMATS)
def test_stop_and_resume(format: str, optimizer: str, stop: int, device: Device, tmp_path: Path) -> None:
    def run(folder: Path, **how: object) -> Path:
        fabric = make_fabric(accelerator=str(device))
        _, saver = train(folder, fabric=fabric, optimizer=optimizer, precision=FORMATS[format], **how)  # type: ignore[arg-type]
        return saver.paths[-1]

    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    expected = load(run(tmp_path / "whole"))
    got = load(run(tmp_path / "parts", resume=load(run(tmp_path / "parts", stop=stop)), seed=99))
    for state in (expected, got):
        del state["seconds"]
    assert differences(got, expected) == []
    assert (tmp_path / "parts" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


def test_the_recipe_resumes_on_its_own_device(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the same command, one of them stopped after an epoch: the same weights, augmentation and all."""
    if device == "cpu":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = [
        "--model",
        "tiny_cnn",
        "--batch_size",
        "256",
        "--quantizer",
        "ttq",
        "--activation_bits",
        "4",
        "--randaugment",
        "--cutmix",
    ]
    for folder, epochs in (("whole", 3), ("parts", 2)):
        assert main(["train", "ternary", *options, "--epochs", str(epochs), "--scheduler", "none",
                     "--warmup_epochs", "0", "--run_dir", str(tmp_path / folder)]) == 0  # fmt: skip
    assert main(["train", "ternary", "--resume", str(tmp_path / "parts"), "--epochs", "3"]) == 0
    models = [load_file(tmp_path / folder / "models" / "ternary-seed0.safetensors") for folder in ("parts", "whole")]
    assert differences(*models) == []
