/* The innermost loops where the processor multiplies and adds up small numbers in one instruction (VNNI).
 *
 * Products of bytes are added up in 32 bits, four at a time, so weights of any width up to 8 bits are as quick, and no
 * sum can leave its bits. A block is 16 sums, of the 16 output channels. `DOT` says that these loops are there; without
 * it micro.py has them. The tests define a block through SIMDe, which computes it on any processor.
 */
#ifndef DOT
#if defined(__AVX512F__) && defined(__AVX512VNNI__)
#define DOT 2 /* a loop keeps so many sums apart for each pixel: one product waits for another */
typedef __m512i Block;
static inline Block block_of(const void *from) { return _mm512_loadu_si512(from); }
static inline void keep_block(void *to, Block sums) { _mm512_storeu_si512(to, sums); }
static inline Block add_blocks(Block a, Block b) { return _mm512_add_epi32(a, b); }
/* Adds up 4 codes times 64 weights, or 2 numbers of 16 bits times 32. */
static inline Block add_bytes(Block sums, i32 four, Block weights) { return _mm512_dpbusd_epi32(sums, _mm512_set1_epi32(four), weights); }
static inline Block add_shorts(Block sums, i32 two, Block weights) { return _mm512_dpwssd_epi32(sums, _mm512_set1_epi32(two), weights); }
#elif defined(__AVXVNNI__)
#define DOT 1
typedef struct { __m256i low, high; } Block;
static inline Block block_of(const void *from) {
    return (Block){_mm256_loadu_si256(from), _mm256_loadu_si256((const __m256i *)from + 1)};
}
static inline void keep_block(void *to, Block sums) {
    _mm256_storeu_si256(to, sums.low);
    _mm256_storeu_si256((__m256i *)to + 1, sums.high);
}
static inline Block add_blocks(Block a, Block b) {
    return (Block){_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
static inline Block add_bytes(Block sums, i32 four, Block w) {
    const __m256i v = _mm256_set1_epi32(four);
    return (Block){_mm256_dpbusd_avx_epi32(sums.low, v, w.low), _mm256_dpbusd_avx_epi32(sums.high, v, w.high)};
}
static inline Block add_shorts(Block sums, i32 two, Block w) {
    const __m256i v = _mm256_set1_epi32(two);
    return (Block){_mm256_dpwssd_avx_epi32(sums.low, v, w.low), _mm256_dpwssd_avx_epi32(sums.high, v, w.high)};
}
#endif
#endif

#ifdef DOT
static inline __attribute__((always_inline)) void sum_dots(
    const uint8_t *const *pixels, i64 offset, const void *weights, i64 steps, __m256i *sums, const __m256i *before,
    Block (*add)(Block, i32, Block)) {
    static const i32 none[16] = {0};
    Block total[4][DOT];
    for (int p = 0; p < 4; p++)
        for (int k = 0; k < DOT; k++) total[p][k] = block_of(k ? (const void *)none : (const void *)(before + 2 * p));
    for (i64 i = 0; i < steps; i += DOT)
        for (int k = 0; k < DOT && i + k < steps; k++) {
            const Block w = block_of((const char *)weights + 64 * (i + k));
            for (int p = 0; p < 4; p++) {
                i32 codes;
                memcpy(&codes, pixels[p] + offset + 4 * (i + k), 4);
                total[p][k] = add(total[p][k], codes, w);
            }
        }
    for (int p = 0; p < 4; p++) {
        for (int k = 1; k < DOT; k++) total[p][0] = add_blocks(total[p][0], total[p][k]);
        keep_block(sums + 2 * p, total[p][0]);
    }
}

static inline void sum_chunk(const uint8_t *const *pixels, i64 offset, const int8_t *weights, i64 steps, __m256i *sums) {
    sum_dots(pixels, offset, weights, steps, sums, sums, add_bytes);
}

static inline void sum_pairs(const uint8_t *const *pixels, i64 offset, const int16_t *weights, i64 steps, __m256i *sums,
                             const __m256i *before) {
    sum_dots(pixels, offset, weights, steps, sums, before, add_shorts);
}
#endif
