"""Layers whose weights, activations and gradients lie on grids that a dial can turn.

Widths are 0-dim tensors, so `torch.compile` sees tensors, not numbers: one graph serves every width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._mode_utils import no_dispatch

from bitdial.errors import BitdialError
from bitdial.layers.arithmetic import (
    Arithmetic,
    ConvArithmetic,
    LinearArithmetic,
    QuantizedProduct,
    TransposedArithmetic,
    recorded_product,
)
from bitdial.layers.ranges import RANGE, RANGE_MOMENTUM, HoldsRanges
from bitdial.layers.swapping import take_place
from bitdial.layers.weight import Weight
from bitdial.layers.widths import WIDTHS
from bitdial.numerics import UNQUANTIZED, check_bits, get_activation_quantizer, get_quantizer
from bitdial.numerics.fitted import hadamard_block, rotated
from bitdial.numerics.grid import IDENTITY, Grid, TensorGrid, is_opaque, is_traced, may_read
from bitdial.numerics.learned_step import LearnsPerWidth
from bitdial.numerics.learned_ternary import LearnedWeight
from bitdial.numerics.nested import NESTED
from bitdial.numerics.quantizers import group_size

STORED = "weight_quantizer.stored"
"""What stands in the state of a layer whose weight came out of a packed file."""

_STATE = (*WIDTHS, *RANGE)

ADDED = (
    *_STATE,
    "weight_quantizer",
    "activation_quantizer",
    "quantizer",
    "activation",
    "granularity",
    "group_size",
    "range_momentum",
)
"""What a quantized layer has that a float one has not."""


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two weights are the same but for rounding to another dtype, and for what has no values."""
    if one.is_meta or other.is_meta:
        return True
    return one.shape == other.shape and torch.allclose(one.float(), other.to(one.device).float(), rtol=1e-2)


