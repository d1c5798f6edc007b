"""The command ``bitdial evaluate RUN``: measure a trained run again."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from bitdial.configuration import load_config
from bitdial.lazy import loading_torch
from bitdial.recipes.options import ChangedDataOptions, Width
from bitdial.training.run_folder import RunFolder

PROG = "bitdial evaluate"
WIDTHS = (2, 4, 8, 16, 32)
"""Where a network is measured, where nobody says."""


class EvaluateConfig(ChangedDataOptions):
    """Measure a trained run again: the arm that it recommends or another one, at any widths; of a codec its files."""

    run: Path
    """Folder of the run, of any recipe."""
    bits: list[Width] | None = Field(None, min_length=1)
    """Widths to measure at; none: 2, 4, 8, 16, 32, and that at which the arm ships."""
    arm: str | None = None
    """Which arm of the run: cpt, static_4bit, matched_cost, ternary, lambda_0.013, ...; none: what it recommends."""
    seed: int | None = None
    """Seed of the arm; none: that of the recommended network, or the run's first one."""
    reestimate: bool = True
    """Re-estimate batch-norm statistics on training batches at each width."""
    data_path: Path | None = None
    """Folder of the data, where it has moved since."""


def run(argv: list[str]) -> int:
    """Measure and print a table; return the exit status."""
    options = load_config(EvaluateConfig, {}, argv, prog=PROG, positional="run")
    folder = RunFolder.open(options.run)
    loading_torch()
    from bitdial.commands.evaluate_run import measure_again

    return measure_again(options, folder)
