"""A network and data of one's own, as ``file.py:function``, and data of the Hub, in every recipe."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import bitdial
from bitdial.cli import main
from bitdial.data import Fingerprint, load_dataset
from bitdial.errors import BitdialError
from bitdial.recipes.joint.results import JointResults

OWN = """
import torch
from beside import WIDTH

def net():
    layers = [torch.nn.Linear(8, WIDTH), torch.nn.ReLU(), torch.nn.Linear(WIDTH, WIDTH), torch.nn.Linear(WIDTH, 3)]
    return torch.nn.Sequential(*layers)

def images(num_classes, in_channels):
    first, second = torch.nn.Conv2d(in_channels, 4, 3), torch.nn.Conv2d(4, 4, 3)
    pool = torch.nn.AdaptiveAvgPool2d(1)
    return torch.nn.Sequential(first, second, pool, torch.nn.Flatten(), torch.nn.Linear(4, num_classes))

def data():
    x = torch.randn(60, 8, generator=torch.Generator().manual_seed(1))
    y = x[:, :3].argmax(1)
    return (x[:40], y[:40]), (x[40:], y[40:])

def pictures():
    return [torch.zeros(3, 40, 40, dtype=torch.uint8)] * 2, [torch.full((3, 40, 40), 9, dtype=torch.uint8)]

def wants(mystery):
    return None

def fails():
    return 1 / 0

def nothing():
    return 3
"""
CODEC = ["--batch_size", "2", "--model_options.channels", "4", "--model_options.latent_channels", "4"]
JOINT = ["--steps", "3", "--bitwidth_options", "2", "8", "--no_sensitivity"]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("own") / "own.py"
    file.write_text(OWN)
    (file.parent / "beside.py").write_text("WIDTH = 16\n")
    return file


def test_network_and_data_of_a_file_are_trained_resumed_measured_and_shipped(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(own.parent, tmp_path / "code")
    monkeypatch.chdir(tmp_path)
    places = ["--model", "code/own.py:net", "--dataset", "code/own.py:data"]
    assert main(["train", "joint", *places, *JOINT, "--run_dir", "run"]) == 0
    monkeypatch.chdir(tmp_path / "code")  # the path is kept whole
    run = "../run"
    scores = JointResults.load("../run/results.json").networks[0].scores
    network = bitdial.load(run)
    assert network(torch.randn(20, 8)).shape == (20, 3)
    capsys.readouterr()
    assert main(["evaluate", run, "--bits", "2", "8"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("joint, seed 0 (recommended), on ")
    assert all(f"{score.accuracy:.2%}" in out for score in scores)
    assert main(["export", run]) == 0
    with (tmp_path / "code" / "own.py").open("a") as file:
        file.write("\n# edited\n")
    with pytest.warns(UserWarning, match=r"own\.py has changed since this network was saved"):
        bitdial.load(run)
    assert main(["export", run]) == 0
    assert "has changed since this network was saved" in capsys.readouterr().err
    assert main(["train", "joint", "--resume", run, "--seeds", "2"]) == 0
    told = f"{tmp_path / 'code' / 'own.py'} has changed since the run began"
    assert told in capsys.readouterr().err
    assert any(told in note for note in JointResults.load("../run/results.json").notes)
    assert len(JointResults.load("../run/results.json").networks) == 2
    assert len(Fingerprint.read(Path(run) / "data.json").sources) == 2


@pytest.mark.parametrize(
    "words",
    [
        ["cyclic", "--model", "{own}:images", "--steps", "3", "--num_static_iterations", "2", "--warmup_steps", "1"],
        ["ternary", "--model", "{own}:images", "--epochs", "1", "--batch_size", "512"],
        ["compress", "--data_path", "{own}:pictures", "--steps", "2", "--crop", "32", *CODEC],
    ],
    ids=lambda words: words[0],
)
def test_every_recipe_takes_a_file(words: list[str], own: Path, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    assert main(["train", *(word.format(own=own) for word in words), "--run_dir", run]) == 0
    assert bitdial.load(run) is not None
    assert main(["evaluate", run]) == 0


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("no.py:net", "expected a Python file at {here}/no.py, got nothing"),
        ("{own}:nett", "got 'nett'; did you mean 'net'?"),
        ("{own}:WIDTH", "expected a function of {own} after the colon, as in file.py:function, got 'WIDTH'"),
        ("{own}:wants", "got a function that needs 'mystery' too; give it a default"),
        ("{own}:fails", "raises ZeroDivisionError at line 26: division by zero"),
        ("{own}:nothing", "must make a torch.nn.Module, got int; return the network"),
        ("broken.py:net", "broken.py cannot be run: it raises SyntaxError at line 2"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    model: str,
    told: str,
    own: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.py").write_text("x = 1\ndef net(:\n")
    assert main(["train", "joint", "--model", model.format(own=own), *JOINT]) == 2
    error = capsys.readouterr().err
    assert told.format(own=own, here=tmp_path) in error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


class TestHub:
    def test_images_of_the_hub(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[tuple[str, Any]] = []

        def load(name: str, cache_dir: str | None = None) -> dict[str, Any]:
            asked.append((name, cache_dir))
            return {"train": part(6), "test": part(3)}

        pretend(monkeypatch, load)
        data = load_dataset("hf:someone/letters")
        assert asked == [("someone/letters", None)]
        assert (data.name, data.class_names) == ("hf:someone/letters", ("a", "b"))
        assert (data.in_channels, data.image_size) == (1, 8)
        assert (len(data.train), len(data.test)) == (6, 3)
        assert data.test.labels.tolist() == [0, 1, 0]

    def test_without_the_package_or_the_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(BitdialError, match="needs the package datasets; run: pip install datasets"):
            load_dataset("hf:mnist")

        def load(name: str, cache_dir: str | None = None) -> dict[str, Any]:
            raise ConnectionError("no route\nto the Hub")

        pretend(monkeypatch, load)
        with pytest.raises(BitdialError, match=r"cannot load hf:mnist \(no route to the Hub\); check the name"):
            load_dataset("hf:mnist")

    def test_data_of_another_kind(self, monkeypatch: pytest.MonkeyPatch) -> None:
        text = Part({"text": type("Value", (), {})()}, {})
        pretend(monkeypatch, lambda name, cache_dir=None: {"train": text})
        with pytest.raises(BitdialError, match="must have a column of images and one of labels, got text"):
            load_dataset("hf:imdb")


class Part(dict[str, Any]):
    """What is asked of a part of a data set: columns by name, and their kinds."""

    def __init__(self, features: dict[str, Any], columns: dict[str, Any]) -> None:
        super().__init__(columns)
        self.features = features


def part(count: int) -> Part:
    label = type("ClassLabel", (), {"names": ["a", "b"]})()
    pixels = [Pillow.fromarray(np.full((8, 8), 10 * number, np.uint8)) for number in range(count)]
    columns = {"image": pixels, "label": [number % 2 for number in range(count)]}
    return Part({"image": type("Image", (), {})(), "label": label}, columns)


def pretend(patch: pytest.MonkeyPatch, load: Any) -> None:
    module = ModuleType("datasets")
    module.load_dataset = load  # type: ignore[attr-defined]
    patch.setitem(sys.modules, "datasets", module)
