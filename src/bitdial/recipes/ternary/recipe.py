"""The ternary recipe: its arms, which weights ship and what they score and weigh, and the files that are left."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitdial.evaluation.equal_cost import ledger_of
from bitdial.evaluation.sweep import evaluate
from bitdial.evaluation.trained import early_stop_of
from bitdial.evaluation.width_costs import forward_seconds
from bitdial.export import packed_sizes, save_packed
from bitdial.files import write_atomically
from bitdial.layers import QuantizedLayer, skipped_layers
from bitdial.layers.names import plain_names
from bitdial.lazy import later
from bitdial.numerics import TERNARY_BITS, UNQUANTIZED
from bitdial.recipes.dataset_work import DatasetWork
from bitdial.recipes.recipe import Arm, Bench, Recipe, Tuned, Work
from bitdial.recipes.run import Run
from bitdial.recipes.saved_model import bits_of
from bitdial.recipes.ternary.options import FLOAT, PRESETS, TernaryConfig
from bitdial.recipes.ternary.results import Curve, NetworkResult, Score, Sizes, TernaryResults, summarise
from bitdial.recipes.ternary.train import train
from bitdial.recipes.ternary.winner import winner
from bitdial.recipes.work import check_model_name, work_of
from bitdial.training import CsvLog, Task, TrainingState
from bitdial.training.step.formats import format_name
from bitdial.training.tasks import CONFUSION

BEST_MODEL = "ternary_best_model"
TernaryRun = Run[TernaryConfig, Arm, NetworkResult, TernaryResults]


def work(options: TernaryConfig, model: Any = None, data: Any = None, task: Any = None) -> Work:
    """The images that the options name, after every arm's network was found to exist."""
    if model is None:
        for each in options.each_arm().values():
            check_model_name(each.model, each.dataset, data)
    return work_of(options, model, data, task)


def plan_arms(options: TernaryConfig) -> list[Arm]:
    """One arm for each experiment."""
    return [Arm(name, options=each) for name, each in options.each_arm().items()]


def quantization(options: TernaryConfig) -> dict[str, Any] | None:
    """What `bitdial.quantize` is called with; None for a network of which nothing is quantized."""
    ternary = options.quantizer != FLOAT
    if not ternary and options.activation_bits >= UNQUANTIZED:
        return None
    return {
        "weights": TERNARY_BITS if ternary else UNQUANTIZED,
        "activations": options.activation_bits,
        "quantizer": options.quantizer if ternary else "uniform",
        "granularity": options.granularity,
        "skip": options.skip_layers,
    }


def keeping(options: TernaryConfig) -> Mapping[str, Any]:
    """Which checkpoints are kept."""
    return {
        "keep_last_n": options.keep_last_n,
        "keep_best": options.keep_best or 0,
        "metric": options.monitor,
        "higher_is_better": options.monitor_mode == "max",
    }


def measure(arm: Arm, bench: Bench[TernaryConfig], state: TrainingState) -> NetworkResult:
    """Choose the weights by validation, measure them once on the test images, and keep them."""
    options, files = bench.options, bench.files
    assert files is not None
    assert bench.saved is not None
    last = state.evaluated_model
    shipped, epoch = _best(last, bench) if options.keep_best else (last, state.epoch)
    file = files.run.models / f"{files.key}.pt"
    packs, told = not options.is_float, bench.saved.packed()
    if bench.is_first:
        bench.saved.save(shipped, file)
        if packs:
            save_packed(shipped, file.with_suffix(".safetensors"), description=told)
    found = asdict(packed_sizes(shipped, description=told)) if packs else {}
    task, validation = bench.work.task, bench.loaders.validation
    test = _score(shipped, bench.loaders.test, task)
    ledger = ledger_of(shipped, bench.loaders.test)
    return NetworkResult(
        experiment=arm.name,
        seed=bench.seed,
        quantizer=options.quantizer,
        activation_bits=options.activation_bits,
        teacher=None if options.teacher is None else str(options.teacher),
        asked=asked(options),
        epochs=state.epoch,
        steps=state.step,
        stopped_early=state.early_stopping is not None and state.early_stopping.should_stop,
        seconds=state.seconds,
        shipped="best" if options.keep_best else "last",
        shipped_epoch=epoch,
        validation=None if validation is None else _score(shipped, validation, task),
        test=test,
        test_last=test if shipped is last else _score(last, bench.loaders.test, task),
        parameters=sum(parameter.numel() for parameter in shipped.parameters()),
        zeros=share_of_zeros(shipped),
        unquantized=skipped_layers(shipped) if bits_of(shipped) else {},
        sizes=Sizes(**{name: found[name] for name in Sizes.model_fields}) if packs else None,
        bitops=ledger.step_bitops().forward,
        float_bitops=ledger.step_bitops(UNQUANTIZED, UNQUANTIZED).forward,
        forward_seconds=forward_seconds(shipped, bench.loaders.test, task),
        file=str(file.relative_to(files.run.path)),
        precision_note=state.control.trouble(),
        packed_file=str(file.with_suffix(".safetensors").relative_to(files.run.path)) if packs else None,
        early_stop=early_stop_of(state),
        curve=read_curve(files.run.metrics, {"experiment": arm.name, "seed": str(bench.seed)}),
    )


def asked(options: TernaryConfig) -> dict[str, int | None]:
    """The length that was asked for; an arm that is asked for more goes on."""
    patience = options.early_stopping_patience if options.early_stopping else None
    return {"epochs": options.epochs, "steps": options.steps, "patience": patience}


