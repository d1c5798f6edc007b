"""The precision range test: from which width on does training make progress?"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from bitdial.errors import BitdialError
from bitdial.evaluation.sweep import to_device
from bitdial.layers import BitDial
from bitdial.numerics import check_bits
from bitdial.training import Classification, Task, preserved_random_state


@dataclass(frozen=True)
class RangeTestRow:
    """What training at one width did.

    Attributes:
        bits: the width.
        first_loss, last_loss: mean training loss over the first and the last quarter of the iterations.
        accuracy: mean training accuracy over the last quarter, a fraction.
        progress: ``1 - last_loss / first loss of the model before any step``: the share of the loss that is gone.
    """

    bits: float
    first_loss: float
    last_loss: float
    accuracy: float
    progress: float


@dataclass(frozen=True)
class RangeTestResult:
    """What a precision range test found.

    Attributes:
        low: the first width, from below, whose progress exceeds the threshold; None if there is none.
        high: the width from which on more bits bring no more progress: the lowest whose progress is within
            ``saturation`` of the best; at least `low`.
        threshold: progress that had to be exceeded.
        rows: one for each width, from the lowest up.
    """

    low: float | None
    high: float
    threshold: float
    rows: tuple[RangeTestRow, ...]

    def table(self) -> str:
        """The rows as text."""
        lines = [f"{'bits':>6} {'first loss':>11} {'last loss':>10} {'accuracy':>9} {'progress':>9}"]
        for row in self.rows:
            mark = " <- lowest" if row.bits == self.low else " <- highest" if row.bits == self.high else ""
            losses = f"{row.first_loss:11.4f} {row.last_loss:10.4f}"
            lines.append(f"{row.bits:6g} {losses} {row.accuracy:9.1%} {row.progress:9.1%}{mark}")
        return "\n".join(lines)

    def plot(self, path: str | Path) -> Path:
        """Draw progress against width to a picture file and return its path."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.subplots()
        axes.plot([row.bits for row in self.rows], [100 * row.progress for row in self.rows], "o-", color="#0072b2")
        axes.axhline(100 * self.threshold, color="0.4", linestyle="--", label=f"threshold {self.threshold:.0%}")
        if self.low is not None:
            axes.axvspan(self.low, self.high, color="#009e73", alpha=0.15, label=f"range {self.low:g} to {self.high:g}")
        axes.set(
            xlabel="width of weights and activations (bits)", ylabel="training progress (% of the first loss gone)"
        )
        axes.set_xticks([row.bits for row in self.rows])
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", frameon=False)
        figure.savefig(path, dpi=150)
        return Path(path)


class PrecisionRangeTest:
    """Trains briefly at each width, from the lowest up, and finds the bounds of a useful cycle.

    As CPT's range test (Fu et al., ICLR 2021, section 3.3), the lower bound is the first width whose training progress
    exceeds a threshold. Every width starts from the same weights, optimizer state and random state.

    Model, optimizer, dial and random generators come back bit for bit as they were, errors and Ctrl-C included.

    Args:
        model: quantized.
        loader: training batches, iterated anew for each width.
        optimizer: steps the model; plain SGD at `learning_rate` if None.
        bits: widths to try, in any order.
        iterations: optimizer steps at each.
        threshold: progress (share of the first loss that is gone) that the lower bound must exceed.
        saturation: how close to the best progress counts as no worse, for the upper bound.
        learning_rate: of the SGD that is used without an optimizer.
        task: the loss of a batch; classification if None.

    Raises:
        BitdialError: an argument out of range, or a model without quantized layers.
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Iterable[Any],
        optimizer: Optimizer | None = None,
        *,
        bits: Sequence[float] = (2, 3, 4, 5, 6, 7, 8),
        iterations: int = 50,
        threshold: float = 0.1,
        saturation: float = 0.05,
        learning_rate: float = 0.1,
        task: Task | None = None,
    ) -> None:
        if not bits:
            raise BitdialError("bits must name at least one width to try, got none")
        if iterations < 1:
            raise BitdialError(f"iterations must be at least 1, got {iterations}")
        if not 0 <= threshold < 1:
            raise BitdialError(f"threshold must be a share of the loss in [0, 1), got {threshold}")
        if isinstance(loader, Iterator):
            raise BitdialError("loader must give its batches again for each width, got an iterator; pass list(loader)")
        self.model, self.loader, self.optimizer = model, loader, optimizer
        self.bits = sorted({check_bits(width) for width in bits})
        self.iterations, self.threshold, self.saturation = iterations, threshold, saturation
        self.learning_rate = learning_rate
        self.task: Task = task or Classification()
        self.dial = BitDial(model)

    def run(self) -> RangeTestResult:
        """Do the test.

        Raises:
            BitdialError: the loader gave no batch.
        """
        rows = []
        for width in self.bits:
            with self._undone() as optimizer:
                rows.append(self._train(width, optimizer))
        best = max(row.progress for row in rows)
        low = next((row.bits for row in rows if row.progress > self.threshold), None)
        high = next(row.bits for row in rows if row.progress >= best - self.saturation)
        return RangeTestResult(low, max(high, low or high), self.threshold, tuple(rows))

    def _train(self, width: float, optimizer: Optimizer) -> RangeTestRow:
        self.model.train()
        self.dial.set(width)
        device = next(self.model.parameters()).device
        losses, hits = [], []
        for batch in islice(_again(self.loader), self.iterations):
            batch = to_device(batch, device)
            logits = self.task.logits(self.model, batch)
            output = self.task.loss_of(logits, batch)
            optimizer.zero_grad()
            torch.autograd.backward(output.loss)
            optimizer.step()
            losses.append(float(output.loss.detach()))
            hits.append(float(output.metrics["accuracy"]) if "accuracy" in output.metrics else float("nan"))
        if not losses:
            raise BitdialError("loader must give at least one batch, got none")
        quarter = max(1, len(losses) // 4)
        last = sum(losses[-quarter:]) / quarter
        # A width whose loss blows up has made no progress.
        progress = 1 - last / losses[0] if losses[0] > 0 and last < float("inf") else float("-inf")
        return RangeTestRow(width, sum(losses[:quarter]) / quarter, last, sum(hits[-quarter:]) / quarter, progress)

    @contextmanager
    def _undone(self) -> Iterator[Optimizer]:
        """Give an optimizer to train with; put everything that training changes back afterwards."""
        state = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        gradients = [(p, None if p.grad is None else p.grad.clone()) for p in self.model.parameters()]
        modes = [(module, module.training) for module in self.model.modules()]
        kept = None if self.optimizer is None else copy.deepcopy(self.optimizer.state_dict())
        optimizer = self.optimizer or torch.optim.SGD(self.model.parameters(), self.learning_rate, momentum=0.9)
        with preserved_random_state():
            try:
                yield optimizer
            finally:
                with torch.no_grad():
                    for name, value in self.model.state_dict().items():
                        value.copy_(state[name])
                for parameter, gradient in gradients:
                    parameter.grad = gradient
                for module, mode in modes:
                    module.training = mode
                if kept is not None:
                    optimizer.load_state_dict(kept)


def _again(loader: Iterable[Any]) -> Iterator[Any]:
    """Batches without end; a loader without any gives none."""
    found = True
    while found:
        found = False
        for batch in loader:
            found = True
            yield batch
