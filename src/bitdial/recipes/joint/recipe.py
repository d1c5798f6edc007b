"""The joint recipe: one network whose layers draw their widths at random, in several passes of every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from bitdial import schedules
from bitdial.evaluation import WidthScore
from bitdial.evaluation.equal_cost import ledger_of
from bitdial.evaluation.results import ArmRecord, History, RunResults
from bitdial.evaluation.trained import PhaseResult, notes_on
from bitdial.layers import BitDial
from bitdial.options import part
from bitdial.recipes.joint.options import JointConfig
from bitdial.recipes.joint.report import draw, report_page, width_table
from bitdial.recipes.options import total_steps
from bitdial.recipes.recipe import Arm, Bench, Recipe
from bitdial.recipes.run import Run
from bitdial.recipes.saved_model import dialled
from bitdial.recipes.work import work_of
from bitdial.training import (
    Knob,
    LearningRateConfig,
    LoopConfig,
    OptimizerConfig,
    Task,
    TaskOutput,
    TrainingState,
    build_optimizer,
    learning_rate_factor,
)
from bitdial.training.knobs import BitOpsCounter, Widths
from bitdial.training.tasks import Count


@dataclass(frozen=True)
class Pass:
    """One pass of a step: a batch, and the width of each layer."""

    batch: Any
    widths: Widths


class InPasses:
    """A task in several passes over each batch, whose losses the loop averages.

    Args:
        task: loss and scores of a batch.
        dial: of the model.
        widths: those of each pass of the first step.
    """

    def __init__(self, task: Task, dial: BitDial, widths: Sequence[Widths]) -> None:
        self.task, self.dial, self.widths = task, dial, widths
        self.metric, self.higher_is_better = task.metric, task.higher_is_better
        self.logits, self.loss_of, self.score = task.logits, task.loss_of, task.score

    def turn(self, widths: Sequence[Widths]) -> None:
        """Take the widths of each pass of the next step."""
        self.widths = widths

    def passes(self, batch: Any) -> list[Pass]:
        """The passes over a batch."""
        return [Pass(batch, widths) for widths in self.widths]

    def examples(self, batch: Pass) -> Count:
        """What the loss of a pass is a mean over."""
        return self.task.examples(batch.batch)

    def loss(self, model: nn.Module, batch: Pass) -> TaskOutput:
        """Turn the dial to the widths of a pass, and run the model."""
        self.dial.set(batch.widths)
        return self.task.loss(model, batch.batch)


class JointResult(ArmRecord):
    """One network, trained with one seed."""

    name: str
    """What was trained."""
    seed: int
    """The seed."""
    scores: list[WidthScore]
    """The scores at each width, every layer at it."""
    average_bits: float
    """Mean forward width of training, weighted with multiply-accumulates."""
    bitops: float
    """Simulated BitOps of training."""
    seconds: float
    """Wall-clock seconds of training."""
    steps: int
    """Optimizer steps."""
    history: History
    """What was logged while it was trained."""
    precision_note: str | None = None
    """Which steps a narrow format lost, and where it changed; null where all went well."""


class JointResults(RunResults):
    """The whole of ``results.json``."""

    record_type: ClassVar[type[ArmRecord]] = JointResult

    recipe: Literal["joint"] = "joint"
    """What made it."""
    networks: list[JointResult]
    """Every seed."""

    @property
    def records(self) -> Sequence[JointResult]:
        """Every seed."""
        return self.networks

    def print(self, console: Any, folder: Any = None) -> None:
        """Print accuracy at each width."""
        console.print(width_table([network.scores for network in self.networks]))


def draws(options: JointConfig, layers: int, seed: int) -> Any:
    """``step -> widths of each layer in each pass``: a hash of all of these, the same after a resume."""
    bits, passes = schedules.random_bits(options.bitwidth_options, seed=seed), options.joint_quantization_batch_size

    def drawn(step: int) -> tuple[Widths, ...]:
        first = step * passes
        return tuple(
            tuple(bits(each * layers + layer) for layer in range(layers)) for each in range(first, first + passes)
        )

    return drawn


def train(arm: Arm, bench: Bench[JointConfig]) -> TrainingState:
    """Train with widths drawn at random, in every layer, pass and step."""
    options, model, loader = bench.options, bench.model, bench.loaders.train
    dial = BitDial(model)
    drawn = draws(options, len(dial), bench.seed)
    ledger = ledger_of(model, loader)
    task = InPasses(bench.work.task, dial, drawn(0))
    loop = part(options, LoopConfig, checkpoint_interval=bench.setup.checkpoint_interval, checkpoint_epochs=None)
    steps = total_steps(options, loader)
    rate = LearningRateConfig(warmup_steps=min(options.warmup_steps, steps // 2))

    def mean(passes: Sequence[Widths]) -> float:
        return sum(ledger.average_bits(widths) for widths in passes) / len(passes)

    return bench.setup.fit(
        model,
        build_optimizer(model, part(options, OptimizerConfig)),
        task,
        loader,
        loop,
        learning_rate=learning_rate_factor(rate, steps),
        hooks=[Knob("bits", drawn, task.turn, shown=mean), BitOpsCounter(drawn, ledger, dial.gradients)],
    )


def measure(arm: Arm, bench: Bench[JointConfig], state: TrainingState) -> JointResult:
    """Score the network at each width, and keep it, at the widest."""
    widths, phase = sorted(set(bench.options.bitwidth_options)), PhaseResult.of(state)
    scores = bench.sweep(widths)
    dialled(bench.model, widths[-1], bench.loaders.recalibration)
    if bench.files is not None and bench.saved is not None and bench.is_first:
        bench.saved.save(bench.model, bench.files.run.models / f"{bench.files.key}.pt")
    return JointResult(
        name=arm.name,
        seed=bench.seed,
        scores=scores,
        average_bits=phase.average_bits,
        bitops=phase.bitops,
        seconds=phase.seconds,
        steps=phase.iterations,
        history=phase.history,
        precision_note=phase.precision_note,
    )


def conclude(networks: Sequence[JointResult], run: Run[Any, Any, Any, Any], common: dict[str, Any]) -> JointResults:
    """All seeds."""
    notes = [*notes_on(networks), f"Data: {run.work.told()}. Batch-norm statistics are re-estimated at each width."]
    return JointResults(networks=list(networks), notes=notes, **common)


JOINT: Recipe[JointConfig, Arm, JointResult, JointResults] = Recipe(
    name="joint",
    options=JointConfig,
    presets={},
    work=work_of,
    arms=lambda options: [Arm("joint")],
    quantize=lambda options: {"quantizer": options.quantizer, "skip": options.skip_layers},
    train=train,
    measure=measure,
    conclude=conclude,
    results=JointResults,
    figures=draw,
    page=report_page,
    may_grow=frozenset({"seeds"}),
)
