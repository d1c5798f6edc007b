/* Tensors of the packed runtime: images one after the other, pixels in rows, the channels of a pixel together (NHWC).
 *
 * Float tensors are dense. Tensors of codes (uint8) have a border of pixels around each image, filled with the code of
 * zero, so that a convolution needs no case for its edges. All sizes and strides are in bytes.
 */
#if !defined(__AVX2__) || !defined(__FMA__)
#error the processor has no AVX2 and FMA
#endif
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

typedef int64_t i64;
typedef int32_t i32;

typedef struct {
    i64 offset;   /* of the tensor in the memory of one image */
    i64 image, row;
    i32 pixel;
    i32 top, left, height, width; /* border before, and pixels without borders */
    i32 rows;     /* with borders */
    i32 channels; /* that have a meaning */
    i32 external; /* number of a tensor that the caller holds; -1: in the workspace */
} Tensor;

typedef struct { /* what one thread works on */
    char *memory;         /* its workspace */
    i64 images;           /* for how many images that is laid out */
    char *const *external;
    i64 first, count;     /* the images */
    i64 thread, threads;  /* its share of every operation */
} Place;

static inline char *start_of(const Tensor *t, const Place *p) {
    char *base = t->external >= 0 ? p->external[t->external] + p->first * t->image : p->memory + t->offset * p->images;
    return base + t->top * t->row + (i64)t->left * t->pixel;
}

/* The share of a thread in n jobs. */
static inline void share_of(const Place *p, i64 n, i64 *from, i64 *to) {
    *from = n * p->thread / p->threads;
    *to = n * (p->thread + 1) / p->threads;
}

/* Fill the border of every image with the code of zero. */
static void fill_border(const Tensor *t, const Place *p, int zero) {
    char *base = start_of(t, p) - t->top * t->row - (i64)t->left * t->pixel;
    const i64 left = (i64)t->left * t->pixel, inner = (i64)t->width * t->pixel, right = t->row - left - inner;
    if (t->rows == t->height && t->row == inner) return;
    for (i64 b = p->thread; b < p->count; b += p->threads) {
        char *image = base + b * t->image;
        memset(image, zero, t->top * t->row);
        memset(image + (t->top + t->height) * t->row, zero, (t->rows - t->top - t->height) * t->row);
        for (i64 y = 0; y < t->height; y++) {
            char *line = image + (t->top + y) * t->row;
            memset(line, zero, left);
            memset(line + left + inner, zero, right);
        }
    }
}

/* Which of the first 8 floats count. */
static inline __m256i mask_of(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
