"""The analyzer's tables: any names, missing values, seeds and their intervals, what is recommended and how surely."""

from __future__ import annotations

import importlib.util
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bitdial.errors import BitdialError
from bitdial.evaluation.statistics import interval
from bitdial.search import HyperparameterAnalyzer, names
from bitdial.search.overview import overview_of
from bitdial.search.readers import FoundRun
from tests.search.conftest import Make
from tests.search.fabricate import HOSTILE, odd, run, scatter, sweep


def test_a_row_a_run_with_whatever_columns_the_runs_have(analyzer_of: Make) -> None:
    analyzer = analyzer_of(odd())
    frame = analyzer.load_results()
    assert list(frame.index) == [each.name for each in odd()]
    assert [name for name in frame.columns if name.startswith("_")] == [
        "_source (parameter)",
        "_source",
        "_state",
        "_steps",
        "_group",
        "_path",
        "_notes",
    ]
    assert analyzer.parameters == [
        "a b",
        "x.y|z",
        "größe_ヴィット",
        "index",
        *HOSTILE,
        "$x_{$",
        "loss",
        "_source (parameter)",
        "betas",
        "flag",
        "mixed",
        "huge",
        "only.sgd.momentum",
    ]
    assert analyzer.metrics == ["loss (metric)", "accuracy", ""]
    assert {*analyzer.parameters, *analyzer.metrics} < {*frame.columns}
    assert frame["loss"].tolist() == [number % 10 for number in range(12)]
    assert frame["loss (metric)"].tolist()[0] == 1.0
    assert frame["mixed"].tolist()[:5] == [1, "auto", None, True, 2.5]
    assert frame["huge"].tolist()[0] == 1
    assert frame["huge"].tolist()[1] == 10**400
    assert frame["flag"].dtype == bool
    assert frame["a b"].dtype == "int64"
    assert math.isnan(frame["only.sgd.momentum"].iloc[0])


def test_runs_with_missing_metrics_are_kept_with_a_note(analyzer_of: Make) -> None:
    runs = [
        run("a", {"x": 1}, {"loss": 1.0, "accuracy": 0.5}),
        run("b", {"x": 2}, {"loss": 2.0}),
        run("c", {"x": 3}, {}),
    ]
    frame = analyzer_of(runs).load_results()
    assert frame["_notes"].tolist() == ["", "no accuracy", "no loss, accuracy"]
    assert frame["loss"].tolist()[:2] == [1.0, 2.0]
    assert math.isnan(frame["loss"].iloc[2])


def test_results_are_read_anew_at_every_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run("a", {"x": 1}, {"loss": 1.0})]
    monkeypatch.setattr("bitdial.search.analysis.read_runs", lambda folder: (list(runs), []))
    analyzer = HyperparameterAnalyzer(tmp_path)
    assert len(analyzer.load_results()) == 1
    runs.append(run("b", {"x": 2}, {"loss": 2.0}))
    assert len(analyzer.runs) == 1
    assert len(analyzer.load_results()) == 2


def test_what_is_constant_and_what_names_a_run_is_left_out(analyzer_of: Make) -> None:
    runs = [
        run(f"r{i}", {"x": i % 3, "fixed": 7, "title": f"my run {i}", "seed": i}, {"loss": float(i)}) for i in range(6)
    ]
    analyzer = analyzer_of(runs)
    assert analyzer.constant == {"fixed": 7}
    assert [column.name for column in analyzer.table.settings] == ["x"]
    assert analyzer.table.labels == ["title"]
    assert [c.name for c in analyzer_of(runs, parameters=["title", "x"]).table.settings] == ["title", "x"]


def test_seeds_are_grouped_with_the_interval_of_t(analyzer_of: Make) -> None:
    values = {1: [1.0, 2.0, 4.0], 2: [3.0], 3: [5.0, math.nan]}
    runs = [
        run(f"{x}-{seed}", {"x": x, "train.seed": seed}, {"loss": value} if x != 2 else {"loss": value, "more": 1.0})
        for x, found in values.items()
        for seed, value in enumerate(found)
    ]
    frame = analyzer_of(runs).grouped("loss")
    assert list(frame.columns) == ["x", "loss", "loss low", "loss high", "loss n", "_runs"]
    expected = interval(values[1])
    assert frame.loc[0, ["loss", "loss low", "loss high"]].tolist() == [expected.mean, expected.low, expected.high]
    assert frame["loss n"].tolist() == [3, 1, 2]
    assert math.isnan(frame.loc[1, "loss low"])
    assert math.isnan(frame.loc[2, "loss"])  # a seed that diverged is not left out silently
    assert frame["_runs"].tolist() == [["1-0", "1-1", "1-2"], ["2-0"], ["3-0", "3-1"]]
    assert analyzer_of(runs).grouped()["more n"].tolist() == [0, 1, 0]


