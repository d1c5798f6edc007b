"""Operations as a program of the kernels: their structures, and the calls."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bitdial.runtime.kernels import structures as c
from bitdial.runtime.layout import CodesOf, Step, placed, steps_of
from bitdial.runtime.operations import (
    ByChannel,
    Clamp,
    Concatenate,
    Convolve,
    Kind,
    Multiply,
    Operation,
    Pooling,
    Same,
    Shape,
    Table,
)
from bitdial.runtime.weights import BLOCK, aligned

CACHE = 2**23
"""So many bytes of workspace are worked in at a time, if more than one example is there: what stays in the cache."""


class Program:
    """Operations that are run in one call, for any number of examples.

    Args:
        operations: in order; every value that they read is written by one before, or incoming.
        incoming, outgoing: values with their shapes, which the caller holds as dense floats, channels last.
    """

    def __init__(
        self, operations: Sequence[Operation], incoming: Mapping[str, Shape], outgoing: Mapping[str, Shape]
    ) -> None:
        self.incoming, self.outgoing = dict(incoming), dict(outgoing)
        self.operations = list(operations)
        self._library = c.compiled()
        self._kept: list[Any] = []
        self._spread = self._taps = 0
        self._free: list[torch.Tensor] = []
        steps = steps_of(operations, outgoing)
        self._tensors, self.image = placed(steps, self.incoming, self.outgoing)
        self._made = calls = [call for step in steps for call in self._calls(step)]
        array = (c.Step * len(calls))(*(c.Step(c.KINDS.index(type(call)), ctypes.addressof(call)) for call in calls))
        self._kept.append(array)
        self._program = c.Program(ctypes.addressof(array), len(calls), self.image, self._spread, self._taps)
        self.together = max(1, CACHE // max(self.image, 1))

    def __call__(self, inputs: Sequence[torch.Tensor], examples: int, threads: int) -> list[torch.Tensor]:
        """Run it.

        Args:
            inputs: the incoming values, float32 ``(examples, height, width, channels)``, dense.

        Returns:
            The outgoing ones, alike.
        """
        outputs = [torch.empty(examples, s.height, s.width, s.channels) for s in self.outgoing.values()]
        if examples == 0:
            return outputs
        places = (ctypes.c_void_p * (len(inputs) + len(outputs)))(*(t.data_ptr() for t in (*inputs, *outputs)))
        program = ctypes.addressof(self._program)
        together = min(self.together, -(-examples // threads) if examples >= threads else examples)
        size = self._library.workspace(program, examples, together, threads)
        memory = self._take(size)
        self._library.run(program, ctypes.addressof(places), examples, together, threads, memory.data_ptr())
        self._free.append(memory)
        return outputs

    def _take(self, size: int) -> torch.Tensor:
        """Memory to work in, which no other thread has at the same time."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = torch.empty(0, dtype=torch.uint8)
        return memory if memory.numel() >= size else torch.empty(size, dtype=torch.uint8)

    @property
    def convolutions(self) -> list[c.Convolution]:
        """The structures of those that are no depthwise ones."""
        return [each for each in self._made if isinstance(each, c.Convolution)]

    @property
    def memory(self) -> int:
        """Bytes of weights and tables."""
        return sum(each.nbytes for each in self._kept if isinstance(each, np.ndarray))

    @property
    def scratch(self) -> int:
        """Bytes that each thread works in besides the images."""
        return self._spread + self._taps

    def _calls(self, step: Step) -> list[Any]:
        """The structures of a step."""
        operation = step.operation
        kind: Kind = operation.kind
        if isinstance(kind, Convolve):
            codes = self._tensors[CodesOf(operation.inputs[0], kind.grid)]
            return [self._depthwise(step, kind, codes) if kind.weights.each else self._convolution(step, kind, codes)]
        inputs = [self._tensors[name] for name in operation.inputs]
        if isinstance(kind, Multiply):
            return [self._floating(step, kind, inputs[0])]
        if isinstance(kind, Pooling):
            return [self._pool(step, kind, inputs[0])]
        if isinstance(kind, Same):
            return [c.Each(self._finish(step, 1), inputs[0], operation.scale is not None)]
        output = self._tensors[operation.output]
        if isinstance(kind, Concatenate):
            starts = np.cumsum([0, *(each.channels for each in inputs)]).tolist()
            return [c.Join(each, output, start) for each, start in zip(inputs, starts, strict=False)]
        assert isinstance(kind, ByChannel)
        return [c.Order(inputs[0], output, 0)]

    def _keep(self, values: NDArray[Any]) -> int:
        """The address of an array, which lives as long as the program."""
        self._kept.append(values)
        return int(values.ctypes.data)

    def _blocks(self, values: NDArray[Any], groups: int, dtype: Any) -> int:
        """Numbers of output channels, in whole blocks for each group."""
        per = len(values) // groups
        full = np.zeros((groups, -(-per // BLOCK) * BLOCK), dtype)
        full[:, :per] = values.reshape(groups, per)
        return self._keep(aligned(full))

    def _finish(self, step: Step, groups: int, shift: NDArray[Any] | None = None) -> c.Finish:
        operation, channels = step.operation, step.operation.shape.channels
        out = c.Finish()
        out.scale = self._blocks(np.ones(channels) if operation.scale is None else operation.scale, groups, np.float32)
        out.bias = self._blocks(np.zeros(channels) if operation.bias is None else operation.bias, groups, np.float32)
        out.shift = self._blocks(np.zeros(channels) if shift is None else shift, groups, np.int32)
        if isinstance(operation.act, Clamp):
            out.act, out.low, out.high = 1, operation.act.low, operation.act.high
        elif isinstance(operation.act, Table):
            table = operation.act
            out.act, out.low, out.high, out.cells = 2, table.low, table.high, len(table.values) - 1
            (out.left_slope, out.left_offset), (out.right_slope, out.right_offset) = table.below, table.above
            out.table = self._keep(np.concatenate([table.values[:-1], np.diff(table.values)]).astype(np.float32))
        if operation.residual is not None:
            out.has_residual, out.residual = 1, self._tensors[operation.residual]
        if step.floats:
            out.to_float, out.values = 1, self._tensors[operation.output]
        if step.codes is not None:
            grid = step.codes.grid
            out.to_codes, out.codes = 1, self._tensors[step.codes]
            out.inverse, out.zero, out.last = 1.0 / grid.scale, grid.zero_point, grid.levels - 1
        return out

    def _convolution(self, step: Step, kind: Convolve, codes: c.Tensor) -> c.Convolution:
        weights, shape = kind.weights, step.operation.shape
        segments = weights.segments(codes.row, codes.pixel, kind.dilation)
        array = (c.Segment * len(segments))(*(c.Segment(*each) for each in segments))
        self._kept.append(array)
        tiled = kind.stride == kind.dilation == (1, 1) and weights.tiles
        self._spread = max(self._spread, weights.scratch(tiled))
        bits, stride, least = weights.packing
        base = -kind.borders.top * codes.row - kind.borders.left * codes.pixel
        return c.Convolution(
            self._finish(step, weights.groups, shift_of(kind)), codes, base,
            kind.stride[0] * codes.row, kind.stride[1] * codes.pixel, shape.height, shape.width, weights.groups,
            shape.channels // weights.groups, weights.codes.shape[1], weights.wide, tiled, bits, stride, least,
            len(segments), weights.steps,
            ctypes.addressof(array), self._keep(weights.packed),
        )  # fmt: skip

    def _depthwise(self, step: Step, kind: Convolve, codes: c.Tensor) -> c.Depthwise:
        weights, shape = kind.weights, step.operation.shape
        rows, columns = weights.codes.shape[2:]
        taps = [
            y * kind.dilation[0] * codes.row + x * kind.dilation[1] * codes.pixel
            for y in range(rows) for x in range(columns)
        ]  # fmt: skip
        base = -kind.borders.top * codes.row - kind.borders.left * codes.pixel
        return c.Depthwise(
            self._finish(step, 1, shift_of(kind)), codes, base, kind.stride[0] * codes.row,
            kind.stride[1] * codes.pixel, shape.height, shape.width, shape.channels, (len(taps) + 1) // 2,
            self._keep(np.array(taps + taps[-1:] * (len(taps) % 2), np.int64)), self._keep(weights.paired),
        )  # fmt: skip

    def _floating(self, step: Step, kind: Multiply, source: c.Tensor) -> c.Floating:
        operation = step.operation
        out, channels, rows, columns = kind.weights.shape
        per = out // kind.groups
        values = kind.weights.astype(np.float64)
        if operation.scale is not None:
            values = values * operation.scale[:, None, None, None]
        full = np.zeros((kind.groups, -(-per // BLOCK) * BLOCK, channels, rows, columns), np.float32)
        full[:, :per] = values.reshape(kind.groups, per, channels, rows, columns)
        blocks = full.reshape(-1, BLOCK, channels, rows, columns).transpose(0, 3, 4, 2, 1)
        taps = [
            (y * kind.dilation[0] - kind.borders.top, x * kind.dilation[1] - kind.borders.left)
            for y in range(rows) for x in range(columns)
        ]  # fmt: skip
        self._taps = max(self._taps, -(-len(taps) * 4 * 8 // 64) * 64)
        bare = Step(replace(operation, scale=None), step.floats, step.codes)
        return c.Floating(
            self._finish(bare, kind.groups), source, operation.shape.height, operation.shape.width, *kind.stride,
            kind.groups, per, channels, len(taps), self._keep(np.array(taps, np.int32)), self._keep(aligned(blocks)),
            self._keep(np.zeros(channels, np.float32)),
        )  # fmt: skip

    def _pool(self, step: Step, kind: Pooling, source: c.Tensor) -> c.Pool:
        shape, borders = step.operation.shape, kind.borders
        return c.Pool(
            self._finish(step, 1), source, shape.height, shape.width, *kind.stride, borders.top, borders.left,
            *kind.window, *kind.dilation, kind.largest, kind.divisor, borders.bottom, borders.right,
        )  # fmt: skip


def shift_of(kind: Convolve) -> NDArray[np.int64]:
    """What is added to a sum of products of codes, so that the code of zero counts as none."""
    sums: NDArray[np.int64] = kind.weights.codes.astype(np.int64).sum((1, 2, 3))
    assert kind.grid.zero_point is not None
    return -kind.grid.zero_point * sums
