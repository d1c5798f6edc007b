"""The three functions that take plain values and return JSON."""

from __future__ import annotations

import inspect
import json
import math
import subprocess
import sys
from typing import Any

import pytest

from bitdial import app
from bitdial.app.interface import MODEL_TYPES, model_type_of

BAD: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "resnet20"}, "model_type: expected one of simple network, convolutional network, large model"),
    ({"model_type": "simple netwrk"}, "did you mean 'simple network'?"),
    ({"model_type": None}, "got None"),
    ({"model_type": "<b>x</b>"}, "got '<b>x</b>'"),
    ({"num_epochs": 0}, "num_epochs: expected a value greater than or equal to 1, got 0"),
    ({"num_epochs": "three"}, "num_epochs: expected a whole number, got 'three'"),
    ({"num_epochs": 1.5}, "num_epochs: expected a whole number, got 1.5"),
    ({"batch_size": -1}, "batch_size: expected a value greater than or equal to 1, got -1"),
    ({"batch_size": 10**6}, "batch_size: expected at most"),
    ({"learning_rate": 0}, "learning_rate: expected a value greater than 0, got 0"),
    ({"learning_rate": math.nan}, "learning_rate: expected a"),
    ({"learning_rate": "quick"}, "learning_rate: expected a number, got 'quick'"),
    ({"use_mixed_precision": "perhaps"}, "use_mixed_precision: expected true or false, got 'perhaps'"),
    ({"adaptive": 7}, "adaptive: expected true or false, got 7"),
]


@pytest.mark.parametrize(("given", "sentence"), BAD, ids=str)
def test_a_bad_argument_is_a_sentence_in_json(given: dict[str, Any], sentence: str) -> None:
    found = json.loads(app.train_model_with_mixed_precision_interface(**given))
    assert list(found) == ["error"]
    assert sentence in found["error"]
    assert "argument" not in found["error"]


def test_the_arguments_are_those_that_were_asked_for() -> None:
    names = ["model_type", "num_epochs", "batch_size", "learning_rate", "use_mixed_precision", "adaptive"]
    assert list(inspect.signature(app.train_model_with_mixed_precision_interface).parameters) == names
    assert list(inspect.signature(app.benchmark_mixed_precision_interface).parameters) == names[0:3:2]
    assert not inspect.signature(app.get_mixed_precision_recommendations).parameters


@pytest.mark.parametrize(
    ("given", "meant"),
    [("linear", "simple network"), ("MLP", "simple network"), ("conv", "convolutional network"),
     ("Convolutional_Network", "convolutional network"), (" large-model ", "large model")],
)  # fmt: skip
def test_aliases(given: str, meant: str) -> None:
    assert model_type_of(given) == meant


@pytest.mark.parametrize("mixed", [True, False])
def test_training_learns_and_tells_all(mixed: bool) -> None:
    found = json.loads(app.train_model_with_mixed_precision_interface("conv", 3, 64, 0.05, mixed, True))
    assert found["model_type"] == "convolutional network"
    assert found["dtype"] == ("bfloat16" if mixed else "float32")
    losses = [epoch["loss"] for epoch in found["epochs"]]
    assert len(losses) == 3
    assert losses[-1] < 0.7 * losses[0]
    assert found["final_loss"] == losses[-1]
    assert found["test_accuracy"] > 0.5
    assert {epoch["format"] for epoch in found["epochs"]} == {found["dtype"]}


def test_a_training_that_diverges_is_strict_json() -> None:
    text = app.train_model_with_mixed_precision_interface("mlp", 1, 512, 1e6, False, False)
    found = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert ("error" in found) or found["final_loss"] is None or found["final_loss"] > 1


def test_the_same_call_gives_the_same_network() -> None:
    first, second = (json.loads(app.train_model_with_mixed_precision_interface("mlp", 1, 256, 0.1)) for _ in range(2))
    assert first["final_loss"] == second["final_loss"]
    assert first["test_accuracy"] == second["test_accuracy"]


def test_benchmark_measures_both_formats() -> None:
    found = json.loads(app.benchmark_mixed_precision_interface("conv", 4))
    assert found["rows"][0]["name"] == "float32"
    assert all(row["seconds"] > 0 and row["memory_bytes"] > 0 for row in found["rows"])
    assert found["batch_size"] == 4
    assert found["verdict"]
    assert "batch_size: expected" in json.loads(app.benchmark_mixed_precision_interface("conv", 0))["error"]


def test_recommendations_cover_every_model_type_with_reasons() -> None:
    found = json.loads(app.get_mixed_precision_recommendations())
    assert list(found["recommendations"]) == list(MODEL_TYPES)
    for advice in found["recommendations"].values():
        assert advice["reasons_for"] or advice["reasons_against"]
        assert advice["settings"].keys() == advice["setting_reasons"].keys()
    assert found["machine"]["processor"]


def test_they_need_no_browser_and_names_load_nothing() -> None:
    code = (
        "import sys, bitdial.app as app; f = app.benchmark_mixed_precision_interface; print('torch' in sys.modules); "
        "f('conv', 0); print('torch' in sys.modules); f('conv', 1); print({'gradio', 'fastapi'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:3] == ["False", "False", "set()"]
