"""``bitdial search``: trials of every recipe, pruned, stopped, killed, or failing by themselves."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
import yaml

from bitdial.cli import main
from bitdial.commands import search_run
from bitdial.commands.search_report import line_of
from bitdial.recipes import RECIPES, find_recipe
from bitdial.recipes.trial import JudgedArm
from bitdial.search.storage import open_storage
from bitdial.training import TrainingDiverged, read_checkpoint
from tests.commands.searches import LR, OF, place, study, words

__all__ = ["place"]


def last_scores(trial: optuna.trial.FrozenTrial) -> dict[str, float]:
    checkpoints = sorted(Path(trial.user_attrs["folder"]).glob("checkpoints/**/*.pt"), key=lambda path: path.name)
    return dict(read_checkpoint(checkpoints[-1], expected=()).state["scores"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(recipe)) == 0
    out, err = capsys.readouterr()
    task = find_recipe(recipe).tuned
    trials = study(recipe).trials
    metric = "loss" if recipe == "compress" else "accuracy"
    for trial in trials:
        assert trial.value == last_scores(trial)[metric]
        (record,) = Path(trial.user_attrs["folder"]).glob("models/*-trial.json")
        assert JudgedArm.model_validate_json(record.read_text()).name == (task.arm or record.name.split("-seed")[0])
        assert not list(Path(trial.user_attrs["folder"]).glob("results.json"))
        config = yaml.safe_load((Path(trial.user_attrs["folder"]) / "config.yaml").read_text())
        assert config["lr"] == trial.params["lr"]
        assert (config["validation_fraction"], config["devices"]) == (0.1, 1)
    assert [line.split(":")[0] for line in out.splitlines()[:2]] == ["trial 0", "trial 1"]
    best = min(trials, key=lambda each: each.value if metric == "loss" else -each.value)
    assert (
        f"Run of trial {best.number}: {Path('runs', f'search-{recipe}', f'trial-{best.number:04d}').absolute()}" in out
    )
    assert f"bitdial train {recipe} {' '.join(OF[recipe])} --lr {best.params['lr']}" in out
    assert "optuna" not in (out + err).lower()
    assert study(recipe).user_attrs["bitdial"]["recipe"] == recipe
    assert main(words(recipe)) == 0  # there is nothing left to do
    assert len(study(recipe).trials) == 2


def test_a_trial_can_be_measured_in_full_without_training_again(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("ternary", trials=1)) == 0
    assert main(["train", "ternary", "--resume", "runs/search-ternary/trial-0000"]) == 0
    assert Path("runs/search-ternary/trial-0000/results.json").exists()


@pytest.mark.parametrize(
    "recipe", ["ternary", *(pytest.param(each, marks=pytest.mark.slow) for each in ("cyclic", "joint"))]
)
def test_test_data_is_never_looked_at(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same values whatever test data there is."""
    from bitdial.recipes import dataset_work

    assert main(words(recipe)) == 0
    load = dataset_work.load_dataset

    def other(*how: Any) -> Any:
        data = load(*how)
        labels = (data.test.labels + 1) % data.num_classes
        return replace(data, test=replace(data.test, labels=labels, images=torch.zeros_like(data.test.images)))

    monkeypatch.setattr(dataset_work, "load_dataset", other)
    again = ("--study", "again", "--storage", "journal:again.log")
    assert main(words(recipe, *again)) == 0
    found = optuna.load_study(storage=open_storage(again[3]), study_name="again")
    parts = [each.user_attrs["bitdial"]["data"] for each in (study(recipe), found)]
    assert parts[0]["train"] == parts[1]["train"]
    assert parts[0]["test"] != parts[1]["test"]
    assert [trial.values for trial in found.trials] == [trial.values for trial in study(recipe).trials]


