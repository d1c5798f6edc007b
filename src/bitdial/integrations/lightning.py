"""Cyclic precision in Lightning's Trainer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitdial.errors import BitdialError
from bitdial.integrations.cycling import CyclesPrecision, MissingPackageError

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.utilities import rank_zero_warn
except ImportError as error:
    raise MissingPackageError(
        "CyclicPrecisionCallback needs the package lightning; run: pip install 'lightning>=2.6.4,<2.7'"
    ) from error


class CyclicPrecisionCallback(CyclesPrecision, Callback):
    """Cycles the precision of a quantized model while Lightning's `Trainer` trains it.

    Usage::

        callback = CyclicPrecisionCallback(CyclicPrecisionConfig(bit_width_pattern=[8, 4, 2, 4, 8], cycle_length=20))
        Trainer(callbacks=[callback]).fit(module)    # layers of `module` went through bitdial.quantize

    The clock is ``trainer.global_step``: it counts optimizer steps, not the micro-batches of an accumulation, and
    counts those that a loss scaler skipped, as Lightning's learning-rate schedulers do. With several optimizers in
    manual optimization it counts the steps of each. A resumed run goes on exactly, and is warned of a changed config.

    Within a training step the dial stands at the cycle's widths; in validation, in checkpoints and after training at
    `target_bits`. Logged are ``bits`` (mean over the layers, every step), ``lr_scale`` (with ``adjust_lr_with_bits``)
    and ``val_bits``; each followed by ``/module`` if one is given.

    Args:
        config: how the precision moves; its defaults if None.
        module: name of the part of the model that cycles; the whole model if empty. Two callbacks of one Trainer need
            different parts.
        target_bits: width outside the training steps; the widest of the pattern if None.

    Raises:
        BitdialError: when training starts: the model has no quantized layer or no such part, two callbacks turn the
            same layers, or ``adjust_lr_with_bits`` with an optimizer that is not torch's.
    """

    _iteration = 0

    @property
    def state_key(self) -> str:
        """Name of the state in a checkpoint: callbacks of different parts keep theirs apart."""
        return f"{type(self).__qualname__}[{self.module}]" if self.module else type(self).__qualname__

    def state_dict(self) -> dict[str, Any]:
        """Optimizer steps done, and the config, as plain numbers and strings."""
        return {"iteration": self._iteration, "config": self.config.model_dump()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave; the Trainer's own step count has the last word.

        Raises:
            BitdialError: the state is not one of this callback.
        """
        iteration, config = state_dict.get("iteration"), state_dict.get("config")
        if not isinstance(iteration, int) or iteration < 0 or not isinstance(config, Mapping):
            raise BitdialError(
                f"state of {self.state_key} must have an iteration of 0 or more and a config, got {state_dict!r}"
            )
        self._iteration = iteration
        now = self.config.model_dump()
        changed = sorted(name for name in now if config.get(name) != now[name])
        if changed:
            differences = ", ".join(f"{name} {config.get(name)} -> {now[name]}" for name in changed)
            rank_zero_warn(
                f"{self.state_key} resumes with a changed config ({differences}): from step {iteration} on, "
                "the bits are those of the new one"
            )

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take hold of the quantized layers; only now do all modules exist."""
        self._start(pl_module)
        others = [callback for callback in trainer.callbacks if isinstance(callback, CyclicPrecisionCallback)]  # type: ignore[attr-defined]
        self._refuse_overlap(others)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin where the trainer begins."""
        self._iteration = trainer.global_step
        self._rest()  # a checkpoint has been loaded since
        self._scale_rates(trainer.optimizers)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Turn the dial to the widths of this step."""
        self._go_to(trainer.global_step)
        if not trainer.barebones:
            for name, value in self._values().items():
                pl_module.log(name, value, on_step=True, on_epoch=False, prog_bar=True, batch_size=1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Leave the dial at the target width for what comes between two batches."""
        self._iteration = trainer.global_step
        self._rest()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Name the width that was validated at."""
        if self.scheduler is not None and not trainer.barebones:
            pl_module.log(self._label("val_bits"), self.target_bits, batch_size=1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the optimizers."""
        self._release_rates()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave rates and widths as between two steps: a checkpoint may be written of them."""
        self._release_rates()
        if self.scheduler is not None:
            self._rest()
