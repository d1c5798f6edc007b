"""Grids with a learned step for each width: LSQ, ParetoQ's quantizers, and PACT's clip, for weights and activations.

`bitdial.numerics.steps` has the equations, which serve them all: what differs between the methods is where the edges of
a grid lie, what a and b are, and how the step follows from what is learned. What is learned has an entry for each width
(and each group of weights); a width between them takes the nearest, so that its grid has the same ends.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bitdial.numerics.grid import is_traced
from bitdial.numerics.learned_ternary import LearnedWeight
from bitdial.numerics.quantizers import ActivationQuantizer, Quantizer, register, register_activations
from bitdial.numerics.reference import UNQUANTIZED, level_count, levels
from bitdial.numerics.steps import Codes, Number, readable, stepped
from bitdial.numerics.weights import TERNARY_BITS, dorefa_weight, mean_magnitude, sum_type, widened

WIDTHS = (1.0, TERNARY_BITS, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
"""Widths that have a learned state of their own unless a user names others."""

SEQ_CLIP = 0.99
"""Share of the stretched grid's range inside which a weight has a gradient, of ParetoQ's code."""


class StepGrid(NamedTuple):
    """The grid of a width: its codes, and the step in units of what is learned."""

    codes: Codes
    unit: Number = 1.0


def _pick(condition: Any, yes: Number, no: Number) -> Any:
    if isinstance(condition, bool):
        return yes if condition else no
    return torch.where(condition, torch.as_tensor(yes, device=condition.device), no)


def level_number(bits: Number) -> Number:
    """Number of levels of a width, in the kind that the width has."""
    return levels(bits) if isinstance(bits, Tensor) else float(level_count(bits))


def signed_codes(count: Number) -> tuple[Any, Any, Any]:
    """Lowest and highest code and offset of LSQ's grid: ``-count/2 .. count/2 - 1``; symmetric for 2 or an odd number.

    Two levels, which leave no room for zero, are -1/2 and 1/2.
    """
    binary, even = count == 2, count % 2 == 0
    half = _pick(binary, 0.5, 0.0)
    highest = _pick(even, count / 2 - 1 + half, (count - 1) / 2)
    lowest = _pick(even, half - count / 2, -(count - 1) / 2)
    return lowest, highest, half


def _remembered(grid: Callable[[Number], StepGrid]) -> Callable[[Number], StepGrid]:
    """Work out the grid of a width once, where the width is a number: small layers would wait for that in each pass."""
    kept = lru_cache(1024)(grid)
    return wraps(grid)(lambda bits: kept(bits) if isinstance(bits, float) and not is_traced() else grid(bits))


@_remembered
def lsq_grid(bits: Number) -> StepGrid:
    """LSQ's grid of signed values; at 1 bit, where it has none, the two values plus and minus what is learned."""
    lowest, highest, half = signed_codes(level_number(bits))
    twice = 2 * half  # at 1 bit the step from -a to a is twice what is learned
    return StepGrid(Codes(lowest, highest, half, lowest, highest, by_position=1 - twice), 1 + twice)


@_remembered
def seq_grid(bits: Number) -> StepGrid:
    """ParetoQ's: the stretched grid for 3 and 4 levels, LSQ's for others (1 bit: the sign)."""
    count, plain = level_number(bits), lsq_grid(bits)
    stretched = (count == 3) | (count == 4)
    half, end = _pick(count == 4, 0.5, 0.0), (count - 1) / 2
    edge = SEQ_CLIP * count / 2
    return _either(stretched, StepGrid(Codes(-end, end, half, -edge, edge), 2 / count), plain)


def _either(condition: Any, yes: StepGrid, no: StepGrid) -> StepGrid:
    codes = (_pick(condition, mine, other) for mine, other in zip(yes.codes, no.codes, strict=True))
    return StepGrid(Codes(*codes), _pick(condition, yes.unit, no.unit))


