/* Convolution and linear layers of codes (uint8) with whole weights, exact: 4 pixels x 16 channels at a time.
 *
 * `sum_chunk` (written by micro.py) adds up products in 16 bits for as many steps as cannot overflow, then in 32 bits;
 * `sum_wide` does it in 32 bits alone, for weights too large for that.
 * The taps of a layer are segments: where they begin relative to a pixel's first one, and how many steps of 4 input
 * channels. So stride, dilation, groups and kernels of any form are a matter of the table alone.
 */
typedef struct {
    i64 offset;
    i64 steps;
} Segment;

typedef struct {
    Finish finish;
    Tensor input;
    i64 base; /* from an image's first pixel to the first tap of the first output pixel */
    i64 down, right; /* from one output pixel's taps to those of the next below, and on the right */
    i32 height, width; /* of the output */
    i32 groups, outputs; /* groups, and output channels of one */
    i64 group; /* from one group's input channels to those of the next */
    i32 wide; /* weights of 16 bits once they are unpacked */
    i32 bits, stride, least; /* of a packed weight, which stands for stride * code + least */
    i32 segments;
    i64 steps; /* of all segments */
    const Segment *segment;
    const uint8_t *weights; /* [block][step][4 x 16 weights, packed] */
} Convolution;

/* 64 weights at a time: 2 bits in four quarters, 4 bits in two halves. */
static void unpack(const uint8_t *from, int8_t *to, i64 steps, int bits, int stride, int least) {
    const __m256i l = _mm256_set1_epi8((char)least), twice = _mm256_set1_epi8(stride == 2 ? -1 : 0);
    if (bits == 2) {
        const __m256i s0 = _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2), s1 = _mm256_setr_epi32(4, 4, 4, 4, 6, 6, 6, 6);
        const __m256i m = _mm256_set1_epi8(3);
        for (i64 i = 0; i < steps; i++, from += 16, to += 64) {
            const __m256i x = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)from));
            const __m256i q0 = _mm256_and_si256(_mm256_srlv_epi32(x, s0), m), q1 = _mm256_and_si256(_mm256_srlv_epi32(x, s1), m);
            _mm256_store_si256((__m256i *)to, _mm256_add_epi8(_mm256_add_epi8(q0, _mm256_and_si256(q0, twice)), l));
            _mm256_store_si256((__m256i *)(to + 32), _mm256_add_epi8(_mm256_add_epi8(q1, _mm256_and_si256(q1, twice)), l));
        }
    } else {
        const __m256i m = _mm256_set1_epi8(15);
        for (i64 i = 0; i < steps; i++, from += 32, to += 64) {
            const __m256i x = _mm256_loadu_si256((const __m256i *)from);
            const __m256i q0 = _mm256_and_si256(x, m), q1 = _mm256_and_si256(_mm256_srli_epi16(x, 4), m);
            _mm256_store_si256((__m256i *)to, _mm256_add_epi8(_mm256_add_epi8(q0, _mm256_and_si256(q0, twice)), l));
            _mm256_store_si256((__m256i *)(to + 32), _mm256_add_epi8(_mm256_add_epi8(q1, _mm256_and_si256(q1, twice)), l));
        }
    }
}

/* From 8 bits to 16. */
static void widen(const int8_t *from, int16_t *to, i64 steps) {
    for (i64 i = 0; i < 4 * steps; i++, from += 16, to += 16)
        _mm256_store_si256((__m256i *)to, _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from)));
}

enum { TILES = 32 }; /* of 4 pixels, whose sums are kept while the weights of a segment go by */

/* Pixels [from, to) of one block of 16 output channels. */
static void convolve_block(const Convolution *c, const Targets *t, const char *input, i64 from, i64 to,
                           const int8_t *weights, i64 block, i64 channel, int n) {
    __m256i sums[TILES][8];
    const uint8_t *pixels[TILES][4];
    const __m256i one = _mm256_set1_epi16(1);
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
            if (c->wide) {
                for (i64 j = 0; 2 * j < count; j++)
                    sum_wide(pixels[0] + 2 * j, offset, (const int16_t *)w, steps, sums[0] + 4 * j);
                w += 128 * steps;
            } else {
                for (i64 j = 0; j < tiles; j++) sum_chunk(pixels[j], offset, w, steps, sums[j], one);
                w += 64 * steps;
            }
        }
        finish_run(&c->finish, t, first, c->height, c->width, count, channel, n, block, &sums[0][0], 1);
    }
}

