"""Training methods: at which widths the passes of a step are, and what each of them learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bitdial import schedules
from bitdial.errors import BitdialError
from bitdial.layers import BitDial
from bitdial.recipes.joint.options import JointConfig
from bitdial.training import Task, TaskOutput
from bitdial.training.knobs import Widths
from bitdial.training.step.memory import batch_size
from bitdial.training.tasks import Count, divergence

SANDWICHED = 2
"""Random passes of a sandwich, between the widest and the narrowest."""


@dataclass(frozen=True)
class Turn:
    """What one pass of a step is.

    Attributes:
        widths: of each layer.
        weight: factor on its loss; those of a step have the mean 1.
        taught: whether it learns from the predictions of the pass before it instead of the labels.
    """

    widths: Widths
    weight: float = 1.0
    taught: bool = False


Turns = tuple[Turn, ...]
"""The passes of a step."""


def plan(options: JointConfig, layers: int, seed: int) -> Callable[[int], Turns]:
    """``step -> passes``: a pure function of the step, the same after a resume.

    Args:
        options: the method, and its options.
        layers: how many layers are quantized.
        seed: of what is drawn.
    """
    method, widths = options.training_method, sorted(options.bitwidth_options, reverse=True)
    together = [Turn((width,) * layers) for width in widths]
    if method == "vanilla_single_precision_training":
        return lambda step: (together[0],)
    if method == "alternating":
        return lambda step: (together[step % len(together)],)
    if method == "any_precision":
        each = (together[0], *(Turn(turn.widths, taught=True) for turn in together[1:]))
        return lambda step: each
    if method == "matryoshka":
        weight = dict(zip(options.bitwidth_options, options.loss_weights or [1.0] * len(widths), strict=True))
        mean = sum(weight.values()) / len(weight)
        weighed = tuple(Turn((width,) * layers, weight[width] / mean) for width in widths)
        return lambda step: weighed
    bits, sandwich = schedules.random_bits(options.bitwidth_options, seed=seed), method == "sandwich"
    passes = SANDWICHED if sandwich else options.joint_quantization_batch_size
    ends = (together[0], together[-1]) if sandwich else ()

    def drawn(step: int) -> Turns:
        first = step * passes
        random = (
            tuple(bits(each * layers + layer) for layer in range(layers)) for each in range(first, first + passes)
        )
        return (*ends, *map(Turn, random))

    return drawn


class Lessons:
    """What the passes over one batch hand on: predictions, by the examples that they are of."""

    def __init__(self) -> None:
        self._logits: dict[tuple[int, int], Tensor] = {}

    def leave(self, part: tuple[int, int], logits: Tensor) -> None:
        """Keep the predictions for a part of the batch in the place of earlier ones."""
        self._logits[part] = logits.detach()

    def of(self, part: tuple[int, int]) -> Tensor:
        """The predictions for it by the pass before, which was cut in the same way."""
        return self._logits[part]


@dataclass(frozen=True)
class Pass:
    """One pass of a step over a batch, or over a part of it.

    A batch that is too large for the memory is cut along its examples, and the step done again from its start: `rows`,
    which is cut like it, tells which examples a part has, so that each learns from the predictions for its own.
    """

    rows: Tensor
    batch: Any
    turn: Turn
    teaches: bool
    lessons: Lessons

    @property
    def part(self) -> tuple[int, int]:
        """First example and number of examples."""
        return (int(self.rows[0]) if len(self.rows) else 0, len(self.rows))  # of a tensor that stays on the host


class InPasses:
    """A task in several passes over each batch, whose losses the loop averages.

    The loss of a pass that is taught is the distance of its predictions to those of the pass before it, which get no
    gradient from it: each width learns from the next wider one. Source: Yu, Li, Shi, Huang, Hua, "Any-Precision Deep
    Neural Networks", 2019 (arXiv 1911.07346).

    Args:
        task: loss and scores of a batch.
        dial: of the model.
        turns: the passes of the first step.
    """

    def __init__(self, task: Task, dial: BitDial, turns: Turns) -> None:
        self.task, self.dial, self.turns = task, dial, turns
        self.metric, self.higher_is_better = task.metric, task.higher_is_better
        self.logits, self.loss_of, self.score = task.logits, task.loss_of, task.score

    def turn(self, turns: Turns) -> None:
        """Take the passes of the next step."""
        self.turns = turns

    def passes(self, batch: Any) -> list[Pass]:
        """The passes over a batch."""
        rows, lessons = torch.arange(batch_size(batch)), Lessons()
        teaches = [turn.taught for turn in self.turns[1:]] + [False]
        return [Pass(rows, batch, turn, each, lessons) for turn, each in zip(self.turns, teaches, strict=True)]

    def examples(self, batch: Pass) -> Count:
        """What the loss of a pass is a mean over."""
        return self.task.examples(batch.batch)

    def loss(self, model: nn.Module, batch: Pass) -> TaskOutput:
        """Turn the dial to the widths of a pass, and run the model.

        Raises:
            BitdialError: predictions that are no scores of classes, where one pass is to learn from another's.
        """
        turn = batch.turn
        self.dial.set(turn.widths)
        if turn.taught or batch.teaches:
            logits = self.task.logits(model, batch.batch)
            output = self._taught(logits, batch)
        else:
            output = self.task.loss(model, batch.batch)
        return output if turn.weight == 1.0 else replace(output, loss=output.loss * turn.weight)

    def _taught(self, logits: Tensor, batch: Pass) -> TaskOutput:
        output = self.task.loss_of(logits, batch.batch)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
            shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise BitdialError(
                "training_method any_precision teaches each width the classes that the next wider one predicts, "
                f"expected logits [N, classes], got {shape}; take --training_method sandwich, which needs labels only"
            )
        if batch.turn.taught:
            output = replace(output, loss=divergence(logits, batch.lessons.of(batch.part), output.ignored))
        if batch.teaches:
            batch.lessons.leave(batch.part, logits)
        return output
