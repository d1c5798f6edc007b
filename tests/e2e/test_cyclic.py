"""``bitdial train cyclic`` and ``bitdial evaluate``: the files of a run, and what they say."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from matplotlib.image import imread

from bitdial.data import load_dataset, make_loader
from bitdial.data.published import DEBIAN_FASHION_MNIST
from bitdial.errors import BitdialError
from bitdial.evaluation.sweep import evaluate_loss_accuracy
from bitdial.layers import BitDial
from bitdial.recipes.cyclic import CyclicResults, load_best_model
from bitdial.recipes.cyclic.recipe import CYCLIC, leave
from bitdial.recipes.start import open_run
from bitdial.training import Classification, RunFolder, Setup, make_fabric
from tests.e2e.cyclic_runs import SMALL, bitdial, results_of, train


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two seeds and everything on."""
    return train(
        tmp_path_factory.mktemp("cyclic"), "--seeds", "2", "--experiment.save_cycle_checkpoints",
        "--experiment.ablations", "random_cycling", "--cyclic.gradient_bits", "8",
    )  # fmt: skip


def test_files_of_a_run(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        "config.yaml", "data.json", "metrics.csv", "layers.csv", "tensorboard", "checkpoints", "plots",
        "cyclic_best_model.pt", "cyclic_precision_results.json", "results.json", "report.html", "progress.json",
    }  # fmt: skip
    arms = {arm["name"] for arm in results_of(run)["arms"]}
    assert {path.name for path in (run / "tensorboard").iterdir()} == {f"{a}-{s}" for a in arms for s in (0, 1)}
    assert all(any(folder.glob("events.out.tfevents.*")) for folder in (run / "tensorboard").iterdir())
    checkpoints = {path.name for path in (run / "checkpoints").iterdir()}
    assert checkpoints == {f"{a}-seed{s}" for a in arms for s in (0, 1)} | {"cycles-seed0", "cycles-seed1"}
    cycles = sorted(path.name for path in (run / "checkpoints" / "cycles-seed1").iterdir())
    assert cycles == ["cycle-0001.pt", "cycle-0002.pt"]


def test_config_is_written_first_and_makes_the_run_again(run: Path, tmp_path: Path) -> None:
    others = [path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()]
    assert (run / "config.yaml").stat().st_mtime_ns == min(others)
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert (config["seeds"], config["run_dir"], config["resume"]) == (2, None, False)
    again = tmp_path / "again"
    words = ["--config", str(run / "config.yaml"), "--run_dir", str(again), "--seeds", "1"]
    assert bitdial("train", "cyclic", *words) == 0
    first = [arm["scores"] for arm in results_of(run)["arms"] if arm["seed"] == 0]
    assert [arm["scores"] for arm in results_of(again)["arms"]] == first


def test_metrics_hold_every_phase(run: Path) -> None:
    head, *rows = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    assert {"phase", "seed", "step", "bits", "learning_rate", "train_loss"} <= set(head)
    phases = {(row[head.index("phase")], row[head.index("seed")]) for row in rows}
    assert phases == {(arm["name"], str(arm["seed"])) for arm in results_of(run)["arms"]}


def test_results_follow_their_schema_under_both_names(run: Path) -> None:
    results = CyclicResults.load(run / "cyclic_precision_results.json")
    assert results == CyclicResults.load(run / "results.json")
    assert results.config["seeds"] == 2
    assert results.command.startswith("bitdial train cyclic --model tiny_cnn --steps 12")
    assert all(row.own.n == 2 and row.own.low is not None for row in results.comparison.summaries)


def test_matched_cost_is_matched(run: Path) -> None:
    arms = {(arm["name"], arm["seed"]): arm for arm in results_of(run)["arms"]}
    for seed in (0, 1):
        cyclic, matched = arms["cpt", seed], arms["matched_cost", seed]
        assert abs(cyclic["bitops"] - matched["bitops"]) <= 0.5 * matched["bitops"] / matched["iterations"]