class QuantizedLayer(HoldsRanges):
    """What the quantized layers share: widths, ranges, and the way from an input to an output.

    Tensors (all float32, also in a model that is moved to another dtype; widths are part of the state, but no buffers):
        weight_bits, activation_bits: 0-dim, the widths in force.
        gradient_bits: 0-dim, or None where gradients are never quantized.
        range_low, range_high: 0-dim, running average of the activations' minimum and maximum while training; what
            evaluation clips to, so that an output does not depend on which other samples are in the batch.
        range_batches: 0-dim, how many batches that average has seen; at 0 evaluation uses the batch at hand. (In an
            average of models it counts no whole batches, which neither use minds.)

    With `keep_ranges` the last three have one entry for each call.

    `weight_quantizer` is the module that turns the weight into its grid values where these have learned scales, else
    None. Its scales fit the weight that the layer was made with, was given since, or loaded from a state of the float
    layer; after changing weights in place by hand call ``weight_quantizer.reset(weight)``. `activation_quantizer` is
    the module that brings the input to its grid where that is learned, else None.

    `is_read` says whether another module has read the weight in its own forward pass: it gets the values on the grid,
    but what it multiplies them with stays in floating point.
    """

    _shape: ClassVar[tuple[str, ...]]  # the constructor's arguments that say what the float layer is
    _feature_dims: ClassVar[int] = 1  # how many of the last dimensions of the input are one token, or one example

    weight = Weight()
    """The float parameter; within the forward pass of another module its values on the grid, differentiable."""
    bias: Any
    weight_quantizer: nn.Module | None
    activation_quantizer: nn.Module | None
    weight_bits: Tensor
    activation_bits: Tensor
    gradient_bits: Tensor | None
    is_read: bool = False

    def __init__(
        self,
        *shape: Any,
        weights: float = UNQUANTIZED,
        activations: float = UNQUANTIZED,
        gradients: float | None = None,
        quantizer: str = "uniform",
        granularity: str | None = None,
        weight_quantizer: str | None = None,
        activation_quantizer: str | None = None,
        widths: Sequence[float] | None = None,
        nested: bool = False,
        like: nn.Module | None = None,
        **more: Any,
    ) -> None:
        super().__init__(*shape, **more)
        if like is not None:  # its very parameters, before learned scales begin from them
            self.weight, self.bias = like.weight, like.bias
        self.quantizer = get_quantizer(weight_quantizer or quantizer)
        if nested and self.quantizer is not NESTED:
            if self.quantizer.name != "uniform":
                raise BitdialError(
                    f"nested grids are those of the weight quantizer uniform, got {self.quantizer.name}; leave nested "
                    "out, or take uniform"
                )
            self.quantizer = NESTED
        self.activation = get_activation_quantizer(activation_quantizer or get_quantizer(quantizer).activations)
        self.granularity = granularity or self.quantizer.granularity
        self.group_size = group_size(self.granularity)
        kept = None if widths is None else [check_bits(width, "widths") for width in widths]
        self.range_momentum = RANGE_MOMENTUM
        low, high = self.activation.range or (0.0, 0.0)
        buffers = {
            "weight_bits": self.quantizer.weight_width(check_bits(weights, "weights")),
            "activation_bits": check_bits(activations, "activations"),
            "gradient_bits": None if gradients is None else check_bits(gradients, "gradients"),
            "range_low": low,
            "range_high": high,
            "range_batches": 0.0,
        }
        self._built = {name: value for name, value in buffers.items() if value is not None}
        for name in buffers:
            tensor = self._as_built(name) if name in self._built else None
            if name in WIDTHS:
                setattr(self, name, tensor)
            else:
                self.register_buffer(name, tensor)
        make = self.quantizer.make_weight
        own = {"widths": kept} if self.quantizer.per_width else {}
        self.weight_quantizer = make and make(self._rows(self.weight), self.per_channel, **own)
        learned = self.activation.module(kept, self._feature_dims)
        self.activation_quantizer = learned and learned.to(self.weight.device)

    @property
    def per_channel(self) -> bool:
        """Whether there are more grids than one for the weight."""
        return self.granularity != "tensor"

    @property
    def scale_groups(self) -> int:
        """How many parts of the weight have a grid of their own."""
        weight = self._float_weight()
        return len(self._rows(weight)) if self.per_channel and weight.dim() > 1 else 1

    def outputs_first(self, weight: Tensor) -> Tensor:
        """A tensor in the weight's layout as ``(out, in / groups, ...)``, which is how a quantizer takes it."""
        return weight

    def as_weight(self, values: Tensor) -> Tensor:
        """What `outputs_first` gave, or the like with another number of inputs, in the weight's own layout."""
        return values

    def _group(self, weight: Tensor) -> int:
        """How many weights of a channel share a grid: the most up to what was asked for that divide it evenly."""
        assert self.group_size is not None
        row = weight[0].numel()
        return next((size for size in range(min(self.group_size, row), 0, -1) if row % size == 0), 1)

    def _rows(self, weight: Tensor) -> Tensor:
        """The weight as what a quantizer takes, the weights of one grid in one entry of the first dimension."""
        return self._grouped(self.outputs_first(weight))

    def _grouped(self, weight: Tensor) -> Tensor:
        return weight if self.group_size is None else weight.reshape(-1, self._group(weight))

    def _from_rows(self, rows: Tensor) -> Tensor:
        """What `_rows` gave, in the weight's own layout."""
        weight = self._float_weight()
        return self.as_weight(rows if self.group_size is None else rows.reshape(self.outputs_first(weight).shape))

    @classmethod
    def like(cls, layer: nn.Module, **quantization: Any) -> Self:
        """A quantized layer on the very parameters of a float one, for `take_place`.

        `quantization` is what the constructor takes of it: weights, activations, gradients, quantizer and so on.
        """
        shape = {name: getattr(layer, name) for name in cls._shape}
        new = cls(**shape, bias=layer.bias is not None, device="meta", like=layer, **quantization)
        return new.train(layer.training)

    @classmethod
    def from_float(cls, layer: nn.Module, **quantization: Any) -> Self:
        """A quantized layer with the very parameters of `layer`, its hooks, mode and all else; `layer` stays float.

        `quantization` as in `like`.
        """
        twin = copy.copy(layer)
        for store in ("_parameters", "_buffers", "_modules"):
            vars(twin)[store] = vars(layer)[store].copy()
        take_place(cls.like(layer, **quantization), twin)
        return twin  # type: ignore[return-value]  # it has become one

    def reset_parameters(self) -> None:
        """As `torch.nn` does it; scales that are learned fit the new weight."""
        super().reset_parameters()  # type: ignore[misc]
        self._fit_scales()

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As ever; learned scales fit another weight that is put in the place of the old one (fused with a norm)."""
        before = self._parameters.get("weight") if name == "weight" else None
        super().register_parameter(name, param)
        if before is not None and param is not None and self._scales() and not _alike(before, param):
            self._fit_scales()

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """As ever; learned scales fit what a mask of `torch.nn.utils.prune` leaves of the weight."""
        super().register_buffer(name, tensor, persistent)
        whole = self._parameters.get("weight_orig") if name == "weight_mask" else None
        if whole is not None and tensor is not None:
            self._fit_scales(whole * tensor)

    def _scales(self) -> LearnedWeight | None:
        quantizer = self._modules.get("weight_quantizer")  # none yet while the layer is being made
        return quantizer if isinstance(quantizer, LearnedWeight) else None

    def _fit_scales(self, weight: Tensor | None = None) -> None:
        if scales := self._scales():
            scales.reset(self._rows(self._float_weight() if weight is None else weight))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        """Load; a state of the float layer is good too: widths stay as they are, and the range is forgotten."""
        if prefix + STORED in state_dict and not hasattr(self.weight_quantizer, "stored"):
            raise BitdialError(
                f'layer "{prefix.rstrip(".")}" of the state holds weights that come from a packed file, which must not '
                "be quantized again; load the packed file itself, with load_packed(path, model)"
            )
        own = {prefix + name for name in _STATE}
        of_float = prefix + "weight" in state_dict and own.isdisjoint(state_dict)
        if of_float and (scales := self._scales()):
            fitting = scales.initial(self._rows(state_dict[prefix + "weight"]))  # it loads after this, from the same
            state_dict.update({f"{prefix}weight_quantizer.{name}": scale for name, scale in fitting.items()})
        if of_float and self.activation_quantizer is not None:  # it stays as it is
            kept = self.activation_quantizer.state_dict()
            state_dict.update({f"{prefix}activation_quantizer.{name}": value for name, value in kept.items()})
        super()._load_from_state_dict(state_dict, prefix, *rest)
        if of_float:
            missing: list[str] = rest[2]
            missing[:] = [key for key in missing if key not in own]
            self.reset_range()
        for name in self._built:
            if getattr(self, name).is_meta and not self.weight.is_meta:  # assigned to a layer on the meta device
                setattr(self, name, self._as_built(name))

    def _float_weight(self) -> Any:
        """The weight as it is, also for another module that is running."""
        weight = self._parameters.get("weight")
        if weight is None:
            weight = vars(self).get("weight")
        return self.weight if weight is None else weight

    def quantized_weight(self) -> Tensor:
        """The weight at the width in force, differentiable; on its grid unless the quantizer rotates it."""
        values = self.grid_weight()
        block = self._block
        return values if block == 1 else self.as_weight(rotated(self.outputs_first(values), 1, block))

    def grid_weight(self) -> Tensor:
        """The weight on its grid at the width in force; differentiable."""
        weight = self._float_weight()
        if self._is_stored:
            return self.as_weight(self.weight_quantizer(self.outputs_first(weight), self.weight_bits))  # type: ignore[misc]
        rows = self.rotated_rows()
        if self.weight_quantizer is None:
            quantized = self.quantizer.weight(rows, self.weight_bits, self.per_channel)
        else:
            quantized = self._by_width(self.weight_quantizer, rows, "weight_bits")
        return self._from_rows(quantized)

    def _by_width(self, module: nn.Module, x: Tensor, part: str) -> Tensor:
        """What a module makes of x at a width, which it is told as a number too where the host knows it."""
        bits: Tensor = getattr(self, part)
        if not isinstance(module, LearnsPerWidth) or is_traced() or type(bits) is not Tensor:
            return module(x, bits)  # type: ignore[no-any-return]
        return module(x, bits, self.width(part))  # type: ignore[no-any-return]

    def rotated_rows(self) -> Tensor:
        """The weight as it is quantized: rotated where the quantizer does that, each group in an entry of its own."""
        weight = self._float_weight()
        if self._block == 1:
            return self._rows(weight)
        return self._grouped(rotated(self.outputs_first(weight), 1, self._block))

    @property
    def _is_stored(self) -> bool:
        """Whether the weight came out of a packed file, and so is on its grid."""
        return hasattr(self.weight_quantizer, "stored")

    @property
    def _block(self) -> int:
        """How many features are rotated together; 1 where none are."""
        weight = self._float_weight()
        return hadamard_block(self.outputs_first(weight).shape[1]) if self.quantizer.rotates and weight.dim() > 1 else 1

    @contextmanager
    def as_it_was(self) -> Iterator[None]:
        """Have the widths that were in force, where this is a forward pass that gradient checkpointing takes again.

        A backward pass is running then, and the node of it that needs the values tells by its number which turns of
        the dial came after the first time. No range is counted twice.
        """
        if torch._C._current_graph_task_id() < 0:
            self.passes_here()
            yield
            return
        number, call = torch._C._current_autograd_node()._sequence_nr(), self._call
        kept: dict[str, Tensor] = {name: getattr(self, name) for name in self._built}
        before = self.widths_at(number)
        with no_dispatch():  # selective checkpointing counts the operations of both times
            for name, tensor in kept.items():
                setattr(self, name, tensor.new_tensor(before[name]) if name in before else tensor.clone())
        try:
            yield
        finally:
            for name, tensor in kept.items():
                setattr(self, name, tensor)
            self._call = call

    def _product(self, x: Tensor, arithmetic: Arithmetic) -> Tensor:
        if not torch.compiler.is_compiling():
            if torch._C._current_graph_task_id() >= 0:
                with self.as_it_was():
                    return self._quantized_product(x, arithmetic)
            self.passes_here()
            if torch._C._are_functorch_transforms_active():
                raise BitdialError(
                    "a transform of torch.func (grad, vmap, jvp, ...) cannot go through a quantized layer; use "
                    "torch.autograd.grad, with create_graph=True for second derivatives"
                )
        return self._quantized_product(x, arithmetic)

    def _quantized_product(self, x: Tensor, arithmetic: Arithmetic) -> Tensor:
        if not x.is_cpu and self.weight_bits.device != x.device:
            self.widths_to(x.device)
        if x.dim() == 4 and is_opaque(x):
            # Inductor's convolutions on a CPU want channels last; operators between them must not break the chain.
            x = x.contiguous(memory_format=torch.channels_last)
        if self._block > 1:
            x = rotated(x, x.dim() - self._feature_dims, self._block)
        grid: Grid | TensorGrid
        if self.activation_quantizer is None:
            grid, clip = self._grid(x)
        else:  # it is on its grid when it comes to the product
            x, clip = self._by_width(self.activation_quantizer, x, "activation_bits"), False
            whole = torch.full_like(self.activation_bits, UNQUANTIZED)
            grid = IDENTITY if may_read(x) else TensorGrid(self.range_low, self.range_high, whole)
        values = self.quantizer.values
        if values is None or self._is_stored:
            weight, on_grid = self.grid_weight(), None
        else:
            weight = self._float_weight()
            with torch.no_grad():
                on_grid = self._from_rows(values(self._rows(weight), self.weight_bits, self.per_channel))
        if not torch.compiler.is_compiling() and torch._C._is_tracing():
            assert isinstance(grid, TensorGrid)
            return recorded_product(x, weight, on_grid, self.bias, grid, clip, arithmetic)
        return QuantizedProduct.apply(  # type: ignore[no-any-return]
            x, weight, on_grid, self.bias, grid, self.gradient_bits, clip, arithmetic
        )

    def extra_repr(self) -> str:
        """The layer's shape, its quantizer and the widths in force."""
        widths = {"weights": self.weight_bits, "activations": self.activation_bits, "gradients": self.gradient_bits}
        known = {part: width for part, width in widths.items() if width is not None}
        bits = [f"{part}=?" if width.is_meta else f"{part}={width.item():g}" for part, width in known.items()]
        own = self.activation.name == self.quantizer.activations
        name = self.quantizer.name if own else f"{self.quantizer.name}/{self.activation.name}"
        return f"{super().extra_repr()}, {name}: {', '.join(bits)}"


