"""Precision that cycles: the scheduler that turns a dial along, for any loop."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from torch import nn

from bitdial import schedules
from bitdial.layers.dial import BitDial, PrecisionScheduler
from bitdial.layers.options import CyclicPrecisionConfig as CyclicPrecisionConfig
from bitdial.schedules import LayerSchedule


class CyclicPrecisionScheduler(PrecisionScheduler):
    """Cycles the precision of a model as a `CyclicPrecisionConfig` says.

    The dial stands at iteration 0 from the start; call `step` after each training step::

        scheduler = CyclicPrecisionScheduler(model, CyclicPrecisionConfig(bit_width_pattern=[8, 4, 2, 4, 8]))
        for x, y in loader:
            ...                 # forward, backward, optimizer.step()
            scheduler.step()

    Its state is one number, and the widths are a pure function of it: the same on every rank, exact on resume.

    Args:
        model_or_dial: a quantized model, or a dial of one.
        config: how the precision moves.
        schedule: widths that the layers follow instead, ``(step, layer) -> width``; cycles are counted as in `config`,
            and its learning-rate factors and gradient width hold.

    Raises:
        BitdialError: the model has no quantized layers, or gradient_bits below 32 for a model built without gradients.

    Example:
        >>> import torch
        >>> import bitdial as bd
        >>> from bitdial.layers.cycling import CyclicPrecisionConfig
        >>> net = bd.quantize(torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(4)]))
        >>> config = CyclicPrecisionConfig(bit_width_pattern=[8, 4, 2], cycle_length=3)
        >>> scheduler = bd.CyclicPrecisionScheduler(net, config)
        >>> scheduler.step()  # after each training step
        >>> bd.BitDial(net).weights
        [4.0, 4.0]
    """

    def __init__(
        self,
        model_or_dial: nn.Module | BitDial,
        config: CyclicPrecisionConfig | None = None,
        *,
        schedule: LayerSchedule | None = None,
    ) -> None:
        self.config = config or CyclicPrecisionConfig()
        widths = self.config.layer_schedule() if schedule is None else schedule
        super().__init__(model_or_dial, widths, gradients=self.config.gradient_bits)

    @property
    def cycle(self) -> int:
        """Index of the running cycle, from 0."""
        return self.iteration // self.config.cycle_length

    @property
    def position(self) -> int:
        """Iteration within the running cycle, from 0."""
        return self.iteration % self.config.cycle_length

    @property
    def at_cycle_boundary(self) -> bool:
        """Whether this iteration is the first of a cycle."""
        return self.position == 0

    @property
    def lr_scale(self) -> float:
        """Factor on the learning rate at the mean width over the layers; 1 unless ``adjust_lr_with_bits``."""
        return self.factor(self.bits)

    def factor(self, widths: Sequence[float]) -> float:
        """Factor on the learning rate where the layers stand at these widths."""
        if not self.config.adjust_lr_with_bits:
            return 1.0
        return schedules.interpolate_factors(self.config.lr_scale_factors, statistics.fmean(widths))