def test_equal_values_are_one_and_unlike_types_are_not(analyzer_of: Make) -> None:
    settings: list[Any] = [1, 1.0, True, "1", None]
    runs = [run(str(i), {"x": value, "seed": i}, {"loss": 1.0}) for i, value in enumerate(settings)]
    runs.append(run("none of it", {"seed": 9}, {"loss": 1.0}))
    assert list(analyzer_of(runs).grouped()["_runs"]) == [
        ["0", "1"],
        ["2"],
        ["3"],
        ["4"],
        ["none of it"],
    ]


@pytest.mark.parametrize(
    ("best", "second", "verdict"),
    [
        ([10.0, 10.1, 10.2], [9.0, 9.1, 9.2], "worse"),
        ([10.0, 10.1, 10.2], [9.0, 9.9, 10.8], "the best lies inside its interval"),
        ([9.0, 10.1, 11.2], [9.9, 9.95, 10.0], "inside the interval of the best"),
        ([10.0], [9.0], "one seed: no interval"),
        ([10.0], [9.0, 9.1], "the best has one seed: no interval"),
    ],
)
def test_a_recommendation_says_how_sure_it_is(
    analyzer_of: Make, best: list[float], second: list[float], verdict: str
) -> None:
    runs = [
        run(f"{x}-{i}", {"x": x, "seed": i}, {"psnr": v})
        for x, found in (("b", second), ("a", best))
        for i, v in enumerate(found)
    ]
    frame = analyzer_of(runs).recommend_parameters()
    assert frame["x"].tolist() == ["a", "b"]
    assert frame["_verdict"].tolist() == ["best", verdict]
    assert frame["_n"].tolist() == [len(best), len(second)]


def test_the_defaults_of_old_scripts(analyzer_of: Make) -> None:
    analyzer = analyzer_of(sweep(seeds=3))
    frame = analyzer.recommend_parameters()
    assert len(frame) == 5
    assert frame.loc[1, "lambda_value"] == 0.0932
    assert frame.loc[1, "optimizer.lr"] == 1e-3
    assert {*analyzer.recommend_parameters(3, 0.013)["lambda_value"]} == {0.013}
    lowest = analyzer.recommend_parameters(1, metric="psnr", maximize=False)
    assert lowest.loc[1, ["optimizer.lr", "lambda_value"]].tolist() == [1e-4, 0.0018]
    assert analyzer.recommend_parameters(metric="bpp").loc[1, "lambda_value"] == 0.0018  # fewer bits are better


def test_failed_and_pruned_runs_are_in_no_mean(analyzer_of: Make) -> None:
    runs = [
        run("a", {"x": 1}, {"psnr": 30.0}),
        run("b", {"x": 2}, {"psnr": 99.0}, "failed"),
        run("c", {"x": 3}, {"psnr": 98.0}, "pruned"),
        run("d", {"x": 4}, {"psnr": 31.0}, "running or crashed"),
    ]
    analyzer = analyzer_of(runs)
    assert analyzer.recommend_parameters()["x"].tolist() == [4, 1]
    assert [each.name for each in analyzer.table.left_out()] == ["b", "c"]
    assert len(analyzer.load_results()) == 4


@pytest.mark.parametrize(
    ("name", "larger"),
    [
        ("val/accuracy", True),
        ("top1", True),
        ("ms_ssim", True),
        ("valLoss", False),
        ("test.error_rate", False),
        ("bpp", False),
        ("perplexity", False),
        ("train_seconds", False),
        ("accuracy_loss", False),
        ("loss_accuracy", True),
        ("q", None),
    ],
)
def test_which_way_a_metric_is_better(name: str, larger: bool | None) -> None:
    assert names.larger_is_better(name) is larger


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("seed", True),
        ("random_seed", True),
        ("training.seed", True),
        ("seeds", True),
        ("seed_everything", True),
        ("speed", False),
        ("seedling", False),
        ("seed.width", False),
    ],
)
def test_what_is_a_seed(name: str, seed: bool) -> None:
    assert names.is_seed(name) is seed


