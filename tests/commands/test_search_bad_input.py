"""``bitdial search``: what is refused, in a sentence and before a trial."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bitdial.cli import main
from bitdial.recipes import RECIPES, find_recipe
from tests.commands.searches import LR, place, study, words

__all__ = ["place"]


def test_another_search_is_not_mixed_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("ternary", trials=1)) == 0
    changes: dict[str, Callable[[], list[str]]] = {
        r"space lr high is 0\.5, here 0\.4": lambda: (
            Path("space.yaml").write_text(LR.replace(".5", ".4")),
            words("ternary"),
        )[1],
        "options momentum is 0.9, here 0.8": lambda: words("ternary", "--momentum", ".8"),
        r"metrics is \['accuracy'\], here \['best_": lambda: words("ternary", "--metric", "best_accuracy"),
        r"directions is \['maximize'\], here": lambda: words("ternary", "--direction", "minimize"),
    }
    for told, line in changes.items():
        assert main(line()) == 2
        err = capsys.readouterr().err
        assert re.search(rf"the study 'ternary' in \S+ searches something else: .*{told}.*; give --study", err), err
        Path("space.yaml").write_text(LR)
    assert len(study().trials) == 1


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ([], "expected a RECIPE after `bitdial search`, got nothing"),
        (["--trials", "3"], "expected a RECIPE after `bitdial search`, got '--trials'"),
        (["cyclik"], "unknown recipe 'cyclik'; did you mean 'cyclic'?"),
        (["cyclic"], "give --space space.yaml"),
        (["cyclic", "--space", "none.yaml"], "expected a config file, but 'none.yaml' does not exist"),
        (["cyclic", "--space", "space.yaml", "--trials", "0"], "--trials: expected a value greater than or equal to 1"),
        (["cyclic", "--space", "space.yaml", "--trials", "many"], "--trials: expected a whole number, got 'many'"),
        (["cyclic", "--space", "space.yaml", "--trials", "2", "--trials", "3"], "each flag once, got --trials twice"),
        (["cyclic", "--space", "space.yaml", "--trails", "3"], "unknown flag --trails; did you mean '--trials'?"),
        (["cyclic", "--space", "space.yaml", "--storage", "sqlite:///a"], "storage must be journal:FILE"),
        (["cyclic", "--space", "space.yaml", "--storage", "redis://u:pass@h"], "got 'redis://u:***@h'"),
        (["cyclic", "--space", "space.yaml", "--sampler", "tpee"], "got 'tpee'; did you mean 'tpe'?"),
        (["cyclic", "--space", "space.yaml", "--pruner", "mean"], "expected one of 'median', 'hyperband', 'none'"),
        (["cyclic", "--space", "space.yaml", "--study", "a/b"], "study must be of at most 100 letters"),
        (["cyclic", "--space", "space.yaml", "--study", "a" * 300], "study must be of at most 100 letters"),
        (["cyclic", "--space", "space.yaml", "--seed", "-1"], "--seed: expected a value greater than or equal to 0"),
        (["cyclic", "--space"], "--space: expected a path or none after the flag, got nothing"),
        (["cyclic", "--space", "space.yaml", "--study", "[red]"], "study must be of at most 100 letters"),
        (["cyclic", "--space", "space.yaml", "--metric", "loss,loss"], "got 'loss' twice"),
        (["cyclic", "--space", "space.yaml", "--direction", "up"], "of one of 'maximize', 'minimize', got 'up'"),
        (["cyclic", "--space", "space.yaml", "--metric", "a,b", "--direction", "maximize"], "got 1 for 2"),
    ],
)
def test_what_is_refused_before_torch_is_loaded(line: list[str], told: str, place: Path) -> None:
    program = (
        "import sys; from bitdial.cli import main; status = main(['search', *sys.argv[1:]]);"
        "heavy = [name for name in ('torch', 'optuna', 'pandas') if name in sys.modules]; print(status, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", program, *line], capture_output=True, text=True)
    assert told in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == "2 []\n"


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; from bitdial.cli import main; main(['search', 'cyclic', '--help']);"
        "print([name for name in ('torch', 'optuna', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.endswith("[]\n")
    for flag in ("--space", "--trials", "--storage", "--sampler", "--pruner", "--metric", "--direction", "--runs"):
        assert flag in done.stdout


def test_no_flag_of_a_recipe_is_taken_for_one_of_the_search() -> None:
    from bitdial.commands.search import SearchConfig, _refuse_misspelt
    from bitdial.configuration.settings import Settings

    for recipe in RECIPES:
        for setting in Settings(find_recipe(recipe).options):
            if setting.name not in Settings(SearchConfig):
                _refuse_misspelt(setting.flag, setting.name, Settings(SearchConfig))


def test_without_optuna(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(words("ternary")) == 2
    assert 'pip install "bitdial[search]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("space", "more", "told"),
    [
        (LR, ("--lr", ".1"), "space.yaml, line 1: lr: this option is a flag of the command too"),
        (LR + "run_dir: x\n", (), "line 2: run_dir: belongs to the search"),
        (LR + "resume: true\n", (), "line 2: resume: belongs to the search"),
        (LR, ("--run_dir", "x"), "--run_dir: belongs to the search"),
        (LR + "seeds: [1, 2]\n", (), "line 2: seeds: may not be searched"),
        (LR + "validation_fraction: [.1, .2]\n", (), "line 2: validation_fraction: may not be searched"),
        (LR + "validation_fraction: 0\n", (), "expected a validation_fraction above 0, got 0"),
        (LR, ("--learn", "3"), "unknown flag --learn"),
        (LR, ("--model", "resnet9999"), "resnet9999"),
        (LR, ("--dataset", "folder", "--data_path", "nowhere"), "nowhere"),
        (LR, ("--devices", "2"), "a worker of a search trains on one device, got several"),
        (LR, ("--num_nodes", "2"), "a worker of a search trains on one device, got several"),
        (LR, ("--metric", "acuracy", "--direction", "maximize"), "got 'acuracy'; did you mean 'accuracy'?"),
        (
            LR,
            ("--metric", "zeal"),
            "--metric must be a score of an evaluation (loss, accuracy, best_accuracy), got 'zeal'",
        ),
        (LR, ("--sampler", "cmaes"), "pip install cmaes"),
        (LR, ("--sampler", "grid"), "a grid has choices or a range with a step"),
        (LR + "optimizer: [sgd, adam]\n", (), "line 2: optimizer: expected one of"),
        (LR, ("--storage", "journal:space.yaml"), "space.yaml, line 1: expected an entry of a study's journal"),
        (LR, ("--storage", "journal:space.yaml/x"), "check"),
        (LR, ("--runs", "space.yaml"), "the storage journal:space.yaml/search-ternary.log cannot be used"),
        (LR + "experiments: {a: {optimizer: sgd}, b: {optimizer: adamw}}\n", (), "got 2 arms (a, b)"),
        ("warmup_epochs: [7, 8]\n", ("--epochs", "3"), "in the middle of the space (warmup_epochs=7)"),
    ],
)
def test_what_is_refused_before_a_trial(
    space: str, more: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str], place: Path
) -> None:
    Path("space.yaml").write_text(space)
    given = words("ternary")
    for flag in more[::2]:
        if flag in given:
            del given[given.index(flag) : given.index(flag) + 2]
    if "--epochs" in more:
        del given[given.index("--steps") : given.index("--steps") + 2]
    assert main([*given, *more]) == 2
    err = capsys.readouterr().err.replace("\n", " ")
    assert told in err
    assert not list(place.glob("runs/search-*/*"))


def test_a_lambda_is_judged_by_what_can_be_compared(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text("lambda: [.01, .1]\n")
    assert main(words("compress")) == 2
    assert "lambda_value changes the scale of the metric loss" in capsys.readouterr().err
