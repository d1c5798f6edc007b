"""The innermost loops as inline assembly: some pixels x 16 output channels, 4 input channels a step.

Written by a program, because gcc kept the sums of the same loop in intrinsics in memory, at half the speed. A product
of codes (uint8) with weights (int8) and the sum of two such fit 16 bits where weights are small: 255 * 2 * 64 < 2^15
for ternary weights and 64 steps. So `vpmaddubsw` and `vpaddw` do, and what is added up is widened at the end alone.
Larger weights are multiplied as numbers of 16 bits, at half that speed, 2 pixels at a time.

Registers of `sum_chunk`: 0 to 7 the sums of 16 bits, two for each pixel; 8 and 9 the weights of a step; 10 to 15 a
pixel's codes and products.
"""

from __future__ import annotations

from collections.abc import Callable

UNROLLED = 4
"""Steps that are written out; what is left over goes one by one."""

PIXELS = 4


def _step(codes: int, weights: int, multiply: str = "vpmaddubsw", add: str = "vpaddw") -> list[str]:
    """One step: `codes` and `weights` are where it reads, in bytes."""
    lines = [f"vmovdqa {weights}(%[w]),%%ymm8", f"vmovdqa {weights + 32}(%[w]),%%ymm9"]
    for pixel in range(PIXELS):
        code, low, high = 10 + pixel % 2, 12 + 2 * (pixel % 2), 13 + 2 * (pixel % 2)
        lines += [
            f"vpbroadcastd {codes}(%[p{pixel}],%[i]),%%ymm{code}",
            f"{multiply} %%ymm8,%%ymm{code},%%ymm{low}",
            f"{multiply} %%ymm9,%%ymm{code},%%ymm{high}",
            f"{add} %%ymm{low},%%ymm{2 * pixel},%%ymm{2 * pixel}",
            f"{add} %%ymm{high},%%ymm{2 * pixel + 1},%%ymm{2 * pixel + 1}",
        ]
    return lines


def _loop(counter: str, step: Callable[[int, int], list[str]], steps: int, size: int, label: int) -> list[str]:
    """So many steps at a time, whose weights take `size` bytes each, as often as `counter` says."""
    lines = [f"test %[{counter}],%[{counter}]", f"jz {label + 1}f", ".p2align 5", f"{label}:"]
    for place in range(steps):
        lines += step(4 * place, size * place)
    lines += [f"add ${size * steps},%[w]", f"add ${4 * steps},%[i]", f"dec %[{counter}]", f"jnz {label}b"]
    return [*lines, f"{label + 1}:"]


def _zero(register: int) -> str:
    return f"vpxor %%xmm{register},%%xmm{register},%%xmm{register}"


def sum_chunk() -> str:
    """C source of ``sum_chunk(pixels, offset, weights, steps, sums)``, which adds to the 64 sums of a tile.

    Each of the four `pixels` is where its codes begin, `offset` further on the first that count; the products of 4
    codes each in `steps` steps must not leave 16 bits when they are added up.
    """
    lines = [_zero(i) for i in range(2 * PIXELS)]
    lines += _loop("many", _step, UNROLLED, 64, 1) + _loop("few", _step, 1, 64, 3)
    lines += ["vpcmpeqw %%ymm8,%%ymm8,%%ymm8", "vpsrlw $15,%%ymm8,%%ymm8"]  # 1 in each of 16 parts
    for i in range(2 * PIXELS):
        lines += [
            f"vpmaddwd %%ymm8,%%ymm{i},%%ymm{i}",
            f"vpaddd {32 * i}(%[s]),%%ymm{i},%%ymm{i}",
            f"vmovdqa %%ymm{i},{32 * i}(%[s])",
        ]
    return _function("sum_chunk", "int8_t", PIXELS, lines)


def sum_pairs() -> str:
    """C source of ``sum_pairs(pixels, offset, weights, steps, sums, before)``: `before` and sums in 32 bits of a tile.

    Codes and weights have 16 bits; a step takes 2 input channels. All sums are modulo 2^32.
    """

    def step(codes: int, weights: int) -> list[str]:
        return _step(codes, weights, "vpmaddwd", "vpaddd")

    lines = [f"vmovdqa {32 * i}(%[b]),%%ymm{i}" for i in range(2 * PIXELS)]
    lines += _loop("many", step, UNROLLED, 64, 1) + _loop("few", step, 1, 64, 3)
    lines += [f"vmovdqa %%ymm{i},{32 * i}(%[s])" for i in range(2 * PIXELS)]
    return _function("sum_pairs", "int16_t", PIXELS, lines, "const __m256i *before", '[b]"r"(before)')


def _wide_step(codes: int, weights: int) -> list[str]:
    """One step of 2 pixels: registers 0 to 7 the sums, four for each, 8 zero, 9 a pixel's codes, 10 to 13 weights."""
    lines = [f"vmovdqa {weights + 32 * i}(%[w]),%%ymm{10 + i}" for i in range(4)]
    for pixel in range(2):
        lines += [f"vpbroadcastd {codes}(%[p{pixel}],%[i]),%%ymm9", "vpunpcklbw %%ymm8,%%ymm9,%%ymm9"]
        for i in range(4):
            product, total = 14 + i % 2, 4 * pixel + i
            lines += [
                f"vpmaddwd %%ymm{10 + i},%%ymm9,%%ymm{product}",
                f"vpaddd %%ymm{product},%%ymm{total},%%ymm{total}",
            ]
    return lines


def sum_wide() -> str:
    """C source of ``sum_wide(pixels, offset, weights, steps, sums)``: the same of 2 pixels, with weights of 16 bits.

    A register sums up 2 of the 4 input channels of 4 output channels apart; these come together at the end.
    """
    lines = [_zero(i) for i in range(9)]
    lines += _loop("many", _wide_step, 2, 128, 1) + _loop("few", _wide_step, 1, 128, 3)
    for i in range(4):
        lines += [
            f"vphaddd %%ymm{2 * i + 1},%%ymm{2 * i},%%ymm{2 * i}",
            f"vpermq $0xd8,%%ymm{2 * i},%%ymm{2 * i}",
            f"vpaddd {32 * i}(%[s]),%%ymm{2 * i},%%ymm{2 * i}",
            f"vmovdqa %%ymm{2 * i},{32 * i}(%[s])",
        ]
    return _function("sum_wide", "int16_t", 2, lines, unrolled=2)


def _function(
    name: str, weight: str, pixels: int, lines: list[str], more: str = "", given: str = "", unrolled: int = UNROLLED
) -> str:
    """A C function whose body is this assembly."""
    body = "\n".join(f'    "{line}\\n\\t"' for line in lines)
    inputs = ", ".join(
        [*(f'[p{i}]"r"(pixels[{i}])' for i in range(pixels)), '[s]"r"(sums)', *([given] if given else [])]
    )
    spoiled = ",".join(f'"xmm{i}"' for i in range(16))
    behind = f", {more}" if more else ""
    return f"""
static inline __attribute__((always_inline)) void {name}(
    const uint8_t *const *pixels, i64 offset, const {weight} *weights, i64 steps, __m256i *sums{behind}) {{
  i64 many = steps / {unrolled}, few = steps % {unrolled};
  __asm__ volatile(
{body}
    : [w]"+r"(weights), [i]"+r"(offset), [many]"+r"(many), [few]"+r"(few)
    : {inputs}
    : "memory", "cc", {spoiled});
}}
"""
