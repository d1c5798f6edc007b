/* Convolutions of 3 x 3 with stride 1 in a quarter of the products, exact: Winograd's F(4x4, 3x3).
 *
 * A tile of 4 x 4 outputs takes 6 x 6 inputs d and 3 x 3 weights g, and is A'[(G g G') * (B' d B)]A: 36 products for
 * 144 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2016). In floating point that costs digits.
 * Here all is whole: codes up to 255 give inputs up to 17,340 and weights up to 128 give 49 times as much, with the
 * fractions of G left out, so both fit 16 bits; products and sums are taken modulo 2^32. What comes out is 576 times
 * the sum that was wanted, modulo 2^32: times the inverse of 9 it is 64 times that, which is right where the sum is
 * below 2^25 (weights.py sees to it).
 */
enum { GROUP = 32 };      /* tiles whose inputs are spread at a time */
enum { CHUNK = 32 };      /* steps of 4 input channels whose weights are spread at a time */
enum { POSITIONS = 36 };  /* of a tile of 6 x 6 */
enum { PRODUCTS = 2 * GROUP + 2 }; /* registers of a position's sums of products */
enum { LINE = 64 };       /* bytes between the positions' arrays, which would else fall on the same places of the cache */

typedef struct { /* tiles beside each other: their first outputs, and how many tiles */
    i64 image, row, column, tiles;
} Strip;

typedef struct { /* what a thread works in */
    int8_t *weights;  /* of a block: [tap][step][64] */
    int16_t *inputs;  /* [position][tile][channel], a position being `apart` from the next */
    i64 apart, channels; /* these in whole registers */
    __m256i *ordered; /* weights of a chunk: [tap][pair of channels][16 outputs x 2 channels] */
    __m256i *spread;  /* those of a row of positions: [position][pair of channels][16 outputs x 2 channels] */
    __m256i *products; /* sums of products: [position][tile][16 outputs] */
    __m256i *sums;    /* of a strip: [row][column][16 outputs] */
} Tiled;

/* B' times a column: 6 numbers of 16 bits, in 16 channels. */
static inline void spread_six(__m256i *d, i64 apart) {
#define ADD _mm256_add_epi16
#define SUB _mm256_sub_epi16
    const __m256i d0 = d[0], d1 = d[apart], d2 = d[2 * apart], d3 = d[3 * apart], d4 = d[4 * apart], d5 = d[5 * apart];
    const __m256i even = SUB(d4, _mm256_slli_epi16(d2, 2)), odd = SUB(d3, _mm256_slli_epi16(d1, 2));
    const __m256i outer = SUB(d4, d2), inner = SUB(d3, d1), twice = ADD(inner, inner);
    d[0] = ADD(_mm256_slli_epi16(SUB(d0, d2), 2), outer);
    d[apart] = ADD(even, odd);
    d[2 * apart] = SUB(even, odd);
    d[3 * apart] = ADD(outer, twice);
    d[4 * apart] = SUB(outer, twice);
    d[5 * apart] = SUB(SUB(d5, d3), ADD(twice, twice));
}

/* The inputs of one tile, in all channels. Behind the last row and column that outputs read, these are taken again. */
static void spread_inputs(const Convolution *c, const char *input, i64 row, i64 column, const Tiled *w, i64 tile) {
    int16_t *to = w->inputs + tile * w->channels;
    i64 down[6], right[6];
    for (int i = 0; i < 6; i++) {
        down[i] = (row + i < c->height + 2 ? row + i : c->height + 1) * c->down;
        right[i] = (column + i < c->width + 2 ? column + i : c->width + 1) * c->right;
    }
    for (i64 k = 0; k < w->channels; k += 16) {
        __m256i d[POSITIONS];
        for (int y = 0; y < 6; y++)
            for (int x = 0; x < 6; x++)
                d[6 * y + x] = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(input + down[y] + right[x] + k)));
        for (int x = 0; x < 6; x++) spread_six(d + x, 6);
        for (int y = 0; y < 6; y++) spread_six(d + 6 * y, 1);
        for (int i = 0; i < POSITIONS; i++)
            _mm256_store_si256((__m256i *)(to + i * w->apart + k), d[i]);
    }
}

