"""What ``bitdial evaluate`` does once its options are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from rich.table import Table

from bitdial.commands.evaluate import WIDTHS, EvaluateConfig
from bitdial.errors import BitdialError
from bitdial.evaluation import WidthScore
from bitdial.evaluation.sweep import evaluate, sweep
from bitdial.evaluation.table import width_table
from bitdial.interrupts import interrupted_by_sigterm
from bitdial.numerics import UNQUANTIZED
from bitdial.recipes import find_recipe, recipe_of
from bitdial.recipes.api import check_arm
from bitdial.recipes.run import Run
from bitdial.recipes.saved_model import SavedModel, bits_of, first_network, load_saved, read_saved, saved_networks
from bitdial.recipes.start import open_run
from bitdial.terminal import terminal
from bitdial.training import RunFolder
from bitdial.training.passes import watching
from bitdial.training.progress import Measuring, Progress


def measure_again(options: EvaluateConfig, folder: RunFolder) -> int:
    """Measure what is in a folder and print a table; return the exit status."""
    recipe = find_recipe(recipe_of(folder.load_config()))
    if options.bits is not None and not recipe.dialled:
        raise BitdialError(
            f"bits are for networks that can be turned to other widths, got them for {folder.path}, a run of "
            f"`{recipe.prog}`; leave --bits out"
        )
    moved = {} if options.data_path is None else {"data_path": options.data_path}
    run = open_run(recipe, folder, changes={**moved, "accept_changed_data": options.accept_changed_data})
    recommended = _recommended(run)
    seed = options.seed
    if seed is None:
        seed = run.seeds[0] if recommended is None or options.arm is not None else recommended.seed
    name = options.arm or _default_arm(run, seed, recommended)
    check_arm(run, folder, name, seed)
    ships = recommended if recommended is not None and recommended.key == f"{name}-seed{seed}" else None
    told = f"{name}, seed {seed}{' (recommended)' if ships else ''}, on {run.work.told('test')}"
    if recipe.evaluated is not None:
        table = recipe.evaluated(run, name, seed)
    else:
        with interrupted_by_sigterm(), watching(Measuring(Progress(name))):
            table = _scores(run, name, seed, options, [] if ships is None else list(ships.bits.values()))
    console = terminal()
    console.print(told, highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    for note in run.data.told() if run.data is not None else []:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    return 0


def _recommended(run: Run[Any, Any, Any, Any]) -> SavedModel | None:
    """The description of the network that a run would ship; None where it is not that far."""
    assert run.folder is not None
    return first_network(run.folder)[1] if saved_networks(run.folder) else None


def _default_arm(run: Run[Any, Any, Any, Any], seed: int, recommended: SavedModel | None) -> str:
    plan = run.recipe.arms(run.options)
    first = next((arm.name for arm in plan if run.record_of(arm, seed) is not None), plan[0].name)
    return str(first if recommended is None else recommended.arm)


def _scores(
    run: Run[Any, Any, Any, Any], name: str, seed: int, options: EvaluateConfig, ships: Sequence[float]
) -> Table:
    """Accuracy, loss and what else the task scores, at each width, and where it ships."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    work = run.work.to(device)
    loaders = work.loaders(seed)
    model = _network(run, name, seed).to(device)
    stands = [width for _, width in bits_of(model)]
    if not (run.recipe.dialled and stands):
        found = evaluate(model, loaders.test, task=work.task)
        accuracy, loss = found.pop("accuracy", math.nan), found.pop("loss")
        return width_table(
            [WidthScore(bits=fmean(stands or [UNQUANTIZED]), accuracy=accuracy, loss=loss, metrics=found)]
        )
    widths: list[Any] = list(options.bits or WIDTHS)
    own = list(ships) if len({*ships}) > 1 else next(iter(ships), None)
    if options.bits is None and own is not None and own not in widths:
        widths = sorted([*widths, own], key=lambda each: fmean(each) if isinstance(each, Sequence) else each)
    return width_table(
        sweep(
            model,
            loaders.test,
            widths,
            recalibration_batches=loaders.recalibration,
            reestimate=options.reestimate,
            task=work.task,
        )
    )


def _network(run: Run[Any, Any, Any, Any], name: str, seed: int) -> torch.nn.Module:
    """The network of an arm: that which ships where weights were chosen, else that at the end of training."""
    assert run.folder is not None
    file: Path = run.folder.models / f"{name}-seed{seed}.pt"
    if run.recipe.dialled or not file.is_file():
        return run.load_arm(name, seed)
    return load_saved(file, run.work.build() if read_saved(file)[0].model is None else None)[1]
