/* The passes of fake quantization on a CPU, each over memory once. Plain C with OpenMP: compiled in less than a second
 * by any C compiler, without headers of anybody else. What each does is said in bitdial/numerics/native/__init__.py;
 * the arithmetic is that of bitdial/numerics/reference.py, operation by operation. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* Below this many values one thread is done before a second one is awake. */
#define PARALLEL 32768

void bitdial_min_max(const float *x, size_t n, float *out, int threads)
{
    float low = x[0], high = x[0];
#pragma omp parallel for simd reduction(min : low) reduction(max : high) num_threads(threads) if (n > PARALLEL)
    for (size_t i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    out[0] = low;
    out[1] = high;
}

/* Bounds of -inf and inf clip nothing; a branch around the clipping would keep the loop from being vectorized. */
static inline float nearest_step(float value, float floor, float ceiling, float low, float inverse)
{
    value = value < floor ? floor : value;
    value = value > ceiling ? ceiling : value;
    return rintf((value - low) * inverse);
}

void bitdial_steps(const float *restrict x, size_t n, float floor, float ceiling, float low, float inverse,
                   float offset, float *restrict out, int8_t *restrict packed, int threads)
{
    if (packed) {
#pragma omp parallel for simd num_threads(threads) if (n > PARALLEL)
        for (size_t i = 0; i < n; i++) {
            const float step = nearest_step(x[i], floor, ceiling, low, inverse);
            packed[i] = (int8_t)step;
            out[i] = step + offset;
        }
    } else {
#pragma omp parallel for simd num_threads(threads) if (n > PARALLEL)
        for (size_t i = 0; i < n; i++)
            out[i] = nearest_step(x[i], floor, ceiling, low, inverse) + offset;
    }
}

void bitdial_unpack(const int8_t *packed, size_t n, float offset, float *out, int threads)
{
#pragma omp parallel for simd num_threads(threads) if (n > PARALLEL)
    for (size_t i = 0; i < n; i++)
        out[i] = (float)packed[i] + offset;
}

/* One symmetric grid for each row: from -max|w| to max|w|. */
void bitdial_snap_rows(const float *w, size_t rows, size_t columns, float last, float half, float tiny, float *out,
                       int threads)
{
#pragma omp parallel for num_threads(threads) if (rows * columns > PARALLEL)
    for (size_t r = 0; r < rows; r++) {
        const float *row = w + r * columns;
        float *to = out + r * columns;
        float largest = 0, poison = 0;
#pragma omp simd reduction(max : largest) reduction(+ : poison)
        for (size_t i = 0; i < columns; i++) {
            const float size = fabsf(row[i]);
            largest = size > largest ? size : largest;
            poison += row[i] - row[i]; /* NaN where the row has one: comparisons alone would hide it */
        }
        float step = largest / last + largest / last + poison;
        step = step < tiny ? tiny : step;
        const float inverse = 1.0f / step;
        const float scale = largest == 0 ? poison : step;
#pragma omp simd
        for (size_t i = 0; i < columns; i++)
            to[i] = (rintf(row[i] * inverse - half) + half) * scale;
    }
}
