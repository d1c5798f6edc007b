/* What stays in floating point: convolutions and linear layers that are not quantized, and work channel by channel. */

typedef struct {
    Finish finish;
    Tensor input;
    i32 height, width; /* of the output */
    i32 down, right;   /* strides, in pixels */
    i32 groups, outputs, inputs; /* groups, and channels of one */
    i32 taps;
    const i32 *tap; /* rows and columns from the output pixel's place to where the tap reads */
    const float *weights; /* [block][tap][input channel][16] */
    const float *zeros;   /* as many as a group has input channels */
} Floating;

/* 4 pixels x 16 channels: `from` are the inputs of the pixels, tap after tap. */
static inline __attribute__((always_inline)) void multiply_floats(
    const Floating *c, const float *const *from, const float *w, const int pixels, __m256 sums[4][2]) {
    __m256 s[4][2];
    for (int i = 0; i < pixels; i++) s[i][0] = s[i][1] = _mm256_setzero_ps();
    for (i64 k = 0; k < c->taps; k++, from += 4)
        for (i64 j = 0; j < c->inputs; j++, w += 16) {
            const __m256 w0 = _mm256_loadu_ps(w), w1 = _mm256_loadu_ps(w + 8);
            for (int i = 0; i < pixels; i++) {
                const __m256 x = _mm256_broadcast_ss(from[i] + j);
                s[i][0] = _mm256_fmadd_ps(x, w0, s[i][0]);
                s[i][1] = _mm256_fmadd_ps(x, w1, s[i][1]);
            }
        }
    for (int i = 0; i < pixels; i++) sums[i][0] = s[i][0], sums[i][1] = s[i][1];
}

static void convolve_floats(const Floating *c, const Place *p, const float **from) {
    const Finish *f = &c->finish;
    const Targets t = targets_of(f, p);
    const char *input = start_of(&c->input, p);
    const i64 size = (i64)c->height * c->width, pixels = p->count * size, per = (c->outputs + 15) / 16;
    const i64 weights = (i64)16 * c->taps * c->inputs;
    i64 tile, end;
    if (f->to_codes) fill_border(&f->codes, p, f->zero);
    share_of(p, (pixels + 3) / 4, &tile, &end);
    for (; tile < end; tile++) {
        const int count = pixels - 4 * tile < 4 ? (int)(pixels - 4 * tile) : 4;
        for (i64 g = 0; g < c->groups; g++) {
            i64 b[4], y[4], x[4];
            for (int i = 0; i < 4; i++) {
                const i64 at = 4 * tile + (i < count ? i : count - 1), r = at % size;
                b[i] = at / size, y[i] = r / c->width, x[i] = r % c->width;
                for (i64 k = 0; k < c->taps; k++) {
                    const i64 row = y[i] * c->down + c->tap[2 * k], column = x[i] * c->right + c->tap[2 * k + 1];
                    const int inside = row >= 0 && row < c->input.height && column >= 0 && column < c->input.width;
                    const char *at_pixel = input + b[i] * c->input.image + row * c->input.row + column * c->input.pixel;
                    from[4 * k + i] = inside ? (const float *)at_pixel + g * c->inputs : c->zeros;
                }
            }
            for (i64 o = 0; o < per; o++) {
                const i64 block = g * per + o;
                const int n = c->outputs - 16 * o < 16 ? (int)(c->outputs - 16 * o) : 16;
                __m256 sums[4][2];
                if (count == 1) multiply_floats(c, from, c->weights + block * weights, 1, sums);
                else multiply_floats(c, from, c->weights + block * weights, 4, sums);
                for (int i = 0; i < count; i++)
                    finish(f, &t, b[i], y[i], x[i], g * c->outputs + 16 * o, n,
                           _mm256_add_ps(sums[i][0], _mm256_loadu_ps(f->bias + 16 * block)),
                           _mm256_add_ps(sums[i][1], _mm256_loadu_ps(f->bias + 16 * block + 8)));
            }
        }
    }
}

typedef struct { /* scale and bias of each channel, and all that `finish` does */
    Finish finish;
    Tensor input;
    i32 scaled;
} Each;

static void for_each(const Each *c, const Place *p) {
    const Finish *f = &c->finish;
    const Targets t = targets_of(f, p);
    const char *input = start_of(&c->input, p);
    const i64 channels = c->input.channels;
    i64 line, end;
    if (f->to_codes) fill_border(&f->codes, p, f->zero);
    share_of(p, p->count * c->input.height, &line, &end);
    for (; line < end; line++) {
        const i64 b = line / c->input.height, y = line % c->input.height;
        for (i64 x = 0; x < c->input.width; x++) {
            const float *from = (const float *)(input + b * c->input.image + y * c->input.row + x * c->input.pixel);
            for (i64 k = 0; k < channels; k += 16) {
                const int n = channels - k < 16 ? (int)(channels - k) : 16;
                __m256 v0 = n == 16 ? _mm256_loadu_ps(from + k) : _mm256_maskload_ps(from + k, mask_of(n));
                __m256 v1 = n == 16 ? _mm256_loadu_ps(from + k + 8)
                            : n > 8 ? _mm256_maskload_ps(from + k + 8, mask_of(n - 8)) : _mm256_setzero_ps();
                if (c->scaled) {
                    v0 = _mm256_fmadd_ps(v0, _mm256_loadu_ps(f->scale + k), _mm256_loadu_ps(f->bias + k));
                    v1 = _mm256_fmadd_ps(v1, _mm256_loadu_ps(f->scale + k + 8), _mm256_loadu_ps(f->bias + k + 8));
                }
                finish(f, &t, b, y, x, k, n, v0, v1);
            }
        }
    }
}