def test_plots_are_pictures(run: Path) -> None:
    plots = sorted((run / "plots").iterdir())
    assert [plot.name for plot in plots] == [
        "accuracy_by_cost.png", "accuracy_by_width.png", "bits_and_loss.png", "confusion.png", "cycle_statistics.png",
    ]  # fmt: skip
    for plot in plots:
        assert len(np.unique(imread(plot)[..., :3] @ [1.0, 1e3, 1e6])) > 50


def test_the_report_needs_nothing_from_outside(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r"""(?:src|href|srcset)\s*=\s*["']([^"']*)""", page)
    assert page.count("<svg") == 5
    assert all(source.startswith("#") for source in sources)
    assert not re.search(r"<script src|<link|<iframe|@import|url\((?!#)|https?://", page)
    assert results_of(run)["comparison"]["recommended"] in page.replace("<wbr>", "")


class TestBestModel:
    def test_it_is_safe_to_load_and_scores_what_was_reported(self, run: Path) -> None:
        content = torch.load(run / "cyclic_best_model.pt", weights_only=True)
        results = CyclicResults.load(run / "results.json")
        arm = next(a for a in results.arms if a.name == results.comparison.recommended and a.seed == 0)
        assert (content["arm"], content["seed"]) == (arm.name, 0)
        model = load_best_model(run)
        assert not model.training
        assert dict(zip(BitDial(model).names, BitDial(model).weights, strict=True)) == content["bits"]
        loader = make_loader(load_dataset("digits").test, 256, train=False)
        chosen = results.comparison.chosen
        score = arm.own if chosen.label == arm.own_label else arm.at(chosen.bits)
        assert score is not None
        assert evaluate_loss_accuracy(model, loader) == (score.loss, score.accuracy)

    @pytest.mark.parametrize(
        ("name", "label"), [("cpt", "4"), ("static_mixed", "2/4 alternating"), ("static_mixed", "8")]
    )
    def test_it_is_the_recommended_arm_at_the_recommended_width(
        self, run: Path, name: str, label: str, tmp_path: Path
    ) -> None:
        folder = shutil.copytree(run, tmp_path / "run", symlinks=True)
        results = CyclicResults.load(folder / "results.json")
        (wanted,) = [item for item in results.comparison.candidates if (item.arm, item.label) == (name, label)]
        chosen = {"recommended": name, "recommended_bits": wanted.bits, "recommended_label": label}
        results.comparison = results.comparison.model_copy(update=chosen)
        opened = replace(open_run(CYCLIC, RunFolder.open(folder)), setup=Setup(make_fabric()))
        leave(results, opened)
        arm = next(a for a in results.arms if a.name == name and a.seed == 0)
        score = arm.own if label == arm.own_label else arm.at(wanted.bits)
        loader = make_loader(load_dataset("digits").test, 256, train=False)
        assert score is not None
        assert evaluate_loss_accuracy(load_best_model(folder), loader) == (score.loss, score.accuracy)

    def test_loading_it_draws_no_random_numbers(self, run: Path) -> None:
        state = torch.get_rng_state()
        load_best_model(run / "cyclic_best_model.pt")
        assert torch.equal(state, torch.get_rng_state())

    def test_refuses_what_is_no_such_file(self, tmp_path: Path) -> None:
        with pytest.raises(BitdialError, match="got nothing"):
            load_best_model(tmp_path)
        (tmp_path / "x.pt").write_bytes(b"not a model")
        with pytest.raises(BitdialError, match="damaged"):
            load_best_model(tmp_path / "x.pt")


def accuracies(text: str) -> dict[str, float]:
    return {bits: float(value) for bits, value in re.findall(r"^ *([\d.]+) +([\d.]+)%", text, flags=re.M)}


