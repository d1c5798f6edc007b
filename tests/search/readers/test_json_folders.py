from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bitdial.search.readers.found import UnreadableError
from bitdial.search.readers.json_folders import read_json, settings_beside, settings_in


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("lambda_0.013_gamma_0.003_wlr_0.025", {"lambda": 0.013, "gamma": 0.003, "wlr": 0.025}),
        ("weight_lr_1e-4_depth_3", {"weight_lr": 1e-4, "depth": 3}),
        ("lr=0.1,act=relu,deep=True", {"lr": 0.1, "act": "relu", "deep": True}),
        ("seed=3", {"seed": 3}),
        ("run_3", {}),
        ("version_0_final", {}),
        ("2024_05_06", {}),
        ("a=b=c", {"a": "b=c"}),
        ("=3", {}),
        ("lr_0.1_nan_inf", {}),
    ],
)
def test_settings_in_names(name: str, found: dict[str, Any]) -> None:
    assert settings_in(name) == found


@pytest.mark.parametrize(
    ("content", "metrics", "steps"),
    [
        ({"psnr": 31.5, "test": {"ms_ssim": 0.9}, "word": "x"}, {"psnr": 31.5, "test.ms_ssim": 0.9}, None),
        ({"loss": [3, 2, 1], "best": 0.5}, {"loss": 1, "best": 0.5}, None),
        ([{"step": 1, "loss": 2}, {"step": 5, "loss": 1, "val": {"psnr": 30}}], {"loss": 1, "val.psnr": 30}, 5),
        ({"log_history": [{"epoch": 1, "loss": 2}, {"epoch": 2, "loss": 1}]}, {"log_history.loss": 1}, 2),
    ],
)  # fmt: skip
def test_forms_of_metrics(content: Any, metrics: dict[str, float], steps: int | None, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(content))
    (run,) = read_json(tmp_path / "metrics.json", "run")
    assert (run.metrics, run.steps, run.notes, run.source) == (metrics, steps, [], "json")


def test_lines_of_json_with_a_half_one_at_the_end(tmp_path: Path) -> None:
    lines = [json.dumps({"iteration": at, "loss": math.nan if at == 2 else 1 / at}) for at in range(1, 5)]
    (tmp_path / "metrics.json").write_text("\n".join(lines) + '\n{"iteration": 5, "lo')
    (run,) = read_json(tmp_path / "metrics.json", "run")
    assert (run.metrics, run.steps) == ({"loss": 0.25}, 4)
    assert run.notes == ["damaged lines are left out: 1", "loss was first not finite (nan) at step 2"]


def test_settings_in_the_file_itself(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text('{"config": {"lr": 0.1, "a": {"b": [1, 2]}}, "loss": NaN}')
    (run,) = read_json(tmp_path / "metrics.json", "run")
    assert run.config == {"lr": 0.1, "a.b": "[1,2]"}
    assert run.notes == ["loss is nan"]


def test_settings_that_lie_beside(tmp_path: Path) -> None:
    folder = tmp_path / "lr_0.1_depth_3"
    folder.mkdir()
    (folder / "hparams.yaml").write_text("depth: 4\nwhen: 2026-01-02\nact: relu\n")
    (folder / "config.json").write_text("{damaged")
    notes: list[str] = []
    found = settings_beside(folder / "x.csv", {}, notes)
    assert found == {"lr": 0.1, "depth": 4, "when": "2026-01-02", "act": "relu"}  # what a file says wins over a name
    assert len(notes) == 1
    assert notes[0].startswith("config.json: damaged (")


@pytest.mark.parametrize(
    ("content", "reason"),
    [("", "an empty file"), ("{damaged", "no JSON"), ("3", "got int"), ("[1, 2]", "got list"), ('"x"', "got str"),
     ("[" * 100_000, "no JSON")],
)  # fmt: skip
def test_what_holds_no_metrics_is_refused(content: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(content)
    with pytest.raises(UnreadableError, match=reason):
        read_json(tmp_path / "metrics.json", "run")