class OneOf(torch.autograd.Function):
    """One of several parameters, all of which take part in the graph; the others get no gradient.

    DistributedDataParallel waits for every parameter; so it hears of those too that were not used.
    """

    @staticmethod
    def forward(ctx: Any, index: int, *rows: Tensor) -> Tensor:
        """The parameter of that index."""
        ctx.place = index, len(rows)
        return rows[index].view_as(rows[index])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Its gradient."""
        index, count = ctx.place
        return None, *(gradients[0] if each == index else None for each in range(count))


def is_distributed() -> bool:
    """Whether a backward pass may be one of several processes that wait for each other."""
    return torch.is_grad_enabled() and torch.distributed.is_available() and torch.distributed.is_initialized()


class LearnsPerWidth(nn.Module):
    """A module with a parameter for each of some widths, of one shape, and nothing else for parameters.

    A width that has none takes that of the nearest. A width that a step does not use gets no gradient, so that neither
    momentum nor weight decay moves what it has learned; it gets zeros where only the tensor knows the width (compiled).
    `known` in the forward pass is the width as a number, where there is one on the host though not in the tensor.
    """

    widths: tuple[float, ...]

    def _keep(self, widths: Sequence[float] | None) -> None:
        """Say which widths; before their parameters are there."""
        self.widths = tuple(sorted({float(each) for each in widths or () if each < UNQUANTIZED})) or WIDTHS
        self._middles = [(low + high) / 2 for low, high in pairwise(self.widths)]
        self._keys = tuple(f"bits_{width:g}".replace(".", "_") for width in self.widths)

    @property
    def learned(self) -> list[Tensor]:
        """What was learned, in the order of `widths`."""
        return [getattr(self, key) for key in self._keys]

    def _index(self, bits: Number) -> Any:
        """Place of the nearest width: a number, or a 0-dim tensor for a tensor."""
        if not isinstance(bits, Tensor):
            return bisect(self._middles, bits)
        above = [bits >= middle for middle in self._middles]
        return torch.stack(above).sum() if above else torch.zeros((), dtype=torch.long, device=bits.device)

    def _nearest(self, bits: Number) -> Number:
        """The nearest width itself."""
        if not isinstance(bits, Tensor):
            return self.widths[bisect(self._middles, bits)]
        known = torch.tensor(self.widths, dtype=torch.float32, device=bits.device)
        return known.index_select(0, self._index(bits).view(1)).squeeze(0)

    def learned_at(self, bits: Number) -> Tensor:
        """What the nearest width has learned."""
        index = self._index(bits)
        if isinstance(index, Tensor):
            return torch.stack(self.learned).index_select(0, index.view(1)).squeeze(0)
        return OneOf.apply(index, *self.learned) if is_distributed() else self.learned[index]  # type: ignore[no-any-return]


def _is_off(bits: Number, known: float | None) -> bool:
    """Whether nothing is to be done at 32 bits, as far as the host knows, nor any parameter is waited for."""
    place = bits if known is None else known
    return not isinstance(place, Tensor) and place >= UNQUANTIZED and not is_distributed()


def _at_least_one(grid: StepGrid) -> Any:
    """Qp of the rules, where two levels have 1/2 for their highest code."""
    return _pick(grid.codes.highest > 1, grid.codes.highest, 1.0)


def _stretch(own: StepGrid, wanted: StepGrid) -> Number:
    """How much longer the step of a width is than that of the nearest with a state, for grids with the same ends."""
    return own.codes.highest * own.unit / (wanted.codes.highest * wanted.unit)  # type: ignore[no-any-return]


class LearnedGrid(LearnedWeight, LearnsPerWidth):
    """Weights on a grid with a learned step (LSQ) or range (SEQ) for each width, ``(groups,)`` each.

    Args:
        weight: what the steps fit to begin with.
        per_channel: a step for each output channel instead of one.
        widths: those that have steps of their own.
    """

    strict = False

    def __init__(self, weight: Tensor, per_channel: bool = False, widths: Sequence[float] | None = None) -> None:
        self._keep(widths)
        super().__init__(weight, per_channel)

    def initial(self, weight: Tensor) -> dict[str, Tensor]:
        """The published start for every width; ``1 / sqrt(fan_in)`` where all weights are zero."""
        groups = weight.shape[0] if self.per_channel and weight.dim() >= 2 else 1
        empty = weight.numel() == 0
        flat = weight.detach().new_zeros(groups, 1) if empty else widened(weight.detach()).reshape(groups, -1)
        start = 1 / math.sqrt(max(math.prod(weight.shape[1:]), 1))
        fitting = (self._start(flat, width) for width in self.widths)
        return {
            key: torch.where(fit == 0, start, fit).to(weight.dtype)
            for key, fit in zip(self._keys, fitting, strict=True)
        }

    def _start(self, rows: Tensor, width: float) -> Tensor:
        raise NotImplementedError

    def _grid(self, bits: Number) -> StepGrid:
        raise NotImplementedError

    def step(self, bits: Number, known: float | None = None) -> Tensor:
        """Distance of two values of the grid of a width, for each group of weights: ``(groups,)``, above zero."""
        learned, unit = self._learned(bits, bits if known is None else known)
        size = widened(learned).abs() * unit
        return torch.where(size == 0, torch.finfo(size.dtype).tiny, size)

    def _learned(self, bits: Number, place: Number) -> tuple[Tensor, Number]:
        """What was learned for the width nearest to `place`, and the step of a width in its units."""
        grid = self._grid(bits)
        return self.learned_at(place), _stretch(self._grid(self._nearest(place)), grid) * grid.unit

    def forward(self, weight: Tensor, bits: Tensor, known: float | None = None) -> Tensor:
        """The weight on its grid; at 32 bits the weight itself."""
        if weight.numel() == 0:
            return weight.view_as(weight)
        width = readable(weight, bits)
        if _is_off(width, known):
            return weight.view_as(weight)
        learned, unit = self._learned(width, width if known is None else known)
        share = max(weight.numel() // learned.numel(), 1)
        factor = (_at_least_one(lsq_grid(width)) * share) ** -0.5
        codes = self._grid(width).codes
        return stepped(weight, learned, codes, width, unit=unit, strict=self.strict, factor=factor)


class LsqWeight(LearnedGrid):
    """Learned step size quantization: ``s * clip(round(w / s), -Qn, Qp)``, the step s learned.

    Source: Esser et al., Learned Step Size Quantization, arXiv 1902.08153: Qn = 2**(b-1), Qp = Qn - 1; eq. 3 and 5 for
    the derivatives, that of the step times ``1 / sqrt(N Qp)`` (section 2.2), N the weights that share it; s begins as
    ``2 mean|w| / sqrt(Qp)`` (section 2.1). Three levels are -s, 0, s; at 1 bit, which LSQ leaves out, the weight is
    ``s * sign(w)`` and s begins as mean|w|, which has the smallest squared error.
    """

    strict = True

    def _start(self, rows: Tensor, width: float) -> Tensor:
        mean = mean_magnitude(rows, True).flatten()
        count = level_count(width)
        return mean if count == 2 else 2 * mean / math.sqrt(lsq_grid(width).codes.highest)

    def _grid(self, bits: Number) -> StepGrid:
        return lsq_grid(bits)


class SeqWeight(LearnedGrid):
    """ParetoQ's quantizers: a stretched grid at 1.58 and 2 bits, LSQ above, the sign at 1 bit.

    Source: Liu et al., ParetoQ: Scaling Laws in Extremely Low-bit LLM Quantization, arXiv 2502.02631. With k levels and
    a learned range a the stretched grid is ``2 a / k * (round(clip(w / a, -c, c) * k / 2 - h) + h)``, c = .99: at 2
    bits -3/4, -1/4, 1/4 and 3/4 of a; a begins as max|w|. From 3 bits it is LSQ's grid, whose step begins as
    ``max|w| / Qp``; at 1 bit ``a * sign(w)``, a beginning as mean|w|. Weights inside the range get their gradient;
    that of what is learned is multiplied with ``1 / sqrt(N Qp)``. One range for each output channel.
    """

    def _start(self, rows: Tensor, width: float) -> Tensor:
        count = level_count(width)
        largest = rows.abs().amax(1)
        if count == 2:
            return mean_magnitude(rows, True).flatten()
        return largest if count in (3, 4) else largest / lsq_grid(width).codes.highest

    def _grid(self, bits: Number) -> StepGrid:
        return seq_grid(bits)


def activation_grid(bits: Number, signed: Number) -> StepGrid:
    """LSQ's grid of activations: from 0 up where none is negative (Qn = 0, Qp = 2**b - 1), else that of weights."""
    count, weights = level_number(bits), lsq_grid(bits)
    negative = signed > 0
    return _either(negative, weights, StepGrid(Codes(0.0, count - 1, 0.0, 0.0, count - 1)))


