"""The training loop: everything between the first step and the last, and nothing about what is trained."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from bitdial.errors import BitdialError, RunInterrupted
from bitdial.training.batches import BatchStream
from bitdial.training.devices import is_lost_process
from bitdial.training.early_stopping import EarlyStopping
from bitdial.training.ema import WeightAverage
from bitdial.training.hooks import Hook, hooks_state
from bitdial.training.interrupts import Interrupts
from bitdial.training.learning_rate import LearningRateFactor, make_scheduler
from bitdial.training.loop_config import LoopConfig
from bitdial.training.metrics_log import MetricsLog
from bitdial.training.progress import Progress
from bitdial.training.recorder import StepRecorder, TrainingDiverged
from bitdial.training.saving import CheckpointSaver, Saves
from bitdial.training.scoring import Evaluate, monitored, scores_of
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
        model: the plain model; trained in place. With weights in shards (strategy "fsdp") its parameters are `DTensor`s
            meanwhile, and its own again, with what was trained, at the end.
        optimizer: over the model's parameters.
        task: the loss of a batch.
        loader: batches; see `BatchStream` for what makes it resumable. Each process gives its own share.
        config: length, intervals, accumulation, clipping, weight average, compilation.
        learning_rate: factor on the optimizer's rates as a function of applied steps; None: constant.
        precision: the floating-point format, which changes by itself where numbers overflow again and again; None:
            float32. Its `max_grad_norm` and `accumulation_steps` are those of `config`.
        evaluate: ``model -> scores``; gets the averaged weights where an average is kept, in eval mode. May draw random
            numbers without changing the training. With several processes all call it, with equally many passes
            through the model, and rank 0's scores count.
        hooks: act around each step, in this order.
        early_stopping: fed with the score named by ``config.monitor``.
        log: gets a row every ``log_interval`` steps, at every evaluation and at every epoch's end.
        checkpoints: gets the whole state; its `metric_value` is the monitored score where this very step was evaluated,
            NaN else.
        progress: the live line, started here.
        resume: a loaded checkpoint to go on from.
        how_to_resume: what to tell a user whose run was stopped.

    Returns:
        The final state, with `history`, `scores` and `evaluated_model`.

    Raises:
        RunInterrupted: Ctrl-C, SIGTERM or a hook asked for a stop; the state was saved first.
        TrainingDiverged: a loss, or the weights, are not finite any more.
        BitdialError: a loader without batches, a checkpoint that does not fit, a log that cannot be written.
    """
    hooks_state(hooks)  # names that clash are better refused now than at the first checkpoint
    sharded = is_sharded(fabric)
    if sharded:  # the weights reach the device in shards
        check_shardable(model, optimizer, fabric.world_size)
    else:
        model = fabric.to_device(model)
    ema = WeightAverage(model, config.ema_decay) if config.ema_decay is not None else None
    scheduler = make_scheduler(optimizer, learning_rate)
    control = PrecisionControl(_of_loop(precision, config), fabric.device, adaptive=True)
    check_device(control.format, fabric.device)
    if not fabric.is_global_zero:
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
            fabric, model, optimizer, scheduler, stream, recorder, control, hooks, ema, early_stopping
        )
        notes = state.load_state_dict(resume) if resume is not None else []
        is_first = fabric.is_global_zero
        with in_shards(state) if sharded else nullcontext():
            loop = _Loop(
                state, config, OptimizerStep(state, task), evaluate, log if is_first else None, checkpoints,
                progress if is_first else None, how_to_resume,
            )  # fmt: skip
            loop.run(notes)
        if log is not None and is_first:  # a failure of the first process alone: none may wait for it any more
            log.flush()
    finally:
        if layers is not None:
            layers.remove()
    return state


def _of_loop(precision: MixedPrecisionConfig | None, config: LoopConfig) -> MixedPrecisionConfig:
    """The format, with the loop's own clipping and accumulation."""
    own = {"max_grad_norm": config.max_grad_norm, "accumulation_steps": config.gradient_accumulation_steps}
    return (precision or MixedPrecisionConfig(enabled=False)).model_copy(update=own)


