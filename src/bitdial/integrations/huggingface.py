"""Cyclic precision in Hugging Face's Trainer."""

from __future__ import annotations

import math
import statistics
import warnings
import weakref
from typing import TYPE_CHECKING, Any

from bitdial.integrations.cycling import CyclesPrecision, MissingPackageError

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise MissingPackageError(
        "CyclicPrecisionTrainerCallback needs the package transformers; run: pip install 'bitdial[text]'"
    ) from error

if TYPE_CHECKING:
    from transformers import Trainer, TrainerState

_callbacks: weakref.WeakSet[CyclicPrecisionTrainerCallback] = weakref.WeakSet()


class CyclicPrecisionTrainerCallback(CyclesPrecision, TrainerCallback):
    """Cycles the precision of a quantized model while Hugging Face's `Trainer` trains it.

    Usage::

        callback = CyclicPrecisionTrainerCallback(CyclicPrecisionConfig(bit_width_pattern=[8, 4, 8], cycle_length=20))
        trainer = Trainer(model, args, train_dataset=..., callbacks=[callback])   # model went through bitdial.quantize
        callback.attach(trainer)   # so that TensorBoard and others get the bits, too
        trainer.train()

    The clock is ``state.global_step``: it counts optimizer steps, not the micro-batches of an accumulation, and counts
    those that a loss scaler skipped. It is part of every checkpoint, so a resumed run goes on exactly; if the bits that
    the checkpoint has logged are not those of this config, a warning says so.

    Within a training step the dial stands at the cycle's widths; in evaluation, in checkpoints and after training at
    `target_bits`. Logged with the loss are ``bits`` (mean over the layers, in the last step, as the learning rate is)
    and ``lr_scale`` (with ``adjust_lr_with_bits``), with evaluations ``eval_bits``; each followed by ``/module`` if one
    is given.

    Args:
        config: how the precision moves; its defaults if None.
        module: name of the part of the model that cycles; the whole model if empty. Two callbacks of one Trainer need
            different parts.
        target_bits: width outside the training steps; the widest of the pattern if None.

    Raises:
        BitdialError: when training starts: the model has no quantized layer or no such part, two callbacks turn the
            same layers, or ``adjust_lr_with_bits`` with an optimizer that is not torch's.
    """

    _run: object = None

    def attach(self, trainer: Trainer) -> None:
        """Become the first callback of `trainer`, whether it has this one already or not.

        The Trainer asks its reporters (TensorBoard, wandb, ...) before the callbacks that it was given. Those that come
        first see no bits; ``log_history``, ``trainer_state.json`` and the console have them in any order.
        """
        callbacks = trainer.callback_handler.callbacks
        callbacks[:] = [self, *(each for each in callbacks if each is not self)]

    def on_train_begin(self, args: object, state: TrainerState, control: object, **kwargs: Any) -> None:
        """Take hold of the quantized layers and of the optimizer."""
        self._start(kwargs["model"])
        # The trainer hands its callbacks no list of themselves; those of one training share its state object.
        self._run = state
        _callbacks.add(self)
        self._refuse_overlap(other for other in _callbacks if other._run is state)
        self._check_continuation(state)
        self._scale_rates([kwargs["optimizer"]])

    def on_step_begin(self, args: object, state: TrainerState, control: object, **kwargs: Any) -> None:
        """Turn the dial to the widths of this optimizer step."""
        self._go_to(state.global_step)

    def on_step_end(self, args: object, state: TrainerState, control: object, **kwargs: Any) -> None:
        """Leave the dial at the target width for what comes between two steps."""
        self._rest()

    def on_log(
        self,
        args: object,
        state: TrainerState,
        control: object,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Put the bits beside the loss."""
        if not logs or self.scheduler is None:
            return
        if "loss" in logs:
            added = self._values()
        elif any(name.startswith("eval_") for name in logs):
            added = {self._label("eval_bits"): self.target_bits}
        else:
            return
        logs.update(added)
        state.log_history[-1].update(added)  # a copy of logs, made before the callbacks were asked

    def on_train_end(self, args: object, state: TrainerState, control: object, **kwargs: Any) -> None:
        """Let go of the optimizer, and leave the model at its target width whatever has been loaded since."""
        self._rest()
        self._release_rates()
        self._run = None

    def _check_continuation(self, state: TrainerState) -> None:
        """Warn if the bits that the checkpoint has logged are not what this config gives."""
        label = self._label("bits")
        logged = [entry for entry in state.log_history if label in entry and entry["step"] > 0]
        if not logged:
            return
        scheduler, step = self._running(), int(logged[-1]["step"])
        bits = statistics.fmean(scheduler.schedule(step - 1, layer) for layer in range(len(scheduler.dial)))
        if not math.isclose(bits, logged[-1][label], abs_tol=1e-6):
            warnings.warn(
                f"{type(self).__name__} resumes with a changed config: the checkpoint has logged {label} "
                f"{logged[-1][label]:g} at step {step}, where this one gives {bits:g}; from step "
                f"{state.global_step} on, the bits are those of the new one",
                stacklevel=2,
            )
