"""``bitdial predict`` and ``bitdial bench runtime``, as a new user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import bitdial as bd
from bitdial.cli import main
from bitdial.data.augment import Normalise
from bitdial.recipes.saved_model import load_saved


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run and pictures."""
    path = tmp_path_factory.mktemp("predict")
    bd.run("ternary", model="tiny_cnn", dataset="digits", steps=3, batch_size=32, run_dir=path / "run")
    draw = np.random.default_rng(0)
    (path / "pictures").mkdir()
    for name in ("a", "[red]b"):
        Image.fromarray(draw.integers(0, 256, (8, 8), np.uint8)).save(path / "pictures" / f"{name}.png")
    Image.fromarray(draw.integers(0, 256, (20, 30, 3), np.uint8)).save(path / "colour.jpg")
    (path / "broken.png").write_text("no picture")
    return path


@pytest.fixture(autouse=True)
def there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "100")


def test_pictures_get_the_class_that_the_trained_network_gives(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "run", "pictures", "colour.jpg", "--json", "--threads", "1", "--top", "2"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [each["image"] for each in told["predictions"]] == ["pictures/[red]b.png", "pictures/a.png", "colour.jpg"]
    described, network = load_saved("run")
    pixels = torch.from_numpy(np.array(Image.open("pictures/a.png")))[None, None]
    with torch.no_grad():
        shares = network(Normalise(tuple(described.mean), tuple(described.std))(pixels)).softmax(1)[0]
    found = {each["name"]: each["probability"] for each in told["predictions"][1]["classes"]}
    assert len(found) == 2
    for name, probability in found.items():
        assert probability == pytest.approx(shares[int(name)].item(), abs=0.02)


def test_a_packed_file_predicts_as_its_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "run", "--output", "shipped.safetensors"]) == 0
    capsys.readouterr()
    found = []
    for model in ("run", "shipped.safetensors"):
        assert main(["predict", model, "pictures/a.png", "--json", "--threads", "1"]) == 0
        found.append(json.loads(capsys.readouterr().out)["predictions"])
    assert found[0] == found[1]


def test_the_table_has_the_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "run", "pictures", "--threads", "1"]) == 0
    told = capsys.readouterr().out
    assert "[red]b.png" in told
    assert "Computed by: " in told


def test_a_picture_that_cannot_be_read_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "run", "broken.png", "pictures/a.png", "--threads", "1"]) == 2
    told = capsys.readouterr()
    assert "a.png" in told.out
    assert "left out: cannot read the image broken.png" in told.err


WRONG: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "expected a MODEL and one IMAGE or more, got nothing"),
    "no picture": (["run"], "got 'run' alone"),
    "no model": (["missing", "colour.jpg"], "got nothing; check the path"),
    "a picture that is not there": (["run", "missing.png"], "a picture or a folder of pictures at missing.png"),
    "a folder without pictures": (["run", "run/checkpoints"], "expected pictures in run/checkpoints, got none"),
    "a model that is a picture": (["colour.jpg", "colour.jpg"], "not a trained network"),
    "no classes": (["run", "colour.jpg", "--top", "0"], "--top"),
    "too many threads": (["run", "colour.jpg", "--threads", "1000000"], "--threads"),
    "an unknown way": (["run", "colour.jpg", "--way", "gpu"], "--way"),
    "an unknown flag": (["run", "colour.jpg", "--tpo", "1"], "did you mean '--top'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_told_in_a_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, sentence = WRONG[name]
    assert main(["predict", *words]) == 2
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told


def test_ways_are_timed_beside_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "runtime", "run", "--batch", "1", "--rounds", "2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    ways = told["results"][0]["ways"]
    assert ways["PyTorch float32"]["relative_difference"] < 1e-4
    assert ways["bitdial in floats"]["milliseconds"] > 0
    weights, whole, memory = told["sizes"]
    assert weights["bytes"] * 15 < weights["float32"] < weights["bytes"] * 25
    assert whole["float32"] == 2 * whole["float16"]
    assert memory["bytes"] is None or memory["bytes"] > 0


def test_the_table_says_what_was_not_measured(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitdial.runtime.peers.version", lambda package: None)
    assert main(["bench", "runtime", "run", "--batch", "2", "--rounds", "1"]) == 0
    told = capsys.readouterr().out
    assert "ONNX Runtime float32: not measured (onnx, onnxruntime not installed)" in told
    assert "Speed is against PyTorch float32" in told
    assert "quantized weights" in told


BAD: dict[str, tuple[list[str], str]] = {
    "nothing": ([], "expected one MODEL, got nothing"),
    "two": (["run", "run"], "expected one MODEL, got 'run' 'run'"),
    "not there": (["missing"], "got nothing; check the path"),
    "no batch": (["run", "--batch", "0"], "--batch"),
    "no threads": (["run", "--threads", "0"], "--threads"),
    "no rounds": (["run", "--rounds", "0"], "--rounds"),
    "onnx": (["a.onnx"], "check the path"),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_of_the_benchmark_are_told_in_a_sentence(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, sentence = BAD[name]
    assert main(["bench", "runtime", *words]) == 2
    assert sentence in capsys.readouterr().err