def _best(last: nn.Module, bench: Bench[TernaryConfig]) -> tuple[nn.Module, int]:
    """The network with the best weights on the images held out, and the epochs behind them."""
    assert bench.checkpoints is not None
    state: dict[str, Any] = bench.checkpoints.load_best().state
    averaged = bench.options.ema_decay is not None
    best = copy.deepcopy(last)
    best.load_state_dict(state["ema_state_dict"]["model_state_dict"] if averaged else state["model_state_dict"])
    return best, int(state["epoch"])


def _score(model: nn.Module, batches: Any, task: Task) -> Score:
    tables: dict[str, torch.Tensor] = {}
    metrics = evaluate(model, batches, task=task, tables=tables)
    confusion = tables[CONFUSION].tolist() if CONFUSION in tables else []
    accuracy, loss = metrics.pop("accuracy", math.nan), metrics.pop("loss")
    return Score(accuracy=accuracy, loss=loss, metrics=metrics, confusion=confusion)


def read_curve(path: Path, scope: Mapping[str, str]) -> Curve:
    """The epochs of one network, from the log."""
    curve = Curve()
    columns = {
        "train_loss": "train_loss_epoch",
        "train_accuracy": "train_accuracy_epoch",
        "validation_loss": "val_loss",
        "validation_accuracy": "val_accuracy",
        "learning_rate": "learning_rate",
    }
    for row in CsvLog(path).rows():
        if any(name in row and row[name] != value for name, value in scope.items()):
            continue
        if not (row.get("train_loss_epoch") or row.get("val_loss")):
            continue  # a row in mid-epoch
        curve.epoch.append(int(row["epoch"]))
        for name, column in columns.items():
            getattr(curve, name).append(float(row[column]) if row.get(column) else None)
    return curve


@torch.no_grad()
def share_of_zeros(model: nn.Module) -> dict[str, float]:
    """Share of weights that are zero in each ternary layer, by name."""
    modules, shares = plain_names(model), {}
    for name, width in bits_of(model):
        layer = modules[name]
        if width < UNQUANTIZED and isinstance(layer, QuantizedLayer):
            shares[name] = float((layer.quantized_weight() == 0).float().mean())
    return shares


def conclude(networks: Sequence[NetworkResult], run: TernaryRun, common: dict[str, Any]) -> TernaryResults:
    """Every arm over its seeds, and against the reference."""
    summaries, reference = summarise(networks)
    notes = notes_on(networks, run)
    chosen, why = winner(networks) or (None, "")
    return TernaryResults(
        networks=list(networks),
        summaries=summaries,
        reference=reference,
        winner=chosen,
        sentence=why,
        notes=notes,
        **common,
    )


def leave(results: TernaryResults, run: TernaryRun) -> None:
    """Write what ships of several experiments, the first seed, under a name of its own: the network, and packed."""
    shipped = next((each for each in results.networks if each.experiment == results.winner), None)
    if shipped is None or run.folder is None:
        return
    for file in (shipped.file, shipped.packed_file):
        if file is not None:
            path = run.folder.path / file
            write_atomically(run.folder.path / f"{BEST_MODEL}{path.suffix}", path.read_bytes())


def notes_on(networks: Sequence[NetworkResult], run: TernaryRun) -> list[str]:
    """What a reader should know: which images chose, which were reported, what an interval is."""
    options, data = run.options, run.work.told()
    if isinstance(run.work, DatasetWork):
        things = run.work.things
        held_out = 0 if run.work.validation is None else len(run.work.validation)
        data = (
            f"{run.work.name}, {len(run.work.train)} {things} to train on, {held_out} training {things} held out, "
            f"{len(run.work.dataset.test)} test {things}"
        )
    chosen = (
        "Early stopping and the choice of the shipped weights look at the held-out images only"
        if options.keep_best or options.early_stopping
        else "Nothing was chosen by any score: the last weights are shipped"
    )
    notes = [f"Data: {data}. {chosen}; test images were looked at once, at the end."]
    if options.seeds == 1:
        notes.append("One seed: no interval. Differences between experiments may be chance.")
    else:
        notes.append(f"Intervals are 95% Student t intervals over {options.seeds} seeds; differences are paired.")
    if options.ema_decay is not None:
        notes.append("Scores and files are of the averaged weights.")
    computes = "Training and scores compute in float32"
    format = torch.float32 if run.setup.precision is None else run.setup.precision.format
    if format != torch.float32:
        computes = f"Training computes in {format_name(format)}, scores in float32"
    notes.append(f"{computes}, on ternary values; only files are packed.")
    for network in networks:
        stop = None if network.early_stop is None else network.early_stop.told()
        notes += [
            f"{network.experiment}, seed {network.seed}, {told}." for told in (network.precision_note, stop) if told
        ]
    return notes


TERNARY: Recipe[TernaryConfig, Arm, NetworkResult, TernaryResults] = Recipe(
    name="ternary",
    options=TernaryConfig,
    presets=PRESETS,
    work=work,
    arms=plan_arms,
    quantize=quantization,
    train=train,
    measure=measure,
    conclude=conclude,
    leave=leave,
    results=TernaryResults,
    figures=lambda results, folder: later("bitdial.recipes.ternary.report:render_plots")(results, folder.metrics),
    page=later("bitdial.recipes.ternary.report:report_page"),
    may_grow=frozenset({"epochs", "steps", "early_stopping_patience"}),
    may_change=frozenset({"save_freq", "checkpoint_interval", "keep_last_n", "log_interval", "csv_log"}),
    column="experiment",
    dialled=False,
    keeping=keeping,
    suffices=lambda options, record: record.asked == asked(options),
    tuned=Tuned({"validation_fraction": 0.1}),
)
