"""The innermost loop as inline assembly: 4 pixels x 16 output channels, 4 input channels a step.

Written by a program, because gcc kept the sums of the same loop in intrinsics in memory, at half the speed. A product
of codes (uint8) with weights (int8) and the sum of two such fit 16 bits where weights are small: 255 * 2 * 64 < 2^15
for ternary weights and 64 steps. So `vpmaddubsw` and `vpaddw` do, and what is added up is widened at the end alone.
Registers: 0 to 7 the sums of 16 bits, two for each pixel; 8 and 9 the weights of a step; 10 to 15 a pixel's codes and
products.
"""

from __future__ import annotations

UNROLLED = 4
"""Steps that are written out; what is left over goes one by one."""

PIXELS = 4


def _step(codes: int, weights: int) -> list[str]:
    """One step: `codes` and `weights` are where it reads, in bytes."""
    lines = [f"vmovdqa {weights}(%[w]),%%ymm8", f"vmovdqa {weights + 32}(%[w]),%%ymm9"]
    for pixel in range(PIXELS):
        code, low, high = 10 + pixel % 2, 12 + 2 * (pixel % 2), 13 + 2 * (pixel % 2)
        lines += [
            f"vpbroadcastd {codes}(%[p{pixel}],%[i]),%%ymm{code}",
            f"vpmaddubsw %%ymm8,%%ymm{code},%%ymm{low}",
            f"vpmaddubsw %%ymm9,%%ymm{code},%%ymm{high}",
            f"vpaddw %%ymm{low},%%ymm{2 * pixel},%%ymm{2 * pixel}",
            f"vpaddw %%ymm{high},%%ymm{2 * pixel + 1},%%ymm{2 * pixel + 1}",
        ]
    return lines


def _loop(counter: str, steps: int, label: int) -> list[str]:
    lines = [f"test %[{counter}],%[{counter}]", f"jz {label + 1}f", ".p2align 5", f"{label}:"]
    for step in range(steps):
        lines += _step(4 * step, 64 * step)
    return [*lines, f"add ${64 * steps},%[w]", f"add ${4 * steps},%[i]", f"dec %[{counter}]", f"jnz {label}b", f"{label + 1}:"]


def sum_chunk() -> str:
    """C source of ``sum_chunk(pixels, offset, weights, steps, sums, one)``, which adds to the 64 sums of a tile.

    Each of the four `pixels` is where its codes begin, `offset` further on the first that count; the products of 4
    codes each in `steps` steps must not leave 16 bits when they are added up. `one` is 1 in each of 16 parts.
    """
    lines = [f"vpxor %%xmm{i},%%xmm{i},%%xmm{i}" for i in range(2 * PIXELS)]
    lines += _loop("many", UNROLLED, 1) + _loop("few", 1, 3)
    lines.append("vmovdqa %[one],%%ymm8")
    for i in range(2 * PIXELS):
        lines += [
            f"vpmaddwd %%ymm8,%%ymm{i},%%ymm{i}",
            f"vpaddd {32 * i}(%[s]),%%ymm{i},%%ymm{i}",
            f"vmovdqa %%ymm{i},{32 * i}(%[s])",
        ]
    body = "\n".join(f'    "{line}\\n\\t"' for line in lines)
    inputs = ",".join(f'[p{i}]"r"(pixels[{i}])' for i in range(PIXELS))
    spoiled = ",".join(f'"xmm{i}"' for i in range(16))
    return f"""
static inline __attribute__((always_inline)) void sum_chunk(
    const uint8_t *const *pixels, i64 offset, const int8_t *weights, i64 steps, __m256i *sums, __m256i one) {{
  i64 many = steps / {UNROLLED}, few = steps % {UNROLLED};
  __asm__ volatile(
{body}
    : [w]"+r"(weights), [i]"+r"(offset), [many]"+r"(many), [few]"+r"(few)
    : {inputs}, [s]"r"(sums), [one]"m"(one)
    : "memory", "cc", {spoiled});
}}
"""
