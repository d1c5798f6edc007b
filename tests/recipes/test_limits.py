"""Smoke tests: a run that trains and measures on a few examples."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

import bitdial
from bitdial.cli import main
from bitdial.data import load_dataset
from bitdial.data.division import of_each_class
from bitdial.errors import BitdialError
from bitdial.recipes.compress.options import CompressConfig
from bitdial.recipes.compress.work import work_of as pictures_of
from bitdial.recipes.dataset_work import ImageWork
from bitdial.recipes.joint.options import JointConfig
from bitdial.recipes.script_data import first_of
from bitdial.recipes.work import work_of


def test_classes_take_turns() -> None:
    labels = torch.tensor([0, 0, 0, 2, 1, 0, 2, 0])
    assert of_each_class(labels, 3).tolist() == [0, 3, 4]
    assert of_each_class(labels, 5).tolist() == [0, 1, 3, 4, 6]
    assert of_each_class(labels, 6).tolist() == [0, 1, 2, 3, 4, 6]  # class 1 has no more
    assert of_each_class(labels, 99).tolist() == list(range(8))


def test_validation_is_held_out_of_what_is_left() -> None:
    digits = load_dataset("digits")
    work = ImageWork.of(JointConfig(limit_train=100, limit_test=30, validation_fraction=0.2), digits)
    assert work.validation is not None
    assert (len(work.train), len(work.validation), len(work.dataset.test)) == (80, 20, 30)
    assert torch.bincount(work.dataset.test.labels).tolist() == [3] * 10
    all_of_it = ImageWork.of(JointConfig(limit_train=10**6, limit_test=10**6, validation_fraction=0), digits)
    assert len(all_of_it.train) == len(digits.train)


def test_a_run_goes_on_with_the_same_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "joint", "--model", "tiny_cnn", "--no_sensitivity", "--limit_train", "60", "--limit_test", "20"]
    assert main([*words, "--steps", "2", "--run_dir", str(tmp_path / "run")]) == 0
    parts = json.loads((tmp_path / "run" / "data.json").read_text())["parts"]
    assert {name: len(part) for name, part in parts.items()} == {"train": 50, "validation": 10, "test": 20}
    (tmp_path / "run" / "results.json").unlink()  # else there is nothing to do
    assert main(["train", "joint", "--resume", str(tmp_path / "run")]) == 0
    assert json.loads((tmp_path / "run" / "data.json").read_text())["parts"] == parts
    capsys.readouterr()
    assert main([*words[:-1], "30", "--steps", "2", "--resume", str(tmp_path / "run")]) == 2
    assert "limit_test must stay 20 when" in capsys.readouterr().err


def test_data_of_a_script() -> None:
    x, y = torch.zeros(9, 1, 8, 8), torch.arange(9)
    assert [len(each) for each in first_of((x, y), 4)] == [4, 4]
    assert len(first_of(TensorDataset(x, y), 4)) == 4
    assert len(first_of(TensorDataset(x, y), 40)) == 9
    work = work_of(JointConfig(limit_train=4, limit_test=2), torch.nn.Flatten(), ((x, y), (x, y)))
    loaders = work.loaders(0)
    assert sum(len(labels) for _, labels in loaders.test) == 2
    batches = [(x, y)]
    assert first_of(batches, None) is batches
    with pytest.raises(BitdialError, match="tensors or a torch Dataset, got list; leave them out"):
        bitdial.run("joint", model=torch.nn.Flatten(), data=(batches, batches), limit_train=4)


def test_pictures() -> None:
    pictures = [torch.zeros(3, 64, 64, dtype=torch.uint8)] * 9
    options = CompressConfig(limit_train=6, limit_test=1, validation_fraction=0.34)
    work = pictures_of(options, data=(pictures, pictures))
    assert work.validation is not None
    assert (len(work.train), len(work.validation), len(work.test)) == (4, 2, 1)
    bundled = pictures_of(CompressConfig(limit_train=1, limit_test=1))
    assert (len(bundled.train), len(bundled.test)) == (1, 1)
    assert bundled.told("test").endswith("of the first photograph that ships with scikit-learn")