class LearnedActivation(LearnsPerWidth):
    """Activations of one layer on a grid of which something is learned for each width.

    What counts is ``start + learned``. `start` stands from the beginning and is fitted to the first training batch that
    comes by, to what the layer really gets and whether any of that is negative. It is a buffer, as are those that say
    so: a state that is loaded is used as it is, no parameter is written in a forward pass (where weights lie in shards
    that would be lost), and DistributedDataParallel brings all processes the same. Weight decay draws to the start.

    Args:
        widths: those that have a value of their own.
    """

    start: Tensor
    """``(widths,)``."""
    fitted: Tensor
    """0-dim: 1 once a batch has been seen."""
    signed: Tensor
    """0-dim: 1 where the first batch had negative values."""
    strict = False

    def __init__(self, widths: Sequence[float] | None = None, **_: Any) -> None:
        super().__init__()
        self._keep(widths)
        for key in self._keys:
            self.register_parameter(key, nn.Parameter(torch.zeros(1)))
        for name, shape in (("start", (len(self.widths),)), ("fitted", ()), ("signed", ())):
            self.register_buffer(name, torch.zeros(shape))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Forget what was learned; the next training batch fits the start anew."""
        for tensor in (*self.learned, self.fitted, self.signed):
            tensor.zero_()
        self.start.copy_(self._starts(self.start.new_tensor(0.8), self.start.new_tensor(1.0), 0.0))

    @property
    def values(self) -> Tensor:
        """What counts for each width: ``(widths,)``."""
        return self.start + torch.cat(self.learned)

    def _starts(self, mean: Tensor, rms: Tensor, signed: Number) -> Tensor:
        return torch.stack([self._start(mean, rms, activation_grid(width, signed)) for width in self.widths])

    def _start(self, mean: Tensor, rms: Tensor, grid: StepGrid) -> Tensor:
        """Where to start, for activations of this mean magnitude and root mean square."""
        raise NotImplementedError

    def _rule(self, grid: StepGrid) -> StepGrid:
        """The grid with the method's own derivatives and unit."""
        raise NotImplementedError

    def _factor(self, x: Tensor, grid: StepGrid) -> Number:
        return 1.0

    @torch.no_grad()
    def _fitting(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Where this batch would have it start, and whether it has negative values."""
        wide = widened(x.detach())
        signed = (wide < 0).any().to(self.signed.dtype)
        kind = sum_type(wide)
        mean, square = (value.mean(dtype=kind).to(wide.dtype) for value in (wide.abs(), wide.square()))
        starts = self._starts(mean, square.sqrt(), signed)
        return torch.where(starts > 0, starts.to(self.start.dtype), self.start), signed

    def _state(self, x: Tensor, bits: Number) -> tuple[Tensor, Number]:
        """Where each width starts, and whether values are signed, in this pass."""
        readable = not isinstance(bits, Tensor)
        if readable and self.fitted.item():
            return self.start, self.signed.item()
        starts, signed = self._fitting(x)
        if not readable:
            done = (self.fitted > 0) | (bits >= UNQUANTIZED)
            starts, signed = torch.where(done, self.start, starts), torch.where(done, self.signed, signed)
        if self.training:
            seen = torch.ones_like(self.fitted)
            if isinstance(bits, Tensor):
                seen = torch.where(bits < UNQUANTIZED, seen, self.fitted)
            with torch.no_grad():
                for mine, new in ((self.start, starts), (self.signed, signed), (self.fitted, seen)):
                    mine.copy_(new)
        return starts, signed.item() if readable else signed

    def forward(self, x: Tensor, bits: Tensor, known: float | None = None) -> Tensor:
        """The activations on their grid; at 32 bits as they are."""
        if x.numel() == 0:
            return x
        width = readable(x, bits)
        if _is_off(width, known):
            return x
        starts, signed = self._state(x, width)
        place = width if known is None else known
        own = self._rule(activation_grid(self._nearest(place), signed))
        grid = self._rule(activation_grid(width, signed))
        index = self._index(place)
        start = starts.index_select(0, index.view(1)) if isinstance(index, Tensor) else starts[index]
        unit, factor = grid.unit * _stretch(own, grid), self._factor(x, grid)
        size = start + self.learned_at(place)
        return stepped(x, size, grid.codes, width, unit=unit, strict=self.strict, factor=factor)

    @torch.no_grad()
    def grid_at(self, bits: float) -> tuple[float, Codes]:
        """The step and the codes of the grid that inputs come to at a width, once it is fitted."""
        signed = self.signed.item()
        own = self._rule(activation_grid(self._nearest(bits), signed))
        grid = self._rule(activation_grid(bits, signed))
        size = self.start[self._index(bits)] + self.learned_at(bits)
        return abs(float(size.item() * grid.unit * _stretch(own, grid))), grid.codes

    def extra_repr(self) -> str:
        """The widths with a value of their own."""
        return "widths: " + ", ".join(f"{width:g}" for width in self.widths)


class LsqActivation(LearnedActivation):
    """LSQ for activations; see `LsqWeight`. N counts the features of one example (Esser et al., section 2.2).

    The step begins as ``2 mean|x| / sqrt(Qp)`` of the first training batch.
    """

    strict = True

    def _start(self, mean: Tensor, rms: Tensor, grid: StepGrid) -> Tensor:
        most = _at_least_one(grid)
        return 2 * mean * torch.as_tensor(most, device=mean.device, dtype=mean.dtype).rsqrt()

    def _rule(self, grid: StepGrid) -> StepGrid:
        return grid

    def _factor(self, x: Tensor, grid: StepGrid) -> Number:
        return (_at_least_one(grid) * max(x[0].numel(), 1)) ** -0.5  # type: ignore[no-any-return]


class PactActivation(LearnedActivation):
    """PACT: ``clip(x, 0, a)`` on the grid with ``2**b`` values from 0 to a, the clip a learned.

    Source: Choi et al., PACT: Parameterized Clipping Activation for Quantized Neural Networks, arXiv 1805.06085,
    eq. 1-3: a gets the gradient of what it clips, x that of what is not clipped. Where the first
    training batch has negative values, which the paper's activations behind a ReLU have not, the grid reaches from -a
    to a. a begins as three times the root mean square of that batch. (The paper's weight decay draws a to 0.)
    """

    def _start(self, mean: Tensor, rms: Tensor, grid: StepGrid) -> Tensor:
        return 3 * rms

    def _rule(self, grid: StepGrid) -> StepGrid:
        return StepGrid(grid.codes._replace(by_code=0.0, by_position=0.0), 1 / grid.codes.highest)


def lsq_weight(weight: Tensor, bits: Tensor, per_channel: bool = False) -> Tensor:
    """LSQ with the step that a new layer begins with; a layer learns its own (`LsqWeight`)."""
    return LsqWeight(weight, per_channel).requires_grad_(False)(weight, bits)  # type: ignore[no-any-return]


def seq_weight(weight: Tensor, bits: Tensor, per_channel: bool = True) -> Tensor:
    """ParetoQ's quantizer with what a new layer begins with; a layer learns its own (`SeqWeight`)."""
    return SeqWeight(weight, per_channel).requires_grad_(False)(weight, bits)  # type: ignore[no-any-return]


register_activations(ActivationQuantizer("lsq", make_for=LsqActivation))
register_activations(ActivationQuantizer("pact", make_for=PactActivation))
register(Quantizer("lsq", lsq_weight, "tensor", make_weight=LsqWeight, activations="lsq", per_width=True))
register(Quantizer("pact", dorefa_weight, "tensor", activations="pact"))
register(Quantizer("seq", seq_weight, "channel", make_weight=SeqWeight, per_width=True))
