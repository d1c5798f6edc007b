/* Convolution and linear layers of codes (uint8) with whole weights, exact: 4 pixels x 16 channels at a time.
 *
 * `sum_chunk` (written by micro.py) adds up products in 16 bits for as many steps as cannot overflow, then in 32 bits;
 * `sum_wide` does it in 32 bits alone, for weights too large for that. With VNNI dot.c has the one loop for all.
 * The taps of a layer are segments: where they begin relative to a pixel's first one, and how many steps of 4 input
 * channels. So stride, dilation, groups and kernels of any form are a matter of the table alone.
 */
typedef struct {
    i64 offset;
    i64 steps;
} Segment;

enum { ALWAYS = 2 };

typedef struct {
    Finish finish;
    Tensor input;
    i64 base; /* from an image's first pixel to the first tap of the first output pixel */
    i64 down, right; /* from one output pixel's taps to those of the next below, and on the right */
    i32 height, width; /* of the output */
    i32 groups, outputs; /* groups, and output channels of one */
    i64 group; /* from one group's input channels to those of the next */
    i32 wide; /* weights of 16 bits once they are unpacked */
    i32 tiled; /* winograd.c can do it: 0 no, 1 where that is quicker, 2 always */
    i32 bits, stride, least; /* of a packed weight, which stands for stride * code + least */
    i32 segments;
    i64 steps; /* of all segments */
    const Segment *segment;
    const uint8_t *weights; /* [block][step][4 x 16 weights, packed] */
} Convolution;

/* Bytes of a block's weights, in whole lines. */
static inline i64 bytes_of_block(const Convolution *c) { return (c->steps * 8 * c->bits + 31) / 32 * 32; }

/* 64 weights as numbers, of one step, from their codes. */
static inline void put_weights(int8_t *to, __m256i q0, __m256i q1, __m256i twice, __m256i least) {
    _mm256_store_si256((__m256i *)to, _mm256_add_epi8(_mm256_add_epi8(q0, _mm256_and_si256(q0, twice)), least));
    _mm256_store_si256((__m256i *)(to + 32), _mm256_add_epi8(_mm256_add_epi8(q1, _mm256_and_si256(q1, twice)), least));
}

/* 32 bytes hold two steps in four quarters of 2 bits, or one step in two halves of 4. With an odd number of steps one
 * more is written. */
static void unpack(const uint8_t *from, int8_t *to, i64 steps, int bits, int stride, int least) {
    const __m256i l = _mm256_set1_epi8((char)least), twice = _mm256_set1_epi8(stride == 2 ? -1 : 0);
    const __m256i m = _mm256_set1_epi8(bits == 2 ? 3 : 15);
    if (bits == 2) {
        for (i64 i = 0; i < steps; i += 2, from += 32, to += 128) {
            const __m256i x = _mm256_load_si256((const __m256i *)from);
            put_weights(to, _mm256_and_si256(x, m), _mm256_and_si256(_mm256_srli_epi16(x, 2), m), twice, l);
            put_weights(to + 64, _mm256_and_si256(_mm256_srli_epi16(x, 4), m),
                        _mm256_and_si256(_mm256_srli_epi16(x, 6), m), twice, l);
        }
    } else {
        for (i64 i = 0; i < steps; i++, from += 32, to += 64) {
            const __m256i x = _mm256_load_si256((const __m256i *)from);
            put_weights(to, _mm256_and_si256(x, m), _mm256_and_si256(_mm256_srli_epi16(x, 4), m), twice, l);
        }
    }
}

#ifndef DOT
/* From 8 bits to 16. */
static void widen(const int8_t *from, int16_t *to, i64 steps) {
    for (i64 i = 0; i < 4 * steps; i++, from += 16, to += 16)
        _mm256_store_si256((__m256i *)to, _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from)));
}
#endif

enum { TILES = 32 }; /* of 4 pixels, whose sums are kept while the weights of a segment go by */

/* Pixels [from, to) of one block of 16 output channels. */
static void convolve_block(const Convolution *c, const Targets *t, const char *input, i64 from, i64 to,
                           const int8_t *weights, i64 block, i64 channel, int n) {
    __m256i sums[TILES][8];
    const uint8_t *pixels[TILES][4];
    for (i64 begin = from; begin < to; begin += 4 * TILES) {
        const i64 count = to - begin < 4 * TILES ? to - begin : 4 * TILES, tiles = (count + 3) / 4;
        Pixel at = pixel_at(begin, c->height, c->width);
        const Pixel first = at;
        const uint8_t *last = 0;
        for (i64 i = 0; i < 4 * tiles; i++) { /* those behind the end are the last one again */
            if (i < count) last = (const uint8_t *)input + at.b * c->input.image + at.y * c->down + at.x * c->right;
            pixels[i / 4][i % 4] = last;
            step_on(&at, c->height, c->width);
        }
        memset(sums, 0, tiles * sizeof *sums);
        const int8_t *w = weights;
        for (i64 s = 0; s < c->segments; s++) {
            const i64 offset = c->segment[s].offset, steps = c->segment[s].steps;
#ifndef DOT
            if (c->wide) {
                for (i64 j = 0; 2 * j < count; j++)
                    sum_wide(pixels[0] + 2 * j, offset, (const int16_t *)w, steps, sums[0] + 4 * j);
                w += 128 * steps;
                continue;
            }
#endif
            for (i64 j = 0; j < tiles; j++) sum_chunk(pixels[j], offset, w, steps, sums[j]);
            w += 64 * steps;
        }
        finish_run(&c->finish, t, first, c->height, c->width, count, channel, n, block, &sums[0][0], 1);
    }
}

