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
    const Floating *c, const float *const *from, const float *w, const int pixels, __m256i *sums) {
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
    for (int i = 0; i < pixels; i++) sums[2 * i] = _mm256_castps_si256(s[i][0]), sums[2 * i + 1] = _mm256_castps_si256(s[i][1]);
}

static void convolve_floats(const Floating *c, const Place *p, const float **from) {
    const Finish *f = &c->finish;
    const Targets t = targets_of(f, p);
    const char *input = start_of(&c->input, p);
    const i64 pixels = p->count * c->height * c->width, per = (c->outputs + 15) / 16;
    const i64 weights = (i64)16 * c->taps * c->inputs;
    i64 tile, end;
    if (f->to_codes) fill_border(&f->codes, p, f->zero);
    share_of(p, (pixels + 3) / 4, &tile, &end);
    for (; tile < end; tile++) {
        const int count = pixels - 4 * tile < 4 ? (int)(pixels - 4 * tile) : 4;
        const Pixel first = pixel_at(4 * tile, c->height, c->width);
        for (i64 g = 0; g < c->groups; g++) {
            Pixel at = first;
            for (int i = 0; i < 4; i++) {
                for (i64 k = 0; k < c->taps; k++) {
                    const i64 row = at.y * c->down + c->tap[2 * k], column = at.x * c->right + c->tap[2 * k + 1];
                    const int inside = row >= 0 && row < c->input.height && column >= 0 && column < c->input.width;
                    const char *pixel = input + at.b * c->input.image + row * c->input.row + column * c->input.pixel;
                    from[4 * k + i] = inside ? (const float *)pixel + g * c->inputs : c->zeros;
                }
                if (i + 1 < count) step_on(&at, c->height, c->width);
            }
            for (i64 o = 0; o < per; o++) {
                const i64 block = g * per + o;
                const int n = c->outputs - 16 * o < 16 ? (int)(c->outputs - 16 * o) : 16;
                __m256i sums[8];
                if (count == 1) multiply_floats(c, from, c->weights + block * weights, 1, sums);
                else multiply_floats(c, from, c->weights + block * weights, 4, sums);
                finish_run(f, &t, first, c->height, c->width, count, g * c->outputs + 16 * o, n, 16 * block, sums, 0);
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
