"""One optimizer step: forward and scaled backward of its micro-batches, again in halves without memory, the update."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from bitdial.errors import BitdialError
from bitdial.layers import rest_idle_rows
from bitdial.layers.names import hold_of
from bitdial.layers.norm_rows import NormRow
from bitdial.numerics.learned_step import LearnsPerWidth
from bitdial.training.devices import is_distributed
from bitdial.training.optimizers import scaled_learning_rate
from bitdial.training.sharding import is_sharded, whole
from bitdial.training.step.control import PrecisionControl
from bitdial.training.step.diagnosis import Culprit, agreed, first_not_finite
from bitdial.training.step.memory import (
    RETRIES,
    Snapshot,
    batch_size,
    forget_new_state,
    is_out_of_memory,
    shares,
    split,
    versions,
)
from bitdial.training.tasks import Count, Task, TaskOutput

if TYPE_CHECKING:
    from bitdial.training.state import TrainingState

Forward = Callable[[nn.Module, Any], TaskOutput]
"""``(model, batch) -> output`` whose loss is a mean over what the batch's count says."""


class MicroBatches:
    """Collects the gradients of one optimizer step, and applies them where they are finite.

    They are those of its own batches alone: what another backward pass left in the optimizer's parameters, before the
    step or between two of its batches, is dropped. Parameters of no group of it are not looked at.

    `forward` is called with `model`, which may be wrapped for several processes; `plain` is the same without wrapping.
    `count` says what the loss of a batch, or of a part of one, is a mean over; `check` gets a batch that was cut, the
    outputs of its parts and that of the whole, and may refuse them.
    With `checks` every step is looked at if its loss and gradients are finite, which makes the host wait for the
    device; without, every step is applied.

    Nothing of a try that ran out of memory stays: random numbers, batch norm's statistics and activation ranges are put
    back. So are the latter two where a step is lost to values that are not finite. A step whose gradients merely
    overflowed the loss scale leaves the statistics of its forward pass, as in any loop with a scaler.
    """

    def __init__(
        self,
        control: PrecisionControl,
        model: nn.Module,
        plain: nn.Module,
        optimizer: Optimizer,
        forward: Forward,
        *,
        count: Callable[[Any], Count | float] = batch_size,
        check: Callable[[Any, Sequence[TaskOutput], TaskOutput], None] = lambda *_: None,
        backward: Callable[[Tensor], None] = torch.autograd.backward,
        checks: bool = True,
    ) -> None:
        self.control, self.model, self.plain, self.optimizer = control, model, plain, optimizer
        self.forward, self.backward, self.checks = forward, backward, checks
        self.count, self.check = count, check
        self.hold = hold_of(model)  # around passes whose gradients the processes do not exchange yet
        self.sums = False  # True: a batch's loss is a sum over its examples, so that its parts are not weighted
        self._has_rows = any(isinstance(module, (NormRow, LearnsPerWidth)) for module in plain.modules())
        self._snapshot = Snapshot(plain, control.device)
        self._taken: list[tuple[Any, float | Tensor]] = []
        self._losses: list[Tensor] = []
        self._cleared: list[tuple[int, int]] = []  # gradients as they were left
        self._hidden: dict[Tensor, Tensor | None] = {}
        self._exchanged = False
        self._retries = 0

    def __len__(self) -> int:
        return len(self._taken)

    def add(self, batch: Any, share: float | Tensor = 1.0, *, last: bool = True) -> TaskOutput:
        """Add the gradient of one micro-batch, its loss weighted by `share`; return its output, the loss detached.

        An error forgets the whole step: half a gradient helps nobody.

        Raises:
            BitdialError: it does not fit into memory, not even in parts.
        """
        self._show()
        if not self._taken:
            if self._gradients() != self._cleared:
                self._zero_gradients()
            if self.control.layers is not None:
                self.control.layers.set_step(self.control.steps)
            self._snapshot.take()
            self._retries = 0
        self._taken.append((batch, share))
        self._exchanged = last
        try:
            try:
                return self._pass(batch, share, last=last)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error)
            return self._again(problem, last=last)  # outside of the handler, whose traceback holds on to memory
        except BaseException:
            self.clear()
            raise

    @property
    def is_untouched(self) -> bool:
        """Whether the optimizer's parameters hold no gradient but what was left in them after the last step."""
        left = self._gradients()
        return not left or left == self._cleared

    def hide(self) -> None:
        """Keep the gradients out of the parameters until the step goes on, so that nobody adds to them meanwhile."""
        self._hidden = {parameter: parameter.grad for parameter in self._parameters()}
        for parameter in self._hidden:
            parameter.grad = None

    def _show(self) -> None:
        """Put back what was hidden, in the place of whatever is there."""
        if self._hidden:
            for parameter in self._parameters():
                parameter.grad = self._hidden.get(parameter)
            self._hidden = {}

    def exchange(self) -> None:
        """Do the step again, with gradients exchanged between processes, if its last batch was not known to be it."""
        self._show()
        if self._exchanged or self.hold is nullcontext:
            return
        self._exchanged = True
        self._replay(last=True)

    def apply(
        self, step: Callable[[], Any], max_grad_norm: float | None, *, factor: float = 1.0
    ) -> tuple[bool, Tensor | None]:
        """Clip and step where everything is finite; return whether it was, and the gradient's 2-norm before clipping.

        The gradient is multiplied with `factor` first. The caller clears afterwards.

        Raises:
            TrainingDiverged: one step too many was lost.
            BitdialError: memory ran out, and the step cannot be repeated.
        """
        while True:
            before = versions(self.optimizer)
            try:
                return self._apply(step, max_grad_norm, factor)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error)
            forget_new_state(self.optimizer, before, problem)
            self._again(problem, last=True)

    def clear(self) -> None:
        """Forget the step under way, its gradients too."""
        self._taken, self._losses, self._hidden = [], [], {}
        self.control.scaler.forget()
        torch.clear_autocast_cache()  # inside of another autocast, even one that is off, PyTorch keeps the old weights
        self._zero_gradients()
        self._cleared = [] if self.control.config.memory_efficient else self._gradients()

    def _zero_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=self.control.config.memory_efficient)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def _gradients(self) -> list[tuple[int, int]]:
        """Which gradients there are, and how often each was written into: tells a change without a look at values."""
        return [(id(p.grad), p.grad._version) for p in self._parameters() if p.grad is not None]

    def _pass(self, batch: Any, share: float | Tensor, *, last: bool) -> TaskOutput:
        outputs, parts = [], self._cut(batch)
        for index, (part, part_share) in enumerate(parts):
            sync = last and index == len(parts) - 1
            outputs.append((self._one(part, share * part_share, sync=sync), part_share))
        if len(parts) == 1:
            return outputs[0][0]
        whole = _joined(outputs)
        self.check(batch, [output for output, _ in outputs], whole)
        return whole

    def _one(self, batch: Any, share: float | Tensor, *, sync: bool) -> TaskOutput:
        with nullcontext() if sync else self.hold():
            with self.control.autocast():
                output = self.forward(self.model, batch)
            loss = output.loss
            if not _is_nothing(share):
                self._losses.append(loss.detach())
                self.backward(self.control.scaler.scaled(loss if _is_whole(share) else loss * share))
        return dataclasses.replace(output, loss=loss.detach())

    def _cut(self, batch: Any) -> list[tuple[Any, Any]]:
        """The parts of a batch, each with the weight of its loss in that of the batch."""
        parts = split(batch, self.control.parts)
        if self.sums or len(parts) == 1:
            return [(part, 1.0) for part in parts]
        return list(zip(parts, shares([self.count(part) for part in parts]), strict=True))

    def _again(self, problem: str, *, last: bool) -> TaskOutput:
        """Do the step from its start in smaller parts, until it fits or too often."""
        control = self.control
        largest = max(batch_size(batch) for batch, _ in self._taken)
        world = torch.distributed.get_world_size() if is_distributed() else 1
        while True:
            if self._retries >= RETRIES or control.parts >= largest or world > 1:
                whole = f"of {largest} examples" if largest > 1 else "of 1 example (or of a form that cannot be cut)"
                tried = f"in {control.parts} parts" if control.parts > 1 else whole
                why = f" ({world} processes cannot retry a step alone)" if world > 1 else ""
                raise BitdialError(
                    f"out of memory with micro-batches {tried}{why}: {' '.join(problem.split())[:200]}; lower the "
                    "batch size, or accumulate more batches to a step"
                )
            self._retries += 1
            control.memory_retries += 1
            control.parts = min(control.parts * 2, largest)
            norms = any(isinstance(module, _BatchNorm) and module.training for module in self.plain.modules())
            same = "more slowly; batch norm sees each part alone" if norms else "the same gradient, more slowly"
            control.tell(
                f"step {control.steps + 1}: out of memory; the step is tried again with every batch in "
                f"{control.parts} parts, which stays so ({same})"
            )
            self.optimizer.zero_grad(set_to_none=True)
            gc.collect()
            if control.device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                return self._replay(last=last)
            except Exception as error:
                if not is_out_of_memory(error):
                    error.add_note(
                        f"this came up while a step that had run out of memory was tried again in {control.parts} "
                        "parts; are the examples along the first dimension of every tensor of the batch?"
                    )
                    raise
                problem = str(error)

    def _replay(self, *, last: bool) -> TaskOutput:
        """Do all micro-batches again from the state that the first began with; return the last one's output."""
        self.optimizer.zero_grad(set_to_none=True)
        self.control.scaler.forget()
        self._losses = []
        self._snapshot.restore()
        for index, (batch, share) in enumerate(self._taken):
            output = self._pass(batch, share, last=last and index == len(self._taken) - 1)
        return output

    def _apply(self, step: Callable[[], Any], max_grad_norm: float | None, factor: float) -> tuple[bool, Tensor | None]:
        control = self.control
        if self._has_rows:
            rest_idle_rows(self.plain)
        parameters = self._parameters()
        gradients = [p.grad for p in parameters if p.grad is not None] if factor != 1.0 else []
        if gradients:
            torch._foreach_mul_(gradients, factor)
        if self.checks:
            found = control.scaler.unscale(self.optimizer)
            loss_is_finite, gradient_is_finite = control.are_finite(self._losses, found)
            if not (loss_is_finite and gradient_is_finite):
                culprit = None
                if control.beyond_scaling(loss_is_finite=loss_is_finite):
                    culprit = self._diagnose() if control.lost_in_a_row == 0 else None
                    self._snapshot.restore_buffers()  # what is not finite would stay in running averages for good
                control.lost(loss_is_finite=loss_is_finite, culprit=culprit)
                return False, None
        norm = None if max_grad_norm is None else torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        step()
        control.applied()
        return True, norm

    def _diagnose(self) -> Culprit | None:
        """Do the lost step again, watched, and once more in float32; all is left as it is found.

        Every process does the same passes, whatever it alone finds: where weights are in shards, each pass is a
        conversation.
        """
        now = Snapshot(self.plain, self.control.device)
        now.take()
        self.optimizer.zero_grad(set_to_none=True)
        others = [(p, p.grad) for p in self.plain.parameters()]  # not of this step: neither looked at nor added to
        try:
            culprit = agreed(self._watched(narrow=True))
            if culprit is not None and self.control.format != torch.float32:
                culprit = dataclasses.replace(culprit, curable=agreed(self._watched(narrow=False)) is None)
            return culprit
        finally:
            for parameter, gradient in others:
                parameter.grad = gradient
            now.restore()

    def _watched(self, *, narrow: bool) -> Culprit | None:
        control, wide = self.control, torch.autocast(self.control.device.type, enabled=False)

        def losses() -> Iterator[Tensor]:
            for batch, share in self._taken:
                for part, part_share in self._cut(batch):
                    if _is_nothing(share * part_share):
                        continue
                    with control.autocast() if narrow else wide:
                        loss = self.forward(self.plain, part).loss * (share * part_share)
                    yield control.scaler.scaled(loss) if narrow else loss

        self.plain.zero_grad(set_to_none=True)
        self._snapshot.restore()
        try:
            return first_not_finite(self.plain, losses)
        except Exception as error:  # the diagnosis is a service; the step is lost with or without it
            control.tell(f"the layer could not be found: {type(error).__name__}: {' '.join(str(error).split())}")
            return None


