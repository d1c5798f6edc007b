"""The space file: what it may say, and what is refused, with file and line."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import optuna
import pytest
from pydantic import Field

from bitdial.errors import BitdialError
from bitdial.options import Config
from bitdial.search.samplers import check_sampler, make_sampler
from bitdial.search.space import Choices, Range, Space

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


class Group(Config):
    """A group."""

    cycle_length: int = Field(40, ge=2, le=100)


class Options(Config):
    """Some options of each type."""

    lr: float = Field(0.1, gt=0)
    batch_size: int = Field(64, ge=1)
    model: Literal["mlp", "cnn"] = "mlp"
    widths: list[int] = [2, 4]
    clip: float | None = None
    flag: bool = False
    table: dict[str, int] = {}
    steps: int = 10
    cyclic: Group = Group()


def read(text: str, folder: Path, **how: object) -> Space:
    path = folder / "space.yaml"
    path.write_text(text)
    return Space.read(path, Options, **how)  # type: ignore[arg-type]


WHOLE = """\
lr: {low: 1e-3, high: "1e-1", log: true}
batch-size: [32, 64]
cyclic: {cycle_length: {low: 10, high: 100, step: 20}}
widths: [[2, 4], [4, 8]]
clip: [null, 1.0]
flag: [true, false]
table: {a: 1}
steps: 200
"""


def test_everything_that_it_may_say(tmp_path: Path) -> None:
    space = read(WHOLE, tmp_path)
    assert space.fixed == {"table": {"a": 1}, "steps": 200}
    assert space.searched["lr"] == Range(1e-3, 0.1, log=True)
    assert space.searched["cyclic.cycle_length"] == Range(10, 90, 20, whole=True)  # 90 is the last that steps reach
    assert space.searched["widths"] == Choices(([2, 4], [4, 8]))
    middle = space.middle
    assert middle["lr"] == pytest.approx(0.01)
    assert (middle["cyclic.cycle_length"], middle["batch_size"], middle["clip"]) == (50, 32, None)
    assert read(
        "lr: {high: .1, log: yes-no}\n".replace("log: yes-no", "low: .01, log: true"), tmp_path
    ).described() == {"lr": {"low": 0.01, "high": 0.1, "log": True}}


def test_a_trial_chooses_within_it_and_gets_lists_as_lists(tmp_path: Path) -> None:
    space = read(WHOLE, tmp_path)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    seen = [space.suggest(study.ask()) for _ in range(30)]
    assert all(0.001 <= each["lr"] <= 0.1 for each in seen)
    assert min(each["lr"] for each in seen) < 0.01 < max(each["lr"] for each in seen)  # even in the logarithm
    assert {each["cyclic.cycle_length"] for each in seen} == {10, 30, 50, 70, 90}
    assert sorted({str(each["widths"]) for each in seen}) == ["[2, 4]", "[4, 8]"]
    assert study.trials[0].params["widths"] in ("[2,4]", "[4,8]")  # as a study stores it
    assert {each["clip"] for each in seen} == {None, 1.0}
    assert all(each["steps"] == 200 for each in seen)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected options to search, got an empty file"),
        ("- lr\n", "must hold 'key: value' lines, got a list"),
        ("lr: 0.1\n", "expected an option to search, got only fixed ones"),
        ("steps: 3\nlearn: {low: 1, high: 2}\n", "line 2: unknown setting 'learn'"),
        ("batch_sise: [1, 2]\n", "did you mean 'batch_size'?"),
        ("lr: {low: .1, high: .01}\n", "line 1: lr: low must be below high, got 0.1 above 0.01"),
        ("lr: {low: .1, high: .1}\n", "got 0.1 equal to 0.1; write the value alone"),
        ("lr: {low: 0, high: 1, log: true}\n", "low must be above 0 with log, got 0"),
        ("lr: {low: -1, high: 1, log: true}\n", "low must be above 0 with log, got -1"),
        ("lr: {low: .1, high: 1, log: true, step: .1}\n", "step and log exclude each other"),
        ("lr: {low: .1, high: 1, step: 0}\n", "step must be above 0, got 0"),
        ("lr: {low: .1, high: 1, step: -.1}\n", "step must be above 0, got -0.1"),
        ("lr: {low: .1, high: 1, step: 3}\n", "step must fit between low and high, got 3"),
        ("batch_size: {low: 1.5, high: 8}\n", "low must be a whole number, as the option is, got 1.5"),
        ("model: {low: 1, high: 2}\n", "a range is of numbers, expected one of 'mlp', 'cnn'"),
        ("lr: {low: .nan, high: 2}\n", "low must be a finite number, got nan"),
        ("lr: {low: 1, high: .inf}\n", "high must be a finite number, got inf"),
        ("lr: [.nan, 2]\n", "choices must be finite, got nan"),
        ("lr: {low: true, high: 2}\n", "low must be a number, got True"),
        ("lr: {low: few, high: 2}\n", "low must be a number, got 'few'"),
        ("lr: {low: 1, high: 2, log: 1}\n", "log must be true or false, got 1"),
        ("lr: {low: 1, hi: 2}\n", "unknown key 'hi' of a range; did you mean 'high'?"),
        ("lr: {low: 1}\n", "a range has low and high, got no high"),
        ("lr: {low: -1, high: 2}\n", "line 1: lr: expected a value greater than 0, got -1"),
        ("cyclic.cycle_length: {low: 10, high: 500}\n", "expected a value less than or equal to 100, got 500"),
        ("steps: 1\nmodel: [mlp, rnn]\n", "line 2: model: expected one of 'mlp', 'cnn', got 'rnn'"),
        ("batch_size: [0, 2]\n", "expected a value greater than or equal to 1, got 0"),
        ("batch_size: []\n", "expected at least one choice, got an empty list"),
        ("batch_size: [2, 2]\n", "choices must be different, got 2 twice"),
        ("widths: [[2], [2]]\n", "choices must be different, got [2] twice"),
        ("lr: [1, 2]\nlr: [3, 4]\n", "line 2: key 'lr' stands twice, first in line 1"),
        ("lr: [1, 2]\nbatch_size: many\n", "line 2: batch_size: expected a whole number, got 'many'"),
        ("cyclic: 3\n", "expected settings of this group"),
        ("lr: {low: 1\n", "expected YAML, got a syntax error"),
        ("lr: true\n", "expected a number, got true"),
    ],
)
def test_what_is_refused(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(BitdialError) as error:
        read(text, tmp_path)
    assert told in str(error.value)
    assert "space.yaml" in str(error.value)


def test_options_that_belong_elsewhere(tmp_path: Path) -> None:
    space = "lr: {low: 1, high: 2}\nsteps: [1, 2]\n"
    with pytest.raises(BitdialError, match="line 2: steps: this option is a flag of the command too"):
        read(space, tmp_path, flags=["steps"])
    with pytest.raises(BitdialError, match="line 2: steps: belongs to the search; remove it"):
        read(space, tmp_path, refused={"steps": "belongs to the search"})
    with pytest.raises(BitdialError, match="line 2: steps: may not be searched, for luck; give one value"):
        read(space, tmp_path, kept={"steps": "for luck"})
    assert read("lr: [1, 2]\nsteps: 5\n", tmp_path, kept={"steps": "for luck"}).fixed == {"steps": 5}


def test_a_grid_has_points_that_can_be_counted(tmp_path: Path) -> None:
    space = read("batch_size: {low: 1, high: 3}\nlr: {low: .1, high: .3, step: .1}\nflag: [true, false]\n", tmp_path)
    assert space.grid == {"batch_size": [1, 2, 3], "lr": [0.1, 0.2, 0.3], "flag": [True, False]}
    check_sampler("grid", space, 18, 1)
    with pytest.raises(BitdialError, match="the grid of the space has 18 points, got --trials 19"):
        check_sampler("grid", space, 19, 1)
    with pytest.raises(BitdialError, match="line 1: lr: a grid has choices or a range with a step"):
        check_sampler("grid", read("lr: {low: .1, high: .3}\n", tmp_path), 2, 1)
    with pytest.raises(BitdialError, match="cmaes has one metric"):
        check_sampler("cmaes", space, 2, 2)


@pytest.mark.parametrize("name", ["tpe", "random", "qmc", "gp"])
def test_a_seed_makes_a_trial_choose_the_same_again(name: str, tmp_path: Path) -> None:
    space = read("lr: {low: .1, high: .3}\nmodel: [mlp, cnn]\n", tmp_path)

    def first(seed: int | None, number: int = 0) -> float:
        study = optuna.create_study(sampler=make_sampler(name, seed, number))
        return float(space.suggest(study.ask())["lr"])

    assert first(1) == first(1) != first(2)
    if name != "qmc":  # a sequence, which the study keeps
        assert first(1) != first(1, number=1)
        assert first(None) != first(None)
