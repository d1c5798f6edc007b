"""The command ``bitdial analyze DIR``: what finished runs found, in the terminal and as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from bitdial.configuration import Config, load_config
from bitdial.errors import BitdialError
from bitdial.lazy import loading_torch
from bitdial.search.readers import check_folder

PROG = "bitdial analyze"


class AnalyzeConfig(Config):
    """Read finished runs below a folder, whatever wrote them, and say which settings were best and what mattered.

    Runs of bitdial, wandb folders, TensorBoard event files, CSV, JSON, trackio and Optuna studies. Needs the extra
    `search`. E.g. `bitdial analyze runs/`.
    """

    dir: Path
    """The folder of the runs."""
    metric: str | None = None
    """What runs are judged by; the last part of its name is enough. None: what most runs have."""
    minimize: bool | None = None
    """Lower is better; --no_minimize: higher is. None: as its study or its name says."""
    lambda_value: float | None = None
    """Judge the runs of this lambda alone (also --lambda)."""
    top_k: int = Field(5, ge=1)
    """How many of the best configurations are listed."""
    param: list[str] = []
    """The parameters to look at; none: all that vary, but for seeds and names of runs."""
    lambda_name: str | None = None
    """The parameter that is the lambda of rate and distortion; None: found by its name."""
    evaluator: Literal["ped-anova", "fanova"] = "ped-anova"
    """How it is assessed which parameters mattered."""
    report: Path | None = Path("DIR/analysis.html")
    """File to write the page to, .html; none: no page."""

    aliases = {"lambda": "lambda_value"}


def run(argv: list[str]) -> int:
    """Print what was found and write the page; return the exit status: 2 where nothing could be read."""
    options = load_config(AnalyzeConfig, {}, argv, prog=PROG, positional="dir")
    report = options.report if "report" in options.model_fields_set else options.dir / "analysis.html"
    if report is not None and (report.suffix.lower() not in (".html", ".htm") or report.is_dir()):
        raise BitdialError(f"--report: expected a file that ends in .html, or none, got '{report}'")
    check_folder(options.dir)
    loading_torch()
    from bitdial.commands.analyze_run import analyze

    return analyze(options, report)
