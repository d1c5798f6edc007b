/* What every operation does with 16 channels of a pixel that it has computed: scale, bias, what is added (a residual),
 * an activation function, and then the value as float, as a code of the next layer's grid, or both. */

typedef struct {
    i32 act; /* 0 none, 1 clamp, 2 table */
    i32 has_residual, to_float, to_codes;
    float low, high;               /* of the clamp, or ends of the table */
    float left_slope, left_offset; /* of the function below the table, and above */
    float right_slope, right_offset;
    float inverse; /* of the grid's step */
    i32 zero, last; /* code of 0.0, and the largest code */
    i32 cells;
    const float *table; /* values at the left ends of the cells, then their differences */
    const float *scale, *bias; /* a channel each, in blocks of 16 */
    const i32 *shift;          /* is added to a whole sum before it is scaled */
    Tensor residual, values, codes;
} Finish;

typedef struct { /* where a tensor begins, for the images at hand */
    char *residual, *values, *codes;
} Targets;

static inline Targets targets_of(const Finish *f, const Place *p) {
    Targets t;
    t.residual = f->has_residual ? start_of(&f->residual, p) : 0;
    t.values = f->to_float ? start_of(&f->values, p) : 0;
    t.codes = f->to_codes ? start_of(&f->codes, p) : 0;
    return t;
}

static inline __m256 by_table(const Finish *f, __m256 v) {
    const __m256 low = _mm256_set1_ps(f->low), high = _mm256_set1_ps(f->high);
    const __m256 cell = _mm256_set1_ps((float)f->cells / (f->high - f->low));
    __m256 place = _mm256_mul_ps(_mm256_sub_ps(v, low), cell);
    place = _mm256_max_ps(_mm256_min_ps(place, _mm256_set1_ps((float)f->cells - 0.5f)), _mm256_setzero_ps());
    const __m256i at = _mm256_cvttps_epi32(place);
    const __m256 share = _mm256_sub_ps(place, _mm256_cvtepi32_ps(at));
    const __m256 value = _mm256_i32gather_ps(f->table, at, 4), step = _mm256_i32gather_ps(f->table + f->cells, at, 4);
    __m256 y = _mm256_fmadd_ps(share, step, value);
    const __m256 below = _mm256_fmadd_ps(v, _mm256_set1_ps(f->left_slope), _mm256_set1_ps(f->left_offset));
    const __m256 above = _mm256_fmadd_ps(v, _mm256_set1_ps(f->right_slope), _mm256_set1_ps(f->right_offset));
    y = _mm256_blendv_ps(y, below, _mm256_cmp_ps(v, low, _CMP_LT_OQ));
    y = _mm256_blendv_ps(y, above, _mm256_cmp_ps(v, high, _CMP_GE_OQ));
    return _mm256_blendv_ps(y, v, _mm256_cmp_ps(v, v, _CMP_UNORD_Q));
}

static inline __m256i to_code(const Finish *f, __m256 v) {
    const __m256 floor = _mm256_set1_ps((float)-f->zero), ceiling = _mm256_set1_ps((float)(f->last - f->zero));
    v = _mm256_mul_ps(v, _mm256_set1_ps(f->inverse));
    v = _mm256_min_ps(_mm256_max_ps(v, floor), ceiling); /* NaN becomes the lowest code */
    return _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(f->zero));
}

