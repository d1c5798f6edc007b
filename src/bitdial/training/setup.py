"""Training a network: `fit`, and where that happens and what it leaves behind, apart from what is trained and how."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.optim import Optimizer

from bitdial.errors import BitdialError
from bitdial.training.batches import BatchStream
from bitdial.training.devices import make_fabric
from bitdial.training.foreign_scores import adapted
from bitdial.training.hooks import Hook, hooks_state
from bitdial.training.knobs import Knob
from bitdial.training.learning_rate import LearningRateFactor, make_scheduler
from bitdial.training.loop import Loop
from bitdial.training.metrics_log import MetricsLog
from bitdial.training.optimizers import WeightAverage, check_step
from bitdial.training.options import LoopConfig
from bitdial.training.progress import Progress
from bitdial.training.recorder import StepRecorder
from bitdial.training.saving import CheckpointSaver, Saves
from bitdial.training.scoring import EarlyStopping, Evaluate
from bitdial.training.sharding import check_shardable, in_shards, is_sharded
from bitdial.training.state import TrainingState
from bitdial.training.step.config import MixedPrecisionConfig, prepare_layers
from bitdial.training.step.control import PrecisionControl
from bitdial.training.step.formats import check_device
from bitdial.training.step.optimizer_step import OptimizerStep
from bitdial.training.tasks import Task

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def fit(
    fabric: Fabric,
    model: nn.Module,
    optimizer: Optimizer,
    task: Task,
    loader: Iterable[Any],
    config: LoopConfig,
    *,
    learning_rate: LearningRateFactor | None = None,
    precision: MixedPrecisionConfig | None = None,
    evaluate: Evaluate | None = None,
    hooks: Sequence[Hook] = (),
    early_stopping: EarlyStopping | None = None,
    log: MetricsLog | None = None,
    checkpoints: CheckpointSaver | None = None,
    progress: Progress | None = None,
    resume: Mapping[str, Any] | None = None,
    how_to_resume: str = "the same command with --resume",
) -> TrainingState:
    """Train `model` until `config` or early stopping says that it is enough.

    Args:
        fabric: from `make_fabric`, launched where it has several processes. Moves and wraps the model.
        model: the plain model; trained in place. Parts that are in evaluation mode while the model is not (frozen batch
            norms) stay in it, which is told; a model in evaluation mode as a whole is trained as a whole. With weights
            in shards (strategy "fsdp") its parameters are `DTensor`s meanwhile, and its own again, with what was
            trained, at the end.
        optimizer: over the model's parameters.
        task: the loss of a batch.
        loader: batches; see `BatchStream` for what makes it resumable. Each process gives its own share.
        config: length, intervals, accumulation, clipping, weight average, compilation.
        learning_rate: factor on the optimizer's rates as a function of applied steps; None: constant.
        precision: the floating-point format, which changes by itself where numbers overflow again and again; None:
            float32. Its `max_grad_norm` and `accumulation_steps` are those of `config`.
        evaluate: ``model -> scores``; gets the averaged weights where an average is kept, in eval mode. May draw random
            numbers without changing the training. With several processes all call it, with equally many passes
            through the model, and rank 0's scores count. A score is logged as ``val_NAME``; one whose
            name has a slash as it stands, which is its tag in TensorBoard too.
        hooks: act around each step, in this order.
        early_stopping: fed with the score named by ``config.monitor``.
        log: gets a row every ``log_interval`` steps, at every evaluation and at every epoch's end.
        checkpoints: gets the whole state; its `metric_value` is the monitored score where this very step was evaluated,
            NaN else.
        progress: the live line, started here.
        resume: a loaded checkpoint to go on from; scores of another program in per cent, or negated, are converted.
        how_to_resume: what to tell a user whose run was stopped.

    Returns:
        The final state, with `history`, `scores` and `evaluated_model`.

    Raises:
        RunInterrupted: Ctrl-C, SIGTERM or a hook asked for a stop; the state was saved first.
        TrainingDiverged: a loss, or the weights, are not finite any more.
        BitdialError: a loader without batches, a checkpoint that does not fit, a log that cannot be written.
    """
    hooks_state(hooks)  # names that clash are better refused now than at the first checkpoint
    knobs = [hook.name for hook in hooks if isinstance(hook, Knob)]
    for name in knobs:
        if knobs.count(name) > 1:
            raise BitdialError(f"two knobs are called {name!r}, and one's values would hide the other's; rename one")
    check_step(optimizer)
    sharded = is_sharded(fabric)
    if sharded:  # the weights reach the device in shards
        check_shardable(model, optimizer, fabric.world_size)
    else:
        model = fabric.to_device(model)
    ema = WeightAverage(model, config.ema_decay) if config.ema_decay is not None else None
    scheduler = make_scheduler(optimizer, learning_rate)
    own = {"max_grad_norm": config.max_grad_norm, "accumulation_steps": config.gradient_accumulation_steps}
    precision = (precision or MixedPrecisionConfig(enabled=False)).model_copy(update=own)
    control = PrecisionControl(precision, fabric.device, adaptive=True)
    check_device(control.format, fabric.device)
    if not fabric.is_global_zero:
        log = progress = None  # the first process tells and writes
        control.tell = lambda _: None
    elif progress is not None:
        control.tell = progress.note
    layers = prepare_layers(model, control)
    try:
        if config.compile:
            model.compile()
        stream = BatchStream(loader, config.gradient_accumulation_steps, fabric.world_size)
        recorder = StepRecorder(config.history_interval)
        state = TrainingState(
            fabric, model, optimizer, scheduler, stream, recorder, control, hooks, ema, early_stopping,
            monitor=config.monitor,
        )  # fmt: skip
        notes: list[str] = []
        if resume is not None:
            resume, notes = adapted(resume, config.monitor, early_stopping)
            notes = [*notes, *state.load_state_dict(resume)]
        with in_shards(state) if sharded else nullcontext():
            saves = Saves(state, checkpoints)
            Loop(state, config, OptimizerStep(state, task), evaluate, log, saves, progress, how_to_resume).run(notes)
        if log is not None:  # a failure of the first process alone: none may wait for it any more
            log.flush()
    finally:
        if layers is not None:
            layers.remove()
    return state


@dataclass(frozen=True)
class Setup:
    """Where a network is trained and what it writes, as `fit` has it; everything has a default that writes nothing."""

    fabric: Fabric | None = None
    """Devices; None: a single process on the CPU or GPU at hand."""
    precision: MixedPrecisionConfig | None = None
    task: Task | None = None
    """Loss and scores of a batch; None: classification."""
    log: MetricsLog | None = None
    progress: Progress | None = None
    checkpoints: CheckpointSaver | None = None
    checkpoint_interval: int | None = 200
    """Optimizer steps between two saves, for who counts in steps."""
    resume: Mapping[str, Any] | None = None
    how_to_resume: str = "the same command with --resume"
    compile: bool = False
    hooks: Sequence[Hook] = ()
    """Act around each step, after those of the training itself."""

    def fit(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        task: Task,
        loader: Iterable[Any],
        config: LoopConfig,
        *,
        learning_rate: LearningRateFactor | None = None,
        evaluate: Evaluate | None = None,
        hooks: Sequence[Hook] = (),
        early_stopping: EarlyStopping | None = None,
    ) -> TrainingState:
        """Train here; see `bitdial.training.fit`."""
        return fit(
            self.fabric or make_fabric(),
            model,
            optimizer,
            task,
            loader,
            config,
            learning_rate=learning_rate,
            precision=self.precision,
            evaluate=evaluate,
            hooks=[*hooks, *self.hooks],
            early_stopping=early_stopping,
            log=self.log,
            checkpoints=self.checkpoints,
            progress=self.progress,
            resume=self.resume,
            how_to_resume=self.how_to_resume,
        )
