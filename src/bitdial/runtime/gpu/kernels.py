"""The kernels of a GPU, in Triton; `products` calls them.

`product` is a convolution as an implicit product of matrices (Chetlur et al., cuDNN, arXiv:1410.0759): a row is a pixel
of the output, a column an output channel, and what is summed over are the taps of the kernel and their input channels.
A matrix product is the case of one tap on images of one pixel. `vector` is that of few rows, which is bound by the
memory of the weights and leaves tensor cores empty; `each` is for channels that stand alone; `encode` puts floats on a
grid. Inputs are codes of 8 bits, with exact sums in 32 bits, or float16 or bfloat16, with sums in float32.

Kernels have no annotations but `constexpr`, as Triton reads them, and keep to what its releases 3.6 to 3.8 share.
Where ``TRITON_INTERPRET=1`` is set before Triton is imported, all of them run on a CPU, slowly.
"""

import triton
import triton.language as tl

from bitdial.runtime.gpu.configurations import EACH, PRODUCT, VECTOR, fitting, timed


@triton.jit
def _signed(codes):
    """Codes from 0 to 255, less 128, as products take signed bytes; other inputs as they are."""
    return (codes ^ 128).to(tl.int8, bitcast=True) if codes.dtype == tl.uint8 else codes


@triton.jit
def _weights(
    data, part: tl.constexpr, BITS: tl.constexpr, STRIDE: tl.constexpr, LEAST: tl.constexpr, kind: tl.constexpr
):
    """The weights of one part of bytes."""
    mask: tl.constexpr = (1 << BITS) - 1
    whole = _signed(data) if BITS == 8 else ((data >> (part * BITS)) & mask).to(tl.int8) * STRIDE + LEAST
    return whole.to(kind)


