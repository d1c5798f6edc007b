/* The passes of fake quantization on a CPU, each over memory once. Plain C with OpenMP: compiled in less than a second
 * by any C compiler, without headers of anybody else. What each does is said in bitdial/numerics/native/__init__.py;
 * the arithmetic is that of the PyTorch operators beside each call, operation by operation. */
#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Below this many values one thread is done before a second one is awake. */
#define PARALLEL 32768

/* A whole number for each float, in the same order, and NaN beyond the infinities, where comparing floats hides it. */
static inline int32_t rank(float value)
{
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits ^ ((bits >> 31) & INT32_C(0x7fffffff));
}

static inline float from_rank(int32_t number)
{
    float value;
    const int32_t bits = number ^ ((number >> 31) & INT32_C(0x7fffffff));
    memcpy(&value, &bits, sizeof value);
    return value;
}

void bitdial_min_max(const float *x, size_t n, float *out, int threads)
{
    int32_t first = rank(x[0]), last = first;
#pragma omp parallel for reduction(min : first) reduction(max : last) num_threads(threads) if (n > PARALLEL)
    for (size_t i = 0; i < n; i++) {
        const int32_t here = rank(x[i]);
        first = here < first ? here : first;
        last = here > last ? here : last;
    }
    const float low = from_rank(first), high = from_rank(last);
    const int nan = isnan(low) || isnan(high);
    out[0] = nan ? NAN : low;
    out[1] = nan ? NAN : high;
}

/* Bounds of -inf and inf clip nothing; a branch around the clipping would keep the loop from being vectorized. */
void bitdial_snap(const float *restrict x, size_t n, float floor, float ceiling, float low, float step, float inverse,
                  float *restrict out, int threads)
{
#pragma omp parallel for simd num_threads(threads) if (n > PARALLEL)
    for (size_t i = 0; i < n; i++) {
        float value = x[i];
        value = value < floor ? floor : value;
        value = value > ceiling ? ceiling : value;
        out[i] = rintf((value - low) * inverse) * step + low;
    }
}
