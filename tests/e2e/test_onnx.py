"""``bitdial export RUN --format onnx`` for a run of every recipe, in every style and form, as a user gives it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from bitdial.cli import main

pytest.importorskip("onnxscript", reason="the extra export is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra export is not installed")

pytestmark = pytest.mark.slow

RECIPES = {
    "cyclic": "cyclic --model tiny_cnn --steps 40 --cyclic.cycle_length 10",
    "ternary": "ternary --model tiny_cnn --steps 120 --activation_bits 8",
    "joint": "joint --model tiny_cnn --steps 120 --bitwidth_options 2 4 8",
    "recordings": "joint --dataset vehicles --steps 40 --batch_size 16",
    "codec": "compress --model_options.channels 4 --model_options.latent_channels 4 --crop 32 --batch_size 2 --steps 6 "
    "--crops 4 --coded_pictures 1 --bits 8",
}
STYLES = ["qdq", "qdq --form fast", "native", "qonnx"]


@pytest.fixture(scope="module", params=RECIPES)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of a recipe."""
    folder = tmp_path_factory.mktemp(request.param) / request.param
    assert main(["train", *shlex.split(RECIPES[request.param]), "--run_dir", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("style", STYLES)
def test_a_run_of_every_recipe_in_every_style(
    run: Path, style: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "net.onnx"
    command = ["export", str(run), "--format", "onnx", "--output", str(output), "--style", *shlex.split(style)]
    assert main(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    files = sorted(tmp_path.glob("*.onnx"))
    parts = ["net-analysis.onnx", "net-synthesis.onnx"] if run.name == "codec" else ["net.onnx"]
    assert [each.name for each in files] == parts
    for file in files:
        told = json.loads(Path(f"{file}.json").read_text(encoding="utf-8"))
        check_told(told, printed)
        if told["style"] != "qonnx":
            options = onnxruntime.SessionOptions()
            for key, value in told["session_options"].items():
                options.add_session_config_entry(key, value)
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
            inputs = told.get("inputs", [told["input"]])
            assert [each.name for each in session.get_inputs()] == [each["name"] for each in inputs]


def check_told(told: dict[str, Any], printed: str) -> None:
    """Equal node by node; what a session does is printed, and where it is not the same, the trap that fired."""
    parity = told["parity"]
    assert parity["unfused"]["difference"] <= 1e-4
    assert parity["unfused"]["activations"] > 0
    assert "Node by node it equals the network" in printed
    assert "ONNX Runtime" in printed
    for trap in parity["traps"]:
        assert f"{trap['name']}: {' '.join(trap['what'].split())}" in printed
        assert trap["remedy"] in printed
    share = parity["session"]["classes"]
    if share is not None and share < 0.999:
        assert {trap["name"] for trap in parity["traps"]} & {"branches", "unsure"}
    if isinstance(parity["openvino"], str):
        assert parity["openvino"] in printed
