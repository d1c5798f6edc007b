"""Where the values of a program lie: what is needed as codes and as floats, borders, and places in the workspace."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from bitdial.export.calibration import ActivationGrid
from bitdial.runtime.kernels import structures as c
from bitdial.runtime.operations import Borders, Convolve, Operation, Same, Shape
from bitdial.runtime.weights import STEP

SPARE = 64
"""Bytes behind every tensor of codes: the kernels read 16 channels at once where there are fewer."""


@dataclass(frozen=True)
class CodesOf:
    """A value on a grid."""

    value: str
    grid: ActivationGrid


@dataclass(eq=False)
class Step:
    """An operation, and in which forms its output is written."""

    operation: Operation
    floats: bool = False
    codes: CodesOf | None = None

    @property
    def reads(self) -> list[str | CodesOf]:
        """What must be there before it."""
        kind, inputs = self.operation.kind, list[str | CodesOf](self.operation.inputs)
        if isinstance(kind, Convolve):
            inputs = [CodesOf(self.operation.inputs[0], kind.grid)]
        return inputs if self.operation.residual is None else [*inputs, self.operation.residual]

    @property
    def writes(self) -> list[str | CodesOf]:
        """What is there after it."""
        own: list[str | CodesOf] = [self.operation.output] if self.floats else []
        return own if self.codes is None else [*own, self.codes]


def borders_read(operation: Operation, kind: Convolve, image: Shape) -> Borders:
    """How many pixels around its input a convolution reads."""
    rows, columns = kind.weights.codes.shape[2:]
    top, left = kind.borders.top, kind.borders.left
    bottom = (operation.shape.height - 1) * kind.stride[0] + (rows - 1) * kind.dilation[0] + 1 - top - image.height
    right = (operation.shape.width - 1) * kind.stride[1] + (columns - 1) * kind.dilation[1] + 1 - left - image.width
    return Borders(top, left, max(bottom, 0), max(right, 0))


def steps_of(operations: Sequence[Operation], outgoing: Iterable[str]) -> list[Step]:
    """The operations with what each must write, and between them those that only bring a value to a grid."""
    steps = [Step(operation) for operation in operations]
    writers = {step.operation.output: step for step in steps}
    made: set[CodesOf] = set()
    out: list[Step] = []
    for step in steps:
        for wanted in step.reads:
            if isinstance(wanted, CodesOf) and wanted not in made:
                made.add(wanted)
                writer = writers.get(wanted.value)
                if writer is not None and writer.codes is None and writer.operation.takes_codes:
                    writer.codes = wanted
                else:
                    shape = step.operation.input_shape
                    assert shape is not None
                    out.append(Step(Operation(Same(), [wanted.value], wanted.value, shape), codes=wanted))
        out.append(step)
    as_floats = set(outgoing) | {wanted for step in out for wanted in step.reads if isinstance(wanted, str)}
    for step in steps:
        step.floats = step.operation.output in as_floats
    return out


@dataclass(eq=False)
class _Memory:
    """Places in the workspace of one image: first fit among what is in use at the same time."""

    size: int = 0
    used: list[tuple[int, int, int, int]] = field(default_factory=list)  # from and to which step, offset, bytes

    def place(self, first: int, last: int, count: int) -> int:
        """The offset of so many bytes that are needed from one step to another."""
        count = -(-count // 64) * 64
        at = 0
        for _, _, offset, length in sorted(
            (u for u in self.used if u[0] <= last and first <= u[1]), key=lambda u: u[2]
        ):
            if at + count <= offset:
                break
            at = max(at, offset + length)
        self.used.append((first, last, at, count))
        self.size = max(self.size, at + count)
        return at


def float_tensor(shape: Shape, external: int = -1) -> c.Tensor:
    """A dense tensor of floats."""
    channels, height, width = shape
    row = 4 * channels * width
    return c.Tensor(0, row * height, row, 4 * channels, 0, 0, height, width, height, channels, external)


def code_tensor(shape: Shape, borders: Borders) -> c.Tensor:
    """A tensor of codes with borders, its channels filled up to whole steps."""
    channels, height, width = shape
    pixel = -(-channels // STEP) * STEP
    rows, row = height + borders.top + borders.bottom, pixel * (width + borders.left + borders.right)
    return c.Tensor(0, row * rows, row, pixel, borders.top, borders.left, height, width, rows, channels, -1)


def placed(
    steps: Sequence[Step], incoming: Mapping[str, Shape], outgoing: Mapping[str, Shape]
) -> tuple[dict[str | CodesOf, c.Tensor], int]:
    """Every tensor, and the bytes of the workspace for one image.

    Args:
        steps: as `steps_of` makes them.
        incoming, outgoing: what the caller holds, in the order of its arrays.
    """
    external = {name: i for i, name in enumerate((*incoming, *outgoing))}
    tensors: dict[str | CodesOf, c.Tensor] = {
        name: float_tensor(shape, external[name]) for name, shape in {**incoming, **outgoing}.items()
    }
    shapes = dict(incoming)
    borders: dict[CodesOf, Borders] = {}
    first: dict[str | CodesOf, int] = {}
    last: dict[str | CodesOf, int] = {}
    for number, step in enumerate(steps):
        operation = step.operation
        shapes.setdefault(operation.output, operation.shape)
        if isinstance(operation.kind, Convolve):
            key = CodesOf(operation.inputs[0], operation.kind.grid)
            own = borders_read(operation, operation.kind, shapes[operation.inputs[0]])
            borders[key] = Borders(*map(max, zip(own, borders.get(key, own), strict=True)))
        for each in step.writes:
            first.setdefault(each, number)
        for each in (*step.reads, *step.writes):
            last[each] = number
    memory = _Memory()
    for each, number in first.items():
        if each in tensors:
            continue
        if isinstance(each, str):
            tensor, spare = float_tensor(shapes[each]), 0
        else:
            tensor, spare = code_tensor(shapes[each.value], borders[each]), SPARE
        tensor.image = -(-(tensor.image + spare) // 64) * 64
        tensor.offset = memory.place(number, last[each], tensor.image)
        tensors[each] = tensor
    return tensors, memory.size