/* One pixel: the weights are used as they come out of memory. Codes c are multiplied, weights being stride * c + least. */
static void multiply_block(const Convolution *c, const Targets *t, const uint8_t *x, i64 plain, const uint8_t *packed,
                           i64 block, i64 channel, int n) {
    const __m256i one = _mm256_set1_epi16(1), s0 = _mm256_setr_epi32(0, 0, 0, 0, 2, 2, 2, 2);
    const __m256i s1 = _mm256_setr_epi32(4, 4, 4, 4, 6, 6, 6, 6), three = _mm256_set1_epi8(3), fifteen = _mm256_set1_epi8(15);
    __m256i t0 = _mm256_setzero_si256(), t1 = t0;
    const i64 most = c->bits == 2 ? 20 : 4; /* steps until 2 * 255 * code could leave 16 bits */
    for (i64 s = 0; s < c->segments; s++) {
        const uint8_t *a = x + c->segment[s].offset;
        for (i64 i = 0; i < c->segment[s].steps;) {
            const i64 end = i + most < c->segment[s].steps ? i + most : c->segment[s].steps;
            __m256i a0 = _mm256_setzero_si256(), a1 = a0;
            for (; i < end; i++) {
                i32 four;
                memcpy(&four, a + 4 * i, 4);
                const __m256i v = _mm256_set1_epi32(four);
                _mm_prefetch((const char *)packed + 2048, _MM_HINT_T0); /* memory is what this waits for */
                __m256i q0, q1;
                if (c->bits == 2) {
                    const __m256i w = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)packed));
                    q0 = _mm256_and_si256(_mm256_srlv_epi32(w, s0), three);
                    q1 = _mm256_and_si256(_mm256_srlv_epi32(w, s1), three);
                    packed += 16;
                } else {
                    const __m256i w = _mm256_loadu_si256((const __m256i *)packed);
                    q0 = _mm256_and_si256(w, fifteen);
                    q1 = _mm256_and_si256(_mm256_srli_epi16(w, 4), fifteen);
                    packed += 32;
                }
                a0 = _mm256_add_epi16(a0, _mm256_maddubs_epi16(v, q0));
                a1 = _mm256_add_epi16(a1, _mm256_maddubs_epi16(v, q1));
            }
            t0 = _mm256_add_epi32(t0, _mm256_madd_epi16(a0, one));
            t1 = _mm256_add_epi32(t1, _mm256_madd_epi16(a1, one));
        }
    }
    const __m256i least = _mm256_set1_epi32((i32)(plain * c->least));
    if (c->stride == 2) {
        t0 = _mm256_slli_epi32(t0, 1);
        t1 = _mm256_slli_epi32(t1, 1);
    }
    finish_sums(&c->finish, t, 0, 0, 0, channel, n, block, _mm256_add_epi32(t0, least), _mm256_add_epi32(t1, least));
}

/* The sum of all codes that the taps of one pixel read. */
static i64 plain_sum(const Convolution *c, const uint8_t *x) {
    i64 sum = 0;
    for (i64 s = 0; s < c->segments; s++)
        for (i64 i = 0; i < 4 * c->segment[s].steps; i++) sum += x[c->segment[s].offset + i];
    return sum;
}

static void convolve(const Convolution *c, const Place *p, int8_t *scratch) {
    const Targets t = targets_of(&c->finish, p);
    const char *input = start_of(&c->input, p) + c->base;
    const i64 pixels = p->count * c->height * c->width, per = (c->outputs + 15) / 16, blocks = per * c->groups;
    const i64 bytes = c->steps * 8 * c->bits;
    const i64 parts = pixels >= 8 * p->threads && blocks % p->threads ? p->threads : 1;
    i64 job, end, known = -1, plain = 0;
    if (c->finish.to_codes) fill_border(&c->finish.codes, p, c->finish.zero);
    share_of(p, blocks * parts, &job, &end);
    for (; job < end; job++) {
        const i64 block = job / parts, part = job % parts, g = block / per, o = block % per * 16;
        const int n = c->outputs - o < 16 ? c->outputs - o : 16;
        const char *x = input + g * c->group;
        const uint8_t *packed = c->weights + block * bytes;
        if (pixels == 1 && c->bits < 8) {
            if (known != g) plain = plain_sum(c, (const uint8_t *)x);
            known = g;
            multiply_block(c, &t, (const uint8_t *)x, plain, packed, 16 * block, g * c->outputs + o, n);
            continue;
        }
        if (c->bits < 8) unpack(packed, scratch, c->steps, c->bits, c->stride, c->least);
        if (c->wide) widen((const int8_t *)packed, (int16_t *)scratch, c->steps);
        const int8_t *weights = c->bits < 8 || c->wide ? scratch : (const int8_t *)packed;
        convolve_block(c, &t, x, pixels * part / parts, pixels * (part + 1) / parts, weights, 16 * block,
                       g * c->outputs + o, n);
    }
}
