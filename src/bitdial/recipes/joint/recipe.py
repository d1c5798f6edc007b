"""The joint recipe: one network that is trained for many widths in every step, and the width of it that is shipped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from bitdial.errors import BitdialError
from bitdial.evaluation import LayerSensitivity, WidthScore, layer_sensitivity, width_verdict
from bitdial.evaluation.equal_cost import ledger_of
from bitdial.evaluation.results import width_key
from bitdial.evaluation.sweep import RECALIBRATION_LIMIT, evaluate
from bitdial.evaluation.trained import PhaseResult, notes_on
from bitdial.evaluation.width_costs import forward_seconds
from bitdial.export import save_packed
from bitdial.layers import BitDial
from bitdial.layers.norm_rows import PerWidth
from bitdial.lazy import later
from bitdial.numerics import UNQUANTIZED
from bitdial.options import part
from bitdial.recipes.joint.methods import InPasses, Turns, plan
from bitdial.recipes.joint.options import JointConfig
from bitdial.recipes.joint.results import JointResult, JointResults
from bitdial.recipes.joint.validation import Validation
from bitdial.recipes.options import total_steps
from bitdial.recipes.recipe import MOST_PACKED, Arm, Bench, Recipe
from bitdial.recipes.run import Run
from bitdial.recipes.saved_model import dialled, load_saved, read_saved
from bitdial.recipes.work import ImageWork, work_of
from bitdial.training import (
    EarlyStopping,
    Hook,
    Knob,
    LearningRateConfig,
    LoopConfig,
    OptimizerConfig,
    Task,
    TrainingState,
    WeightStatistics,
    build_optimizer,
    learning_rate_factor,
    preserved_random_state,
)
from bitdial.training.knobs import BitOpsCounter, mean_width
from bitdial.training.tasks import CONFUSION

SENSITIVITY_BATCHES = 4
"""Batches that the sensitivity of layers is measured on: each layer takes a pass over them."""
JointRun = Run[JointConfig, Arm, JointResult, JointResults]


def quantization(options: JointConfig) -> Mapping[str, Any] | None:
    """What `bitdial.quantize` is called with; None for a network that is trained unquantized."""
    if not options.quantize:
        return None
    chosen = {name: getattr(options, name) for name in ("quantizer", "weight_quantizer", "activation_quantizer")}
    how = {**{name: value for name, value in chosen.items() if value is not None}, "skip": options.skip_layers}
    if learned := sorted(width for width in options.bitwidth_options if width < UNQUANTIZED):
        how["widths"] = learned
    if options.is_nested:
        how["nested"] = True
    if options.has_norm_per_width:
        how["batch_norm_widths"] = sorted(options.bitwidth_options)
    return how


def train(arm: Arm, bench: Bench[JointConfig]) -> TrainingState:
    """Train in the passes that the method plans for each step, and validate after each epoch."""
    options, model, loader = bench.options, bench.model, bench.loaders.train
    if (
        options.quantize
        and options.batch_norm == "per_width"
        and not any(isinstance(m, PerWidth) for m in model.modules())
    ):
        raise BitdialError(
            f"batch_norm per_width must have a network with batch norms, got {options.model} without; leave it out"
        )
    ledger = ledger_of(model, loader)
    steps = total_steps(options, loader)
    hooks: list[Hook]
    task: Task = bench.work.task
    if options.quantize:
        dial = BitDial(model)
        turns = plan(options, len(dial), bench.seed)
        task = passes = InPasses(task, dial, turns(0))

        def mean(step: Turns) -> float:
            return sum(mean_width(turn.widths) for turn in step) / len(step)

        counter = BitOpsCounter(lambda step: tuple(turn.widths for turn in turns(step)), ledger, dial.gradients)
        evaluation: Any = Validation(bench, ledger, steps)
        hooks = [Knob("bits", turns, passes.turn, shown=mean), counter, evaluation, WeightStatistics(latent=True)]
    else:
        counter = BitOpsCounter(lambda step: (), ledger, ())
        hooks = [Knob("bits", lambda step: UNQUANTIZED, lambda bits: None), counter]

        def evaluation(model: Any) -> Mapping[str, float]:
            return evaluate(model, held_out(bench), task=bench.work.task)

    monitor = "accuracy" if task.metric == "accuracy" else "loss"  # what validation has of every task
    loop = part(
        options,
        LoopConfig,
        checkpoint_interval=bench.setup.checkpoint_interval,
        checkpoint_epochs=None,
        checkpoint_best=False,
        monitor=monitor,
        monitor_mode="max" if monitor == "accuracy" else "min",
    )
    rate = LearningRateConfig(warmup_steps=min(options.warmup_steps, steps // 2))
    return bench.setup.fit(
        model,
        build_optimizer(model, part(options, OptimizerConfig)),
        task,
        loader,
        loop,
        learning_rate=learning_rate_factor(rate, steps),
        evaluate=evaluation,
        hooks=hooks,
        early_stopping=EarlyStopping.of(options, loop.monitor_mode, bench.loaders.validation),
    )


def held_out(bench: Bench[JointConfig]) -> Iterable[Any]:
    """The batches that validation looks at."""
    return bench.loaders.test if bench.loaders.validation is None else bench.loaders.validation


def spread_out(batches: Iterable[Any], most: int) -> list[Any]:
    """At most so many of the batches, evenly spread over all."""
    given = list(batches)
    return given[:: max(1, -(-len(given) // most))]


def measure(arm: Arm, bench: Bench[JointConfig], state: TrainingState) -> JointResult:
    """Score the network at each width, and keep it, at the widest."""
    options, model, phase = bench.options, bench.model, PhaseResult.of(state)
    ledger = ledger_of(model, bench.loaders.train)
    widths: list[float] = sorted(set(options.bitwidth_options)) if options.quantize else [UNQUANTIZED]
    if options.quantize:
        scores = bench.sweep(widths)
    else:
        tables: dict[str, Tensor] = {}
        found = evaluate(model, bench.loaders.test, task=bench.work.task, tables=tables)
        loss, accuracy = found.pop("loss"), found.pop("accuracy", math.nan)
        confusion = tables[CONFUSION].tolist() if CONFUSION in tables else []
        scores = [WidthScore(bits=UNQUANTIZED, accuracy=accuracy, loss=loss, metrics=found, confusion=confusion)]
    if bench.files is not None and bench.saved is not None and bench.is_first:
        bench.saved.save(model, bench.files.run.models / f"{bench.files.key}.pt")
    validation = next((hook for hook in state.hooks if isinstance(hook, Validation)), None)
    costs = bench.width_costs(ledger, {width_key(width): width for width in (*widths, UNQUANTIZED)})
    full = costs[width_key(UNQUANTIZED)]
    return JointResult(
        name=arm.name,
        seed=bench.seed,
        scores=scores,
        relative_bitops=[costs[width_key(width)].bitops / full.bitops for width in widths],
        size_bytes=[costs[width_key(width)].size_bytes for width in widths],
        float32=full,
        forward_seconds=forward_seconds(model, bench.loaders.test, bench.work.task),
        average_bits=phase.average_bits,
        dial_bits=phase.dial_bits,
        bitops=phase.bitops,
        seconds=phase.seconds,
        seconds_validation=0.0 if validation is None else validation.seconds,
        steps=phase.iterations,
        history=phase.history,
        epochs=[] if validation is None else validation.epochs,
        validation=None if validation is None else validation.last,
        sensitivity=sensitivity(bench),
        precision_note=phase.precision_note,
        early_stop=phase.early_stop,
    )


def sensitivity(bench: Bench[JointConfig]) -> list[LayerSensitivity]:
    """What each layer alone costs at the narrowest width, all others at the widest, on the data held out."""
    options, widths = bench.options, bench.options.bitwidth_options
    if not (options.quantize and options.sensitivity and len(widths) > 1 and bench.seed == options.seed):
        return []
    return layer_sensitivity(
        bench.model,
        spread_out(held_out(bench), SENSITIVITY_BATCHES),
        low=min(widths),
        high=max(widths),
        measure="loss",  # which tells layers apart where accuracy moves in steps
        task=bench.work.task,
        recalibration_batches=bench.loaders.recalibration,
        recalibration_limit=options.validation_batches,
    )


def conclude(networks: Sequence[JointResult], run: JointRun, common: dict[str, Any]) -> JointResults:
    """All seeds, and which width to ship."""
    notes = [*notes_on(networks), *notes_of(run)]
    results = JointResults(networks=list(networks), notes=notes, **common)
    if run.options.quantize:
        seeds = [{score.bits: score.accuracy for score in network.scores} for network in networks]
        verdict = width_verdict({bits: [scores[bits] for scores in seeds] for bits in seeds[0]})
        results.sentence, results.verdict = verdict.sentence, verdict
        results.ship_bits = None if verdict.knee is None else verdict.knee.bits
    return results


def leave(results: JointResults, run: JointRun) -> None:
    """Put every network where it ships, and pack the first one."""
    if results.ship_bits is None or run.folder is None:
        return
    with preserved_random_state():
        for network in results.networks:
            file = run.folder.models / f"{network.key}.pt"
            described = read_saved(file)[0]
            model = load_saved(file, None if described.model is not None else run.work.build())[1]
            dialled(model.to(run.fabric.device), results.ship_bits, run.work.loaders(network.seed).recalibration)
            described.save(model, file)
            stored = results.ship_bits
            if run.options.is_nested:  # whoever loads it turns it to any width up to this
                stored = max((bits for bits in run.options.bitwidth_options if bits <= MOST_PACKED), default=stored)
                BitDial(model).set(stored)
            if results.packed_file is None and (stored <= MOST_PACKED or stored == UNQUANTIZED):
                packed = save_packed(model, file.with_suffix(".safetensors"), description=described.packed())
                results.packed_file = str(packed.relative_to(run.folder.path))


def notes_of(run: JointRun) -> list[str]:
    """What a reader must know of data, statistics and numbers that are simulated."""
    options = run.options
    looks = "the test data, as nothing was held out"
    if run.work.loaders(run.seeds[0]).validation is not None:
        images = isinstance(run.work, ImageWork)
        looks = f"{options.validation_fraction:.0%} of the training data, held out" if images else "data held out"
    notes = [
        *options.file_notes,
        f"Data: {run.work.told()}. Validation after each epoch looks at {looks}; the table is of the test data"
        + (", by which the width to ship was chosen too." if options.quantize else "."),
    ]
    if not options.quantize:
        return [*notes, "The network was trained unquantized, as was asked for: there are no widths to compare."]
    averaged = "those of training, an average over its widths, which costs nothing and is right for none of them"
    how, what = {
        "random_bitwidths": ("", f"{options.num_configs} configurations, drawn anew each time"),
        "fixed_bitwidth": ("", "one width for every layer"),
        "simple": ("as training left them", "the network as training left it"),
    }[options.validation_function]
    if options.validation_batch_norm == "reestimate":
        how = how or f"re-estimated for each configuration from {options.validation_batches} training batches"
    notes += [
        f"Validation is {options.validation_function}: {what}. Its batch-norm statistics are {how or averaged}. For "
        f"the table they are re-estimated at each width from up to {RECALIBRATION_LIMIT} batches.",
        "BitOps and sizes are simulated, from the ledger of layers; arithmetic is in floating point, on the grids.",
    ]
    if options.is_nested:
        notes.append("Grids are nested: the packed file serves every width up to that of its weights, by its dial.")
    widest = max(options.bitwidth_options)
    if options.training_method == "any_precision" and widest < UNQUANTIZED:
        notes.append(
            f"The widest option, {widest:g} bits, learned from labels and taught the others: no 32-bit teacher."
        )
    return notes


JOINT: Recipe[JointConfig, Arm, JointResult, JointResults] = Recipe(
    name="joint",
    options=JointConfig,
    presets={},
    work=work_of,
    arms=lambda options: [Arm("joint")],
    quantize=quantization,
    train=train,
    measure=measure,
    conclude=conclude,
    results=JointResults,
    figures=lambda results, folder: later("bitdial.recipes.joint.report:draw")(results, folder.metrics),
    page=later("bitdial.recipes.joint.report:report_page"),
    leave=leave,
    may_grow=frozenset({"seeds", "early_stopping_patience"}),
    may_change=frozenset({"strict"}),
)
