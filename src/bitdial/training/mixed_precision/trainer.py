"""The trainer that is stepped by hand, and the outcome of a call."""

from __future__ import annotations

import json
import statistics
import time
import zlib
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from bitdial.errors import BitdialError
from bitdial.layers.names import unwrapped
from bitdial.training.checkpoint.writing import save_text
from bitdial.training.mixed_precision.criterion import Criterion, check_parts, counted, counts_labels, is_sum, loss_of
from bitdial.training.mixed_precision.hand_steps import HandSteps
from bitdial.training.optimizers import check_step
from bitdial.training.step.config import MixedPrecisionConfig, prepare_layers
from bitdial.training.step.control import PrecisionControl
from bitdial.training.step.formats import check_device, format_name
from bitdial.training.step.optimizer_step import MicroBatches
from bitdial.training.tasks import TaskOutput
from bitdial.trees import map_tensors

WINDOW = 1000
"""Calls that the median time is over."""
_KIND = "scaler state 1"


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What came of one call of `train_step`.

    Attributes:
        loss_tensor: mean loss of the batch, 0-dim, detached, on its device.
        scale: the loss scale after the call.
        stepped: whether the optimizer moved the weights.
        skipped: whether it should have, but loss or gradients were not finite. Both are False in mid-accumulation.
        gradient_norm: 2-norm of the gradient before clipping, where it was clipped.
        seconds: wall-clock time of the call; on a GPU what is still queued is not in it. 0 without `track_performance`.
    """

    loss_tensor: Tensor
    scale: float
    stepped: bool
    skipped: bool
    gradient_norm: Tensor | None
    seconds: float

    @property
    def loss(self) -> float:
        """The loss as a number; waits for the device."""
        return float(self.loss_tensor)


@dataclass(frozen=True, slots=True)
class _OfPart(TaskOutput):
    """What a part of a batch gave, and the model's own output, for a criterion that nobody knows."""

    output: Any = None


