"""The training loop: everything between the first step and the last, and nothing about what is trained."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from bitdial.errors import BitdialError, RunInterrupted, suggest
from bitdial.interrupts import Interrupts, write_to_stderr
from bitdial.layers.names import train_mode
from bitdial.training.devices import is_lost_process
from bitdial.training.metrics_log import MetricsLog
from bitdial.training.options import LoopConfig
from bitdial.training.passes import watching
from bitdial.training.progress import Progress
from bitdial.training.recorder import TrainingDiverged
from bitdial.training.saving import Saves
from bitdial.training.scoring import Evaluate, scores_of
from bitdial.training.state import TrainingState
from bitdial.training.step.optimizer_step import OptimizerStep

if TYPE_CHECKING:
    from lightning.fabric import Fabric
_OTHER = "another process"
_ASK_SECONDS = 0.5
_MOST_LOOKS = 32  # between two questions, for later passes may take longer than those so far


def _summed(fabric: Fabric, numbers: list[float]) -> list[float]:
    """The sums of such numbers over the processes, the same in all."""
    mine = torch.tensor(numbers, device=fabric.device)
    return fabric.all_reduce(mine, reduce_op="sum").tolist()  # type: ignore[union-attr]


class _Left(Exception):  # noqa: N818  (nothing went wrong)
    """An evaluation was left, because a stop was asked for."""


@dataclass
class _Evaluation:
    """Shows how far an evaluation in training is, and leaves it when a stop is asked for.

    Several processes, which make equally many passes, leave together: about twice a second they ask each other whether
    to. None may leave alone, for the others would wait for it.
    """

    progress: Progress | None
    interrupts: Interrupts
    fabric: Fabric
    step: int
    batches: int | None = None
    _looks: int = 0
    _next: int = 1
    _since: float = field(default_factory=time.monotonic)

    def begin(self, batches: int | None) -> None:
        """So many follow."""
        self.batches = batches

    def look(self, done: int) -> None:
        """So many are done."""
        self._looks += 1
        if self._asked():
            raise _Left
        if self.progress is not None:
            self.progress.scoring(self.step, done, self.batches)

    def end(self) -> None:
        """All are done."""

    def _asked(self) -> bool:
        asked = self.interrupts.requested is not None
        if self.fabric.world_size == 1:
            return asked
        if self._looks < self._next:
            return False
        mine = [float(asked), time.monotonic() - self._since]
        anybody, seconds = _summed(self.fabric, mine)  # so that all of them know when to ask next
        wait = _ASK_SECONDS * self._looks * self.fabric.world_size / max(seconds, 1e-6)
        self._next = self._looks + min(max(1, int(wait)), 2 * self._looks, _MOST_LOOKS)
        return anybody > 0


@dataclass(eq=False)
class Loop:
    """One call of `fit`; `log` and `progress` are those of the first process."""

    state: TrainingState
    config: LoopConfig
    optimizer_step: OptimizerStep
    evaluate: Evaluate | None
    log: MetricsLog | None
    saves: Saves
    progress: Progress | None
    how_to_resume: str
    interrupts: Interrupts = field(default_factory=Interrupts)

    def run(self, notes: Sequence[str]) -> None:
        """Train to the end."""
        try:
            self._train(notes)
        except TrainingDiverged as error:
            raise TrainingDiverged(f"{error}; {self.saves.last_checkpoint()}") from None
        except RuntimeError as error:
            if not is_lost_process(error):
                raise
            raise BitdialError(
                f"another process of this run has ended or cannot be reached, after step {self.state.step}; "
                f"{self.saves.last_checkpoint()}; to go on: {self.how_to_resume}"
            ) from error

    def _train(self, notes: Sequence[str]) -> None:
        state, began = self.state, time.perf_counter() - self.state.seconds
        state.length = ("epoch", self.config.epochs) if self.config.steps is None else ("step", self.config.steps)
        if self.log is not None:
            self.log.rewind(state.log_rows, state.step)
        state.total_steps = self.config.total_steps(state.stream.size)
        if self.progress is not None:
            self.progress.total = state.total_steps
        frozen = set(train_mode(state.model))
        names = [name for name, module in state.model.named_modules() if module in frozen]
        if names:
            told = ", ".join(f"'{name}'" for name in names[:3]) + (", ..." if len(names) > 3 else "")
            state.control.tell(f"in evaluation mode before training, and so left in it: {told}")
        if state.fabric.is_global_zero:
            notebook = self.progress is not None and self.progress.console.is_jupyter
            self.interrupts.tell = self.progress.note if self.progress and notebook else write_to_stderr
        with self.interrupts, self.progress or nullcontext():
            for note in notes:
                if self.progress is not None:
                    self.progress.note(f"resume: {note}")
                elif state.fabric.is_global_zero:
                    warnings.warn(f"resume: {note}", stacklevel=3)
            if state.unscored is not None:  # the run was stopped in the middle of an evaluation
                self._score(**state.unscored)
            while not self._finished():
                for batches, epoch_over in state.stream.epoch(state.epoch, state.batch_in_epoch):
                    if batches:
                        self._step(batches)
                    if epoch_over:
                        state.epoch, state.batch_in_epoch = state.epoch + 1, 0
                        for hook in state.hooks:
                            hook.after_epoch(state)
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
        if not math.isfinite(state.last_learning_rate):
            raise BitdialError(
                f"the learning rate of step {state.step + 1} must be a finite number, got {state.last_learning_rate}; "
                "look at the schedule, and at the optimizer's own rate"
            )
        result = self.optimizer_step(batches, state.lr_scale)
        state.step += 1
        state.batch_in_epoch += len(batches)
        if result.applied:
            state.applied_steps += 1
            state.scheduler.step()
            if state.ema is not None:
                state.ema.update(state.model)
        for hook in state.hooks:
            hook.after_step(state, result)
        state.recorder.add(state.step, state.last_learning_rate, state.values, result.tensors, result.count)
        if self.progress is not None:
            self.progress.update(state.step)

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
        state.recorder.flush(state.fabric)
        row, layers = self._training_row(epoch_over) if logs else ({}, {})
        if evaluates:
            saved = self._score(row, layers, saves)
        else:
            if row:
                self._write(row, layers)
            saved = saves or self._finished()
            if saved:
                self.saves.save(math.nan)
        if stop:
            if not saved:
                self.saves.save(state.scores.get(config.monitor, math.nan) if evaluates else math.nan)
            self._stop(stop)

    def _score(self, row: dict[str, Any], layers: dict[str, float], saves: bool) -> bool:
        """Evaluate, write a row of the log, save where that is due or the score is the best; return whether it was."""
        state = self.state
        state.unscored = {"row": row, "layers": layers, "saves": saves}
        self.interrupts.doing = "pass"
        try:
            with watching(_Evaluation(self.progress, self.interrupts, state.fabric, state.step)):
                scores, is_best = self._evaluate()
        except _Left:
            self.saves.save(math.nan)
            self._stop(self.interrupts.requested or _OTHER)
        self.interrupts.doing = "step"
        state.unscored = None
        self._write({**row, **scores}, layers)
        if saves or (is_best and self.config.checkpoint_best) or self._finished():
            self.saves.save(state.scores.get(self.config.monitor, math.nan))
            return True
        return False

    def _stop(self, reason: str) -> NoReturn:
        self.saves.settle()
        raise RunInterrupted(self._stopped_because(reason))

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
        (anybody,) = _summed(fabric, [float(reason is not None)])
        return (reason or _OTHER) if anybody > 0 else None

    def _training_row(self, epoch_over: bool) -> tuple[dict[str, Any], dict[str, float]]:
        """Return the columns of the log, and those of single layers."""
        state = self.state
        means = state.recorder.take_window()
        state.loss = means.get("loss", state.loss)
        row: dict[str, Any] = {f"train_{name}": mean for name, mean in means.items()}
        if epoch_over:
            row.update({f"train_{name}_epoch": mean for name, mean in state.recorder.take_epoch().items()})
        if self.optimizer_step.checks:
            row.update(state.control.metrics())
        layers: dict[str, float] = {}
        for hook in state.hooks:
            (layers if hook.per_layer else row).update(hook.metrics(state))
        return row, layers

    def _evaluate(self) -> tuple[dict[str, float], bool]:
        """Return the scores as columns of the log, and whether they are the best so far."""
        assert self.evaluate is not None
        state = self.state
        state.scores = scores_of(self.evaluate, state.evaluated_model, state.fabric)
        wanted = self.config.monitor
        if wanted not in state.scores:
            known = ", ".join(state.scores) or "none"
            raise BitdialError(
                f"monitor must name a score of the evaluation ({known}), got {wanted!r}{suggest(wanted, state.scores)}"
            )
        score = state.scores[wanted]
        is_best = math.isfinite(score) and (
            state.best_score is None
            or (score > state.best_score if self.config.monitor_mode == "max" else score < state.best_score)
        )
        if is_best:
            state.best_score, state.best_step, state.best_epoch = score, state.step, state.epoch
        if state.early_stopping is not None:
            state.early_stopping.update(score)
        for hook in state.hooks:
            hook.after_evaluation(state)
        if self.log is not None:
            for hook in state.hooks:
                for tag, figure in hook.figures(state).items():
                    self.log.draw(tag, figure, state.step)
        return {name if "/" in name else f"val_{name}": value for name, value in state.scores.items()}, is_best

    def _write(self, row: dict[str, Any], layers: dict[str, float]) -> None:
        state = self.state
        rate = state.last_learning_rate
        head = {"step": state.step, "applied_steps": state.applied_steps, "epoch": state.epoch, "learning_rate": rate}
        state.log_rows += 1
        if self.log is not None:
            self.log.write({**head, **state.values, **row}, layers)
        if self.progress is not None:
            self.progress.also({**state.values, **state.scores, "loss": state.loss})
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