def test_flags_do_something(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text(LR + "batch_size: [32, 64]\nseeds: 2\n")
    Path("base.yaml").write_text("momentum: .5\nlr: 3\n")
    flags = ("--config", "base.yaml", "--study", "mine", "--runs", "elsewhere", "--sampler", "qmc", "--pruner", "none")
    ternary = [word for word in words("ternary", *flags) if word not in ("--batch_size",)]
    ternary.remove("64")
    assert main(ternary) == 0
    found = optuna.load_study(storage=open_storage("journal:elsewhere/search-mine.log"), study_name="mine")
    assert sorted(path.name for path in Path("elsewhere/search-mine").iterdir()) == ["trial-0000", "trial-0001"]
    assert all(
        list(trial.intermediate_values) in ([20], [20.0]) or trial.params["batch_size"] == 64 for trial in found.trials
    )
    assert any("qmc" in key for key in found._storage.get_study_system_attrs(found._study_id))
    configs = [yaml.safe_load((Path(trial.user_attrs["folder"]) / "config.yaml").read_text()) for trial in found.trials]
    assert [config["momentum"] for config in configs] == [0.5, 0.5]
    assert [config["lr"] for config in configs] == [trial.params["lr"] for trial in found.trials]  # the space wins
    record = JudgedArm.model_validate_json
    for trial in found.trials:  # the mean of both seeds
        records = [record(path.read_text()) for path in Path(trial.user_attrs["folder"]).glob("models/*-trial.json")]
        assert sorted(each.seed for each in records) == [0, 1]
        assert trial.value == pytest.approx(sum(each.scores["accuracy"] for each in records) / 2)
        assert trial.user_attrs["steps"] == 40


def test_a_seed_makes_a_study_again_and_a_grid_takes_every_point() -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert (
            main(
                [
                    *words("ternary", "--study", name)[:7],
                    seed,
                    *OF["ternary"],
                    "--study",
                    name,
                    "--storage",
                    "journal:s",
                ]
            )
            == 0
        )
    chosen = [
        [trial.params for trial in optuna.load_study(storage=open_storage("journal:s"), study_name=name).trials]
        for name in "abc"
    ]
    assert chosen[0] == chosen[1] != chosen[2]
    Path("space.yaml").write_text("lr: [.1, .2]\nmomentum: {low: .5, high: .9, step: .4}\n")
    assert main(words("ternary", "--sampler", "grid", "--study", "g", trials=4)) == 0
    found = optuna.load_study(storage=open_storage("journal:runs/search-g.log"), study_name="g").trials
    assert sorted((trial.params["lr"], trial.params["momentum"]) for trial in found) == [
        (0.1, 0.5), (0.1, 0.9), (0.2, 0.5), (0.2, 0.9)
    ]  # fmt: skip


def test_several_metrics_and_a_direction(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words("compress", "--metric", "psnr", "--metric", "bpp")) == 0
    out, err = capsys.readouterr()
    found = study("compress")
    assert [each.name for each in found.directions] == ["MAXIMIZE", "MINIMIZE"]
    for trial in found.trials:
        scores = last_scores(trial)
        assert trial.values == [scores["psnr"], scores["bpp"]]
        assert trial.intermediate_values == {}
    assert "none is better in all of psnr, bpp" in out
    assert "several metrics: no trial is pruned" in err
    lower = ("--metric", "accuracy", "--direction", "minimize")
    assert main(words("ternary", *lower)) == 0
    assert study().direction.name == "MINIMIZE"
    rows = re.findall(r"^ +(\d) +[\d.]+ ", capsys.readouterr().out, re.MULTILINE)
    assert [int(row) for row in rows] == [trial.number for trial in sorted(study().trials, key=lambda t: t.value)]


def scripted(scores: Sequence[Sequence[float]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each further trial score as it is said, evaluation by evaluation."""
    from bitdial.training import loop

    runs = iter(scores)
    now: list[float] = []

    def scores_of(evaluate: Any, model: Any, fabric: Any) -> dict[str, float]:
        return {"accuracy": now.pop(0), "loss": 1.0}

    monkeypatch.setattr(loop, "scores_of", scores_of)
    trained = search_run.run_trial

    def run_trial(*how: Any, **more: Any) -> Any:
        now[:] = next(runs)
        return trained(*how, **more)

    monkeypatch.setattr(search_run, "run_trial", run_trial)


GOOD, BAD = [0.5, 0.6, 0.7], [0.1, 0.2, 0.3]


@pytest.mark.parametrize("pruner", ["median", "none"])
def test_pruning_saves_steps_and_says_how_many(
    pruner: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted([*[GOOD] * 5, BAD, [0.9, 0.9, 0.9]], monkeypatch)
    line = words("ternary", "--pruner", pruner, trials=7)
    line[line.index("--steps") : line.index("--keep_best")] = ["--epochs", "3", "--batch_size", "256"]
    assert main(line) == 0
    if pruner == "none":
        assert [trial.state.name for trial in study().trials] == ["COMPLETE"] * 7
        assert "pruned" not in capsys.readouterr().out
        return
    out = capsys.readouterr().out
    found = study().trials
    assert [trial.state.name for trial in found] == [*["COMPLETE"] * 5, "PRUNED", "COMPLETE"]
    step = found[5].last_step
    assert found[5].intermediate_values == {step: 0.1}
    assert found[5].user_attrs["steps"] == step + 1  # the stop is at the next one
    steps = found[0].user_attrs["steps"]
    taken = 6 * steps + step + 1
    assert f"pruned 1 of 7 trials; {taken} of {7 * steps} steps taken, {1 - taken / (7 * steps):.0%} saved" in out
    assert f"trial 5: pruned after {step + 1} of {steps} steps, accuracy 0.1" in out
    assert list(Path(found[5].user_attrs["folder"]).glob("checkpoints/*.pt"))  # its run stays


def test_a_stopped_trial_goes_on_from_its_checkpoint_and_reports_nothing_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bitdial.search.pruning import TrialWatch

    after = TrialWatch.after_evaluation
    reports: list[int] = []

    def stop(watch: TrialWatch, state: Any) -> None:
        after(watch, state)
        if len(reports) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    report = optuna.Trial.report
    monkeypatch.setattr(
        optuna.Trial, "report", lambda trial, value, step: (reports.append(step), report(trial, value, step))
    )
    monkeypatch.setattr(TrialWatch, "after_evaluation", stop)
    line = words("ternary", trials=1)
    line[line.index("--steps") : line.index("--steps") + 2] = ["--epochs", "3"]
    assert main(line) == 130
    err = capsys.readouterr().err
    assert re.search(
        r"bitdial: trial 0: ternary: stopped by SIGTERM after step \d+ of \d+ .*the same command goes on", err
    )
    (waiting,) = study().trials
    assert (waiting.state.name, list(waiting.intermediate_values)) == ("WAITING", reports)
    assert main(line) == 0
    assert capsys.readouterr().err.count("resume:") == 0
    (done,) = study().trials
    assert (done.state.name, done.params) == ("COMPLETE", waiting.params)
    assert len(reports) == len(set(reports)) == 3
    assert sorted(path.name for path in Path("runs/search-ternary").iterdir()) == ["trial-0000"]
    whole = [word.replace("search-ternary", "") for word in line]
    assert main([*whole, "--study", "whole"]) == 0  # one that was never stopped comes out the same
    other = optuna.load_study(storage=open_storage("journal:runs/search-whole.log"), study_name="whole").trials[0]
    assert (other.params, other.value, other.intermediate_values) == (done.params, done.value, done.intermediate_values)


def test_trials_that_fail_count_and_say_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = search_run.run_trial
    errors: list[BaseException | None] = [TrainingDiverged("the loss is nan"), torch.OutOfMemoryError("no room"), None]

    def run_trial(*how: Any, **more: Any) -> Any:
        error = errors.pop(0)
        if error is not None:
            raise error
        return trained(*how, **more)

    monkeypatch.setattr(search_run, "run_trial", run_trial)
    assert main(words("ternary", trials=3)) == 0
    out = capsys.readouterr().out
    assert [trial.state.name for trial in study().trials] == ["FAIL", "FAIL", "COMPLETE"]
    assert study().trials[0].user_attrs["reason"] == "the loss is nan"
    assert "trial 1: failed: no room" in out
    assert "3 trials, 20 steps taken; 2 failed" in out


def test_three_failures_in_a_row_end_a_worker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("space.yaml").write_text("warmup_epochs: [0, 1, 2, 3, 4, 5]\n")
    line = words("ternary", "--sampler", "grid", trials=6)
    line[line.index("--steps") : line.index("--steps") + 2] = ["--epochs", "1"]
    assert main(line) == 2  # options that contradict each other: a warm-up as long as the run
    captured = capsys.readouterr()
    assert "warmup_epochs must be below the 1 epochs of the run" in captured.out + captured.err
    states = [trial.state.name for trial in study().trials]
    assert states.count("FAIL") >= 3 or states.count("COMPLETE") == 1


def test_a_full_disk_is_no_fault_of_the_trial(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*how: Any, **more: Any) -> Any:
        raise OSError(28, "No space left on device", "runs/x")

    with monkeypatch.context() as patch:
        patch.setattr(search_run, "run_trial", full)
        assert main(words("ternary", trials=1)) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert [trial.state.name for trial in study().trials] == ["WAITING"]
    assert main(words("ternary", trials=1)) == 0
    assert [trial.state.name for trial in study().trials] == ["COMPLETE"]


def test_a_lost_storage_is_one_sentence_and_the_run_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lost(*_: Any) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Trial, "report", lost)
        assert main(words("ternary", trials=1)) == 2
    assert "the storage journal:runs/search-ternary.log cannot be used (Input/output error)" in capsys.readouterr().err
    assert list(Path("runs/search-ternary/trial-0000").glob("checkpoints/*.pt"))


def test_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    Path("space.yaml").write_text("skip_layers: [['<first>', '[cf][ox]*'], ['<last>', '[cf][/o]*']]\n")
    assert main(words("ternary", "--runs", "[bold]x[/bold]")) == 0
    out = capsys.readouterr().out
    assert "[cf][" in out
    assert "[bold]x[/bold]/search-ternary" in out


def start(*line: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    program = "import sys; from bitdial.cli import main; raise SystemExit(main(sys.argv[1:]))"
    return subprocess.Popen([sys.executable, "-c", program, *line], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ternary", "compress"])
def test_three_workers_of_whom_one_is_killed(recipe: str) -> None:
    line = words(recipe, "--storage", "journal:study.log", "--log_interval", "5", trials=12)
    line[line.index("--steps") + 1] = "120"
    checkpoints = ["--checkpoint_interval", "10"]
    made = [start(*line, *checkpoints) for _ in range(3)]

    def running_of(process: subprocess.Popen[str]) -> list[optuna.trial.FrozenTrial]:
        if not Path("study.log").exists():
            return []
        try:
            trials = study(recipe, "journal:study.log").trials
        except KeyError:
            return []
        return [
            each for each in trials
            if each.state.name == "RUNNING" and (each.user_attrs.get("worker") or {}).get("pid") == process.pid
            and list(Path(each.user_attrs.get("folder", "none")).glob("checkpoints/*.pt"))
        ]  # fmt: skip

    end = time.monotonic() + 120
    while not (victims := running_of(made[0])) and time.monotonic() < end:
        time.sleep(0.05)
    made[0].send_signal(signal.SIGKILL)
    told = [process.communicate(timeout=300) for process in made]
    assert [process.returncode for process in made] == [-signal.SIGKILL, 0, 0], told
    assert main(line + checkpoints) == 0  # what is left, if anything
    trials = study(recipe, "journal:study.log").trials
    dead = [each for each in trials if each.user_attrs.get("worker_died")]
    assert [(each.number, each.state.name) for each in dead] == [(victims[0].number, "FAIL")]
    (retry,) = [each for each in trials if each.user_attrs.get("retry_of") == dead[0].number]
    assert retry.params == dead[0].params
    assert retry.user_attrs["folder"] == dead[0].user_attrs["folder"]  # it went on there
    counted = [each for each in trials if each.state.is_finished() and each not in dead]  # some diverge
    assert len(counted) == 12
    assert len({str(each.params) for each in counted}) == 12
    assert len({each.user_attrs["folder"] for each in counted}) == 12


def test_the_trial_of_a_dead_worker_says_whose_it_was() -> None:
    trial = optuna.trial.create_trial(value=0.5, user_attrs={"retry_of": 2})
    trial.number = 3
    assert line_of(trial, ["loss"]).plain == "trial 3 (trial 2 again, whose worker died): loss 0.5"
