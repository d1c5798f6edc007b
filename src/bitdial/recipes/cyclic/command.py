"""The commands ``bitdial train cyclic`` and ``bitdial evaluate``."""

from __future__ import annotations

import shlex
from pathlib import Path

from pydantic import Field
from rich.console import Console
from rich.table import Table

from bitdial.configuration import Config, load_config, read_yaml
from bitdial.data import load_dataset
from bitdial.errors import BitdialError, suggest
from bitdial.recipes.cyclic.config import PRESETS, CyclicConfig, Width
from bitdial.recipes.cyclic.job import _experiment, newest_run, run_job
from bitdial.recipes.cyclic.train import evaluate_cyclic_training
from bitdial.training import RunFolder

PROG = "bitdial train cyclic"

_FREE_ON_RESUME = {"resume", "run_dir", "devices", "num_nodes", "strategy", "workers", "compile", "seeds"}
"""Options that may differ when a run is resumed: where it runs, and how many seeds."""


def run(argv: list[str]) -> int:
    """Run the recipe with the words after its name; return the exit status."""
    config = load_config(CyclicConfig, PRESETS, argv, prog=PROG)
    resumed = None
    if config.resume is not False:
        resumed = _resumed(config)
        config = _checked_resume(resumed, argv)
    run_job(config, shlex.join(["bitdial", "train", "cyclic", *argv]), resumed=resumed)
    return 0


def _resumed(config: CyclicConfig) -> RunFolder:
    if config.resume is True:
        return newest_run(Path(config.experiment.results_dir or "runs"), "cyclic")
    return RunFolder.open(Path(str(config.resume)))


def _checked_resume(run: RunFolder, argv: list[str]) -> CyclicConfig:
    """The configuration of a resumed run: its own file, under the flags; nothing that shapes results may differ."""
    file = str(run.config)
    stored = load_config(CyclicConfig, PRESETS, ["--config", file], prog=PROG)
    words = argv if "--config" in " ".join(argv) else ["--config", file, *argv]
    wanted = load_config(CyclicConfig, PRESETS, words, prog=PROG)
    for name in CyclicConfig.model_fields.keys() - _FREE_ON_RESUME:
        before, now = getattr(stored, name), getattr(wanted, name)
        if before != now:
            raise BitdialError(
                f"{name} must stay {_short(before)} when {run.path} is resumed, got {_short(now)}; "
                "leave the flag out, or start a new run"
            )
    if wanted.seeds < stored.seeds:
        raise BitdialError(f"seeds must be at least {stored.seeds} when {run.path} is resumed, got {wanted.seeds}")
    return wanted


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


class EvaluateConfig(Config):
    """The options of ``bitdial evaluate RUN``."""

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


def evaluate(argv: list[str]) -> int:
    """Measure a trained run again at any widths, and print a table; return the exit status."""
    options = load_config(EvaluateConfig, {}, argv, prog="bitdial evaluate", positional="run")
    folder = RunFolder.open(options.run)
    if not isinstance(read_yaml(str(folder.config)).values, dict):
        raise BitdialError(f"{folder.config} must hold the options of a run, got something else")
    config = load_config(CyclicConfig, PRESETS, ["--config", str(folder.config)], prog="bitdial evaluate")
    data = load_dataset(config.dataset, options.data_path or config.data_path)
    experiment = _experiment(config, data, None)
    seed = config.seed if options.seed is None else options.seed
    place = folder.checkpoints / f"{options.arm}-seed{seed}"
    if not place.is_dir():
        there = sorted(path.name.rpartition("-seed")[0] for path in folder.checkpoints.glob(f"*-seed{seed}"))
        hint = suggest(options.arm, there) or f"; there are: {', '.join(there) or 'none'}"
        raise BitdialError(f"arm must be one that {folder.path} trained with seed {seed}, got '{options.arm}'{hint}")
    from dataclasses import replace

    model = replace(experiment, folder=folder.path).load_arm(options.arm, seed)
    loaders = experiment.make_loaders(seed)
    scores = evaluate_cyclic_training(
        model, loaders.test, options.bits, recalibration_batches=loaders.recalibration, reestimate=options.reestimate
    )
    table = Table(title=f"{options.arm}, seed {seed}, on the {len(data.test)} test images of {data.name}")
    for heading in ("bits", "accuracy", "loss"):
        table.add_column(heading, justify="right")
    for score in scores:
        table.add_row(f"{score.bits:g}", f"{score.accuracy:.2%}", f"{score.loss:.4f}")
    Console().print(table)
    return 0
