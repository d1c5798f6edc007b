/* A weight is `rows` rows of `columns` values, each row with scales of its own; often a single row. Many rows are shared
 * out among the threads, each row whole, so that all passes after the first find it in the cache; of a single row, the
 * parts are. What a part is depends on nothing but the number of values, and sums are taken in double and added up part
 * by part: the same bits whatever the number of threads. */
#define PARTS 64

static inline size_t part_of(size_t n)
{
    const size_t part = (n + PARTS - 1) / PARTS;
    return part < 8192 ? 8192 : part;
}

/* A call for each row: its number `r`, its first value `from`, how many threads its parts may take. */
#define EACH_ROW(...)                                                                                  \
    if (rows == 1) { /* no parallel region around another: the threads of an inner one are made anew */ \
        const size_t r = 0, from = 0;                                                                  \
        const int team = threads;                                                                      \
        (void)r;                                                                                       \
        __VA_ARGS__                                                                                    \
    } else {                                                                                           \
        _Pragma("omp parallel for num_threads(threads) if (rows * columns > PARALLEL)")                \
        for (size_t r = 0; r < rows; r++) {                                                            \
            const size_t from = r * columns;                                                           \
            const int team = 1;                                                                        \
            __VA_ARGS__                                                                                \
        }                                                                                              \
    }

/* `team` threads take the parts of the `n` values of a row: those from `at` on, `length` of them, part number `p`. */
#define ONE_PART(...)                                                                                  \
    {                                                                                                  \
        const size_t p = at / part, length = n - at < part ? n - at : part;                            \
        (void)p;                                                                                       \
        __VA_ARGS__                                                                                    \
    }
#define EACH_PART(...)                                                                                 \
    const size_t part = part_of(n);                                                                    \
    if (team == 1 || n <= PARALLEL) {                                                                  \
        for (size_t at = 0; at < n; at += part)                                                        \
            ONE_PART(__VA_ARGS__)                                                                      \
    } else {                                                                                           \
        _Pragma("omp parallel for num_threads(team)")                                                  \
        for (size_t at = 0; at < n; at += part)                                                        \
            ONE_PART(__VA_ARGS__)                                                                      \
    }

static int32_t largest_of(const float *w, size_t n)
{
    int32_t most = 0;
    for (size_t i = 0; i < n; i++)
        most = rank(fabsf(w[i])) > most ? rank(fabsf(w[i])) : most;
    return most;
}

/* The largest magnitude of a row, NaN where there is one. */
static float largest(const float *w, size_t n, int team)
{
    int32_t found[PARTS], most = 0;
    EACH_PART(found[p] = largest_of(w + at, length);)
    for (size_t at = 0; at < n; at += part)
        most = found[at / part] > most ? found[at / part] : most;
    return from_rank(most);
}

typedef struct {
    double one, other;
} sums;

/* Adds up what a call gives for each part. */
#define SUM_PARTS(call)                                                                                \
    sums found[PARTS], all = {0, 0};                                                                   \
    EACH_PART(found[p] = call;)                                                                        \
    for (size_t at = 0; at < n; at += part)                                                            \
        all = (sums){all.one + found[at / part].one, all.other + found[at / part].other};              \
    return all;

static sums magnitudes_of(const float *w, size_t n, float size, float above)
{
    double sum = 0, count = 0;
#pragma omp simd reduction(+ : sum, count)
    for (size_t i = 0; i < n; i++) {
        const float unit = fabsf(w[i]) / size;
        sum += unit <= above ? 0.0f : unit;
        count += unit <= above ? 0.0f : 1.0f;
    }
    return (sums){sum, count};
}

/* Sum and number of the magnitudes of a row, in units of `size`, that are above a threshold (-1: all of them). */
static sums magnitudes(const float *w, size_t n, float size, float above, int team)
{
    SUM_PARTS(magnitudes_of(w + at, length, size, above))
}

static void snap_of(const float *w, size_t n, float inverse, float half, float scale, float *out)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        out[i] = (rintf(w[i] * inverse - half) + half) * scale;
}

static void snap_row(const float *w, size_t n, float last, float half, float tiny, float *out, int team)
{
    const float most = largest(w, n, team);
    float step = most / last + most / last;
    step = step < tiny ? tiny : step;
    EACH_PART(snap_of(w + at, length, 1.0f / step, half, most == 0 ? 0 : step, out + at);)
}

/* One symmetric grid for each row: from -max|w| to max|w|. */
void bitdial_snap_rows(const float *w, size_t rows, size_t columns, float last, float half, float tiny, float *out,
                       int threads)
{
    EACH_ROW(snap_row(w + from, columns, last, half, tiny, out + from, team);)
}

