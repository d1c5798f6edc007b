"""The command ``bitdial evaluate RUN``: measure a trained run again, at any widths."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from rich import box
from rich.console import Console
from rich.table import Table

from bitdial.configuration import Config, load_config
from bitdial.data import load_dataset
from bitdial.errors import BitdialError, suggest
from bitdial.recipes.cyclic.assembly import build_experiment
from bitdial.recipes.cyclic.config import CyclicConfig, Width
from bitdial.recipes.cyclic.train import evaluate_cyclic_training
from bitdial.training import RunFolder

PROG = "bitdial evaluate"
CYCLIC = "cyclic"
"""The group of options that every run of the recipe, and of no other, has in its configuration."""


class EvaluateConfig(Config):
    """Measure a trained run again, at any widths."""

    run: Path
    """Folder of the run."""
    bits: list[Width] = Field([2, 4, 8, 16, 32], min_length=1)
    """Widths to measure at."""
    arm: str = "cpt"
    """Which arm of the run: cpt, static_4bit, matched_cost, ..."""
    seed: int | None = None
    """Seed of the arm; the run's first one if not given."""
    reestimate: bool = True
    """Re-estimate batch-norm statistics on training batches at each width."""
    data_path: Path | None = None
    """Folder of the data, where it has moved since."""


def run(argv: list[str]) -> int:
    """Measure and print a table; return the exit status."""
    options = load_config(EvaluateConfig, {}, argv, prog=PROG, positional="run")
    folder = RunFolder.open(options.run)
    if CYCLIC not in folder.load_config():
        raise BitdialError(
            f"expected a run of `bitdial train cyclic` to evaluate, got {folder.path} of another recipe; "
            f"its scores are in {folder.results}"
        )
    config = load_config(CyclicConfig, {}, ["--config", str(folder.config)], prog=PROG)
    seed = config.seed if options.seed is None else options.seed
    _check_arm(folder, options.arm, seed)
    data = load_dataset(config.dataset, options.data_path or config.data_path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = data.to(device)
    experiment = build_experiment(config, data, folder=folder.path)
    loaders = experiment.make_loaders(seed)
    scores = evaluate_cyclic_training(
        experiment.load_arm(options.arm, seed).to(device),
        loaders.test,
        options.bits,
        recalibration_batches=loaders.recalibration,
        reestimate=options.reestimate,
    )
    console = Console()
    console.print(f"{options.arm}, seed {seed}, on the {len(data.test)} test images of {data.name}", highlight=False)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in ("bits", "accuracy", "loss"):
        table.add_column(heading, justify="right")
    for score in scores:
        table.add_row(f"{score.bits:g}", f"{score.accuracy:.2%}", f"{score.loss:.4f}")
    console.print(table)
    return 0


def _check_arm(run: RunFolder, arm: str, seed: int) -> None:
    """Refuse an arm that the run has not trained."""
    trained = [path.parent.name.rpartition("-seed") for path in sorted(run.checkpoints.glob("*-seed*/arm.json"))]
    if not trained:
        raise BitdialError(f"{run.path} has no trained arm yet; `bitdial train cyclic --resume {run.path}` goes on")
    if (arm, "-seed", str(seed)) in trained:
        return
    seeds = sorted({int(number) for _, _, number in trained})
    if seed not in seeds:
        raise BitdialError(f"seed must be one that {run.path} was trained with ({seeds}), got {seed}")
    there = [name for name, _, number in trained if number == str(seed)]
    hint = suggest(arm, there) or f"; there are: {', '.join(there)}"
    raise BitdialError(f"arm must be one that {run.path} trained with seed {seed}, got '{arm}'{hint}")
