"""After training: which weights ship, what they score, what they weigh, and the files that are left of them."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from bitdial.evaluation import evaluate_loss_accuracy
from bitdial.export import packed_sizes, save_packed
from bitdial.recipes.ternary.config import TernaryConfig
from bitdial.recipes.ternary.loaders import Splits, plain_batches
from bitdial.recipes.ternary.network import Network, TrainedNetwork, share_of_zeros, unquantized_layers
from bitdial.recipes.ternary.results import Curve, NetworkResult, Score, Sizes
from bitdial.training import CheckpointManager, CsvLog, RunFolder, TrainingState

MODELS = "models"


def network_file(run: RunFolder, key: str) -> Path:
    """Where a trained network is kept."""
    return run.path / MODELS / f"{key}.pt"


def finish_network(
    experiment: str,
    seed: int,
    config: TernaryConfig,
    state: TrainingState,
    checkpoints: CheckpointManager,
    splits: Splits,
    run: RunFolder,
) -> NetworkResult:
    """Choose the weights by validation, measure them once on the test images, and keep them. On the first process.

    Args:
        experiment, seed: which network.
        config: options of the experiment.
        state: the end of training.
        checkpoints: of this network.
        splits: the images, on the device.
        run: where files go.
    """
    key = f"{experiment}-seed{seed}"
    last = state.evaluated_model
    shipped, epoch = _best(last, config, checkpoints) if config.keep_best else (last, state.epoch)
    description = TrainedNetwork(
        experiment=experiment,
        seed=seed,
        network=Network.of(config, splits.dataset),
        dataset=config.dataset,
        mean=list(splits.dataset.mean),
        std=list(splits.dataset.std),
        class_names=list(splits.dataset.class_names),
    )
    file = description.save(shipped, network_file(run, key))
    sizes, packed = None, None
    if description.network.is_quantized and not config.is_float:
        packed = save_packed(shipped, file.with_suffix(".safetensors"))
        found = asdict(packed_sizes(shipped))
        sizes = Sizes(**{name: found[name] for name in Sizes.model_fields})
    test = _score(shipped, splits.dataset.test, config)
    return NetworkResult(
        experiment=experiment,
        seed=seed,
        quantizer=config.quantizer,
        activation_bits=config.activation_bits,
        teacher=None if config.teacher is None else str(config.teacher),
        asked=asked(config),
        epochs=state.epoch,
        steps=state.step,
        stopped_early=state.early_stopping is not None and state.early_stopping.should_stop,
        seconds=state.seconds,
        shipped="best" if config.keep_best else "last",
        shipped_epoch=epoch,
        validation=None if splits.validation is None else _score(shipped, splits.validation, config),
        test=test,
        test_last=test if shipped is last else _score(last, splits.dataset.test, config),
        parameters=sum(parameter.numel() for parameter in shipped.parameters()),
        zeros=share_of_zeros(shipped),
        unquantized=unquantized_layers(shipped),
        sizes=sizes,
        file=str(file.relative_to(run.path)),
        precision_note=state.control.trouble(),
        packed_file=None if packed is None else str(packed.relative_to(run.path)),
        curve=read_curve(run.metrics, {"experiment": experiment, "seed": str(seed)}),
    )


def asked(config: TernaryConfig) -> dict[str, int | None]:
    """The length that was asked for; a run that is asked for more goes on."""
    patience = config.early_stopping_patience if config.early_stopping else None
    return {"epochs": config.epochs, "steps": config.steps, "patience": patience}


def _best(last: nn.Module, config: TernaryConfig, checkpoints: CheckpointManager) -> tuple[nn.Module, int]:
    """The network with the best weights on the images held out, and the epochs behind them."""
    state: dict[str, Any] = checkpoints.load_best().state
    weights = state["ema_state_dict"]["model_state_dict"] if config.ema_decay is not None else state["model_state_dict"]
    best = copy.deepcopy(last)
    best.load_state_dict(weights)
    return best, int(state["epoch"])


def _score(model: nn.Module, split: Any, config: TernaryConfig) -> Score:
    loss, accuracy = evaluate_loss_accuracy(model, plain_batches(split, config))
    return Score(accuracy=accuracy, loss=loss)


def read_curve(path: Path, scope: dict[str, str]) -> Curve:
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