static void ternary_of(const float *w, size_t n, float size, float threshold, float positive, float negative,
                       float middle, float *out)
{
    const float below = 0.0f - negative;
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        const float unit = w[i] / size, rest = (unit - unit) * threshold + middle;
        out[i] = unit > threshold ? positive : unit < -threshold ? below : rest;
    }
}

static float ternary_row(const float *w, size_t n, int fit, float share, float positive, float negative, float *out,
                         int team)
{
    float size = largest(w, n, team), threshold = share;
    size = size == 0 ? 1 : size;
    if (fit) {
        float scale = (float)(magnitudes(w, n, size, -1, team).one / n);
        threshold = share * scale;
        if (fit == 2) {
            const sums above = magnitudes(w, n, size, threshold, team);
            scale = (float)(above.one / (above.other < 1 ? 1 : above.other));
        }
        positive = negative = scale * size;
    }
    const float middle = fit == 1 && share == 0 ? positive : 0;
    EACH_PART(ternary_of(w + at, length, size, threshold, positive, negative, middle, out + at);)
    return size;
}

/* Scales and steps that are learned count by their magnitude: its derivative, also at zero, which they must be able to
 * leave; and the factor that scales their gradients. */
static float through_magnitude(double sum, float scale, float factor)
{
    return (float)sum * (scale < 0 ? -1.0f : 1.0f) * factor;
}

/* Three values for each row. The threshold is `share` of max|w| and the scales are given, one pair for each row (fit 0);
 * or it is `share` of mean|w|, and both scales are that mean (fit 1) or the mean of what is above (fit 2). A share of 0
 * of the mean leaves two values: zero counts as positive. */
void bitdial_ternarize(const float *w, size_t rows, size_t columns, int fit, float share, const float *positive,
                       const float *negative, float *sizes, float *out, int threads)
{
    EACH_ROW(sizes[r] = ternary_row(w + from, columns, fit, share, fit ? 0 : fabsf(positive[r]),
                                    fit ? 0 : fabsf(negative[r]), out + from, team);)
}

static sums ternary_gradient_of(const float *w, const float *g, size_t n, float size, float share, float positive,
                                float negative, float *by_weight)
{
    double ups = 0, downs = 0;
#pragma omp simd reduction(+ : ups, downs)
    for (size_t i = 0; i < n; i++) {
        const float unit = w[i] / size;
        ups += unit > share ? g[i] : 0.0f;
        downs += unit < -share ? -g[i] : 0.0f;
        by_weight[i] = g[i] * (unit > share ? positive : unit < -share ? negative : 1.0f);
    }
    return (sums){ups, downs};
}

static sums ternary_gradient_row(const float *w, const float *g, size_t n, float size, float share, float positive,
                                 float negative, float *by_weight, int team)
{
    SUM_PARTS(ternary_gradient_of(w + at, g + at, length, size, share, positive, negative, by_weight + at))
}

/* Gradients of fit 0 by the weight and by either scale. */
void bitdial_ternarize_gradient(const float *w, const float *g, size_t rows, size_t columns, const float *sizes,
                                float share, const float *positive, const float *negative, float factor,
                                float *by_weight, float *by_positive, float *by_negative, int threads)
{
    EACH_ROW(const sums by = ternary_gradient_row(w + from, g + from, columns, sizes[r], share, fabsf(positive[r]),
                                                  fabsf(negative[r]), by_weight + from, team);
             by_positive[r] = through_magnitude(by.one, positive[r], factor);
             by_negative[r] = through_magnitude(by.other, negative[r], factor);)
}

static inline float clipped(float position, float low, float high)
{
    position = position < low ? low : position;
    return position > high ? high : position;
}

/* Codes of a grid with a given step, the open interval of w / step where a weight has a gradient, and there the shares
 * of the code and of w / step in the gradient by the step. */
typedef struct {
    float lowest, highest, half, above, below, by_code, by_position;
} codes;

static inline float code_of(float position, codes to)
{
    return clipped(rintf(position - to.half) + to.half, to.lowest, to.highest);
}

static void steps_of(const float *w, size_t n, float step, codes to, float *out)
{
    const float unit = step == 0 ? FLT_MIN : step;
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        out[i] = code_of(w[i] / unit, to) * step + 0.0f;
}

static void steps_row(const float *w, size_t n, float step, codes to, float *out, int team)
{
    EACH_PART(steps_of(w + at, length, step, to, out + at);)
}

/* The nearest value of each row's grid, whose step is given. */
void bitdial_steps(const float *w, size_t rows, size_t columns, const float *steps, const codes *to, float *out,
                   int threads)
{
    EACH_ROW(steps_row(w + from, columns, fabsf(steps[r]), *to, out + from, team);)
}

