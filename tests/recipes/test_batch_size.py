"""``--batch_size auto``: what is measured is what is trained, nothing of it stays, the number is the run's."""

from __future__ import annotations

import random
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bitdial
from bitdial.cli import main
from bitdial.recipes import find_recipe, fitting
from bitdial.recipes.options import RunOptions
from bitdial.recipes.resuming import read_options
from bitdial.training import RunFolder
from bitdial.training.batch_size import peak_memory
from tests.data.sensors import six
from tests.recipes.ternary.tiny import differences
from tests.recipes.test_early_stopping import states

WORDS = {
    "cyclic": "--model tiny_cnn --steps 6 --num_static_iterations 5 --warmup_steps 1 --cyclic.cycle_length 5 "
    "--model_options.bit_widths 4 8 --static.test_configurations '{4bit: 4}' --distillation_alpha .5",
    "joint": "--model tiny_cnn --steps 6 --warmup_steps 1 --bitwidth_options 2 4 32 --no_sensitivity "
    "--gradient_accumulation_steps 2",
    "compress": "--model_options.channels 4 --model_options.latent_channels 4 --crop 32 --steps 6 --coded_pictures 1 "
    "--lambdas .01 .02",
    "ternary": "--model tiny_cnn --steps 3 --cutmix --mixup --ema_decay .9 --quantizer ttq --optimizer adamw",
}
BUDGET = 8 * 2**20


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A memory of 8 MiB: this process takes a hundred times as much, so that no limit would do."""
    monkeypatch.setattr(fitting, "free_for_tensors", lambda *_: (BUDGET, BUDGET, 0))


def train(recipe: str, *words: object) -> int:
    return main(["train", recipe, *(word for each in words for word in shlex.split(str(each)))])


def number_of(run: Path) -> int:
    return int(RunFolder.open(run).load_config()["batch_size"])


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "recipe", ["joint", *(pytest.param(name, marks=pytest.mark.slow) for name in ("cyclic", "compress", "ternary"))]
)
def test_a_run_is_that_with_the_number_given_by_hand(
    recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, hand = tmp_path / "found", tmp_path / "hand"
    assert train(recipe, WORDS[recipe], "--batch_size auto --run_dir", found) == 0
    size = number_of(found)
    assert 2 < size < 1400
    err = capsys.readouterr().err
    assert err.startswith(f"batch size: {size} (largest that fits in 8.0 MiB, 10% of it left free: ")
    assert RunFolder.open(found).load_config()["memory_limit"] is None
    monkeypatch.setattr(fitting, "fit_batch", lambda *_: pytest.fail("there is a number"))
    assert train(recipe, WORDS[recipe], "--batch_size", size, "--run_dir", hand) == 0
    assert differences(states(found), states(hand)) == []
    assert (found / "metrics.csv").read_bytes() == (hand / "metrics.csv").read_bytes()
    # taken up again it has its number, be it asked for anew
    for file in (found / "results.json", *found.glob("cyclic_precision_results.json")):
        file.unlink()
    assert main(["train", recipe, "--resume", str(found)]) == 0
    assert train(recipe, WORDS[recipe], "--batch_size auto --memory_limit 1 --resume", found) == 0
    assert number_of(found) == size


@pytest.mark.slow
def test_the_largest_of_all_arms_fits_and_a_larger_one_does_not(
    monkeypatch: pytest.MonkeyPatch, small: None, tmp_path: Path
) -> None:
    tried: dict[str, dict[int, int]] = {}
    plain = fitting._try

    def watched(run: Any, arm: Any, size: int, trial: Any) -> None:
        tried.setdefault(arm.name, {})[size] = 0
        plain(run, arm, size, trial)

    monkeypatch.setattr(fitting, "_try", watched)
    kept: list[Any] = []
    found = fitting._found

    def keep(run: Any, limit: Any) -> Any:
        kept.append(run)
        return found(run, limit)

    monkeypatch.setattr(fitting, "_found", keep)
    words = (
        "--model tiny_cnn --epochs 1 --keep_best 0 --experiments '{float: {quantizer: none}, ttq: {quantizer: ttq}}'"
    )
    assert train("ternary", words, "--batch_size auto --run_dir", tmp_path / "run") == 0
    size, run = number_of(tmp_path / "run"), kept[0]
    assert size <= max(tried["float"])
    assert size in tried["ttq"]  # which needs more
    peaks = []
    alone = fitting.Trial(run.setup.fabric, run.setup.precision, task=run.work.task)
    for each in (size, size + size // 16):
        peaks.append(
            [peak_memory(lambda arm=arm, b=each: plain(run, arm, b, alone)) for arm in run.recipe.arms(run.options)]
        )
    assert max(peaks[0]) <= BUDGET < max(peaks[1])


@pytest.mark.parametrize("recipe", ["joint", pytest.param("compress", marks=pytest.mark.slow)])
def test_nothing_stays(recipe: str, small: None) -> None:
    record = find_recipe(recipe)
    options = fitting.sized(read_options(record, shlex.split(f"{WORDS[recipe]} --batch_size auto")), 2)
    from bitdial.recipes.devices import fabric_for, mixed_precision_of
    from bitdial.recipes.run import Run
    from bitdial.training import Setup

    fabric = fabric_for(options)
    work = record.work(options)
    setup = Setup(fabric, mixed_precision_of(options, fabric.device))
    run = Run(record, options, work, [0], setup)
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    marks = work.identify()
    after = fitting.fit_batch(run, None)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]
    assert random.getstate() == before[2]
    assert after.work.identify() == marks
    assert run.options.batch_size == 2
    assert after.options == options.model_copy(update={"batch_size": after.options.batch_size})


@pytest.mark.usefixtures("small")
def test_recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITDIAL_DATA", str(tmp_path / "cache"))
    six(tmp_path / "data")
    words = "--dataset recordings --steps 2 --warmup_steps 0 --bitwidth_options 4 32 --no_sensitivity --batch_size auto"
    assert train("joint", words, "--data_path", tmp_path / "data", "--run_dir", tmp_path / "run") == 0
    assert 2 <= number_of(tmp_path / "run") <= 6


def own() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2))


def pair(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 64), torch.arange(count) % 2


@pytest.mark.usefixtures("small")
def test_tensors_of_a_script(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how: dict[str, Any] = {"steps": 2, "warmup_steps": 0, "batch_size": "auto", "sensitivity": False}
    bitdial.run("joint", model=own, data=(pair(5000), pair(8)), run_dir=tmp_path / "a", **how)
    assert 64 < number_of(tmp_path / "a") < 5000
    capsys.readouterr()
    bitdial.run("joint", model=own, data=(TensorDataset(*pair(30)), pair(8)), run_dir=tmp_path / "b", **how)
    assert number_of(tmp_path / "b") == 30
    assert "batch size: 30 (there are no more examples; " in capsys.readouterr().err


@pytest.mark.parametrize("batches", [[pair(4), pair(4)], DataLoader(TensorDataset(*pair(8)), batch_size=4)])
def test_batches_of_a_script_cannot_be_made_larger(batches: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data of which batches of any size can be made, got batches; give tensors"):
        bitdial.run("joint", model=own, data=(batches, pair(8)), steps=2, batch_size="auto", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_network_that_does_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fitting, "free_for_tensors", lambda *_: (50_000, 60_000, 7))
    assert train("joint", "--model tiny_cnn --batch_size auto --run_dir", tmp_path / "run") == 2
    err = capsys.readouterr().err
    assert "not even a batch of 1 fits: expected at most 48.8 KiB for it, got 0.3 MiB; give it more memory" in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_limit_below_the_program_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--model tiny_cnn --batch_size auto --memory_limit .01 --run_dir"
    assert train("joint", words, tmp_path / "run") == 2
    assert "memory_limit must be above the " in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_whole_process_stays_under_the_limit(tmp_path: Path) -> None:
    """By what the system says of a run in a process of its own: the limit, and no more than a third below it."""
    code = (
        "import resource, sys; from bitdial.cli import main; assert main(sys.argv[1:]) == 0; "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    limit = 1.6
    words = (
        "train compress --model_options.channels 8 --model_options.latent_channels 8 --steps 4 --coded_pictures 1 "
        f"--batch_size auto --memory_limit {limit} --run_dir {tmp_path / 'run'}"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True, check=True)
    taken = int(done.stdout.split()[-1]) / 2**20
    print(done.stderr.splitlines()[0], f"taken: {taken:.2f} GiB")
    assert 0.66 * limit < taken <= limit
    assert number_of(tmp_path / "run") > 8


@pytest.mark.parametrize("recipe", ["joint", "ternary"])
@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--batch_size 0", "expected a whole number from 1 up or 'auto', got 0"),
        ("--batch_size -1", "from 1 up or 'auto', got -1"),
        ("--batch_size big", "from 1 up or 'auto', got 'big'"),
        ("--batch_size Auto", "from 1 up or 'auto', got 'Auto'"),
        ("--batch_size 1.5", "from 1 up or 'auto', got 1.5"),
        ("--memory_limit 2", "memory_limit belongs to batch_size auto, got batch_size "),
        ("--batch_size 8 --memory_limit 2", "memory_limit belongs to batch_size auto, got batch_size 8; leave it out"),
        ("--batch_size auto --memory_limit 0", "greater than 0"),
        ("--batch_size auto --memory_limit much", "a number"),
    ],
)
def test_bad_options(recipe: str, flags: str, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(recipe, flags) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("given", [True, float("nan"), float("inf"), None, [64], 0, 64.5])
def test_bad_values_in_python(given: Any) -> None:
    with pytest.raises(ValueError, match="expected a whole number from 1 up or 'auto'"):
        RunOptions(batch_size=given)


def test_numbers_as_they_were() -> None:
    assert [RunOptions(batch_size=each).batch_size for each in (8, "8", 8.0, "auto")] == [8, 8, 8, "auto"]


def test_an_experiment_cannot_have_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("ternary", "--experiments '{one: {batch_size: auto}}'") == 2
    assert "experiments.one: batch_size auto is the same for all; set it outside" in capsys.readouterr().err
