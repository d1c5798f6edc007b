"""Batch norms with parameters and statistics of their own for each width (Any-Precision DNNs, arXiv 1911.07346)."""

from __future__ import annotations

import copy
from bisect import bisect_right
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional, init
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._mode_utils import no_dispatch

from bitdial.layers.quantized import QuantizedLayer
from bitdial.numerics.learned_step import OneOf, is_distributed

PARAMETERS = ("weight", "bias")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
ROW = (*PARAMETERS, *STATISTICS)


class NormRow(nn.Module):
    """What a batch norm has for one width: parameters and statistics, each of which may be None."""

    def __init__(self, norm: nn.Module, *, same: bool) -> None:
        """A row that begins as `norm` is; with `same` on its very tensors, else on copies."""
        super().__init__()
        for name in PARAMETERS:
            value = norm._parameters[name]
            self.register_parameter(name, value if same else copy.deepcopy(value))
        for name in STATISTICS:
            buffer = norm._buffers[name]
            self.register_buffer(name, buffer if same else copy.deepcopy(buffer))


class _Values(NamedTuple):
    """The tensors of a row for one call; each may be None."""

    weight: Any
    bias: Any
    running_mean: Any
    running_var: Any
    num_batches_tracked: Any


def _of_row(name: str) -> property:
    return property(lambda norm: getattr(norm.row, name), doc=f"{name} of the row in force.")


class PerWidth(_BatchNorm):
    """A batch norm with a row of parameters and statistics for each of some widths.

    In force is the row nearest to the width of the quantized layer that the norm follows. Nothing but that width says
    which, so whatever turns, holds, loads or copies widths brings the norms along. The attributes `weight`,
    `running_mean` and so on are those of the row in force.
    """

    widths: tuple[float, ...]
    """Those that have a row, rising."""
    _keys: tuple[str, ...]  # the names of the rows
    _bounds: tuple[float, ...]  # the widths at which one row ends and the next begins
    _layer: tuple[QuantizedLayer]  # in a tuple: it is no part of the norm

    weight = _of_row("weight")
    bias = _of_row("bias")
    running_mean = _of_row("running_mean")
    running_var = _of_row("running_var")
    num_batches_tracked = _of_row("num_batches_tracked")

    @classmethod
    def like(cls, norm: nn.Module, widths: tuple[float, ...], layer: QuantizedLayer) -> PerWidth:
        """A norm whose rows begin as `norm` is, for `take_place`; `widths` rise."""
        new = cls.__new__(cls)
        nn.Module.__init__(new)
        new.widths, new._layer = widths, (layer,)
        new._keys = tuple(f"bits_{width:g}".replace(".", "_") for width in widths)
        for key in new._keys:
            new.add_module(key, NormRow(norm, same=key == new._keys[-1]))
        # Rounded as a layer's width is: a compiled graph must come to the same row as a number that was read.
        middles = [(low + high) / 2 for low, high in pairwise(widths)]
        new._bounds = tuple(torch.tensor(middles, dtype=torch.float32, device="cpu").tolist())
        return new

    @property
    def rows(self) -> list[Any]:
        """The rows, in the order of `widths`."""
        return [self._modules[key] for key in self._keys]

    @property
    def row(self) -> Any:
        """The row in force."""
        return self._modules[self._keys[self._index(self._layer[0].width(self._part))]]

    @property
    def _part(self) -> str:
        """Which width of the layer counts: the weights', where these follow the dial."""
        return "weight_bits" if self._layer[0].quantizer.fixed_bits is None else "activation_bits"

    def _index(self, width: float) -> int:
        return bisect_right(self._bounds, width)

    def reset_parameters(self) -> None:
        """As `torch.nn` does it, in every row."""
        for row in self.rows:
            for name, value in (*row._parameters.items(), *row._buffers.items()):
                if value is not None:
                    (init.ones_ if name in ("weight", "running_var") else init.zeros_)(value)

    def forward(self, input: Tensor) -> Tensor:
        """Output of the shape of the input ``(batch, channels, *space)``."""
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        layer, part = self._layer[0], self._part
        if torch.compiler.is_compiling() or type(getattr(layer, part)) is not Tensor:
            return self._at_any(input, getattr(layer, part))
        if torch._C._current_graph_task_id() < 0:
            layer.passes_here()
            index = self._index(layer.width(part))
            row = _values(self.rows[index])
        else:  # gradient checkpointing takes a forward pass again: at the width of the first time, counted once
            number = torch._C._current_autograd_node()._sequence_nr()
            index = self._index(layer.widths_at(number).get(part, layer.width(part)))
            row = _values(self.rows[index])
            with no_dispatch():  # selective checkpointing counts the operations of both times
                row = row._replace(**{n: v.clone() for n in STATISTICS if (v := getattr(row, n)) is not None})
        if is_distributed():
            given = {n: [getattr(each, n) for each in self.rows] for n in PARAMETERS if getattr(row, n) is not None}
            row = row._replace(**{name: OneOf.apply(index, *own) for name, own in given.items()})
        return self._normalized(input, row)

    def _at_any(self, x: Tensor, bits: Tensor) -> Tensor:
        """The output with the row chosen by a tensor: one graph for every width."""
        rows = [_values(row) for row in self.rows]
        index = torch.zeros(1, dtype=torch.int64, device=x.device)
        for bound in self._bounds:
            index = index + (bits.to(x.device) >= bound)
        columns = [None if own[0] is None else torch.stack(own) for own in zip(*rows, strict=True)]
        chosen = _Values(*(None if c is None else c.index_select(0, index).squeeze(0) for c in columns))
        output = self._normalized(x, chosen)
        if self.training and self.track_running_stats:
            for number, row in enumerate(rows):
                for name in STATISTICS:
                    own = getattr(row, name)
                    own.copy_(torch.where((index == number).squeeze(), getattr(chosen, name), own))
        return output

    def _normalized(self, x: Tensor, row: _Values) -> Tensor:
        """As `torch.nn` does it."""
        share, tracks = self.momentum, self.training and self.track_running_stats
        if tracks:
            row.num_batches_tracked.add_(1)
            if share is None:  # a plain average
                share = 1.0 / float(row.num_batches_tracked)
        mean, var = (row.running_mean, row.running_var) if tracks or not self.training else (None, None)
        by_batch = self.training or row.running_mean is None
        return functional.batch_norm(x, mean, var, row.weight, row.bias, by_batch, share or 0.0, self.eps)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Load; of the state of an ordinary norm, every row takes all."""
        ordinary = {name: state_dict.pop(prefix + name) for name in _Values._fields if prefix + name in state_dict}
        if ordinary:
            for key, row in zip(self._keys, self.rows, strict=True):
                for name, own in row.state_dict(keep_vars=True).items():  # states of old versions count no batches
                    state_dict.setdefault(f"{prefix}{key}.{name}", copy.deepcopy(ordinary.get(name, own)))
        nn.Module._load_from_state_dict(self, state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """That of the norm, and the widths that have a row."""
        of_norm = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{of_norm}, widths={', '.join(f'{width:g}' for width in self.widths)}"


def _values(row: Any) -> _Values:
    return _Values(*(getattr(row, name) for name in _Values._fields))


class BatchNorm1dPerWidth(PerWidth, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` with a row for each width."""


class BatchNorm2dPerWidth(PerWidth, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` with a row for each width."""


class BatchNorm3dPerWidth(PerWidth, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` with a row for each width."""