static sums steps_gradient_of(const float *w, const float *g, size_t n, float step, codes to, float *by_weight)
{
    const float unit = step == 0 ? FLT_MIN : step;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++) {
        const float position = w[i] / unit, code = code_of(position, to);
        const float slope = code * to.by_code - position * to.by_position;
        const int inside = position > to.above && position < to.below;
        sum += g[i] * (inside ? slope : code);
        by_weight[i] = inside ? g[i] : 0.0f;
    }
    return (sums){sum, 0};
}

static sums steps_gradient_row(const float *w, const float *g, size_t n, float step, codes to, float *by_weight,
                               int team)
{
    SUM_PARTS(steps_gradient_of(w + at, g + at, length, step, to, by_weight + at))
}

/* Its gradients by the weight and by the step. */
void bitdial_steps_gradient(const float *w, const float *g, size_t rows, size_t columns, const float *steps,
                            const codes *to, int strict, float factor, float *by_weight, float *by_step, int threads)
{
    codes open = *to;
    if (!strict) { /* the ends themselves are inside */
        open.above = nextafterf(open.above, -INFINITY);
        open.below = nextafterf(open.below, INFINITY);
    }
    EACH_ROW(const sums by = steps_gradient_row(w + from, g + from, columns, fabsf(steps[r]), open,
                                                by_weight + from, team);
             by_step[r] = through_magnitude(by.one, steps[r], factor);)
}

static double squares_of(const float *w, size_t n)
{
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (size_t i = 0; i < n; i++)
        sum += w[i] * w[i];
    return sum;
}

static float mean_square(const float *w, size_t n, int team)
{
    double found[PARTS], sum = 0;
    EACH_PART(found[p] = squares_of(w + at, length);)
    for (size_t at = 0; at < n; at += part)
        sum += found[at / part];
    return (float)(sum / n);
}

/* The mean square of each row. */
void bitdial_mean_squares(const float *w, size_t rows, size_t columns, float *means, int threads)
{
    EACH_ROW(means[r] = mean_square(w + from, columns, team);)
}

static void cut_of(const float *w, size_t n, float step, float cell, float most, float *out)
{
    const float unit = step == 0 ? 1 : step, width = cell * step;
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        out[i] = (clipped(floorf(w[i] / unit / cell), -most, most - 1) + 0.5f) * width;
}

static void cut_row(const float *w, size_t n, float last, float cell, float most, float *out, int team)
{
    const float step = largest(w, n, team) / last;
    EACH_PART(cut_of(w + at, length, step, cell, most, out + at);)
}

/* The middle of the cell where each value lies: `last` times `step` is the largest magnitude of the row, a cell has the
 * width of `cell` steps, and there are `most` cells on each side of zero. */
void bitdial_cut_rows(const float *w, size_t rows, size_t columns, float last, float cell, float most, float *out,
                      int threads)
{
    EACH_ROW(cut_row(w + from, columns, last, cell, most, out + from, team);)
}

/* tanh to some units in the last place; the fit and its coefficients are those of bitdial/numerics/weights.py. */
static inline float bent(float x)
{
    x = clipped(x, -9.0f, 9.0f);
    const float t = x * x;
    const float p = (((1.3419986e-8f * t + 2.0661442e-5f) * t + 3.4990097e-3f) * t + 1.3383993e-1f) * t + 1.0f;
    const float q = (((7.8048144e-7f * t + 3.2910587e-4f) * t + 2.5890261e-2f) * t + 4.6717314e-1f) * t + 1.0f;
    return clipped(x * p / q, -1.0f, 1.0f);
}

static void dorefa_of(const float *w, size_t n, float largest, float step, float half, float mean, float *out)
{
    const float inverse = 1.0f / step;
#pragma omp simd
    for (size_t i = 0; i < n; i++)
        out[i] = (rintf(bent(w[i]) * inverse - half) + half) * step / largest * mean;
}

typedef struct {
    double sum;
    int32_t most;
} extent;

static extent extent_of(const float *w, size_t n)
{
    double sum = 0;
    int32_t most = 0;
#pragma omp simd reduction(+ : sum) reduction(max : most)
    for (size_t i = 0; i < n; i++) {
        const float size = fabsf(w[i]);
        sum += size;
        most = rank(size) > most ? rank(size) : most;
    }
    return (extent){sum, most};
}

/* Sum and largest of the magnitudes of a row. */
static extent extents(const float *w, size_t n, int team)
{
    extent found[PARTS], all = {0, 0};
    EACH_PART(found[p] = extent_of(w + at, length);)
    for (size_t at = 0; at < n; at += part) {
        const extent here = found[at / part];
        all = (extent){all.sum + here.sum, here.most > all.most ? here.most : all.most};
    }
    return all;
}