/* Weights of some steps of a block as numbers of 16 bits: [tap][pair of channels][16 outputs x 2 channels]. */
static void order_weights(const int8_t *weights, i64 steps, i64 from, i64 count, __m256i *to) {
    for (int tap = 0; tap < 9; tap++) {
        const int8_t *at = weights + (tap * steps + from) * 64;
        for (i64 i = 0; i < 2 * count; i++, at += 32) { /* 4 channels of 8 outputs become 2 of 8, and 2 more */
            __m256i *out = to + tap * (4 * count + LINE / 32) + i / 2 * 4 + i % 2;
            const __m256 low = _mm256_castsi256_ps(_mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)at)));
            const __m256 high = _mm256_castsi256_ps(_mm256_cvtepi8_epi16(_mm_load_si128((const __m128i *)(at + 16))));
            out[0] = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(low, high, 0x88)), 0xd8);
            out[2] = _mm256_permute4x64_epi64(_mm256_castps_si256(_mm256_shuffle_ps(low, high, 0xdd)), 0xd8);
        }
    }
}

/* Row `y` of G without its fractions times 3 numbers. */
static inline __attribute__((always_inline)) __m256i spread_three(int y, __m256i g0, __m256i g1, __m256i g2) {
    if (y == 0) return g0;
    if (y == 5) return g2;
    const __m256i outer = ADD(g0, y < 3 ? g2 : _mm256_slli_epi16(g2, 2)), inner = y < 3 ? g1 : ADD(g1, g1);
    return y % 2 ? ADD(outer, inner) : SUB(outer, inner);
}

/* The 6 positions of row `y`: so many registers of weights each. */
static inline __attribute__((always_inline)) void spread_row(int y, const __m256i *g, i64 count, __m256i *to) {
    const i64 apart = count + LINE / 32;
    for (i64 i = 0; i < count; i++) {
        const __m256i *at = g + i;
        __m256i column[3];
        for (int x = 0; x < 3; x++) column[x] = spread_three(y, at[x * apart], at[(3 + x) * apart], at[(6 + x) * apart]);
        for (int x = 0; x < 6; x++) to[x * apart + i] = spread_three(x, column[0], column[1], column[2]);
    }
}

static void spread_weights(int y, const __m256i *g, i64 count, __m256i *to) {
    switch (y) {
        case 0: spread_row(0, g, count, to); break;
        case 1: spread_row(1, g, count, to); break;
        case 2: spread_row(2, g, count, to); break;
        case 3: spread_row(3, g, count, to); break;
        case 4: spread_row(4, g, count, to); break;
        case 5: spread_row(5, g, count, to); break;
    }
}
#undef ADD
#undef SUB

/* A' times 6 numbers of 32 bits, with the fractions of G, times 24: 4. */
static inline void gather_six(const __m256i *m, i64 apart, __m256i *to, i64 step) {
#define ADD _mm256_add_epi32
#define SUB _mm256_sub_epi32
#define TIMES(n, x) _mm256_slli_epi32(x, n)
    const __m256i m0 = m[0], m1 = m[apart], m2 = m[2 * apart], m3 = m[3 * apart], m4 = m[4 * apart], m5 = m[5 * apart];
    const __m256i near = TIMES(2, ADD(m1, m2)), far = ADD(m3, m4);
    const __m256i across = TIMES(2, SUB(m1, m2)), apart_far = SUB(m3, m4), twice = ADD(apart_far, apart_far);
    to[0] = ADD(SUB(far, near), ADD(TIMES(2, m0), ADD(m0, m0)));
    to[step] = SUB(twice, across);
    to[2 * step] = SUB(TIMES(2, far), near);
    to[3 * step] = ADD(SUB(TIMES(2, twice), across), ADD(TIMES(4, m5), TIMES(3, m5)));
}

