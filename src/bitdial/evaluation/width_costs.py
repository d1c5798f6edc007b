"""What a network takes once it ships: bytes on the disk, simulated BitOps of a forward pass, and its seconds here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from bitdial.evaluation.results import WidthCost
from bitdial.evaluation.sweep import unchanged
from bitdial.layers import Ledger
from bitdial.layers.dial import Bits
from bitdial.layers.names import evaluating
from bitdial.numerics import UNQUANTIZED
from bitdial.training.batches import to_device
from bitdial.training.tasks import Task

_PASSES = 3


def width_costs(ledger: Ledger, widths: Mapping[str, Bits], beside: int = 0) -> dict[str, WidthCost]:
    """Return what a network takes at each of some widths, by their names.

    Args:
        ledger: of the network.
        widths: name -> one width, or one for each quantized layer.
        beside: bytes of a packed file that the ledger does not count; a network in float is its values alone.
    """
    return {
        name: WidthCost(
            size_bytes=ledger.size_bytes(bits) + (0 if bits == UNQUANTIZED else beside),
            bitops=ledger.step_bitops(bits, bits).forward,
        )
        for name, bits in widths.items()
    }


@torch.no_grad()
def forward_seconds(model: nn.Module, batches: Iterable[Any], task: Task) -> float:
    """Return the wall-clock seconds that scoring one prediction takes as it is computed here.

    Measured on the first batch, the median of three passes of a model that was just in use. The model stays as it is.
    """
    device = next(model.parameters()).device
    batch = to_device(next(iter(batches)), device)
    times, count = [], 1
    with unchanged(model), evaluating(model):
        for _ in range(_PASSES):
            start = time.perf_counter()
            sums, size = task.score(model, batch)
            float(sums["loss"])  # waits for the device
            count = max(1, int(size))
            times.append(time.perf_counter() - start)
    return statistics.median(times) / count