@pytest.mark.parametrize("name", ["lambda", "lambda_value", "lmbda", "loss.lam", "Lagrangian", "λ"])
def test_lambda_is_found_by_its_name(analyzer_of: Make, name: str) -> None:
    runs = [run(str(i), {"x": 1, name: 0.01 * (i + 1)}, {"psnr": float(i)}) for i in range(3)]
    assert analyzer_of(runs).recommend_parameters(lambda_value=0.02)["_mean"].tolist() == [1.0]
    named = [run(str(i), {"weight": 0.01 * (i + 1)}, {"psnr": float(i)}) for i in range(3)]
    assert analyzer_of(named, lambda_name="weight").recommend_parameters(lambda_value=0.03)["_mean"].tolist() == [2.0]


def test_a_name_that_tells_no_way_is_told_of(analyzer_of: Make) -> None:
    runs = [run(str(i), {"x": i}, {"value": float(i), "q": float(i)}) for i in range(5)]
    analyzer = analyzer_of(runs)
    assert analyzer.recommend_parameters(1, metric="q")["_mean"].tolist() == [4.0]
    assert any("value does not tell which way is better: larger was" in note for note in overview_of(analyzer).notes)


def test_numbers_that_no_axis_has_room_for_are_not_finite(analyzer_of: Make) -> None:
    values = [1e308, -1e308, 1.0, 2.0, 3.0]
    analyzer = analyzer_of([run(str(i), {"x": i}, {"psnr": value}) for i, value in enumerate(values)])
    assert analyzer.recommend_parameters()["x"].tolist() == [4, 3, 2]
    assert analyzer.load_results()["psnr"].tolist() == values
    analyzer.plot_comparison("x").draw_without_rendering()


def test_the_metric_to_look_at_first() -> None:
    assert names.default_metric({"epoch": 9, "train/loss": 9, "val/loss": 9, "val/accuracy": 9}) == "val/accuracy"
    assert names.default_metric({"val/accuracy": 2, "loss": 9, "epoch": 9}) == "loss"
    assert names.default_metric({"train_psnr": 5, "val_psnr": 5}) == "val_psnr"
    assert names.default_metric({"train_accuracy": 5, "own.accuracy": 5}) == "own.accuracy"
    assert names.default_metric({"train_accuracy": 5, "val_loss": 5}) == "val_loss"
    assert names.default_metric({"something": 4, "seconds": 5}) == "something"


def sentence_of(make: Make, runs: list[FoundRun], call: Any, **options: Any) -> str:
    with pytest.raises(BitdialError) as caught:
        call(make(runs, **options))
    assert "\n" not in str(caught.value)
    return str(caught.value)