/* The 4 x 4 outputs of one tile, in rows that are `columns` apart. */
static void gather_outputs(const __m256i *products, __m256i *sums, i64 columns) {
    const __m256i ninth = _mm256_set1_epi32(954437177); /* times 9: 1, modulo 2^32 */
    for (int half = 0; half < 2; half++) {
        __m256i m[POSITIONS], rows[24], y[16];
        for (int i = 0; i < POSITIONS; i++) m[i] = products[i * PRODUCTS + half];
        for (int x = 0; x < 6; x++) gather_six(m + x, 6, rows + x, 6);
        for (int i = 0; i < 4; i++) gather_six(rows + 6 * i, 1, y + 4 * i, 1);
        for (int i = 0; i < 16; i++)
            sums[(i / 4 * columns + i % 4) * 2 + half] = _mm256_srai_epi32(_mm256_mullo_epi32(y[i], ninth), 6);
    }
}
#undef ADD
#undef SUB
#undef TIMES

/* Bring a block's sums of a strip to their place. */
static void finish_strip(const Convolution *c, const Targets *t, const Strip *s, const __m256i *products,
                         __m256i *sums, i64 block, i64 channel, int n) {
    const i64 columns = 4 * s->tiles;
    for (i64 i = 0; i < s->tiles; i++) gather_outputs(products + 2 * i, sums + 8 * i, columns);
    const i64 rows = c->height - s->row < 4 ? c->height - s->row : 4;
    const i64 width = c->width - s->column < columns ? c->width - s->column : columns;
    const i64 runs = width == columns && width == c->width ? 1 : rows; /* whole rows follow each other */
    for (i64 y = 0; y < runs; y++) {
        const Pixel at = {s->image, s->row + y, s->column};
        finish_run(&c->finish, t, at, c->height, c->width, rows / runs * width, channel, n, block, sums + 2 * y * columns, 1);
    }
}

/* The products of one position with the weights of `part` steps from step `s` on. */
static void multiply_tiles(const Tiled *w, i64 position, i64 column, i64 tiles, i64 s, i64 part) {
    const i64 channels = w->channels;
    static const __m256i none[8] = {0};
    const int16_t *weights = (const int16_t *)(w->spread + column * (4 * part + LINE / 32));
    const uint8_t *inputs = (const uint8_t *)(w->inputs + position * w->apart);
    __m256i *products = w->products + position * PRODUCTS;
    for (i64 tile = 0; tile < tiles; tile += 4, inputs += 8 * channels, products += 8) {
        const uint8_t *four[4] = {inputs, inputs + 2 * channels, inputs + 4 * channels, inputs + 6 * channels};
        sum_pairs(four, 8 * s, weights, 2 * part, products, s ? products : none);
    }
}

/* Some blocks of some strips, of at most GROUP tiles together. */
static void convolve_group(const Convolution *c, const Targets *t, const char *input, const Strip *strips, i64 count,
                           i64 from, i64 to, const Tiled *w) {
    const i64 steps = c->steps / 9, bytes = bytes_of_block(c);
    i64 tiles = 0;
    for (i64 i = 0; i < count; i++)
        for (i64 j = 0; j < strips[i].tiles; j++, tiles++)
            spread_inputs(c, input + strips[i].image * c->input.image, strips[i].row, strips[i].column + 4 * j, w, tiles);
    for (i64 block = from; block < to; block++) {
        const int8_t *weights = (const int8_t *)c->weights + block * bytes;
        if (c->bits < 8) {
            unpack((const uint8_t *)weights, w->weights, c->steps, c->bits, c->stride, c->least);
            weights = w->weights;
        }
        for (i64 s = 0; s < steps; s += CHUNK) {
            const i64 part = steps - s < CHUNK ? steps - s : CHUNK;
            order_weights(weights, steps, s, part, w->ordered);
            for (int y = 0; y < 6; y++) {
                spread_weights(y, w->ordered, 4 * part, w->spread);
                for (int x = 0; x < 6; x++) multiply_tiles(w, 6 * y + x, x, tiles, s, part);
            }
        }
        const __m256i *products = w->products;
        const int n = c->outputs - 16 * block < 16 ? (int)(c->outputs - 16 * block) : 16;
        for (i64 i = 0; i < count; products += 2 * strips[i].tiles, i++)
            finish_strip(c, t, strips + i, products, w->sums, 16 * block, 16 * block, n);
    }
}