class QuantLinear(QuantizedLayer, nn.Linear):
    """`torch.nn.Linear` on quantized weights and activations; input ``(..., in)``, output ``(..., out)``.

    Args:
        in_features, out_features, bias, device, dtype: as in `torch.nn.Linear`.
        weights, activations, gradients: widths to begin with, in [1, 32], unquantized by default; None for gradients
            builds the layer without gradient quantization.
        quantizer, granularity, weight_quantizer, activation_quantizer, widths, nested: as in `bitdial.quantize`.

    Raises:
        BitdialError: a width, quantizer or granularity that does not exist.
    """

    _shape = ("in_features", "out_features")

    def forward(self, input: Tensor) -> Tensor:
        """Output ``(..., out)``."""
        return self._product(input, LinearArithmetic())


class _QuantConv(QuantizedLayer):
    """What the convolutions of one and two dimensions share."""

    _shape = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")

    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    padding_mode: Any
    _reversed_padding_repeated_twice: list[int]

    def forward(self, input: Tensor) -> Tensor:
        """Output ``(batch, out, *space)``."""
        x, padding = input, self.padding
        more: tuple[int, ...] = ()
        if self.padding_mode != "zeros":  # what is added are values of the input: its range stays
            x = functional.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = (0,) * len(self.stride)
        elif isinstance(padding, str):  # "same" or "valid"; an even kernel is padded unevenly
            sides = self._reversed_padding_repeated_twice
            padding = tuple(sides[::2][::-1])
            more = tuple(behind - front for front, behind in zip(padding, sides[1::2][::-1], strict=True))
        return self._product(x, ConvArithmetic(self.stride, padding, self.dilation, self.groups, more))