BAD: dict[str, tuple[Any, str]] = {
    "no such metric": (
        lambda a: a.recommend_parameters(),
        "expected a metric that the runs have, got 'psnr'; there are 'val/accuracy', 'val/loss'",
    ),
    "mistyped": (lambda a: a.recommend_parameters(metric="val/acuracy"), "did you mean 'val/accuracy'"),
    "ambiguous": (lambda a: a.plot_comparison("lr", "val"), "got 'val'"),
    "two of that name": (lambda a: a.recommend_parameters(metric="twin"), "which may be 'a/twin', 'b/twin'"),
    "no number": (lambda a: a.recommend_parameters(metric=3), "expected a metric that the runs have, got '3'"),
    "top_k": (lambda a: a.recommend_parameters(0), "top_k must be a whole number of 1 or more, got 0"),
    "top_k of half": (lambda a: a.recommend_parameters(2.5), "got 2.5"),
    "no lambda": (
        lambda a: a.plot_heatmap(lambda_value=0.01),
        "expected runs with a lambda for lambda_value=0.01, got none",
    ),
    "lambda in words": (lambda a: a.plot_heatmap(lambda_value="a"), "lambda_value must be a number or None, got 'a'"),
    "no such parameter": (lambda a: a.plot_comparison("optimiser"), "did you mean 'optimizer'"),
    "twice": (lambda a: a.plot_heatmap("lr", "lr"), "needs two different parameters, got lr twice"),
    "same metrics": (lambda a: a.plot_pareto("accuracy", "val/accuracy"), "needs two different metrics"),
    "one way": (lambda a: a.plot_pareto("accuracy", "loss", maximize=True), "maximize must be a pair"),
    "evaluator": (lambda a: a.importance(evaluator="shap"), "evaluator must be one of ped-anova, fanova, got 'shap'"),
    "a folder": (lambda a: a.plot_comparison("lr", save_path="."), "save_path must name a file that ends in"),
    "no picture": (lambda a: a.plot_comparison("lr", save_path="x.txt"), "ends in .png, .pdf, .svg, got 'x.txt'"),
    "a number as path": (lambda a: a.plot_comparison("lr", save_path=7), "save_path must be the path of a file"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(analyzer_of: Make, case: str) -> None:
    call, says = BAD[case]
    runs = scatter(8)
    if "two" in case:
        runs[0].metrics |= {"a/twin": 1.0, "b/twin": 1.0}
    assert says in sentence_of(analyzer_of, runs, call)


def test_sentences_where_there_is_little(analyzer_of: Make) -> None:
    def heat_map(a: HyperparameterAnalyzer) -> None:
        a.plot_heatmap()

    def load(a: HyperparameterAnalyzer) -> None:
        a.load_results()

    nothing = [run(str(i), {"x": i}, {}) for i in range(5)]
    assert "got none that has one" in sentence_of(analyzer_of, nothing, heat_map)
    nan = [run(str(i), {"x": i, "y": i}, {"loss": math.nan}) for i in range(5)]
    assert "expected runs with a finite loss, got none" in sentence_of(analyzer_of, nan, heat_map)
    assert "expected runs with a finite loss" in sentence_of(
        analyzer_of, nan, lambda a: a.recommend_parameters(metric=None)
    )
    one = [run(str(i), {"x": i}, {"loss": 1.0}) for i in range(5)]
    assert "a heat map needs two parameters in which runs differ, got 1" in sentence_of(analyzer_of, one, heat_map)
    assert "a parameter that the runs have, got 'q'" in sentence_of(analyzer_of, one, load, parameters=["q"])
    assert "got 0.5; there are 0.0018, 0.0035" in sentence_of(analyzer_of, sweep(), lambda a: a.plot_heatmap(0.5))


def test_folders_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BitdialError, match=r"expected a folder of runs at .*/x, got nothing; check the path"):
        HyperparameterAnalyzer(tmp_path / "x")
    (tmp_path / "file").touch()
    with pytest.raises(BitdialError, match=r"expected a folder of runs at .*/file, got a file"):
        HyperparameterAnalyzer(tmp_path / "file")
    with pytest.raises(BitdialError, match=r"expected finished runs in .*, got none; name a folder that has some"):
        HyperparameterAnalyzer(tmp_path).load_results()
    with pytest.raises(BitdialError, match="results_dir must be the path of a folder, got None"):
        HyperparameterAnalyzer(None)  # type: ignore[arg-type]
    with pytest.raises(BitdialError, match="parameters must be a list of names, got 'lr'"):
        HyperparameterAnalyzer(tmp_path, parameters="lr")
    (tmp_path / "results.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BitdialError, match=r"got none, and results.csv could not be read: .*; name a folder"):
        HyperparameterAnalyzer(tmp_path).load_results()
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "optuna" else found(name))
    with pytest.raises(BitdialError, match=r'needs the package optuna; run: pip install "bitdial\[search\]"'):
        HyperparameterAnalyzer(tmp_path)


def test_real_files_are_read_and_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be written, with a table of runs in it, from a working folder that cannot be either."""
    place, cwd = tmp_path / "runs", tmp_path / "cwd"
    cwd.mkdir()
    place.mkdir()
    rows = [f"{lr},{width},{30 - abs(lr - 2) + width / 100}" for lr in (1, 2, 3) for width in (8, 16)]
    (place / "sweep.csv").write_text("\n".join(["config.lr,config.width,psnr", *rows]) + "\n")
    monkeypatch.chdir(cwd)
    before = sorted(tmp_path.rglob("*"))
    analyzer = HyperparameterAnalyzer("../runs")
    frame = analyzer.load_results()
    assert len(frame) == 6
    assert analyzer.recommend_parameters().shape[0] == 5
    lr, width = (next(name for name in analyzer.parameters if name.endswith(each)) for each in ("lr", "width"))
    analyzer.plot_heatmap(lr, width, "psnr")
    analyzer.plot_importance()
    assert sorted(tmp_path.rglob("*")) == before
    analyzer.plot_comparison(lr, save_path="pictures/a.svg")
    assert os.listdir(cwd) == ["pictures"]
    assert (cwd / "pictures/a.svg").read_bytes().startswith(b"<?xml")


def test_a_thousand_runs_of_thirty_columns_come_at_once(analyzer_of: Make) -> None:
    analyzer = analyzer_of(scatter(1000, columns=28))
    start = time.process_time()
    assert analyzer.load_results().shape == (1000, 26 + 2 + 6)
    assert time.process_time() - start < 5  # a tenth of a second; a quadratic way would take minutes