def _is_whole(share: float | Tensor) -> bool:
    return isinstance(share, float) and share == 1.0  # a tensor is not asked: the host would wait for it


def _is_nothing(share: float | Tensor) -> bool:
    """Whether a mean is over nothing, and may be no number; several processes go the same way whatever one counts."""
    return isinstance(share, float) and share == 0.0 and not is_distributed()


def _joined(outputs: list[tuple[TaskOutput, Any]]) -> TaskOutput:
    """The output of a whole batch from those of its parts."""
    counted = [(output, share) for output, share in outputs if not _is_nothing(share)]
    loss = torch.stack([output.loss * share for output, share in counted]).sum()
    metrics = {
        name: torch.stack([output.metrics[name] * share for output, share in counted]).sum()
        for name in outputs[0][0].metrics
    }
    return TaskOutput(loss, sum(output.examples for output, _ in outputs), metrics)


@dataclasses.dataclass(frozen=True, slots=True)
class StepResult:
    """What came of one optimizer step.

    Attributes:
        output: of the last micro-batch.
        tensors: 0-dim detached tensors: ``loss``, ``gradient_norm`` where it was clipped, and the task's metrics, all
            averaged over the micro-batches by what the task counts in them. Empty for a step that was lost.
        applied: False where loss or gradients were not finite, so that the weights did not move.
        batches: the step's micro-batches, as the loader gave them.
        passes: how many times each went forward and backward.
        count: how much the task counts in all of them.
    """

    output: TaskOutput
    tensors: dict[str, Tensor]
    applied: bool
    batches: Sequence[Any]
    passes: int = 1
    count: Count = 1


