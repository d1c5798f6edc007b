"""The running ranges of activations that a layer keeps, and the grid of a batch that follows from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from bitdial.layers.widths import HoldsWidths
from bitdial.numerics import min_max
from bitdial.numerics.grid import Grid, TensorGrid, is_opaque, may_read, min_max_numbers, read_grid, track
from bitdial.numerics.quantizers import ActivationQuantizer

RANGE_MOMENTUM = 0.1
"""Share of a new batch in the running range, once more than ten batches were seen (before: a plain average)."""

RANGE = ("range_low", "range_high", "range_batches")


class HoldsRanges(HoldsWidths):
    """A layer with the buffers of `RANGE` beside its widths, which keep their values wherever the layer goes."""

    activation: ActivationQuantizer
    activation_quantizer: nn.Module | None
    activation_bits: Tensor
    range_low: Tensor
    range_high: Tensor
    range_batches: Tensor
    range_momentum: float
    range_calls: int = 1
    _call: int = 0

    def _float_weight(self) -> Any:
        """The weight as it is, also for another module that is running."""
        raise NotImplementedError

    def _as_built(self, name: str) -> Tensor:
        """A buffer as the layer was built with it, where its weight is."""
        shape = (self.range_calls,) if name in RANGE and self.range_calls > 1 else ()
        with torch.inference_mode(False):
            return torch.full(shape, self._built[name], dtype=torch.float32, device=self._float_weight().device)

    @property
    def has_one_range(self) -> bool:
        """Whether inputs are clipped to one running range, whichever call they come by."""
        return self.activation.range is None and self.activation_quantizer is None and self.range_calls == 1

    def keep_ranges(self, calls: int) -> None:
        """Keep a running range for each of so many calls that every forward pass makes; what was seen is forgotten."""
        self.range_calls, self._call = calls, 0
        for name in RANGE:
            setattr(self, name, self._as_built(name))

    def train(self, mode: bool = True) -> Self:
        """As ever; the next call is the first one of a forward pass."""
        self._call = 0
        return super().train(mode)

    def _range(self) -> tuple[Tensor, Tensor, Tensor]:
        """Running minimum, maximum and number of batches of this call."""
        if self.range_calls == 1:
            return self.range_low, self.range_high, self.range_batches
        call, self._call = self._call, (self._call + 1) % self.range_calls
        return self.range_low[call], self.range_high[call], self.range_batches[call]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device or dtype; widths and ranges keep their values, in float32.

        Half precision cannot count batches; and what ``to_empty`` allocates holds no values: on coming from the meta
        device, which has none, they are what the layer was built with.
        """
        before = {name: getattr(self, name) for name in self._built}
        super()._apply(fn, recurse)
        with torch.inference_mode(False):
            for name, buffer in before.items():
                moved = getattr(self, name)
                if moved is not buffer and not moved.is_meta:
                    setattr(self, name, self._as_built(name) if buffer.is_meta else buffer.to(moved.device))
        return self

    def reset_range(self) -> None:
        """Forget the running range of the activations (a fixed one stays)."""
        if self.activation.range is None:
            for buffer in (self.range_low, self.range_high, self.range_batches):
                buffer.zero_()

    def _grid(self, x: Tensor) -> tuple[Grid | TensorGrid, bool]:
        """The activations' grid for this batch, and whether inputs can lie outside."""
        fixed = self.activation.range is not None
        clip = fixed or not self.training
        running_low, running_high, batches = self._range()
        if may_read(x):
            if fixed or (clip and batches.item() > 0):
                low, high = running_low.item(), running_high.item()
            else:
                low, high = min_max_numbers(x)
                if self.training:
                    track(running_low, running_high, batches, low, high, self.range_momentum)
            grid = read_grid(low, high, self.activation_bits.item())
            if grid is not None:
                return grid, clip
            return TensorGrid(x.new_tensor(low), x.new_tensor(high), self.activation_bits), clip
        if fixed or x.numel() == 0:  # an expert of a mixture that gets no example: nothing to learn a range from
            return TensorGrid(running_low, running_high, self.activation_bits), clip
        if self.training and is_opaque(x):
            ends = torch.ops.bitdial.min_max(x.detach())
            torch.ops.bitdial.track(ends, running_low, running_high, batches, self.range_momentum)
            return TensorGrid(ends[0], ends[1], self.activation_bits), clip
        lowest, highest = min_max(x.detach())
        if self.training:
            with torch.no_grad():  # as `track`, for numbers that cannot be read
                batches += 1
                share = batches.reciprocal().clamp_min(self.range_momentum)
                running_low.lerp_(lowest, share)
                running_high.lerp_(highest, share)
            return TensorGrid(lowest, highest, self.activation_bits), clip
        seen = batches > 0
        ends = torch.where(seen, running_low, lowest), torch.where(seen, running_high, highest)
        return TensorGrid(*ends, self.activation_bits), clip