/* n of 16 channels from `channel` on, of pixel (x, y) of image b: they are scaled and have their bias. */
static inline __attribute__((always_inline)) void finish(
    const Finish *f, const Targets *t, i64 b, i64 y, i64 x, i64 channel, int n, __m256 v0, __m256 v1) {
    const __m256i m0 = mask_of(n), m1 = mask_of(n - 8);
    if (f->has_residual) {
        const Tensor *r = &f->residual;
        const float *from = (const float *)(t->residual + b * r->image + y * r->row + x * r->pixel) + channel;
        if (n == 16) {
            v0 = _mm256_add_ps(v0, _mm256_loadu_ps(from));
            v1 = _mm256_add_ps(v1, _mm256_loadu_ps(from + 8));
        } else {
            v0 = _mm256_add_ps(v0, _mm256_maskload_ps(from, m0));
            v1 = _mm256_add_ps(v1, n > 8 ? _mm256_maskload_ps(from + 8, m1) : _mm256_setzero_ps());
        }
    }
    if (f->act == 1) { /* in this order NaN stays NaN */
        const __m256 low = _mm256_set1_ps(f->low), high = _mm256_set1_ps(f->high);
        v0 = _mm256_min_ps(high, _mm256_max_ps(low, v0));
        v1 = _mm256_min_ps(high, _mm256_max_ps(low, v1));
    } else if (f->act == 2) {
        v0 = by_table(f, v0);
        v1 = by_table(f, v1);
    }
    if (f->to_float) {
        const Tensor *o = &f->values;
        float *to = (float *)(t->values + b * o->image + y * o->row + x * o->pixel) + channel;
        if (n == 16) {
            _mm256_storeu_ps(to, v0);
            _mm256_storeu_ps(to + 8, v1);
        } else {
            _mm256_maskstore_ps(to, m0, v0);
            if (n > 8) _mm256_maskstore_ps(to + 8, m1, v1);
        }
    }
    if (f->to_codes) {
        const Tensor *o = &f->codes;
        char *to = t->codes + b * o->image + y * o->row + x * o->pixel + channel;
        const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(to_code(f, v0), to_code(f, v1)), 0xd8);
        const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
        if (n == 16) {
            _mm_storeu_si128((__m128i *)to, bytes);
        } else {
            char kept[16];
            _mm_storeu_si128((__m128i *)kept, bytes);
            memcpy(to, kept, n);
        }
    }
}

/* Whole sums of 16 channels, `block` being where their scales stand. */
static inline __attribute__((always_inline)) void finish_sums(
    const Finish *f, const Targets *t, i64 b, i64 y, i64 x, i64 channel, int n, i64 block, __m256i s0, __m256i s1) {
    s0 = _mm256_add_epi32(s0, _mm256_loadu_si256((const __m256i *)(f->shift + block)));
    s1 = _mm256_add_epi32(s1, _mm256_loadu_si256((const __m256i *)(f->shift + block + 8)));
    const __m256 v0 = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s0), _mm256_loadu_ps(f->scale + block), _mm256_loadu_ps(f->bias + block));
    const __m256 v1 = _mm256_fmadd_ps(_mm256_cvtepi32_ps(s1), _mm256_loadu_ps(f->scale + block + 8), _mm256_loadu_ps(f->bias + block + 8));
    finish(f, t, b, y, x, channel, n, v0, v1);
}

typedef struct {
    i64 b, y, x;
} Pixel;

static inline Pixel pixel_at(i64 i, i64 height, i64 width) {
    const i64 size = height * width, b = i / size, r = i - b * size, y = r / width;
    return (Pixel){b, y, r - y * width};
}

static inline void step_on(Pixel *at, i64 height, i64 width) {
    if (++at->x == width) {
        at->x = 0;
        if (++at->y == height) {
            at->y = 0;
            at->b++;
        }
    }
}

/* The same for whole blocks of pixels that follow each other, of sums or of floats, with all that does not change
 * from one to the next at hand, and no tests inside: what is written, and whether something is added, are constants. */
