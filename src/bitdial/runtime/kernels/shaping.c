/* Pooling, and moving floats: channels beside others, from one order into the other. */

typedef struct {
    Finish finish;
    Tensor input;
    i32 height, width; /* of the output */
    i32 down, right, above, before; /* strides and borders */
    i32 tall, wide, apart_down, apart_right; /* the window */
    i32 largest; /* else the mean */
    i32 divisor; /* 0: what of the window lies in the image; -1: and in its border */
    i32 behind_down, behind_right; /* how far the border reaches behind the image */
} Pool;

static void pool(const Pool *c, const Place *p) {
    const Targets t = targets_of(&c->finish, p);
    const char *input = start_of(&c->input, p);
    const i64 channels = c->input.channels, height = c->input.height, width = c->input.width;
    const __m256 start = _mm256_set1_ps(c->largest ? -INFINITY : 0.0f);
    i64 line, end;
    if (c->finish.to_codes) fill_border(&c->finish.codes, p, c->finish.zero);
    share_of(p, p->count * c->height, &line, &end);
    for (; line < end; line++) {
        const i64 b = line / c->height, y = line % c->height;
        for (i64 x = 0; x < c->width; x++)
            for (i64 k = 0; k < channels; k += 16) {
                const int n = channels - k < 16 ? (int)(channels - k) : 16;
                const __m256i m0 = mask_of(n), m1 = mask_of(n - 8);
                __m256 v0 = start, v1 = start;
                i64 seen = 0, whole = 0;
                for (i64 i = 0; i < c->tall; i++)
                    for (i64 j = 0; j < c->wide; j++) {
                        const i64 row = y * c->down - c->above + i * c->apart_down;
                        const i64 column = x * c->right - c->before + j * c->apart_right;
                        whole += row < height + c->behind_down && column < width + c->behind_right;
                        if (row < 0 || row >= height || column < 0 || column >= width) continue;
                        const float *from = (const float *)(input + b * c->input.image + row * c->input.row + column * c->input.pixel) + k;
                        const __m256 a0 = _mm256_maskload_ps(from, m0);
                        const __m256 a1 = n > 8 ? _mm256_maskload_ps(from + 8, m1) : _mm256_setzero_ps();
                        seen++;
                        if (c->largest) { /* NaN is the largest of all, as in PyTorch */
                            v0 = _mm256_blendv_ps(_mm256_max_ps(v0, a0), _mm256_add_ps(v0, a0), _mm256_cmp_ps(v0, a0, _CMP_UNORD_Q));
                            v1 = _mm256_blendv_ps(_mm256_max_ps(v1, a1), _mm256_add_ps(v1, a1), _mm256_cmp_ps(v1, a1, _CMP_UNORD_Q));
                        } else {
                            v0 = _mm256_add_ps(v0, a0);
                            v1 = _mm256_add_ps(v1, a1);
                        }
                    }
                if (!c->largest) {
                    const __m256 by = _mm256_set1_ps((float)(c->divisor > 0 ? c->divisor : c->divisor ? whole : seen));
                    v0 = _mm256_div_ps(v0, by);
                    v1 = _mm256_div_ps(v1, by);
                }
                finish(&c->finish, &t, b, y, x, k, n, v0, v1);
            }
    }
}

typedef struct { /* the input becomes the channels of the output from one on */
    Tensor input, output;
    i32 channel;
} Join;

static void join(const Join *c, const Place *p) {
    const char *input = start_of(&c->input, p);
    char *output = start_of(&c->output, p);
    i64 line, end;
    share_of(p, p->count * c->input.height, &line, &end);
    for (; line < end; line++) {
        const i64 b = line / c->input.height, y = line % c->input.height;
        for (i64 x = 0; x < c->input.width; x++)
            memcpy(output + b * c->output.image + y * c->output.row + x * c->output.pixel + 4 * c->channel,
                   input + b * c->input.image + y * c->input.row + x * c->input.pixel, 4 * c->input.channels);
    }
}

typedef struct { /* between one plane a channel (PyTorch's order, of the outer tensor) and the channels of a pixel together */
    Tensor inner; /* by pixels */
    Tensor outer; /* dense; only its place counts */
    i32 inwards;
} Order;

static void reorder(const Order *c, const Place *p) {
    const Tensor *in = &c->inner;
    char *pixels = start_of(in, p);
    float *planes = (float *)start_of(&c->outer, p);
    const i64 size = (i64)in->height * in->width;
    i64 line, end;
    share_of(p, p->count * in->height, &line, &end);
    for (; line < end; line++) {
        const i64 b = line / in->height, y = line % in->height;
        for (i64 k = 0; k < in->channels; k++) {
            float *plane = planes + b * (c->outer.image / 4) + k * size + y * in->width;
            float *at = (float *)(pixels + b * in->image + y * in->row) + k;
            const i64 step = in->pixel / 4;
            if (c->inwards) for (i64 x = 0; x < in->width; x++) at[x * step] = plane[x];
            else for (i64 x = 0; x < in->width; x++) plane[x] = at[x * step];
        }
    }
}
