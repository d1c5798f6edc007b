"""The loops for processors with VNNI give the very sums, computed through SIMDe on whatever processor is at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bitdial.numerics.native.build import library
from bitdial.runtime.kernels import structures
from bitdial.runtime.kernels.structures import ALWAYS, Library, source
from tests.runtime.test_kernels import SETS, SHAPES, TILED, computed, drawn, program_of, reference, run, unavailable

simde = pytest.importorskip("simde_py", reason="needs simde-py, the headers of SIMDe")

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=f"no kernels here: {unavailable()}")

PARTS = ("dpbusd", "dpwssd", "loadu", "storeu", "add", "set1")

WIDE = """
#define DOT 2
typedef simde__m512i Block;
static inline Block block_of(const void *from) { return simde_mm512_loadu_si512(from); }
static inline void keep_block(void *to, Block sums) { simde_mm512_storeu_si512(to, sums); }
static inline Block add_blocks(Block a, Block b) { return simde_mm512_add_epi32(a, b); }
static inline Block add_bytes(Block sums, int32_t four, Block weights) {
  return simde_mm512_dpbusd_epi32(sums, simde_mm512_set1_epi32(four), weights);
}
static inline Block add_shorts(Block sums, int32_t two, Block weights) {
  return simde_mm512_dpwssd_epi32(sums, simde_mm512_set1_epi32(two), weights);
}
"""

HALVES = """
#define __AVXVNNI__ 1
#define _mm256_dpbusd_avx_epi32 through_bytes
#define _mm256_dpwssd_avx_epi32 through_shorts
#define THROUGH(name, instruction) \\
  static inline __m256i name(__m256i sums, __m256i numbers, __m256i weights) { \\
    simde__m256i s, n, w; \\
    memcpy(&s, &sums, 32), memcpy(&n, &numbers, 32), memcpy(&w, &weights, 32); \\
    s = instruction(s, n, w); \\
    memcpy(&sums, &s, 32); \\
    return sums; \\
  }
THROUGH(through_bytes, simde_mm256_dpbusd_epi32)
THROUGH(through_shorts, simde_mm256_dpwssd_epi32)
"""


@pytest.fixture(scope="module", params=["512 bits", "256 bits"])
def through_simde(request: Any) -> Library:
    folder = Path(simde.get_include())
    headers = ["immintrin.h", "string.h", *(str(folder / "simde" / "x86" / "avx512" / f"{part}.h") for part in PARTS)]
    includes = "".join(f'#include "{header}"\n' for header in headers)
    # Where the processor has VNNI itself, the test is of these loops all the same.
    without = "#undef __AVX512VNNI__\n#undef __AVXVNNI__\n"
    definition = WIDE if request.param == "512 bits" else HALVES
    made = Library(str(library((includes + without + definition).encode() + source())))
    assert made.dot() == (2 if request.param == "512 bits" else 1)
    return made


@pytest.fixture(autouse=True)
def loops(through_simde: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structures, "compiled", lambda: through_simde)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("weights", "largest"), [("ternary", False), ("4 bits, odd", True), ("8 bits", True), ("8 bits", False)]
)
def test_sums_are_exact(weights: str, largest: bool, shape: str) -> None:
    x, codes = drawn(SHAPES[shape], SETS[weights], 256, 1 if "vector" in shape else 2, largest)
    assert torch.equal(computed(x, codes, 3, 256, SHAPES[shape]), reference(x, codes, 3, SHAPES[shape]).float())


@pytest.mark.parametrize("weights", ["ternary", "7 bits", "8 bits"])
@pytest.mark.parametrize("shape", TILED)
def test_sums_in_tiles_are_exact(shape: str, weights: str) -> None:
    geometry = (*TILED[shape], (3, 3), (1, 1), (1, 1), (1, 1), 1)
    x, codes = drawn(geometry, SETS[weights], 256, 3, False)
    program = program_of(x, codes, 9, 256, geometry)
    for each in program.convolutions:
        each.tiled *= ALWAYS
    assert torch.equal(run(program, x, 9), reference(x, codes, 9, geometry).float())