/* The codes that the taps of the first pixel read, one behind the other, with zeros for one more step; their sum. */
static i64 gather(const Convolution *c, const uint8_t *x, uint8_t *codes) {
    uint8_t *to = codes;
    for (i64 s = 0; s < c->segments; to += 4 * c->segment[s].steps, s++)
        memcpy(to, x + c->segment[s].offset, 4 * c->segment[s].steps);
    memset(to, 0, 4);
    i64 sum = 0;
    for (i64 i = 0; i < 4 * c->steps; i++) sum += codes[i];
    return sum;
}

static inline __m256i four_codes(const uint8_t *from) {
    i32 four;
    memcpy(&four, from, 4);
    return _mm256_set1_epi32(four);
}

/* One pixel: the weights are used as they come out of memory, which is what this waits for. Codes are multiplied,
 * the weights being stride * code + least: `sum` is that of the gathered codes. */
static void multiply_block(const Convolution *c, const Targets *t, const uint8_t *codes, i64 sum, const uint8_t *packed,
                           i64 block, i64 channel, int n) {
    const __m256i one = _mm256_set1_epi16(1), m = _mm256_set1_epi8(c->bits == 2 ? 3 : 15);
    const i64 apiece = c->bits == 2 ? 2 : 1, most = c->bits == 2 ? 20 : 4; /* rounds until 2 * 255 * code could leave 16 bits */
    const i64 rounds = (c->steps + apiece - 1) / apiece;
    __m256i t0 = _mm256_setzero_si256(), t1 = t0;
    for (i64 i = 0; i < rounds;) {
        const i64 end = i + most < rounds ? i + most : rounds;
        __m256i a0 = _mm256_setzero_si256(), a1 = a0, b0 = a0, b1 = a0;
        for (; i < end; i++, packed += 32) {
            const __m256i w = _mm256_load_si256((const __m256i *)packed);
            _mm_prefetch((const char *)packed + 4096, _MM_HINT_T0);
            if (c->bits == 2) {
                const __m256i v = four_codes(codes + 8 * i), u = four_codes(codes + 8 * i + 4);
                a0 = _mm256_add_epi16(a0, _mm256_maddubs_epi16(v, _mm256_and_si256(w, m)));
                a1 = _mm256_add_epi16(a1, _mm256_maddubs_epi16(v, _mm256_and_si256(_mm256_srli_epi16(w, 2), m)));
                b0 = _mm256_add_epi16(b0, _mm256_maddubs_epi16(u, _mm256_and_si256(_mm256_srli_epi16(w, 4), m)));
                b1 = _mm256_add_epi16(b1, _mm256_maddubs_epi16(u, _mm256_and_si256(_mm256_srli_epi16(w, 6), m)));
            } else {
                const __m256i v = four_codes(codes + 4 * i);
                a0 = _mm256_add_epi16(a0, _mm256_maddubs_epi16(v, _mm256_and_si256(w, m)));
                a1 = _mm256_add_epi16(a1, _mm256_maddubs_epi16(v, _mm256_and_si256(_mm256_srli_epi16(w, 4), m)));
            }
        }
        t0 = _mm256_add_epi32(t0, _mm256_add_epi32(_mm256_madd_epi16(a0, one), _mm256_madd_epi16(b0, one)));
        t1 = _mm256_add_epi32(t1, _mm256_add_epi32(_mm256_madd_epi16(a1, one), _mm256_madd_epi16(b1, one)));
    }
    const __m256i least = _mm256_set1_epi32((i32)(sum * c->least));
    if (c->stride == 2) {
        t0 = _mm256_slli_epi32(t0, 1);
        t1 = _mm256_slli_epi32(t1, 1);
    }
    finish_sums(&c->finish, t, 0, 0, 0, channel, n, block, _mm256_add_epi32(t0, least), _mm256_add_epi32(t1, least));
}

static void convolve(const Convolution *c, const Place *p, int8_t *scratch) {
    const Targets t = targets_of(&c->finish, p);
    const char *input = start_of(&c->input, p) + c->base;
    const i64 pixels = p->count * c->height * c->width, per = (c->outputs + 15) / 16, blocks = per * c->groups;
    const i64 bytes = bytes_of_block(c);
    const i64 parts = pixels >= 8 * p->threads && blocks % p->threads ? p->threads : 1;
    i64 job, end, gathered = -1, sum = 0;
    if (c->finish.to_codes) fill_border(&c->finish.codes, p, c->finish.zero);
    share_of(p, blocks * parts, &job, &end);
    for (; job < end; job++) {
        const i64 block = job / parts, part = job % parts, g = block / per, o = block % per * 16;
        const int n = c->outputs - o < 16 ? c->outputs - o : 16;
        const char *x = input + g * c->group;
        const uint8_t *packed = c->weights + block * bytes;
        if (pixels == 1 && c->bits < 8) {
            if (gathered != g) sum = gather(c, (const uint8_t *)x, (uint8_t *)scratch);
            gathered = g;
            multiply_block(c, &t, (const uint8_t *)scratch, sum, packed, 16 * block, g * c->outputs + o, n);
            continue;
        }
        if (c->bits < 8) unpack(packed, scratch, c->steps, c->bits, c->stride, c->least);
        const int8_t *weights = c->bits < 8 ? scratch : (const int8_t *)packed;
#ifndef DOT
        if (c->wide) {
            widen((const int8_t *)packed, (int16_t *)scratch, c->steps);
            weights = scratch;
        }
#endif
        convolve_block(c, &t, x, pixels * part / parts, pixels * (part + 1) / parts, weights, 16 * block,
                       g * c->outputs + o, n);
    }
}
