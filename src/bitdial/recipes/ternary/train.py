"""Training one ternary network: optimizer, schedule, hooks, and how it is taken up again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from bitdial.data import Fingerprint
from bitdial.errors import BitdialError
from bitdial.evaluation.sweep import evaluate
from bitdial.options import part
from bitdial.recipes.recipe import Arm, Bench, Work
from bitdial.recipes.same_data import seen
from bitdial.recipes.saved_model import load_saved
from bitdial.recipes.states import Foreign
from bitdial.recipes.ternary.options import TernaryConfig
from bitdial.recipes.ternary.results import TernaryResults
from bitdial.training import (
    Classification,
    Distillation,
    EarlyStopping,
    Hook,
    LearningRateConfig,
    LearningRateFactor,
    LoopConfig,
    OptimizerConfig,
    RunFolder,
    Task,
    TrainingState,
    WeightStatistics,
    build_optimizer,
    learning_rate_factor,
    make_fabric,
)
from bitdial.training.batches import length_of

LONGEST_WARMUP = 5
"""Epochs of warm-up in a long run, where the user says nothing."""
SHARE_OF_WARMUP = 0.05
"""Share of a short run that is warm-up, where the user says nothing."""


class BestScore(Hook):
    """Measures what is held out and remembers the best accuracy, which the log shows."""

    def __init__(self, batches: Iterable[Any], task: Task) -> None:
        self.batches = batches
        self.task = task
        self.best = -math.inf

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Scores for the loop: those of the task, and the best accuracy so far."""
        scores = evaluate(model, self.batches, task=self.task)
        if "accuracy" in scores:
            self.best = max(self.best, scores["accuracy"])
            scores["best_accuracy"] = self.best
        return scores

    def state_dict(self) -> dict[str, Any]:
        """The best accuracy so far."""
        return {"best": self.best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from it."""
        self.best = float(state["best"])


def train(arm: Arm, bench: Bench[TernaryConfig]) -> TrainingState:
    """Train a network as the options of its arm say, in place."""
    options, model, loaders = bench.options, bench.model, bench.loaders
    if options.holds_out and loaders.validation is None:
        raise BitdialError(
            f"validation_fraction is {options.validation_fraction:g}, expected data of which a part can be held out, "
            "got batches; give tensors or a torch Dataset, or validation_fraction=0 and keep_best=0"
        )
    optimizer = build_optimizer(model, part(options, OptimizerConfig))
    if options.start_from is not None:
        start = Foreign.read(options.start_from, 1, weights_only=True)
        start.check(model, optimizer, options.start_from)
    loop = part(
        options,
        LoopConfig,
        checkpoint_epochs=options.save_freq,
        checkpoint_best=bool(options.keep_best),
        history_interval=options.log_interval,
        monitor_mode=options.monitor_mode,
    )
    rate = _rate(options, loop, length_of(loaders.train))
    best = None if loaders.validation is None else BestScore(loaders.validation, bench.work.task)
    hooks: list[Hook] = [] if best is None else [best]
    if not options.is_float:
        hooks.append(WeightStatistics())
    return bench.setup.fit(
        model,
        optimizer,
        _task(options, bench),
        loaders.train,
        loop,
        learning_rate=rate,
        evaluate=best,
        hooks=hooks,
        early_stopping=EarlyStopping.of(options, options.monitor_mode, loaders.validation),
    )


def _task(options: TernaryConfig, bench: Bench[TernaryConfig]) -> Task:
    task = bench.work.task
    if type(task) is Classification:
        task = Classification(options.label_smoothing)
    elif options.label_smoothing:
        raise BitdialError("label_smoothing belongs to classification, got it with a task of its own; set it to 0")
    if options.teacher is None:
        return task
    teacher = (bench.setup.fabric or make_fabric()).to_device(load_teacher(options.teacher, bench.work))
    return Distillation(task, teacher, options.distillation_alpha, options.distillation_temperature)


def _rate(options: TernaryConfig, loop: LoopConfig, batches: int | None) -> LearningRateFactor:
    """The learning rate as a factor of the optimizer step.

    Raises:
        BitdialError: the warm-up is as long as the run, a milestone is below 0, or nobody knows how long an epoch is.
    """
    if batches is None:
        raise BitdialError(
            "the ternary recipe counts in epochs, expected training batches that know their number, got a loader "
            "without a length; give it a __len__"
        )
    total = loop.total_steps(batches)
    assert total is not None  # the loader has a length
    per_epoch = -(-batches // options.gradient_accumulation_steps)
    if options.warmup_epochs is not None:
        warmup = round(options.warmup_epochs * per_epoch)
    elif options.scheduler == "onecycle":  # has a rise of its own
        warmup = 0
    else:
        warmup = int(min(LONGEST_WARMUP * per_epoch, SHARE_OF_WARMUP * total))
    shape = part(options, LearningRateConfig, warmup_steps=warmup, decay=options.lr_decay)
    return learning_rate_factor(shape, total)


def load_teacher(path: Path, work: Work) -> nn.Module:
    """The first unquantized network of a finished run, in evaluation mode.

    Args:
        path: the run's folder.
        work: what the student sees.

    Raises:
        BitdialError: no such run, not finished, no unquantized network in it, one for other images, or one that was
            trained on images that the student is tested on.
    """
    run = RunFolder.open(path)
    if not run.results.exists():
        raise BitdialError(f"teacher must be a finished run, got {path}, which has no results yet; resume it first")
    results = TernaryResults.load(run.results)
    network = next((each for each in results.networks if each.quantizer == "none"), None)
    if network is None:
        kinds = ", ".join(dict.fromkeys(each.quantizer for each in results.networks))
        raise BitdialError(f"teacher must be a run with --quantizer none, got {path} with {kinds}; train that first")
    trained, model = load_saved(run.models / f"{network.key}.pt")
    facts, names = work.facts(), ("num_classes", "in_channels", "image_size", "signals")
    there = trained.model_dump(mode="json")
    if any(there[name] != facts.get(name) for name in names):
        told = [f"{each['dataset']} ({each.get('num_classes')} classes, {_shape_of(each)})" for each in (there, facts)]
        things = "segments" if facts.get("signals") else "images"
        raise BitdialError(
            f"teacher and student must see the same {things}, got {told[0]} and {told[1]}; train the teacher on "
            f"{facts['dataset']}"
        )
    classes = facts.get("class_names", [])
    if classes and trained.class_names and trained.class_names != classes:
        raise BitdialError(
            f"teacher and student must number the classes alike, got {', '.join(trained.class_names[:10])} and "
            f"{', '.join(classes[:10])}; train the teacher on these classes"
        )
    leaked = seen(Fingerprint.read(run.data), work.identify()) if run.data.exists() else 0
    if leaked:
        raise BitdialError(
            f"teacher must not know the test images, got {path}, which was trained on {leaked} of them as its data "
            "was divided otherwise; train it again on the data of today"
        )
    return model.requires_grad_(False)


def _shape_of(facts: Mapping[str, Any]) -> str:
    """The shape of what a network takes, in words."""
    if signals := facts.get("signals"):
        shapes = [f"{name} {'x'.join(map(str, shape))}" for name, shape in signals["shapes"].items()]
        return f"{', '.join(shapes)} by {signals['transform']}"
    return f"{facts.get('in_channels')}x{facts.get('image_size')}x{facts.get('image_size')}"
