"""The precision range test: from which width on does training make progress?"""

from __future__ import annotations

import copy
import math
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
from bitdial.evaluation.sweep import unchanged
from bitdial.layers import BitDial
from bitdial.layers.names import train_mode
from bitdial.numerics import check_bits
from bitdial.training import Classification, Task, preserved_random_state
from bitdial.training.batches import to_device
from bitdial.training.step.memory import shares


@dataclass(frozen=True)
class RangeTestRow:
    """What training at one width did.

    Attributes:
        bits: the width.
        first_loss, last_loss: mean training loss over the first and the last quarter of the iterations (over all that
            the task counts in their batches, as `accuracy`).
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
            ends = [name for name, end in (("lowest", self.low), ("highest", self.high)) if row.bits == end]
            mark = f"  <- {' and '.join(ends)}" if ends else ""
            losses = f"{row.first_loss:11.4f} {row.last_loss:10.4f}"
            lines.append(f"{row.bits:6g} {losses} {row.accuracy:9.1%} {row.progress:9.1%}{mark}")
        return "\n".join(lines)

    def plot(self, path: str | Path) -> Path:
        """Draw progress against width to a picture file and return its path."""
        from matplotlib.ticker import NullLocator

        from bitdial.evaluation.drawing import COLOURS
        from bitdial.evaluation.plot_style import new_figure, quiet

        widths = [row.bits for row in self.rows]
        # A width whose loss blew up has no progress to draw; it would press the rest flat, and is named instead.
        drawn = [(row.bits, 100 * row.progress) for row in self.rows if row.progress > -0.5]
        blue, red, green = COLOURS[:3]
        figure = new_figure(7.0, 4.2)
        axes = figure.subplots()
        if self.low is not None:
            label = f"{self.low:g} bits" if self.low == self.high else f"{self.low:g} to {self.high:g} bits"
            axes.axvspan(self.low * 0.96, self.high * 1.04, color=green, alpha=0.15, lw=0, label=f"range: {label}")
        axes.axhline(100 * self.threshold, color="0.4", linestyle="--", label=f"threshold: {self.threshold:.0%}")
        axes.plot([x for x, _ in drawn], [y for _, y in drawn], "o-", color=blue)
        for bits in set(widths) - {x for x, _ in drawn}:
            axes.annotate("loss rose", (bits, 0.02), xycoords=("data", "axes fraction"), ha="center", color=red)
        x, y = "width of weights and activations (bits)", "share of the first loss that is gone (%)"
        quiet(axes, title="Precision range test", x=x, y=y)
        axes.set_xscale("log", base=2)
        axes.set_xticks(widths, [f"{width:g}" for width in widths])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlim(min(widths) / 1.15, max(widths) * 1.15)
        axes.legend(frameon=False)
        figure.savefig(path)
        return Path(path)


class PrecisionRangeTest:
    """Trains briefly at each width, from the lowest up, and finds the bounds of a useful cycle.

    As CPT's range test (Fu et al., ICLR 2021, section 3.3), the lower bound is the first width whose training progress
    exceeds a threshold. Every width starts from the same weights, optimizer state and random state.

    Model, optimizer, dial and random generators (those of the loader, too) come back bit for bit as they were, errors
    and Ctrl-C included.

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

    Example:
        >>> import torch
        >>> import bitdial as bd
        >>> net = bd.quantize(torch.nn.Sequential(*[torch.nn.Linear(8, 8) for _ in range(4)]))
        >>> batches = [(torch.randn(16, 8), torch.randint(8, (16,))) for _ in range(2)]
        >>> found = bd.PrecisionRangeTest(net, batches, bits=[2, 8], iterations=3).run()
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
        low = next((row.bits for row in rows if row.progress > self.threshold), None)
        enough = max(row.progress for row in rows) - self.saturation
        high = next(row.bits for row in rows if row.progress >= enough and row.bits >= (low or row.bits))
        return RangeTestResult(low, high, self.threshold, tuple(rows))

    def _train(self, width: float, optimizer: Optimizer) -> RangeTestRow:
        train_mode(self.model)
        self.dial.set(width)
        device = next(self.model.parameters()).device
        losses, hits, counts = [], [], []
        for batch in islice(_again(self.loader), self.iterations):
            batch = to_device(batch, device)
            logits = self.task.logits(self.model, batch)
            output = self.task.loss_of(logits, batch)
            optimizer.zero_grad()
            torch.autograd.backward(output.loss)
            optimizer.step()
            losses.append(float(output.loss.detach()))
            hits.append(float(output.metrics["accuracy"]) if "accuracy" in output.metrics else float("nan"))
            counts.append(float(self.task.examples(batch)))
        if not losses:
            raise BitdialError("loader must give at least one batch, got none")
        quarter = max(1, len(losses) // 4)
        first, ends = slice(quarter), slice(-quarter, None)
        last = _mean(losses[ends], counts[ends])
        # A width whose loss blows up has made no progress.
        progress = 1 - last / losses[0] if losses[0] > 0 and last < float("inf") else float("-inf")
        accuracy = _mean(hits[ends], counts[ends])
        return RangeTestRow(width, _mean(losses[first], counts[first]), last, accuracy, progress)

    @contextmanager
    def _undone(self) -> Iterator[Optimizer]:
        """Give an optimizer to train with; put everything that training changes back afterwards."""
        parameters = [(p, p.detach().clone(), p.grad) for p in self.model.parameters()]
        generators = [(generator, generator.get_state()) for generator in _generators(self.loader)]
        kept = None if self.optimizer is None else copy.deepcopy(self.optimizer.state_dict())
        optimizer = self.optimizer or torch.optim.SGD(self.model.parameters(), self.learning_rate, momentum=0.9)
        with preserved_random_state(), unchanged(self.model):
            for parameter, _, _ in parameters:
                parameter.grad = None  # the caller's gradients are put aside, not written over
            try:
                yield optimizer
            finally:
                with torch.no_grad():
                    for parameter, value, gradient in parameters:
                        parameter.copy_(value)
                        parameter.grad = gradient
                for generator, state in generators:
                    generator.set_state(state)
                if kept is not None:
                    optimizer.load_state_dict(kept)


def _mean(means: Sequence[float], counts: Sequence[float]) -> float:
    """The mean over batches, each counted by what its own mean is over."""
    return math.fsum(mean * share for mean, share in zip(means, shares(counts), strict=True))


def _generators(loader: Iterable[Any]) -> list[torch.Generator]:
    """The generators that a DataLoader and its sampler own."""
    owners = (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    found = (getattr(owner, "generator", None) for owner in owners)
    return [generator for generator in found if isinstance(generator, torch.Generator)]


def _again(loader: Iterable[Any]) -> Iterator[Any]:
    """Batches without end; a loader without any gives none."""
    found = True
    while found:
        found = False
        for batch in loader:
            found = True
            yield batch
