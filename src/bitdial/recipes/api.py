"""Recipes from Python: run one, with one's own network and data if need be; load what a run left, ready to use."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from bitdial.data import RecordingDataset
from bitdial.errors import BitdialError, suggest
from bitdial.evaluation.results import RunResults
from bitdial.layers import BitDial
from bitdial.layers.names import named_as
from bitdial.names import SIGNAL_NETWORKS
from bitdial.recipes import find_recipe, recipe_of
from bitdial.recipes.run import Run
from bitdial.recipes.saved_model import SavedModel, bits_of, first_network, load_saved, read_saved
from bitdial.recipes.start import open_run, start
from bitdial.recipes.work import OWN
from bitdial.training import RunFolder, Task, read_checkpoint
from bitdial.training.checkpoint import resolved


def run(
    recipe: str,
    preset: str | None = None,
    *,
    model: str | nn.Module | Callable[[], nn.Module] | None = None,
    data: Any = None,
    task: Task | None = None,
    config: str | os.PathLike[str] | None = None,
    **options: Any,
) -> RunResults:
    """Run a recipe as ``bitdial train RECIPE`` does, from a script or a notebook.

    For instance::

        results = bitdial.run("cyclic", epochs=3, cyclic={"cycle_length": 40})
        results = bitdial.run("cyclic", model=my_module, data=((x, y), (x_test, y_test)), steps=500)

    Args:
        recipe: ``"cyclic"``, ``"ternary"``, ...
        preset: one of its presets.
        model: a network's name; a module, of which each arm trains a copy; or a function that makes one, before which
            torch is seeded.
        data: ``(train, test)``, each a pair of tensors (inputs, labels), a torch Dataset, or an iterable that gives its
            batches again and again; a third entry gives batches to re-estimate batch norm from; or an `ImageDataset`
            or a `RecordingDataset`. None: the data set named by ``dataset``.
        task: loss and scores of a batch; classification if None.
        config: a YAML file of options.
        **options: the recipe's options, named as its flags; a group as a dict, or with dots in a dict that is unpacked.

    Returns:
        The results, whose `repr` is the table; files lie in the run's folder, which is told on standard error.

    Raises:
        BitdialError: an option, the network or the data is at fault, or a loss is not finite.
        RunInterrupted: stopped by Ctrl-C, after saving; ``resume=True`` goes on.

    Example:
        >>> import bitdial as bd
        >>> results = bd.run("joint", model="tiny_cnn", steps=2, bitwidth_options=[2, 8], run_dir="runs/example")
        >>> [score.bits for score in results.networks[0].scores]  # print(results) shows the table
        [2.0, 8.0]
    """
    record = find_recipe(recipe)
    words = [*([preset] if preset else []), *(["--config", str(config)] if config else [])]
    values = {**options, **({"model": model} if isinstance(model, str) else {})}
    if model is None and isinstance(data, RecordingDataset):
        values = {"model": SIGNAL_NETWORKS[0], **values}
    own = None if isinstance(model, str) else model
    work = None
    if own is not None or data is not None or task is not None:
        brought = {"model": own, "dataset": data}
        values |= {
            name: OWN for name, each in brought.items() if each is not None and name in record.options.model_fields
        }
        work = partial(record.work, model=own, data=data, task=task)
    mine = {"model": own, "data": data, "task": task}
    shown = [repr(recipe), *([repr(preset)] if preset else [])]
    shown += [f"{name}=..." for name, value in mine.items() if value is not None]  # what a reader has to bring again
    shown += [
        f"{name}={(os.fspath(value) if isinstance(value, os.PathLike) else value)!r}"
        for name, value in {**({"config": config} if config else {}), **values}.items()
        if not (isinstance(value, str) and value == OWN)
    ]
    found: RunResults | None = start(record, words, values, told=f"bitdial.run({', '.join(shown)})", work=work)[0]
    if found is None:  # this process is not the first one
        raise SystemExit(0)
    return found


def load(
    run_or_file: str | os.PathLike[str],
    *,
    arm: str | None = None,
    seed: int | None = None,
    model: nn.Module | None = None,
) -> nn.Module:
    """A trained network, in evaluation mode, its dial where it ships; ``network.dial`` turns it to other widths.

    Args:
        run_or_file: the folder of a run (what it recommends or keeps first), its ``cyclic_best_model.pt``, a file of
            ``models/``, a checkpoint of a run such as ``checkpoints/best.pt`` (its averaged weights where it holds an
            average), or a packed ``.safetensors``.
        arm: which arm of a run, as its training ended.
        seed: which seed of it; the first one if None.
        model: the unquantized network, for a run to which a script brought its own; quantized in place.

    Returns:
        The network. `dial` is None where nothing of it is quantized.

    Raises:
        BitdialError: there is nothing, it is damaged, or of another kind.

    Example:
        >>> import bitdial as bd
        >>> results = bd.run("joint", model="tiny_cnn", steps=2, bitwidth_options=[2, 8], run_dir="runs/to_load")
        >>> network = bd.load("runs/to_load")
        >>> network.dial.set(2)
    """
    path = resolved(run_or_file)
    if path.is_dir():
        network = _from_run(RunFolder.open(path), arm, seed, model)
    elif arm is not None or seed is not None:
        raise BitdialError(f"arm and seed choose among those of a run, got the file {path}; leave them out")
    elif path.suffix == ".safetensors":
        network = _from_packed(path, model)
    else:
        network = _from_file(path, model)
    network.eval()
    network.dial = BitDial(network) if bits_of(network) else None  # type: ignore[assignment]
    return network


def check_arm(run: Run[Any, Any, Any, Any], folder: RunFolder, name: str, seed: int) -> None:
    """Refuse an arm that a run has not trained.

    Raises:
        BitdialError: the text lists what there is.
    """
    plan = run.recipe.arms(run.options)
    trained = sorted((arm.name, each) for each in run.seeds for arm in plan if run.record_of(arm, each) is not None)
    if not trained:
        raise BitdialError(f"{folder.path} has no trained arm yet; `{run.recipe.prog} --resume {folder.path}` goes on")
    if (name, seed) in trained:
        return
    seeds = sorted({number for _, number in trained})
    if seed not in seeds:
        raise BitdialError(f"seed must be one that {folder.path} was trained with ({seeds}), got {seed}")
    there = [each for each, number in trained if number == seed]
    hint = suggest(name, there) or f"; there are: {', '.join(there)}"
    raise BitdialError(f"arm must be one that {folder.path} trained with seed {seed}, got '{name}'{hint}")


def _built(saved: SavedModel, network: nn.Module) -> nn.Module:
    """The network, after a warning of what is to be known of it."""
    for note in saved.notes():
        warnings.warn(note, stacklevel=4)
    return network


def _from_run(folder: RunFolder, arm: str | None, seed: int | None, model: nn.Module | None) -> nn.Module:
    if arm is None and seed is None:
        return _built(*load_saved(first_network(folder)[2], model))
    accepted = {"accept_changed_data": True}  # nothing is measured
    run = open_run(find_recipe(recipe_of(folder.load_config())), folder, changes=accepted, model=model)
    chosen = run.seeds[0] if seed is None else seed
    name = run.recipe.arms(run.options)[0].name if arm is None else arm
    check_arm(run, folder, name, chosen)
    return run.load_arm(name, chosen)


def _from_packed(path: Path, model: nn.Module | None) -> nn.Module:
    from bitdial.export.packed import load_packed, network_of  # needs safetensors, as nothing else here does

    described = network_of(path)
    if described is None:
        beside = path.with_suffix(".pt")
        if not beside.is_file():
            raise BitdialError(
                f"{path} does not say which network it is of; build and quantize that, and call "
                "bitdial.export.load_packed(path, model)"
            )
        saved = read_saved(beside)[0]
    else:
        saved = SavedModel.model_validate(described)
    return load_packed(path, _built(saved, saved.build(model)))


def _from_file(path: Path, model: nn.Module | None) -> nn.Module:
    try:
        return _built(*load_saved(path, model))
    except BitdialError:
        if not path.is_file():
            raise
    state = read_checkpoint(path, expected=()).state
    described = state.get("network")
    if described is None:
        raise BitdialError(
            f"{path} does not say which network it is of, expected a model file or a checkpoint that does; "
            "load its weights with bitdial.training.read_checkpoint"
        )
    saved = SavedModel.model_validate(described)
    network = _built(saved, saved.build(model))
    average = state.get("ema_state_dict")
    weights = average["model_state_dict"] if average else state["model_state_dict"]
    network.load_state_dict(named_as(network, weights))
    return network