class MixedPrecisionTrainer:
    """Trains a network in a narrower floating-point format, a call a batch.

    Works with any optimizer, with DataParallel and DistributedDataParallel, on CUDA and on CPUs. Losses and weights are
    those of a loop written by hand around `torch.autocast` and `torch.amp.GradScaler`, bit for bit. Beyond such a loop:
    a skipped step is told; the scale has a floor; the first layer that went wrong is named; running out of memory
    repeats the step in halves.

    Args:
        config: the settings; defaults if None.

    Raises:
        BitdialError: by `train_step`, a device that lacks the format.
        TrainingDiverged: by `train_step`, after ``config.overflow_patience`` lost steps in a row.

    Example:
        >>> import torch
        >>> import bitdial as bd
        >>> net = torch.nn.Linear(8, 4)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> trainer = bd.MixedPrecisionTrainer(bd.MixedPrecisionConfig(dtype="bfloat16"))
        >>> batch = torch.randn(16, 8), torch.randint(4, (16,))
        >>> result = trainer.train_step(net, optimizer, torch.nn.functional.cross_entropy, *batch)
    """

    _adaptive = False

    def __init__(self, config: MixedPrecisionConfig | None = None) -> None:
        if config is not None and not isinstance(config, MixedPrecisionConfig):
            raise BitdialError(
                f"config must be a MixedPrecisionConfig, got {config!r}; for a format alone write "
                "MixedPrecisionConfig(dtype='bfloat16')"
            )
        self.config = config or MixedPrecisionConfig()
        self.control = PrecisionControl(self.config, "cpu", adaptive=self._adaptive)  # until a model says where
        self._calls, self._seconds = 0, 0.0
        self._recent: deque[float] = deque(maxlen=WINDOW)
        self._micro: MicroBatches | None = None
        self._hand = HandSteps()
        self._scheduler: LRScheduler | None = None

    def prepare_model(self, model: nn.Module) -> nn.Module:
        """Make a model ready, in place, before it is wrapped for several devices; return it.

        Layers take the formats that ``config.policies`` give them; in float8 linear layers become float8 layers.

        Raises:
            BitdialError: weights in half precision, which updates would be lost in; a format that its device lacks; a
                policy that matches nothing.
        """
        self._begin(model)
        if self.control.layers is not None:
            self.control.layers.remove()
            self.control.layers = None
        prepare_layers(model, self.control)
        return model

    def train_step(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        criterion: Criterion,
        data: Any,
        target: Any,
        *,
        scheduler: LRScheduler | None = None,
    ) -> StepOutcome:
        """Train on one batch: forward, backward and, with the last of ``accumulation_steps`` calls, the optimizer.

        Gradients are cleared after the optimizer's step; there is no `zero_grad` to call. A step's gradients are those
        of its own calls: what another `backward` left in the optimizer's parameters is dropped when the step begins, or
        goes on (between its calls they hold no gradient). What is to be added belongs into the criterion's loss. A
        caller who calls ``optimizer.step()`` all the same, after several calls, accumulates by it, and is warned once.

        Args:
            model: gets `data`; a tuple or list as several arguments, a mapping as keywords.
            optimizer: over its parameters.
            criterion: ``(output, target) -> loss``, a mean over the batch (or a sum, with ``criterion.reduction``
                "sum"). Accumulated batches weigh alike, as in a loop by hand.
            data, target: a batch, on the model's device, its examples along the first dimension.
            scheduler: a learning-rate schedule, moved after every step that was applied, and only then.

        Raises:
            BitdialError: memory runs out even in parts; a criterion that gives no scalar; an autocast around the call.
            TrainingDiverged: too many lost steps in a row.
        """
        if isinstance(scheduler, ReduceLROnPlateau):
            raise BitdialError(
                "scheduler must be one that counts steps, got ReduceLROnPlateau, which waits for a score; call its "
                "step(score) after each evaluation instead"
            )
        if not callable(criterion) or isinstance(criterion, type):
            got = f"the class {criterion.__name__}" if isinstance(criterion, type) else repr(criterion)
            raise BitdialError(
                f"criterion must be a function (output, target) -> loss, such as nn.CrossEntropyLoss(), got {got}"
            )
        began, seconds = time.perf_counter(), 0.0
        micro = self._micro_batches(model, optimizer)
        if torch.is_autocast_enabled(self.control.device.type):
            raise BitdialError("train_step must be called outside of autocast, got one around it; it brings its own")
        micro.sums = is_sum(criterion)
        last = not self._hand.drives and len(micro) + 1 >= self.config.accumulation_steps
        self._hand.calls, self._scheduler = self._hand.calls + 1, scheduler
        output = micro.add((data, target, criterion), last=last)
        if last:
            stepped, norm = self._finish(scheduler)
        else:
            micro.hide()
            stepped, norm = False, None
        if self.config.track_performance:
            seconds = time.perf_counter() - began
            self._calls += 1
            self._seconds += seconds
            self._recent.append(seconds)
        return StepOutcome(
            output.metrics["loss"], self.control.scaler.scale, stepped, last and not stepped, norm, seconds
        )

    def finish_step(self, scheduler: LRScheduler | None = None) -> bool:
        """Step on what was accumulated so far (at the end of an epoch, say); return whether that was applied.

        The gradient is the mean over the batches that there were.
        """
        if not self._batches_under_way:
            return False
        return self._finish(scheduler, factor=self.config.accumulation_steps / self._batches_under_way)[0]

    def get_performance_summary(self) -> dict[str, Any]:
        """Return what was measured, the state of the scale, and what was lost and changed, as plain values.

        Keys: ``performance`` (``training_steps``, ``applied_steps``, ``skipped_steps``; in seconds ``total_time``,
        ``average_step_time``, ``median_step_time``; ``peak_memory_bytes``, None where the device cannot tell),
        ``scaler_info`` (``enabled``, ``current_scale``, ``growth_tracker``, ``overflows``), ``precision`` (the format
        in force), ``estimated_memory_savings`` (percent of the activations' memory), ``memory_retries``,
        ``not_finite_steps``, ``format_changes``.
        """
        control = self.control
        on_gpu = control.device.type == "cuda"
        return {
            "performance": {
                "training_steps": control.steps,
                "applied_steps": control.applied_steps,
                "skipped_steps": control.skipped_steps,
                "total_time": self._seconds,
                "average_step_time": self._seconds / self._calls if self._calls else 0.0,
                "median_step_time": statistics.median(self._recent) if self._recent else 0.0,
                "peak_memory_bytes": torch.cuda.max_memory_allocated(control.device) if on_gpu else None,
            },
            "scaler_info": {
                "enabled": control.scaler.scaling,
                "current_scale": control.scaler.scale,
                "growth_tracker": control.scaler.growth_tracker,
                "overflows": control.overflows,
            },
            "precision": format_name(control.format),
            "estimated_memory_savings": 0.0 if control.format == torch.float32 else 50.0,
            "memory_retries": control.memory_retries,
            "not_finite_steps": control.not_finite,
            "format_changes": [
                {"step": each.step, "from": each.before, "to": each.after, "reason": each.reason}
                for each in control.history
            ],
        }

    def state_dict(self) -> dict[str, Any]:
        """Return format, scale, growth tracker, counters and adaptations; empty without ``save_scaler_state``.

        Gradients of a step under way are not in it: save between optimizer steps, or call `finish_step` first.
        """
        return self.control.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> list[str]:
        """Go on from what `state_dict` gave, or a `torch.amp.GradScaler`; return what a user should know.

        A step under way is forgotten: its gradients belong to another state.

        Raises:
            BitdialError: a state that no run can have had.
        """
        notes = self.control.load_state_dict(state)
        if self._micro is not None:
            self._micro.clear()
        return notes

    def save_scaler_state(self, path: str | Path) -> Path:
        """Write the state to a file of its own, whole or not at all; return its path."""
        text, file = json.dumps(self.control.state_dict()), Path(path)
        save_text(file, json.dumps({"bitdial": _KIND, "crc32": zlib.crc32(text.encode()), "state": text}))
        return file

    def load_scaler_state(self, path: str | Path) -> list[str]:
        """Go on from a file that `save_scaler_state` wrote; return what a user should know.

        Raises:
            BitdialError: there is no such file, it is damaged, or holds something else.
        """
        file = Path(path)
        if not file.is_file():
            raise BitdialError(f"expected a file that save_scaler_state wrote, got {file}, which is not there")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["bitdial"] != _KIND or zlib.crc32(content["state"].encode()) != content["crc32"]:
                raise ValueError
            state = json.loads(content["state"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BitdialError(
                f"expected a file that save_scaler_state wrote, got {file}, which is damaged or something else; start "
                "without it: the scale settles within a few steps"
            ) from None
        return self.load_state_dict(state)

    def __getstate__(self) -> dict[str, Any]:
        """A copy, or one that is pickled, goes on between two steps: without model, optimizer and gradients."""
        return {**vars(self), "_micro": None, "_hand": HandSteps(), "_scheduler": None}

    @property
    def _batches_under_way(self) -> int:
        return 0 if self._micro is None else len(self._micro)

    def _begin(self, model: nn.Module) -> None:
        """Refuse a model that cannot be trained so, and go on where it is."""
        halves = (torch.float16, torch.bfloat16)
        found = next((name for name, p in model.named_parameters() if p.requires_grad and p.dtype in halves), None)
        if found is not None and self.config.enabled:
            raise BitdialError(
                f"the weights must be in float32 for mixed precision, got '{found}' in half precision; do not call "
                "model.half(), autocast chooses the format of every operation"
            )
        parameter = next(model.parameters(), None)
        if parameter is None:
            raise BitdialError(f"the model must have parameters to train, got {type(model).__name__} with none")
        check_device(self.config.format, parameter.device)
        if self.control.device != parameter.device:
            self.control.move(parameter.device)

    def _micro_batches(self, model: nn.Module, optimizer: Optimizer) -> MicroBatches:
        """The step under way, or a new one; kept as long as model and optimizer are the same."""
        micro = self._micro
        if micro is not None and micro.model is model and micro.optimizer is optimizer:
            return micro
        if self._batches_under_way:
            raise BitdialError(
                "model and optimizer must stay the same while gradients are accumulated, got others after "
                f"{self._batches_under_way} of {self.config.accumulation_steps} batches; call finish_step first"
            )
        for name, value, kind in (("model", model, nn.Module), ("optimizer", optimizer, Optimizer)):
            if not isinstance(value, kind):
                raise BitdialError(f"{name} must be a torch {kind.__name__}, got {type(value).__name__}")
        check_step(optimizer)
        self._begin(model)
        self._micro = MicroBatches(
            self.control, model, unwrapped(model), optimizer, self._forward, count=counted, check=self._check_parts
        )
        accumulates = self.config.accumulation_steps > 1
        self._hand.watch(self._micro, accumulates, lambda: self.finish_step(self._scheduler))
        return self._micro

    def _forward(self, model: nn.Module, batch: tuple[Any, Any, Criterion]) -> TaskOutput:
        data, target, criterion = batch
        output = _call(model, data)
        loss = loss_of(criterion, output, target)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            got = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise BitdialError(f"the criterion must return one number, the loss, got {got}; take its mean")
        if not loss.requires_grad:
            raise BitdialError(
                "the loss must depend on weights that are trained, got one without a gradient; look for detach(), "
                "no_grad() or frozen weights"
            )
        loss = loss.reshape(()) if loss.dim() else loss
        steps = self.config.accumulation_steps
        given = TaskOutput(loss if steps == 1 else loss / steps, 1, {"loss": loss.detach()})
        if self.control.parts == 1 or counts_labels(criterion):
            return given
        return _OfPart(given.loss, 1, given.metrics, output=map_tensors(Tensor.detach, output))

    def _check_parts(self, batch: Any, parts: Sequence[TaskOutput], whole: TaskOutput) -> None:
        outputs = [each.output for each in parts if isinstance(each, _OfPart)]
        if outputs:
            with torch.no_grad(), self.control.autocast():
                check_parts(batch, outputs, whole.metrics["loss"])

    def _finish(self, scheduler: LRScheduler | None, *, factor: float = 1.0) -> tuple[bool, Tensor | None]:
        micro = self._micro
        assert micro is not None
        try:
            micro.exchange()
            stepped, norm = micro.apply(micro.optimizer.step, self.config.max_grad_norm, factor=factor)
        finally:
            micro.clear()
        if stepped and scheduler is not None:
            scheduler.step()
        return stepped, norm


def _call(model: nn.Module, data: Any) -> Any:
    if isinstance(data, Mapping):
        return model(**data)
    return model(*data) if isinstance(data, tuple | list) else model(data)