class TestEvaluate:
    def test_shows_whatever_the_task_scores(
        self, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = Classification.score

        def with_another(self: Classification, model: Any, batch: Any) -> Any:
            sums, count = plain(self, model, batch)
            return {"loss": sums["loss"], "halves": torch.tensor(count / 2)}, count

        monkeypatch.setattr(Classification, "score", with_another)
        assert bitdial("evaluate", str(run), "--bits", "4") == 0
        _, heading, _, row = (line for line in capsys.readouterr().out.splitlines() if line.strip())
        assert heading.split() == ["bits", "accuracy", "loss", "halves"]
        assert re.fullmatch(r"4 +\u2013 +[\d.]+ +0\.5000", row.strip())

    @pytest.mark.parametrize("seed", [0, 1])
    @pytest.mark.parametrize("arm", ["cpt", "static_mixed", "baseline_fp32"])
    def test_prints_what_the_results_file_holds(
        self, run: Path, arm: str, seed: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert bitdial("evaluate", str(run), "--bits", "2", "3", "4", "8", "--arm", arm, "--seed", str(seed)) == 0
        printed = accuracies(capsys.readouterr().out)
        assert list(printed) == ["2", "3", "4", "8"]
        found = next(a for a in results_of(run)["arms"] if a["name"] == arm and a["seed"] == seed)
        for score in found["scores"]:
            if score["bits"] in (2, 4, 8):
                assert printed[f"{score['bits']:g}"] == round(100 * score["accuracy"], 2)

    def test_leaves_the_run_as_it_was(self, run: Path) -> None:
        before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        assert bitdial("evaluate", str(run), "--bits", "4") == 0
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before

    def test_without_reestimation_the_numbers_are_others(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        shown = []
        for words in ([], ["--no_reestimate"]):
            assert bitdial("evaluate", str(run), "--bits", "2", *words) == 0
            shown.append(capsys.readouterr().out.splitlines()[-1])
        assert shown[0] != shown[1]

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["nowhere"], "expected the folder of a run at nowhere, got nothing"),
            (["{run}/plots"], "has no config.yaml"),
            (["{run}", "--bits", "0"], "bits"),
            (["{run}", "--bits", "33"], "bits"),
            (["{run}", "--bits", "x"], "bits"),
            (["{run}", "--arm", "static_4bits"], "did you mean 'static_4bit'?"),
            (["{run}", "--arm", "zzz"], "there are: ablation_random_cycling, baseline_fp32, cpt"),
            (["{run}", "--seed", "7"], "seed must be one that"),
            (["{run}", "--bit", "4"], "did you mean '--bits'?"),
            ([], "expected RUN"),
            (["{run}", "--data_path", "/nowhere"], "no data_path"),
        ],
    )
    def test_refuses_in_one_sentence(
        self, run: Path, words: list[str], says: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert bitdial("evaluate", *(word.format(run=run) for word in words)) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.count("\n") == 1
        assert err.startswith("bitdial: ")
        assert says in err


class TestOutput:
    def test_the_table_names_every_arm_and_the_report(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = train(tmp_path)
        out, err = capsys.readouterr()
        for arm in ("baseline_fp32", "cpt", "static_4bit", "static_mixed", "matched_cost"):
            assert re.search(rf"^[ >]{arm} ", out, flags=re.M)
        assert "(sim.)" in out
        assert "One seed: no interval." in out
        assert re.search(
            rf"^Ship {results_of(run)['comparison']['recommended_label']} bits(; .* may be as good)?$", out, re.M
        )
        assert re.search(r"^Size and cost  .* KiB, .*x smaller than float", out, re.M)
        assert out.splitlines()[-1] == f"Report: {run / 'report.html'}"
        folder, *lines = err.splitlines()
        assert folder == f"run folder: {run}"
        assert [line.split()[0] for line in lines] == [
            "baseline_fp32", "cpt", "static_4bit", "static_mixed", "matched_cost",
        ]  # fmt: skip

    def test_numbered_folders_and_results_dir(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        bare = [*SMALL[:-1], "{}", "--static.compare_to_baseline", "false"]
        bare += ["--experiment.plot_metrics", "false"]
        for where in ([], ["--experiment.results_dir", "runs"]):
            assert bitdial("train", "cyclic", *bare, *where) == 0
        assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["cyclic-1", "cyclic-2"]
        assert list((tmp_path / "runs" / "cyclic-1" / "plots").iterdir()) == []


class TestOptions:
    @pytest.mark.parametrize("how", [["conservative"], ["--preset", "aggressive"]])
    def test_presets(self, how: list[str], tmp_path: Path) -> None:
        words = [*how, "--model", "mlp", "--steps", "6", "--num_static_iterations", "2", "--warmup_steps", "0"]
        words += ["--static.test_configurations", "{2bit: 2}", "--static.compare_to_baseline", "false"]
        run = tmp_path / "run"
        assert bitdial("train", "cyclic", *words, "--run_dir", str(run)) == 0
        pattern, length = ([8, 6, 4, 6, 8], 40) if "conservative" in how else ([8, 2, 8, 2], 10)
        config = results_of(run)["config"]["cyclic"]
        assert (config["bit_width_pattern"], config["cycle_length"]) == (pattern, length)

    def test_research_has_three_seeds_cycle_checkpoints_and_an_ablation(self, tmp_path: Path) -> None:
        bare = ["--static.test_configurations", "{4bit: 4}", "--static.compare_to_baseline", "false"]
        words = ["research", "--model", "mlp", "--steps", "20", "--num_static_iterations", "2", *bare]
        assert bitdial("train", "cyclic", *words, "--run_dir", str(tmp_path / "run")) == 0
        results = CyclicResults.load(tmp_path / "run" / "results.json")
        assert all(row.own.low is not None and row.seeds == 3 for row in results.comparison.summaries)
        assert "ablation_random_cycling" in results.comparison.ranking
        assert [(a.arm, a.seed) for a in results.cycles] == [("cpt", seed) for seed in range(3)]
        assert (tmp_path / "run" / "checkpoints" / "cycles-seed2" / "cycle-0001.pt").exists()

    def test_much_at_once(self, tmp_path: Path) -> None:
        """Options that touch each other, together: they must at least not trip over one another."""
        run = train(
            tmp_path, "--use_amp", "--gradient_accumulation_steps", "2", "--max_grad_norm", "1", "--distillation_alpha",
            ".5", "--eval_interval", "6", "--cyclic.adjust_lr_with_bits", "--cyclic.layer_wise_cycling",
            "--cyclic.smooth_transitions", "--cyclic.transition_steps", "1", "--cyclic.use_reverse_cycle",
            "--cyclic.progressive_cycles", "--cyclic.gradient_bits", "6", "--model_options.quantizer", "dorefa",
        )  # fmt: skip
        log = (run / "metrics.csv").read_text()
        for column in ("val_accuracy", "train_gradient_norm", "train_distillation_loss"):
            assert column in log.splitlines()[0]
        assert any("teacher" in note for note in results_of(run)["notes"])

    def test_fashion_mnist(self, tmp_path: Path) -> None:
        if not DEBIAN_FASHION_MNIST.exists():
            pytest.skip("Debian's package dataset-fashion-mnist is not installed")
        run = tmp_path / "run"
        words = ["--steps", "3", "--num_static_iterations", "2", "--static.compare_to_baseline", "false"]
        words += ["--dataset", "fashion-mnist", "--model", "mlp", "--static.test_configurations", "{4bit: 4}"]
        assert bitdial("train", "cyclic", *words, "--run_dir", str(run), "--model_options.bit_widths", "4") == 0
        assert "60000 training and 10000 test images" in " ".join(results_of(run)["notes"])

    @pytest.mark.slow
    def test_compile(self, tmp_path: Path) -> None:
        from torch._dynamo.utils import counters

        torch._dynamo.reset()
        counters.clear()
        run = train(tmp_path, "--compile")
        assert len(results_of(run)["arms"]) == 5
        assert (
            counters["stats"]["unique_graphs"] == 2
        )  # one to train and one to measure, whatever the arm and the width

    @pytest.mark.slow
    def test_defaults_do_the_main_job(self, tmp_path: Path) -> None:
        run = tmp_path / "run"
        assert bitdial("train", "cyclic", "--run_dir", str(run)) == 0
        arms: dict[str, Any] = {arm["name"]: arm for arm in results_of(run)["arms"]}
        assert len(arms) == 8
        assert arms["cpt"]["own"]["accuracy"] > 0.95
        assert arms["baseline_fp32"]["own"]["accuracy"] > 0.97
        assert arms["static_2bit"]["own"]["accuracy"] > 0.93