static float dorefa_row(const float *w, size_t n, float last, float half, float *out, int team)
{
    const extent size = extents(w, n, team);
    const float end = bent(from_rank(size.most)), bound = end < FLT_MIN ? FLT_MIN : end;
    const float step = bound / last + bound / last, mean = (float)(size.sum / n);
    EACH_PART(dorefa_of(w + at, length, bound, step < FLT_MIN ? FLT_MIN : step, half, mean, out + at);)
    return mean / bound;
}

/* DoReFa's weights for each row: the mean |w| times the grid of tanh(w) over its maximum; and the first over the second. */
void bitdial_dorefa(const float *w, size_t rows, size_t columns, float last, float half, float *slopes,
                    float *out, int threads)
{
    EACH_ROW(slopes[r] = dorefa_row(w + from, columns, last, half, out + from, team);)
}

static void dorefa_gradient_of(const float *w, const float *g, size_t n, float slope, float *by_weight)
{
#pragma omp simd
    for (size_t i = 0; i < n; i++) {
        const float curve = bent(w[i]);
        by_weight[i] = g[i] * ((1.0f - curve * curve) * slope);
    }
}

static void dorefa_gradient_row(const float *w, const float *g, size_t n, float slope, float *by_weight, int team)
{
    EACH_PART(dorefa_gradient_of(w + at, g + at, length, slope, by_weight + at);)
}

void bitdial_dorefa_gradient(const float *w, const float *g, size_t rows, size_t columns, const float *slopes,
                             float *by_weight, int threads)
{
    EACH_ROW(dorefa_gradient_row(w + from, g + from, columns, slopes[r], by_weight + from, team);)
}

/* A tile, `size` values times so many side by side that it fits into the fastest cache. */
#define TILE 4096

/* One tile, whose values stand `stride` apart and whose neighbours `next`: sums and differences, doubling the distance. */
static void rotate_tile(const float *x, size_t size, size_t stride, size_t lanes, size_t next, float scale, float *out)
{
    float tile[TILE];
    const size_t pieces = stride == lanes ? 1 : size, length = size * lanes / pieces;
    if (next == 1)
        for (size_t k = 0; k < pieces; k++)
            for (size_t i = 0; i < length; i++)
                tile[k * length + i] = x[k * stride + i];
    else
        for (size_t i = 0; i < lanes; i++)
            for (size_t k = 0; k < size; k++)
                tile[k * lanes + i] = x[k + i * next];
    size_t reach = 1;
    for (; 4 * reach <= size; reach *= 4) /* two distances at once */
        for (size_t k = 0; k < size; k += 4 * reach) {
            const size_t run = reach * lanes;
            float *at = tile + k * lanes;
#pragma omp simd
            for (size_t i = 0; i < run; i++) {
                const float a = at[i], b = at[i + run], c = at[i + 2 * run], d = at[i + 3 * run];
                at[i] = (a + b) + (c + d);
                at[i + run] = (a - b) + (c - d);
                at[i + 2 * run] = (a + b) - (c + d);
                at[i + 3 * run] = (a - b) - (c - d);
            }
        }
    const size_t half = reach < size ? reach * lanes : 0; /* a last one, where the size is no power of four */
#pragma omp simd
    for (size_t i = 0; i < half; i++) {
        const float a = tile[i], b = tile[i + half];
        tile[i] = a + b;
        tile[i + half] = a - b;
    }
    if (next == 1)
        for (size_t k = 0; k < pieces; k++)
            for (size_t i = 0; i < length; i++)
                out[k * stride + i] = tile[k * length + i] * scale;
    else
        for (size_t i = 0; i < lanes; i++)
            for (size_t k = 0; k < size; k++)
                out[k + i * next] = tile[k * lanes + i] * scale;
}

/* The Walsh-Hadamard transform over the middle one of three dimensions, whose size is a power of two; times `scale`. */
void bitdial_rotate(const float *x, size_t outer, size_t size, size_t inner, float scale, float *out, int threads)
{
    const int flat = inner == 1; /* the tiles are of several outer entries then */
    const size_t stride = flat ? 1 : inner, next = flat ? size : 1, side = flat ? outer : inner;
    const size_t wide = TILE / size, tiles = (side + wide - 1) / wide, blocks = flat ? tiles : outer * tiles;
#pragma omp parallel for num_threads(threads) if (outer * size * inner > PARALLEL)
    for (size_t b = 0; b < blocks; b++) {
        const size_t first = b % tiles * wide, lanes = side - first < wide ? side - first : wide;
        const size_t from = b / tiles * size * inner + first * next;
        rotate_tile(x + from, size, stride, lanes, next, scale, out + from);
    }
}