/* Whether tiles cost less than sums of all products, as measured, in units of what 4 pixels of a block cost in a step. */
static int tiles_pay(const Convolution *c, i64 tiles, i64 pixels) {
    const i64 steps = c->steps / 9, blocks = (c->outputs + 15) / 16;
    const i64 spread = 57 * steps + tiles * (24 + 3 * steps / blocks), products = 72 * steps * ((tiles + 3) / 4);
    const i64 plain = 9 * steps * ((pixels + 3) / 4);
#ifdef DOT /* not measured: products take half the time or a quarter, of all widths; the rest takes what it did */
    const i64 cost = 2 * DOT * spread + products, other = plain;
#else
    const i64 cost = spread + products, other = c->wide ? 2 * plain : c->bits > 2 ? 5 * plain / 4 : plain;
#endif
    return c->tiled == ALWAYS || (c->tiled && cost < other);
}

static void convolve_tiles(const Convolution *c, const Place *p, int8_t *scratch) {
    const Targets t = targets_of(&c->finish, p);
    const char *input = start_of(&c->input, p) + c->base;
    const i64 steps = c->steps / 9, channels = (4 * steps + 15) / 16 * 16, blocks = (c->outputs + 15) / 16;
    const i64 across = (c->width + 3) / 4, down = (c->height + 3) / 4, per = (across + GROUP - 1) / GROUP;
    Tiled w = {scratch, (int16_t *)(scratch + 64 * (c->steps + 1)), GROUP * channels + LINE / 2, channels, 0, 0, 0, 0};
    w.ordered = (__m256i *)(w.inputs + POSITIONS * w.apart);
    w.spread = w.ordered + 9 * (4 * CHUNK + LINE / 32);
    w.products = w.spread + 6 * (4 * CHUNK + LINE / 32);
    w.sums = w.products + POSITIONS * PRODUCTS;
    if (c->finish.to_codes) fill_border(&c->finish.codes, p, c->finish.zero);
    i64 strip = 0, strips = p->count * down * per, block = 0, last = blocks;
    if (blocks >= p->threads) share_of(p, blocks, &block, &last); /* threads share blocks, or else rows of tiles */
    else share_of(p, strips, &strip, &strips);
    while (strip < strips) {
        Strip group[GROUP];
        i64 count = 0, tiles = 0;
        for (; strip < strips; strip++) {
            const i64 column = strip % per, n = across * (column + 1) / per - across * column / per;
            if (tiles + n > GROUP) break;
            const i64 row = strip / per;
            group[count++] = (Strip){row / down, 4 * (row % down), 4 * (across * column / per), n};
            tiles += n;
        }
        convolve_group(c, &t, input, group, count, block, last, &w);
    }
}

/* Whether a convolution is computed so, for so many images at a time. */
i64 bitdial_in_tiles(const Convolution *c, i64 images) {
    return tiles_pay(c, images * ((c->height + 3) / 4) * ((c->width + 3) / 4), images * c->height * c->width);
}

static void convolve_either(const Convolution *c, const Place *p, int8_t *scratch) {
    if (bitdial_in_tiles(c, p->count)) convolve_tiles(c, p, scratch);
    else convolve(c, p, scratch);
}