class OptimizerStep:
    """Do optimizer steps on the model of a run, which Fabric wraps here for several processes.

    With several micro-batches, each loss is weighted by its share of what the task counts in the step, so that the
    gradient is that of one batch of all of them, whatever their sizes. (Processes count alike, as
    DistributedDataParallel has it.)

    A run that is to compute in float32 takes every step as it comes: nothing waits for the device, and a loss that is
    not finite is found when a row of the log is due. In any other format, and where the task asks for it, it `checks`
    every step before it is applied.
    """

    def __init__(self, state: TrainingState, task: Task) -> None:
        fabric, plain, optimizer = state.fabric, state.model, state.optimizer
        self.fabric, self.task = fabric, task
        self._passes: Callable[[Any], Sequence[Any]] | None = getattr(task, "passes", None)
        self._moves = fabric.device.type != "cpu"
        config = state.control.config
        asked: bool = getattr(task, "checks", False)
        self.checks = asked or config.format != torch.float32 or config.needs_scale
        model: nn.Module = plain
        if is_sharded(fabric):  # gradients of every micro-batch go to their shards: whole ones would be held else
            self.optimizer: Any = fabric.setup_optimizers(optimizer)
        else:
            model, self.optimizer = fabric.setup(plain, optimizer)
        self._micro = MicroBatches(
            state.control, model, plain, optimizer, task.loss,
            count=task.examples, backward=fabric.backward, checks=self.checks,
        )  # fmt: skip

    def __call__(self, batches: list[Any], lr_scale: float = 1.0) -> StepResult:
        """Step on `batches`, the micro-batches of one step, at `lr_scale` times the scheduled learning rate.

        Raises:
            TrainingDiverged: one step too many was lost.
            BitdialError: memory ran out, even with the batches in parts.
        """
        given = batches
        if self._passes is not None:
            moved = [self.fabric.to_device(batch) if self._moves else batch for batch in batches]
            batches = [item for batch in moved for item in self._passes(batch)]
            if not batches:
                raise BitdialError("a task's passes must give at least one item for each batch, got none")
        counts, last = [self.task.examples(batch) for batch in batches], len(batches) - 1
        tensors: dict[str, Tensor] = {}
        try:
            for index, (batch, share) in enumerate(zip(batches, shares(counts), strict=True)):
                if self._moves and self._passes is None:
                    batch, share = self.fabric.to_device((batch, share))
                output = self._micro.add(batch, share, last=index == last)
                self._collect(tensors, output, share)
            with scaled_learning_rate(self._micro.optimizer, lr_scale):
                applied, norm = self._micro.apply(self.optimizer.step, self._micro.control.config.max_grad_norm)
        finally:
            self._micro.clear()
        if norm is not None:
            tensors["gradient_norm"] = whole(norm.detach())
        passes = len(batches) // len(given)
        return StepResult(output, tensors if applied else {}, applied, given, passes, sum(counts))

    @staticmethod
    @torch.no_grad()
    def _collect(tensors: dict[str, Tensor], output: TaskOutput, share: float | Tensor) -> None:
        if _is_nothing(share):
            return
        for name, value in (("loss", output.loss), *output.metrics.items()):
            weighted = value if _is_whole(share) else value * share
            tensors[name] = weighted if name not in tensors else tensors[name] + weighted