@triton.jit
def _store(
    total, y, sums, scale, bias, zero, rows, lines, group, part: tl.constexpr, count, per, out, lines_of,
    WHOLE: tl.constexpr, SCALED: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """Write ``scale * (total - zero * sums) + bias`` of one part of the outputs of a group."""
    inside = part * lines_of + lines
    kept = ((lines < lines_of) & (inside < per))[None, :]
    columns = (group * per + inside)[None, :]
    if WHOLE:
        total -= zero * tl.load(sums + columns, mask=kept, other=0)
    if SCALED:
        total = total.to(tl.float32) * tl.load(scale + columns, mask=kept, other=0.0)
    if BIASED:
        total += tl.load(bias + columns, mask=kept, other=0.0)
    to = y + rows.to(tl.int64)[:, None] * out + columns
    tl.store(to, total.to(y.dtype.element_ty), mask=(rows < count)[:, None] & kept)


@triton.autotune(
    PRODUCT, key=["size", "out", "channels", "taps", "BITS"], prune_configs_by={"early_config_prune": fitting},
    do_bench=timed,
)  # fmt: skip
@triton.heuristics({"RAGGED": lambda given: given["channels"] % given["DEPTH"] != 0})
@triton.jit
def product(
    x, data, y, sums, scale, bias, zero,
    size, count, channels, per, lines_of, out, filled, taps, columns_of,
    height, width, out_height, out_width, image_step, row_step, pixel_step,
    stride_y, stride_x, top, left, apart_y, apart_x,
    BITS: tl.constexpr, STRIDE: tl.constexpr, LEAST: tl.constexpr, BORDERS: tl.constexpr,
    KIND: tl.constexpr, SCALED: tl.constexpr, BIASED: tl.constexpr,
    ROWS: tl.constexpr, LINES: tl.constexpr, DEPTH: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """A tile of ``y = scale * (conv(x) - zero * sums) + bias``; grid: (tiles of rows times tiles of lines, groups).

    Args:
        x: ``(images, height, width, groups * channels)`` by the three steps; the last dimension is dense.
        data: ``(groups, lines_of, taps, filled)``; lines_of = outputs of a group / parts.
        y: ``(count, out)``, dense: count = images * out_height * out_width.
        zero: code of 0.0, as `_signed` has it.
        KIND: what is multiplied: int8 (or uint8 less 128), or a floating-point format.
        size: a power of two near count, for which configurations are chosen.
        BORDERS: whether taps may lie outside of the image.
    """
    PARTS: tl.constexpr = 8 // BITS
    tile, group = tl.program_id(0), tl.program_id(1)
    across = tl.cdiv(lines_of, LINES)
    rows = tile // across * ROWS + tl.arange(0, ROWS)
    lines = tile % across * LINES + tl.arange(0, LINES)
    inner = tl.arange(0, DEPTH)
    wanted, held = rows < count, lines < lines_of
    image, pixel = rows // (out_height * out_width), rows % (out_height * out_width)
    first_y, first_x = pixel // out_width * stride_y - top, pixel % out_width * stride_x - left
    from_image = x + image.to(tl.int64) * image_step + group * channels
    from_line = data + (group * lines_of + lines).to(tl.int64) * (taps * filled)
    WHOLE: tl.constexpr = tl.int8 == KIND
    sum_kind: tl.constexpr = tl.int32 if WHOLE else tl.float32
    total_0 = tl.zeros((ROWS, LINES), sum_kind)
    if PARTS > 1:
        total_1 = tl.zeros((ROWS, LINES), sum_kind)
    if PARTS > 2:
        total_2 = tl.zeros((ROWS, LINES), sum_kind)
        total_3 = tl.zeros((ROWS, LINES), sum_kind)
    steps = tl.cdiv(channels, DEPTH)
    for step in range(0, taps * steps):
        tap, channel = step // steps, step % steps * DEPTH + inner
        at_y, at_x = first_y + tap // columns_of * apart_y, first_x + tap % columns_of * apart_x
        inside = wanted
        if BORDERS:
            inside = wanted & (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
        there = from_image + at_y.to(tl.int64) * row_step + at_x.to(tl.int64) * pixel_step
        weights = from_line[None, :] + tap * filled + channel[:, None]
        if RAGGED:
            a = tl.load(
                there[:, None] + channel[None, :], mask=inside[:, None] & (channel < channels)[None, :], other=0
            )
            b = tl.load(weights, mask=held[None, :] & (channel < channels)[:, None], other=0)
        else:
            a = tl.load(there[:, None] + channel[None, :], mask=inside[:, None], other=0)
            b = tl.load(weights, mask=held[None, :], other=0)
        a = _signed(a).to(KIND)
        if WHOLE and BORDERS:
            a = tl.where(inside[:, None], a, tl.cast(zero, tl.int8))
        if RAGGED:  # whatever a byte of zeros stands for
            a = tl.where((channel < channels)[None, :], a, tl.zeros_like(a))
        total_0 = tl.dot(a, _weights(b, 0, BITS, STRIDE, LEAST, KIND), total_0, out_dtype=sum_kind)
        if PARTS > 1:
            total_1 = tl.dot(a, _weights(b, 1, BITS, STRIDE, LEAST, KIND), total_1, out_dtype=sum_kind)
        if PARTS > 2:
            total_2 = tl.dot(a, _weights(b, 2, BITS, STRIDE, LEAST, KIND), total_2, out_dtype=sum_kind)
            total_3 = tl.dot(a, _weights(b, 3, BITS, STRIDE, LEAST, KIND), total_3, out_dtype=sum_kind)
    _store(total_0, y, sums, scale, bias, zero, rows, lines, group, 0, count, per, out, lines_of, WHOLE, SCALED, BIASED)
    if PARTS > 1:
        _store(
            total_1, y, sums, scale, bias, zero, rows, lines, group, 1, count, per, out, lines_of, WHOLE, SCALED, BIASED
        )
    if PARTS > 2:
        _store(
            total_2, y, sums, scale, bias, zero, rows, lines, group, 2, count, per, out, lines_of, WHOLE, SCALED, BIASED
        )
        _store(
            total_3, y, sums, scale, bias, zero, rows, lines, group, 3, count, per, out, lines_of, WHOLE, SCALED, BIASED
        )


@triton.autotune(VECTOR, key=["out", "channels", "BITS"], do_bench=timed)
@triton.heuristics({"RAGGED": lambda given: given["channels"] % given["DEPTH"] != 0})
@triton.jit
def vector(
    x, data, y, sums, scale, bias, zero,
    count, channels, lines_of, out, filled, row_step,
    BITS: tl.constexpr, STRIDE: tl.constexpr, LEAST: tl.constexpr,
    KIND: tl.constexpr, SCALED: tl.constexpr, BIASED: tl.constexpr,
    LINES: tl.constexpr, DEPTH: tl.constexpr, RAGGED: tl.constexpr,
):  # fmt: skip
    """Some outputs of a row of a matrix product, without tensor cores; grid: (tiles of lines, rows). As `product`."""
    PARTS: tl.constexpr = 8 // BITS
    WHOLE: tl.constexpr = tl.int8 == KIND
    kind: tl.constexpr = tl.int32 if WHOLE else tl.float32
    row = tl.program_id(1)
    lines, inner = tl.program_id(0) * LINES + tl.arange(0, LINES), tl.arange(0, DEPTH)
    held = lines < lines_of
    from_row = x + row.to(tl.int64) * row_step
    from_line = data + lines.to(tl.int64) * filled
    total_0 = tl.zeros((LINES, DEPTH), kind)
    if PARTS > 1:
        total_1 = tl.zeros((LINES, DEPTH), kind)
    if PARTS > 2:
        total_2 = tl.zeros((LINES, DEPTH), kind)
        total_3 = tl.zeros((LINES, DEPTH), kind)
    for first in range(0, channels, DEPTH):
        channel = first + inner
        if RAGGED:
            a = tl.load(from_row + channel, mask=channel < channels, other=0)
            b = tl.load(
                from_line[:, None] + channel[None, :], mask=held[:, None] & (channel < channels)[None, :], other=0
            )
        else:
            a = tl.load(from_row + channel)
            b = tl.load(from_line[:, None] + channel[None, :], mask=held[:, None], other=0)
        a = _signed(a).to(kind)
        if RAGGED:
            a = tl.where(channel < channels, a, tl.zeros_like(a))
        a = a[None, :]
        total_0 += a * _weights(b, 0, BITS, STRIDE, LEAST, kind)
        if PARTS > 1:
            total_1 += a * _weights(b, 1, BITS, STRIDE, LEAST, kind)
        if PARTS > 2:
            total_2 += a * _weights(b, 2, BITS, STRIDE, LEAST, kind)
            total_3 += a * _weights(b, 3, BITS, STRIDE, LEAST, kind)
    rows = row + tl.zeros((1,), tl.int32)
    _store(
        tl.sum(total_0, 1)[None, :], y, sums, scale, bias, zero, rows, lines, 0, 0, count, out, out, lines_of,
        WHOLE, SCALED, BIASED,
    )  # fmt: skip
    if PARTS > 1:
        _store(
            tl.sum(total_1, 1)[None, :], y, sums, scale, bias, zero, rows, lines, 0, 1, count, out, out, lines_of,
            WHOLE, SCALED, BIASED,
        )  # fmt: skip
    if PARTS > 2:
        _store(
            tl.sum(total_2, 1)[None, :], y, sums, scale, bias, zero, rows, lines, 0, 2, count, out, out, lines_of,
            WHOLE, SCALED, BIASED,
        )  # fmt: skip
        _store(
            tl.sum(total_3, 1)[None, :], y, sums, scale, bias, zero, rows, lines, 0, 3, count, out, out, lines_of,
            WHOLE, SCALED, BIASED,
        )  # fmt: skip


@triton.autotune(EACH, key=["size", "out", "taps", "BITS"], do_bench=timed)
@triton.jit
def each(
    x, data, y, sums, scale, bias, zero,
    size, count, lines_of, out, taps, columns_of,
    height, width, out_height, out_width, image_step, row_step, pixel_step,
    stride_y, stride_x, top, left, apart_y, apart_x,
    BITS: tl.constexpr, STRIDE: tl.constexpr, LEAST: tl.constexpr,
    KIND: tl.constexpr, SCALED: tl.constexpr, BIASED: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A convolution in which every channel stands alone; grid: (tiles of rows, of channels). As `product`."""
    WHOLE: tl.constexpr = tl.int8 == KIND
    kind: tl.constexpr = tl.int32 if WHOLE else tl.float32
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channels = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    wanted, held = rows < count, channels < out
    image, pixel = rows // (out_height * out_width), rows % (out_height * out_width)
    first_y, first_x = pixel // out_width * stride_y - top, pixel % out_width * stride_x - left
    from_image = x + image.to(tl.int64) * image_step
    from_line = data + channels % lines_of * taps
    part = channels // lines_of * BITS
    total = tl.zeros((ROWS, CHANNELS), kind)
    for tap in range(0, taps):
        at_y, at_x = first_y + tap // columns_of * apart_y, first_x + tap % columns_of * apart_x
        inside = wanted & (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
        there = from_image + at_y.to(tl.int64) * row_step + at_x.to(tl.int64) * pixel_step
        a = _signed(tl.load(there[:, None] + channels[None, :], mask=inside[:, None] & held[None, :], other=0)).to(kind)
        if WHOLE:
            a = tl.where(inside[:, None], a, zero)
        b = tl.load(from_line + tap, mask=held, other=0)
        if BITS == 8:
            weight = _signed(b).to(kind)
        else:
            weight = (((b.to(tl.int32) >> part) & ((1 << BITS) - 1)) * STRIDE + LEAST).to(kind)
        total += a * weight[None, :]
    _store(
        total, y, sums, scale, bias, zero, rows, channels, 0, 0, count, out, out, out, WHOLE, SCALED, BIASED,
    )  # fmt: skip


@triton.jit
def encode(x, y, count, inverse, low, high, shift, SIZE: tl.constexpr):
    """``round(clamp(x * inverse, low, high)) + shift`` as signed bytes, halves to even; grid: (tiles,)."""
    places = tl.program_id(0).to(tl.int64) * SIZE + tl.arange(0, SIZE)
    value = tl.load(x + places, mask=places < count, other=0).to(tl.float32) * inverse
    value = tl.minimum(tl.maximum(value, low), high)
    value = (value + 12582912.0) - 12582912.0  # 1.5 * 2**23: what is left of the sum has no fraction
    tl.store(y + places, (value + shift).to(tl.int8), mask=places < count)
