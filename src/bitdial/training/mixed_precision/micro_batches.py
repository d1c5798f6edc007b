"""The micro-batches of one optimizer step: forward and scaled backward of each, and again in halves without memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from bitdial.errors import BitdialError
from bitdial.training.mixed_precision.control import PrecisionControl
from bitdial.training.mixed_precision.diagnosis import Culprit, first_not_finite
from bitdial.training.mixed_precision.memory import RETRIES, Snapshot, batch_size, is_out_of_memory, release, split
from bitdial.training.tasks import TaskOutput

Forward = Callable[[nn.Module, Any], TaskOutput]
"""``(model, batch) -> output`` whose loss is the mean over the batch's examples."""

Hold = Callable[[], AbstractContextManager[Any]]
"""Makes the context of a forward and backward pass whose gradients the processes do not exchange yet."""


class MicroBatches:
    """Collects the gradients of one optimizer step, and applies them where they are finite.

    Args:
        control: the format in force, and what is decided about a step.
        model: what `forward` is called with; may be wrapped for several processes.
        plain: the same model without wrapping.
        optimizer: over its parameters.
        forward: what a batch means.
        backward: goes back from a scaled loss; ``loss.backward()`` if None.
        hold: wraps passes before a step's last; that of DistributedDataParallel if None.
        sums: whether a batch's loss is a sum over its examples, so that its parts are not weighted.
        checks: whether to look at every step if its loss and gradients are finite, which makes the host wait for the
            device; False applies every step.

    Nothing of a step that is lost or tried again stays: random numbers, batch norm's statistics and activation ranges
    are put back. A step whose gradients merely overflowed the loss scale leaves the statistics of its forward pass, as
    in any loop with a scaler.
    """

    def __init__(
        self,
        control: PrecisionControl,
        model: nn.Module,
        plain: nn.Module,
        optimizer: Optimizer,
        forward: Forward,
        *,
        backward: Callable[[Tensor], None] | None = None,
        hold: Hold | None = None,
        sums: bool = False,
        checks: bool = True,
    ) -> None:
        self.control = control
        self.model, self.plain, self.optimizer = model, plain, optimizer
        self.forward, self.backward, self.hold = forward, backward or _backward, hold or _hold_of(model)
        self.sums, self.checks = sums, checks
        self._snapshot = Snapshot(plain, control.device)
        self._taken: list[tuple[Any, float]] = []
        self._losses: list[Tensor] = []
        self._retries = 0

    def __len__(self) -> int:
        """How many micro-batches the step has so far."""
        return len(self._taken)

    def add(self, batch: Any, share: float = 1.0, *, last: bool = True) -> TaskOutput:
        """Add the gradient of one micro-batch. An error forgets the whole step: half a gradient helps nobody.

        Args:
            batch: on the device.
            share: weight of its loss in the step's.
            last: whether the step has no further micro-batch.

        Returns:
            Its output; the loss is detached.

        Raises:
            BitdialError: it does not fit into memory, not even in parts.
        """
        if not self._taken:
            self.control.begin_step()
            self._snapshot.take()
            self._retries = 0
        self._taken.append((batch, share))
        try:
            return self._pass(batch, share, last=last)
        except BaseException as error:
            if not is_out_of_memory(error):
                self.clear()
                raise
            problem = str(error)
        return self._again(problem, last=last)  # outside of the handler, whose traceback holds on to memory

    def apply(
        self, step: Callable[[], Any], max_grad_norm: float | None, *, factor: float = 1.0
    ) -> tuple[bool, Tensor | None]:
        """Clip and step where everything is finite. The caller clears afterwards.

        Args:
            step: moves the weights.
            max_grad_norm: 2-norm that the gradient is scaled down to; None: not at all.
            factor: what the gradient is multiplied with first.

        Returns:
            Whether the step was applied, and the norm of the gradient before it was clipped.

        Raises:
            TrainingDiverged: one step too many was lost.
            BitdialError: memory ran out, and the step cannot be repeated.
        """
        while True:
            before = self._versions()
            try:
                result = self._apply(step, max_grad_norm, factor)
                break
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error)
            self._forget_new_state(before, problem)
            self._again(problem, last=True)
        return result

    def clear(self) -> None:
        """Forget the step under way, its gradients too."""
        self._taken, self._losses = [], []
        self.control.scaler.forget()
        self.optimizer.zero_grad(set_to_none=self.control.config.memory_efficient)

    def _pass(self, batch: Any, share: float, *, last: bool) -> TaskOutput:
        parts = split(batch, self.control.parts)
        if len(parts) == 1:
            return self._one(batch, share, sync=last)
        size = batch_size(batch)
        outputs = []
        for index, part in enumerate(parts):
            part_share = 1.0 if self.sums else batch_size(part) / size
            output = self._one(part, share * part_share, sync=last and index == len(parts) - 1)
            outputs.append((output, part_share))
        return _joined(outputs)

    def _one(self, batch: Any, share: float, *, sync: bool) -> TaskOutput:
        with nullcontext() if sync else self.hold():
            with self.control.autocast():
                output = self.forward(self.model, batch)
            loss = output.loss
            self._losses.append(loss.detach())
            weighted = loss if share == 1.0 else loss * share
            self.backward(self.control.scaler.scaled(weighted) if self.checks else weighted)
        return dataclasses.replace(output, loss=loss.detach())

    def _again(self, problem: str, *, last: bool) -> TaskOutput:
        """Do the step from its start in smaller parts, until it fits or too often."""
        control = self.control
        largest = max(batch_size(batch) for batch, _ in self._taken)
        while True:
            world = torch.distributed.get_world_size() if _is_distributed() else 1
            if self._retries >= RETRIES or control.parts >= largest or world > 1:
                tried = f"in {control.parts} parts" if control.parts > 1 else f"of {largest} examples"
                why = f" ({world} processes cannot retry a step alone)" if world > 1 else ""
                raise BitdialError(
                    f"out of memory with micro-batches {tried}{why}: {' '.join(problem.split())[:200]}; lower the "
                    "batch size, or accumulate more batches to a step"
                )
            self._retries += 1
            control.memory_retries += 1
            control.parts = min(control.parts * 2, largest)
            control.tell(
                f"step {control.steps + 1}: out of memory; the step is tried again with every batch in "
                f"{control.parts} parts, which stays so (the same gradient, more slowly)"
            )
            self.optimizer.zero_grad(set_to_none=True)
            control.scaler.forget()
            self._losses = []
            release(control.device)
            self._snapshot.restore()
            try:
                for index, (batch, share) in enumerate(self._taken):
                    output = self._pass(batch, share, last=last and index == len(self._taken) - 1)
                return output
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error)

    def _apply(self, step: Callable[[], Any], max_grad_norm: float | None, factor: float) -> tuple[bool, Tensor | None]:
        control = self.control
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if factor != 1.0:
            torch._foreach_mul_([p.grad for p in parameters if p.grad is not None], factor)
        if self.checks:
            found = control.scaler.unscale(self.optimizer)
            loss_finite, gradient_finite = control.are_finite(self._losses, found)
            if not (loss_finite and gradient_finite):
                self._lost(loss_is_finite=loss_finite)
                return False, None
        norm = None
        if max_grad_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        step()
        control.applied()
        return True, norm

    def _lost(self, *, loss_is_finite: bool) -> None:
        culprit = None
        if self.control.needs_diagnosis(loss_is_finite=loss_is_finite):
            culprit = _agreed(self._diagnose())
        if not loss_is_finite:
            self._snapshot.restore_buffers()  # values that are not finite would stay in running averages for good
        self.control.lost(loss_is_finite=loss_is_finite, culprit=culprit)

    def _diagnose(self) -> Culprit | None:
        """Do the lost step again, watched, and once more in float32; all is left as it is found."""
        now, buffers = self._snapshot.random_state(), [each.clone() for each in self.plain.buffers()]

        def total(*, narrow: bool) -> Tensor:
            self._snapshot.restore()
            self.optimizer.zero_grad(set_to_none=True)
            losses = []
            for batch, share in self._taken:
                for part in split(batch, self.control.parts):
                    with self.control.autocast() if narrow else torch.autocast(self.control.device.type, enabled=False):
                        losses.append(self.forward(self.plain, part).loss * share)
            return torch.stack(losses).sum()

        try:
            culprit = first_not_finite(self.plain, lambda: self.control.scaler.scaled(total(narrow=True)))
            if culprit is not None and self.control.format != torch.float32:
                curable = first_not_finite(self.plain, lambda: total(narrow=False)) is None
                culprit = dataclasses.replace(culprit, curable=curable)
            return culprit
        except Exception as error:  # the diagnosis is a service; the step is lost with or without it
            self.control.tell(f"the layer could not be found: {type(error).__name__}: {' '.join(str(error).split())}")
            return None
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            self._snapshot.restore_random(now)
            with torch.no_grad():
                for live, kept in zip(self.plain.buffers(), buffers, strict=True):
                    live.copy_(kept)

    def _versions(self) -> list[tuple[Any, int | None]]:
        """What the optimizer has moved so far: parameters and their states, each with its count of changes."""
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        states = [v for part in self._parts() for s in part.state.values() for v in s.values() if isinstance(v, Tensor)]
        return [(each, each._version) for each in (*parameters, *states)]

    def _forget_new_state(self, before: list[tuple[Any, int | None]], problem: str) -> None:
        """Make sure that a step which ran out of memory has moved nothing, so that it can be repeated."""
        if any(tensor._version != version for tensor, version in before):
            raise BitdialError(
                f"out of memory in the middle of the optimizer's update ({' '.join(problem.split())[:200]}); it cannot "
                "be repeated: go on from the last checkpoint with a smaller batch"
            )
        known = {id(tensor) for tensor, _ in before}
        for part in self._parts():
            for parameter, state in list(part.state.items()):
                if any(isinstance(value, Tensor) and id(value) not in known for value in state.values()):
                    del part.state[parameter]

    def _parts(self) -> tuple[Optimizer, ...]:
        """The optimizers that hold the states."""
        return getattr(self.optimizer, "parts", (self.optimizer,))


def _backward(loss: Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call]


def _hold_of(model: nn.Module) -> Hold:
    return getattr(model, "no_sync", nullcontext)


def _joined(outputs: list[tuple[TaskOutput, float]]) -> TaskOutput:
    """The output of a whole batch from those of its parts."""
    loss = torch.stack([output.loss * share for output, share in outputs]).sum()
    metrics = {
        name: torch.stack([output.metrics[name] * share for output, share in outputs]).sum()
        for name in outputs[0][0].metrics
    }
    return TaskOutput(loss, sum(output.examples for output, _ in outputs), metrics)


def _agreed(culprit: Culprit | None) -> Culprit | None:
    """Let every process know what one of them found: they must decide alike."""
    if not _is_distributed():
        return culprit
    found: list[Culprit | None] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, culprit)
    return next((each for each in found if each is not None), None)


def _is_distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