static inline __attribute__((always_inline)) void finish_run_as(
    const Finish *f, const Targets *t, Pixel at, i64 height, i64 width, i64 count, i64 channel, i64 block,
    const __m256i *sums, const int whole, const int residual, const int values, const int codes) {
    const __m256i shift0 = _mm256_loadu_si256((const __m256i *)(f->shift + block)), shift1 = _mm256_loadu_si256((const __m256i *)(f->shift + block + 8));
    const __m256 scale0 = _mm256_loadu_ps(f->scale + block), scale1 = _mm256_loadu_ps(f->scale + block + 8);
    const __m256 bias0 = _mm256_loadu_ps(f->bias + block), bias1 = _mm256_loadu_ps(f->bias + block + 8);
    const __m256 low = _mm256_set1_ps(f->act ? f->low : -INFINITY), high = _mm256_set1_ps(f->act ? f->high : INFINITY);
    const __m256 inverse = _mm256_set1_ps(f->inverse);
    const __m256 floor = _mm256_set1_ps((float)-f->zero), ceiling = _mm256_set1_ps((float)(f->last - f->zero));
    const __m256i zero = _mm256_set1_epi32(f->zero);
    const i64 r_pixel = f->residual.pixel, v_pixel = f->values.pixel, c_pixel = f->codes.pixel;
    while (count) {
        const i64 n = width - at.x < count ? width - at.x : count;
        const char *r = residual ? t->residual + at.b * f->residual.image + at.y * f->residual.row + at.x * r_pixel + 4 * channel : 0;
        char *v = values ? t->values + at.b * f->values.image + at.y * f->values.row + at.x * v_pixel + 4 * channel : 0;
        char *c = codes ? t->codes + at.b * f->codes.image + at.y * f->codes.row + at.x * c_pixel + channel : 0;
        for (i64 i = 0; i < n; i++, sums += 2) {
            __m256 v0, v1;
            if (whole) {
                v0 = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(sums[0], shift0)), scale0, bias0);
                v1 = _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_add_epi32(sums[1], shift1)), scale1, bias1);
            } else {
                v0 = _mm256_add_ps(_mm256_castsi256_ps(sums[0]), bias0);
                v1 = _mm256_add_ps(_mm256_castsi256_ps(sums[1]), bias1);
            }
            if (residual) {
                v0 = _mm256_add_ps(v0, _mm256_loadu_ps((const float *)r));
                v1 = _mm256_add_ps(v1, _mm256_loadu_ps((const float *)r + 8));
                r += r_pixel;
            }
            v0 = _mm256_min_ps(high, _mm256_max_ps(low, v0));
            v1 = _mm256_min_ps(high, _mm256_max_ps(low, v1));
            if (values) {
                _mm256_storeu_ps((float *)v, v0);
                _mm256_storeu_ps((float *)v + 8, v1);
                v += v_pixel;
            }
            if (codes) {
                const __m256 p0 = _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(v0, inverse), floor), ceiling);
                const __m256 p1 = _mm256_min_ps(_mm256_max_ps(_mm256_mul_ps(v1, inverse), floor), ceiling);
                const __m256i q0 = _mm256_add_epi32(_mm256_cvtps_epi32(p0), zero), q1 = _mm256_add_epi32(_mm256_cvtps_epi32(p1), zero);
                const __m256i both = _mm256_permute4x64_epi64(_mm256_packs_epi32(q0, q1), 0xd8);
                _mm_storeu_si128((__m128i *)c, _mm_packus_epi16(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
                c += c_pixel;
            }
        }
        count -= n;
        at.x += n - 1;
        step_on(&at, height, width);
    }
}

static void finish_run(const Finish *f, const Targets *t, Pixel at, i64 height, i64 width, i64 count, i64 channel, int n,
                       i64 block, const __m256i *sums, const int whole) {
#define AS(r, v, c) case 4 * r + 2 * v + c: finish_run_as(f, t, at, height, width, count, channel, block, sums, whole, r, v, c); break;
    if (n == 16 && f->act != 2) {
        switch (4 * f->has_residual + 2 * f->to_float + f->to_codes) { AS(0, 0, 1) AS(0, 1, 0) AS(0, 1, 1) AS(1, 0, 1) AS(1, 1, 0) AS(1, 1, 1) }
        return;
    }
#undef AS
    for (i64 i = 0; i < count; i++, sums += 2) {
        if (whole) {
            finish_sums(f, t, at.b, at.y, at.x, channel, n, block, sums[0], sums[1]);
        } else {
            const __m256 v0 = _mm256_add_ps(_mm256_castsi256_ps(sums[0]), _mm256_loadu_ps(f->bias + block));
            const __m256 v1 = _mm256_add_ps(_mm256_castsi256_ps(sums[1]), _mm256_loadu_ps(f->bias + block + 8));
            finish(f, t, at.b, at.y, at.x, channel, n, v0, v1);
        }
        step_on(&at, height, width);
    }
}
