"""The command ``bitdial evaluate RUN``: measure a trained run again, at any widths."""

from __future__ import annotations

import math
from pathlib import Path

from pydantic import Field

from bitdial.configuration import load_config
from bitdial.errors import BitdialError
from bitdial.lazy import loading_torch
from bitdial.recipes import find_recipe, recipe_of
from bitdial.recipes.options import ChangedDataOptions, Width
from bitdial.training.run_folder import RunFolder

PROG = "bitdial evaluate"


class EvaluateConfig(ChangedDataOptions):
    """Measure a trained run again, at any widths."""

    run: Path
    """Folder of the run."""
    bits: list[Width] = Field([2, 4, 8, 16, 32], min_length=1)
    """Widths to measure at."""
    arm: str = "cpt"
    """Which arm of the run: cpt, static_4bit, matched_cost, ...; the first one where there is no cpt."""
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
    loading_torch()
    import torch
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from bitdial.evaluation import wording
    from bitdial.evaluation.sweep import sweep
    from bitdial.recipes.api import check_arm
    from bitdial.recipes.start import open_run
    from bitdial.terminal import terminal

    recipe = find_recipe(recipe_of(folder.load_config()))
    if not recipe.dialled:
        raise BitdialError(
            f"expected a run of `bitdial train cyclic` to evaluate, got {folder.path} of another recipe; "
            f"its scores are in {folder.results}"
        )
    moved = {} if options.data_path is None else {"data_path": options.data_path}
    trained = open_run(recipe, folder, changes={**moved, "accept_changed_data": options.accept_changed_data})
    seed = trained.seeds[0] if options.seed is None else options.seed
    names = [arm.name for arm in recipe.arms(trained.options)]
    name = options.arm if "arm" in options.model_fields_set or options.arm in names else names[0]
    check_arm(trained, folder, name, seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    work = trained.work.to(device)
    loaders = work.loaders(seed)
    scores = sweep(
        trained.load_arm(name, seed).to(device),
        loaders.test,
        options.bits,
        recalibration_batches=loaders.recalibration,
        reestimate=options.reestimate,
        task=work.task,
    )
    console = terminal()
    console.print(f"{name}, seed {seed}, on {work.told('test')}")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    metrics = list(scores[0].metrics)
    for heading in ("bits", "accuracy", "loss", *metrics):
        table.add_column(Text(heading), justify="right")
    for score in scores:
        accuracy = wording.MISSING if math.isnan(score.accuracy) else f"{score.accuracy:.2%}"
        more = [f"{score.metrics[name]:.4f}" for name in metrics]
        table.add_row(f"{score.bits:g}", accuracy, f"{score.loss:.4f}", *more)
    console.print(table)
    for note in trained.data.told() if trained.data is not None else []:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    return 0
