"""The cyclic recipe: what its arms train, what is measured of them, and what a run leaves."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bitdial.errors import BitdialError
from bitdial.evaluation import ArmResult
from bitdial.evaluation.equal_cost import batches_in_step, ledger_of, matched_steps, schedule_bitops
from bitdial.evaluation.results import width_key
from bitdial.evaluation.trained import PhaseResult
from bitdial.evaluation.width_costs import forward_seconds
from bitdial.files import write_atomically
from bitdial.layers import BitDial, PrecisionScheduler, skipped_layers
from bitdial.layers.cycling import CyclicPrecisionScheduler
from bitdial.lazy import later
from bitdial.recipes.cyclic.arms import (
    ABLATION,
    BASELINE,
    CPT,
    Arm,
    ablation_schedule,
    final_widths,
    plan_arms,
    static_schedule,
)
from bitdial.recipes.cyclic.options import PRESETS, CyclicConfig, CyclicTrainingConfig
from bitdial.recipes.cyclic.phase import quantization, train_phase
from bitdial.recipes.cyclic.results import CyclicResults, collect_results
from bitdial.recipes.recipe import Bench, Loaders, Recipe, Tuned
from bitdial.recipes.run import Run
from bitdial.recipes.saved_model import dialled
from bitdial.recipes.work import work_of
from bitdial.training import Hook, StepResult, TrainingState
from bitdial.training.sharding import gathered

BEST_MODEL_FILE = "cyclic_best_model.pt"
RESULTS_FILE = "cyclic_precision_results.json"


class CycleCheckpoints(Hook):
    """Keeps the weights at the end of every cycle, as ``cycle-0007.pt``."""

    def __init__(self, folder: Path, cycle_length: int) -> None:
        self.folder, self.cycle_length = folder, cycle_length

    def after_step(self, state: TrainingState, result: StepResult) -> None:
        """Save at a boundary, from the first process."""
        cycle, position = divmod(state.step, self.cycle_length)
        if position == 0:
            weights = gathered(state.fabric, state.model.state_dict())
            if state.fabric.is_global_zero:
                content = io.BytesIO()
                torch.save(weights, content)
                write_atomically(self.folder / f"cycle-{cycle:04d}.pt", content.getvalue())


def train(arm: Arm, bench: Bench[CyclicConfig]) -> TrainingState:
    """Train one arm, as its kind says."""
    options, model, loaders, setup = bench.options, bench.model, bench.loaders, bench.setup
    training, network, layers = options.training(loaders.train), options.network, len(BitDial(model))
    steps, warmup, rate = training.num_cpt_iterations, training.warmup_steps, training.learning_rate
    if arm.kind == "baseline":
        training = training.model_copy(update={"distillation_alpha": 0.0})  # the teacher learns on its own
    if arm.trains_at == "progressive":  # stopped early it would not come to its width
        training = training.model_copy(update={"early_stopping": False})
    if options.holds_out and loaders.validation is None:
        raise BitdialError(
            f"validation_fraction is {options.validation_fraction:g}, expected data of which a part can be held out, "
            "got batches of a script; give an ImageDataset (see bitdial.data.dataset_from_tensors), or leave "
            "validation_fraction and early_stopping out"
        )
    if arm.kind == "matched":
        stopped = bench.done[CPT].iterations if CPT in bench.done else training.num_cpt_iterations
        training = training.model_copy(update={"num_cpt_iterations": stopped})
        steps = _matched_steps(options, training, model, loaders)
    if arm.starts_from is not None:
        steps, warmup, rate = training.num_static_iterations, 0, rate * options.static.finetune_lr_scale
    if arm.kind == "cpt" and options.experiment.save_cycle_checkpoints and bench.files is not None:
        folder = bench.files.run.checkpoints / f"cycles-seed{bench.seed}"
        setup = replace(setup, hooks=[*setup.hooks, CycleCheckpoints(folder, options.cyclic.cycle_length)])
    if arm.trains_at is None:
        schedule = None
        if arm.kind == "ablation":
            name: Any = arm.name.removeprefix(ABLATION)
            schedule = ablation_schedule(name, options.cyclic, network, layers=layers, seed=bench.seed)
        scheduler: PrecisionScheduler = CyclicPrecisionScheduler(model, options.cyclic, schedule=schedule)
    else:
        gradients = 32 if arm.kind == "baseline" else options.cyclic.gradient_bits
        schedule = static_schedule(arm.trains_at, layers, steps, network.bit_widths)
        scheduler = PrecisionScheduler(model, schedule, gradients=gradients)
    state = train_phase(
        model,
        loaders,
        scheduler,
        steps,
        training,
        setup,
        learning_rate=rate,
        warmup_steps=warmup,
        teacher=bench.trained.get(BASELINE),
        target_bits=network.default_bit_width if loaders.validation is None else arm.own_bits(layers),
    )
    if arm.trains_at is not None:
        BitDial(model).set(final_widths(arm.trains_at, layers, network.bit_widths))
    return state


def _matched_steps(options: CyclicConfig, training: CyclicTrainingConfig, model: nn.Module, loaders: Loaders) -> int:
    """How many steps at the default width have the BitOps of the cyclic phase as long as it was, to half a step."""
    ledger, gradients = ledger_of(model, loaders.train), options.cyclic.gradient_bits
    sizes = batches_in_step(loaders.train, training.gradient_accumulation_steps)
    cyclic = schedule_bitops(
        ledger,
        options.cyclic.layer_schedule(),
        len(BitDial(model)),
        training.num_cpt_iterations,
        gradients,
        examples=sizes,
    )
    width = options.model_options.default_bit_width
    return matched_steps(cyclic, ledger.step_bitops(width, width, gradients).total, sizes)


def measure(arm: Arm, bench: Bench[CyclicConfig], state: TrainingState) -> ArmResult:
    """Score a trained arm at every target width, and at its own."""
    options = bench.options
    phase = PhaseResult.of(state, options.cyclic.cycle_length if arm.kind == "cpt" else None)
    targets = sorted({*options.model_options.bit_widths, options.model_options.default_bit_width, 32.0})
    ships = arm.own_bits(len(BitDial(bench.model)))
    widths: list[Any] = [*targets, *([] if ships in targets else [ships])]
    scores = bench.sweep(widths)
    cycled = set(map(options.cyclic.schedule(), range(phase.iterations))) if arm.kind == "cpt" else None
    names = {**{width_key(bits): bits for bits in targets}, arm.label: ships}
    before: ArmResult | None = bench.done[arm.starts_from] if arm.starts_from else None
    return ArmResult(
        name=arm.name,
        kind=arm.kind,
        seed=bench.seed,
        scores=scores[: len(targets)],
        own=scores[widths.index(ships)],
        own_label=arm.label,
        visited=None if cycled is None else [w for w in targets if any(abs(w - bits) < 0.5 for bits in cycled)],
        average_bits=phase.average_bits,
        dial_bits=phase.dial_bits,
        bitops=phase.bitops + (before.bitops if before else 0.0),
        bitops_own=phase.bitops,
        seconds=phase.seconds + (before.seconds if before else 0.0),
        seconds_own=phase.seconds,
        iterations=phase.iterations,
        costs=bench.width_costs(ledger_of(bench.model, bench.loaders.test), names),
        forward_seconds=forward_seconds(bench.model, bench.loaders.test, bench.work.task),
        history=phase.history,
        precision_note=phase.precision_note,
        early_stop=phase.early_stop,
    )


CyclicRun = Run[CyclicConfig, Arm, ArmResult, CyclicResults]


def conclude(arms: Sequence[ArmResult], run: CyclicRun, common: dict[str, Any]) -> CyclicResults:
    """Compare the arms, and analyse the cycles of those that cycled."""
    notes = []
    if run.folder is not None:
        skipped = skipped_layers(run.new_model(run.recipe.arms(run.options)[0], run.seeds[0]))
        listed = "; ".join(f"{name} ({reason})" for name, reason in skipped.items())
        notes = [
            f"Data: {run.work.told()}. What is measured are the weights at the end of training; none were chosen by "
            "looking at test data.",
            f"Unquantized layers, counted at 32 bits: {listed or 'none'}.",
            "matched_cost is a static run at the default width, stopped when its BitOps reach those of the cyclic "
            "phase.",
        ]
        if run.options.holds_out:
            notes.append(
                f"Evaluations in training look at {run.options.validation_fraction:.0%} of the training data, held out."
            )
        if any(arm.early_stop is not None for arm in arms):
            notes.append(
                "An arm that stopped early did so by the data held out, at its own width: its BitOps and seconds are "
                "those of the steps that it took, its learning rate did not come to the end of its schedule, and "
                "matched_cost has at most the BitOps that the cyclic phase really took."
            )
        if run.options.distillation_alpha > 0:
            notes.append("BitOps do not count the teacher's forward passes; seconds do.")
    experiment = run.options.experiment
    return collect_results(
        arms,
        experiment=experiment.experiment_name,
        notes=notes,
        analyze_cycles=experiment.analyze_cycles,
        **common,
    )


def leave(results: CyclicResults, run: CyclicRun) -> None:
    """Write the results under their own name, and the recommended arm (its first seed) at the recommended width.

    What is saved scores what the results report, without anything being re-estimated again.
    """
    assert run.folder is not None
    chosen, seed = results.comparison.chosen, run.seeds[0]
    arm = next(arm for arm in run.recipe.arms(run.options) if arm.name == chosen.arm)
    model = run.load_arm(arm.name, seed).to(run.fabric.device)
    bits = arm.own_bits(len(BitDial(model))) if chosen.label == arm.label else chosen.bits
    dialled(model, bits, run.work.loaders(seed).recalibration)
    run.saved_model(arm, seed).save(model, run.folder.path / BEST_MODEL_FILE)
    results.save(run.folder.path / RESULTS_FILE)


CYCLIC: Recipe[CyclicConfig, Arm, ArmResult, CyclicResults] = Recipe(
    name="cyclic",
    options=CyclicConfig,
    presets=PRESETS,
    work=work_of,
    arms=plan_arms,
    quantize=lambda options: quantization(options.network, options.cyclic.gradient_bits),
    train=train,
    measure=measure,
    conclude=conclude,
    results=CyclicResults,
    figures=lambda results, folder: later("bitdial.recipes.cyclic.report:render")(results, folder.metrics),
    page=later("bitdial.recipes.cyclic.report:report_page"),
    leave=leave,
    may_grow=frozenset({"seeds", "early_stopping_patience"}),
    column="phase",
    own_folders=True,
    tuned=Tuned({"eval_interval": 40, "validation_fraction": 0.1}, arm=CPT),
    saves_plots=lambda options: options.experiment.plot_metrics,
)
