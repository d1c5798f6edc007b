"""What commands load before they compute: budgets of modules, which do not depend on the machine, not of seconds."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys

import pytest

import bitdial
from bitdial.commands import COMMANDS
from bitdial.commands.bench import SUBJECTS
from bitdial.lazy import defer, loading_torch
from bitdial.recipes import RECIPES

MOST_MODULES = 720
"""Of all helps and mistakes in one process; 1,200 more come with torch."""
HEAVY = {"torch", "matplotlib", "pandas", "optuna", "torchvision", "lightning", "sklearn", "scipy", "transformers"}
PICTURES = {"numpy", "PIL"}
"""What knows the kinds of pictures; help does without."""
HELPS = [
    *(f"train {recipe} --help" for recipe in RECIPES),
    *(f"train {recipe} --list" for recipe in RECIPES),
    *(f"{command} --help" for command in COMMANDS if command != "bench"),
    *(f"bench {subject} --help" for subject in SUBJECTS),
]
MISTAKES = {
    "train cyclic --lrr 1": "unknown flag --lrr; did you mean '--lr'?",
    "train joint --lr fast": "--lr: expected a number, got 'fast'",
    "train joint --model resnt20": "unknown model 'resnt20'",
    "train joint --dataset vehicles --model mlp": "model must be a network for recordings (signal_cnn, resnet18)",
    "train cyclic --dataset mnst": "unknown dataset 'mnst'",
    "train cyclic --dataset folder --data_path missing": "--data_path: expected a folder at missing",
    "train ternary --teacher missing": "--teacher: expected the folder of a run at missing",
    "train compress --checkpoint missing": "--checkpoint: expected a run, a checkpoint or a state dict at missing",
    "train joint --resume missing": "expected a run folder or a checkpoint to resume at missing",
    "train joint --config missing.yaml": "expected a config file, but 'missing.yaml' does not exist",
    "train joint --model missing.py:make": "expected a Python file at",
    "train joint --dataset missing.py:load": "expected a Python file at",
    "evaluate missing": "expected the folder of a run at missing",
    "compare missing other": "expected the folder of a run at missing",
    "export missing": "expected the folder of a finished run at missing",
    "compress missing a.bd": "expected pictures at 'missing', got nothing",
    "decompress missing a.png": "expected .bd files at 'missing', got nothing",
    "analyze missing": "expected a folder of runs at missing",
    "bench amp --model resnt20": "unknown model 'resnt20'",
    "recommend --dataset mnst": "--dataset: expected a data set's name, got 'mnst'",
    "search cyclic --space missing.yaml": "expected a config file, but 'missing.yaml' does not exist",
    "runs --runs missing": "expected a folder of runs at missing",
    "runs watch missing": "expected the id of a run under",
    "runs stp": "did you mean 'stop'?",
    "doctor --jsn": "unknown flag --jsn; did you mean '--json'?",
}
ALL = """
import contextlib, io, json, sys
from bitdial.cli import main
found = []
for line in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(line.split())
    found.append([status, out.getvalue(), err.getvalue(), sorted({*json.loads(sys.argv[2])} & {*sys.modules})])
print(json.dumps([len(sys.modules), found]))
"""
RUN = """
import sys
from bitdial.recipes import RECIPES, find_recipe
import bitdial.recipes.start, bitdial.recipes.api
for name in RECIPES:
    find_recipe(name)
print(*sorted({"torch._dynamo", "matplotlib", "torchvision", "lightning", "sklearn", "scipy"} & {*sys.modules}))
from bitdial.training import make_fabric
make_fabric()
print(*sorted({"lightning.fabric", "lightning.pytorch", "torchmetrics.functional", "scipy"} & {*sys.modules}))
import lightning, torchmetrics
print(lightning.Trainer.__name__, torchmetrics.Metric.__name__, lightning.fabric.Fabric is lightning.Fabric)
"""


def python(code: str, *words: str) -> str:
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True).stdout


def test_helps_and_mistakes_load_little() -> None:
    lines = [*HELPS, *MISTAKES]
    modules, found = json.loads(python(ALL, json.dumps(lines), json.dumps(sorted(HEAVY | PICTURES))))
    for line, (status, out, err, heavy) in zip(lines, found, strict=True):
        assert not {*heavy} & (HEAVY if line in MISTAKES else HEAVY | PICTURES), line
        if line in MISTAKES:
            assert (status, out) == (2, ""), line
            assert MISTAKES[line] in err
            assert "loading torch" not in err
        else:
            assert (status, err) == (0, ""), line
            assert "bitdial" in out
    assert modules <= MOST_MODULES


def test_runs_load_what_they_need_when_they_need_it() -> None:
    recipes, fabric, others = python(RUN).splitlines()
    assert recipes == ""
    assert fabric == "lightning.fabric"
    assert others == "Trainer Metric True"


@pytest.mark.parametrize(
    "statement",
    [
        "from torchmetrics.functional.image import peak_signal_noise_ratio as found",
        "import lightning.pytorch.callbacks as found",
        *(
            pytest.param(statement, marks=pytest.mark.slow)
            for statement in (
                "import torchmetrics.classification as found",
                "from torchmetrics import Metric as found",
                "from lightning.pytorch import Trainer as found",
                "import lightning.fabric.plugins as found",
            )
        ),
    ],
)
def test_a_script_imports_modules_of_deferred_packages_as_ever(statement: str) -> None:
    code = f"from bitdial.training import make_fabric; make_fabric(); {statement}; print(found.__name__)"
    assert python(code).strip()


@pytest.mark.parametrize("package", ["data", "doctor", "layers", "models", "training", "compression", "recipes.cyclic"])
def test_names_of_a_lazy_package_are_what_its_stub_says(package: str) -> None:
    module = importlib.import_module(f"bitdial.{package}")
    assert {*module.__all__} <= {*dir(module)}
    for name in module.__all__:  # one of a module below the package would hide behind that
        assert not inspect.ismodule(getattr(module, name)), name
    with pytest.raises(AttributeError, match=f"module 'bitdial.{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_deferring_leaves_alone_what_is_loaded_or_missing() -> None:
    defer("bitdial", __version__="9")
    assert sys.modules["bitdial"] is bitdial
    defer("no_such_package")
    assert "no_such_package" not in sys.modules


def test_what_loads_torch_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    loading_torch()
    assert capsys.readouterr().err == ""
    monkeypatch.delitem(sys.modules, "torch")
    loading_torch()
    assert capsys.readouterr().err == "loading torch ...\n"
    monkeypatch.setenv("LOCAL_RANK", "1")
    loading_torch()
    assert capsys.readouterr().err == ""