class _Loop:
    """One call of `fit`."""

    def __init__(
        self,
        state: TrainingState,
        config: LoopConfig,
        optimizer_step: OptimizerStep,
        evaluate: Evaluate | None,
        log: MetricsLog | None,
        checkpoints: CheckpointSaver | None,
        progress: Progress | None,
        how_to_resume: str,
    ) -> None:
        self.state = state
        self.config = config
        self.optimizer_step = optimizer_step
        self.evaluate = evaluate
        self.log = log
        self.saves = Saves(state, checkpoints)
        self.progress = progress
        self.how_to_resume = how_to_resume
        self.interrupts = Interrupts()

    def run(self, notes: Sequence[str]) -> None:
        """Train to the end."""
        try:
            self._train(notes)
        except RuntimeError as error:
            if not is_lost_process(error):
                raise
            raise BitdialError(
                f"another process of this run has ended or cannot be reached, after step {self.state.step}; "
                f"{self.saves.last_checkpoint()}; to go on: {self.how_to_resume}"
            ) from error

    def _train(self, notes: Sequence[str]) -> None:
        state, began = self.state, time.perf_counter() - self.state.seconds
        if self.log is not None:
            self.log.rewind(state.log_rows, state.step)
        if self.progress is not None:
            self.progress.total = self.config.total_steps(state.stream.size)
        state.model.train()
        with self.interrupts, self.progress or nullcontext():
            self._tell(notes)
            while not self._finished():
                for batches, epoch_over in state.stream.epoch(state.epoch, state.batch_in_epoch):
                    if batches:
                        self._step(batches)
                    if epoch_over:
                        self._end_epoch()
                    state.seconds = time.perf_counter() - began
                    self._between_steps(stepped=bool(batches), epoch_over=epoch_over)
                    if self._finished():
                        break
            trouble = state.control.trouble()
            if trouble is not None:
                state.control.tell(trouble)
            self.saves.settle()

    def _step(self, batches: list[Any]) -> None:
        state = self.state
        for hook in state.hooks:
            hook.before_step(state)
        state.last_learning_rate = state.learning_rate
        try:
            result = self.optimizer_step(batches, state.lr_scale)
        except TrainingDiverged as error:
            raise TrainingDiverged(f"{error}; {self.saves.last_checkpoint()}") from None
        state.step += 1
        state.batch_in_epoch += len(batches)
        if result.applied:
            state.applied_steps += 1
            state.scheduler.step()
            if state.ema is not None:
                state.ema.update(state.model)
        for hook in state.hooks:
            hook.after_step(state, result)
        state.recorder.add(state.step, state.last_learning_rate, state.values, result.tensors)
        if self.progress is not None:
            self.progress.update(state.step)

    def _end_epoch(self) -> None:
        self.state.epoch += 1
        self.state.batch_in_epoch = 0
        for hook in self.state.hooks:
            hook.after_epoch(self.state)

    def _between_steps(self, *, stepped: bool, epoch_over: bool) -> None:
        """Log, evaluate, save and stop, where one of them is due. Every process decides alike."""
        state, config = self.state, self.config
        self.saves.look()

        def due(interval: int | None) -> bool:
            return stepped and interval is not None and state.step % interval == 0

        ends = self._finished()
        stop = self._agreed_stop(due(config.stop_check_interval) or epoch_over or ends)
        logs = due(config.log_interval) or epoch_over or ends
        evaluates = self.evaluate is not None and (
            due(config.eval_interval) or (epoch_over and config.eval_interval is None) or ends
        )
        saves = due(config.checkpoint_interval) or (
            epoch_over and config.checkpoint_epochs is not None and state.epoch % config.checkpoint_epochs == 0
        )
        if not (logs or evaluates or saves or stop):
            return
        self._flush()
        row = self._training_row(epoch_over) if logs else {}
        if evaluates:
            scores, is_best = self._evaluate()
            row.update(scores)
            saves = saves or (is_best and config.checkpoint_best)
        if row:
            self._write(row)
        if saves or stop or self._finished():
            self.saves.save(state.scores.get(config.monitor, math.nan) if evaluates else math.nan)
        if stop:
            self.saves.settle()
            raise RunInterrupted(self._stopped_because(stop))

    def _finished(self) -> bool:
        state, config = self.state, self.config
        return (
            (config.steps is not None and state.step >= config.steps)
            or (config.epochs is not None and state.epoch >= config.epochs)
            or (state.early_stopping is not None and state.early_stopping.should_stop)
        )

    def _agreed_stop(self, may_talk: bool) -> str | None:
        """Return why to stop, the same in every process, or None."""
        reason = self.state.stop_requested or self.interrupts.requested
        fabric = self.state.fabric
        if fabric.world_size == 1:
            return reason
        if not may_talk:
            return None
        asked = torch.tensor(float(reason is not None), device=fabric.device)
        anybody = float(fabric.all_reduce(asked, reduce_op="sum")) > 0  # type: ignore[arg-type]
        return (reason or "another process") if anybody else None

    def _flush(self) -> None:
        try:
            self.state.recorder.flush(self.state.fabric, finite=("loss", "gradient_norm"))
        except TrainingDiverged as error:
            raise TrainingDiverged(f"{error}; {self.saves.last_checkpoint()}") from None

    def _training_row(self, epoch_over: bool) -> dict[str, Any]:
        state = self.state
        means = state.recorder.take_window()
        state.loss = means.get("loss", state.loss)
        row: dict[str, Any] = {f"train_{name}": mean for name, mean in means.items()}
        if epoch_over:
            row.update({f"train_{name}_epoch": mean for name, mean in state.recorder.take_epoch().items()})
        if self.optimizer_step.checks:
            row.update(state.control.metrics())
        for hook in state.hooks:
            row.update(hook.metrics(state))
        return row

    def _evaluate(self) -> tuple[dict[str, float], bool]:
        """Return the scores as columns of the log, and whether they are the best so far."""
        assert self.evaluate is not None
        state = self.state
        state.scores = scores_of(self.evaluate, state.evaluated_model, state.fabric)
        score = monitored(state.scores, self.config.monitor)
        is_best = math.isfinite(score) and (
            state.best_score is None
            or (score > state.best_score if self.config.monitor_mode == "max" else score < state.best_score)
        )
        if is_best:
            state.best_score = score
        if state.early_stopping is not None:
            state.early_stopping.update(score)
        return {f"val_{name}": value for name, value in state.scores.items()}, is_best

    def _write(self, row: dict[str, Any]) -> None:
        state = self.state
        rate = state.last_learning_rate
        head = {"step": state.step, "applied_steps": state.applied_steps, "epoch": state.epoch, "learning_rate": rate}
        state.log_rows += 1
        if self.log is not None:
            self.log.write({**head, **state.values, **row})
        if self.progress is not None:
            shown = {name: state.values[name] for name in ("bits",) if name in state.values}
            self.progress.update(
                state.step,
                loss=state.loss,
                **shown,
                learning_rate=rate,
                **{f"best_{self.config.monitor}": state.best_score},
            )

    def _stopped_because(self, reason: str) -> str:
        state = self.state
        total = self.config.total_steps(state.stream.size)
        reached = f"stopped by {reason} after step {state.step}{'' if total is None else f' of {total}'}"
        if self.saves.checkpoints is None:
            return f"{reached} (epoch {state.epoch}); nothing was saved, because the run keeps no checkpoints"
        return f"{reached} (epoch {state.epoch}), saved to {state.last_checkpoint}; to go on: {self.how_to_resume}"

    def _tell(self, notes: Sequence[str]) -> None:
        for note in notes:
            if self.progress is not None:
                self.progress.note(f"resume: {note}")
            elif self.state.fabric.is_global_zero:
                warnings.warn(f"resume: {note}", stacklevel=4)