class QuantConv1d(_QuantConv, nn.Conv1d):
    """`torch.nn.Conv1d` on quantized weights and activations; input ``(batch, in, length)``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype: as
            in `torch.nn.Conv1d`.
        weights, activations, gradients, quantizer and so on: as in `QuantLinear`.
    """

    _feature_dims = 2


class QuantConv2d(_QuantConv, nn.Conv2d):
    """`torch.nn.Conv2d` on quantized weights and activations; input ``(batch, in, height, width)``.

    Args: as in `QuantConv1d`, for `torch.nn.Conv2d`.
    """

    _feature_dims = 3


class _QuantConvTranspose(QuantizedLayer):
    """What the transposed convolutions of one and two dimensions share."""

    _shape = (
        *("in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding", "groups", "dilation"),
        "padding_mode",
    )

    in_channels: int
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    groups: int
    _output_padding: Any

    def outputs_first(self, weight: Tensor) -> Tensor:
        """From ``(in, out / groups, ...)`` to ``(out, in / groups, ...)``."""
        grouped = weight.view(self.groups, -1, *weight.shape[1:])
        return grouped.transpose(1, 2).flatten(0, 1).contiguous()

    def as_weight(self, values: Tensor) -> Tensor:
        """Back again, which is the same exchange."""
        return self.outputs_first(values)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Output ``(batch, out, *space)``, of the size that is asked for where a stride leaves several."""
        stride, padding, dilation = self.stride, self.padding, self.dilation
        more = self._output_padding(input, output_size, stride, padding, self.kernel_size, len(stride), dilation)
        return self._product(input, TransposedArithmetic(stride, padding, dilation, self.groups, tuple(more)))


class QuantConvTranspose1d(_QuantConvTranspose, nn.ConvTranspose1d):
    """`torch.nn.ConvTranspose1d` on quantized weights and activations; input ``(batch, in, length)``.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation, padding_mode,
            device, dtype: as in `torch.nn.ConvTranspose1d`.
        weights, activations, gradients, quantizer and so on: as in `QuantLinear`.
    """

    _feature_dims = 2


class QuantConvTranspose2d(_QuantConvTranspose, nn.ConvTranspose2d):
    """`torch.nn.ConvTranspose2d` on quantized weights and activations; input ``(batch, in, height, width)``.

    Args: as in `QuantConvTranspose1d`, for `torch.nn.ConvTranspose2d`.
    """

    _feature_dims = 3
