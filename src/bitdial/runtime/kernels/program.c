/* A part of a network as a list of operations, run for any number of images on any number of threads.
 *
 * With at least as many images as threads each thread takes its own through all operations, some at a time so that
 * what they leave stays in the cache; nothing waits. With fewer, the threads share every operation.
 */
enum { CONVOLUTION, DEPTHWISE, FLOATING, EACH, POOL, JOIN, ORDER };

typedef struct {
    i64 kind;
    const void *operation;
} Step;

typedef struct {
    const Step *steps;
    i64 count;
    i64 image;   /* bytes of the workspace for one image */
    i64 scratch; /* bytes for the unpacked weights of a block, and for the places of a float convolution's taps */
    i64 taps;
} Program;

static void run_step(const Step *s, const Place *p, char *scratch, const float **from) {
    switch (s->kind) {
        case CONVOLUTION: convolve_either(s->operation, p, (int8_t *)scratch); break;
        case DEPTHWISE: convolve_each(s->operation, p); break;
        case FLOATING: convolve_floats(s->operation, p, from); break;
        case EACH: for_each(s->operation, p); break;
        case POOL: pool(s->operation, p); break;
        case JOIN: join(s->operation, p); break;
        case ORDER: reorder(s->operation, p); break;
    }
}

/* Which innermost loops there are: 0 those of micro.py, else those of dot.c. */
i64 bitdial_dot(void) {
#ifdef DOT
    return DOT;
#else
    return 0;
#endif
}

/* Bytes that `bitdial_run` needs to work in. */
i64 bitdial_workspace(const Program *g, i64 images, i64 together, i64 threads) {
    const i64 each = g->scratch + g->taps + (together < images ? together : images) * g->image + 256;
    return images >= threads && threads > 1 ? threads * each : threads * (g->scratch + g->taps) + each;
}

static void run_images(const Program *g, Place p, i64 from, i64 to, i64 together, char *scratch, const float **taps) {
    for (i64 at = from; at < to; at += together) {
        p.first = at;
        p.count = to - at < together ? to - at : together;
        for (i64 i = 0; i < g->count; i++) {
            run_step(g->steps + i, &p, scratch, taps);
            if (p.threads > 1) {
#pragma omp barrier
            }
        }
    }
}

/* Run a program. `memory` is aligned to 64 bytes and as large as `bitdial_workspace` says; 0 is returned.
 * `together`: how many images are worked on at a time. */
void bitdial_run(const Program *g, char *const *external, i64 images, i64 together, i64 threads, char *memory) {
    if (together > images) together = images;
    const i64 own = g->scratch + g->taps;
    if (threads == 1) {
        const Place p = {memory + own, together, external, 0, 0, 0, 1};
        run_images(g, p, 0, images, together, memory, (const float **)(memory + g->scratch));
    } else if (images >= threads) {
        const i64 each = own + together * g->image + 256;
#pragma omp parallel for num_threads((int)threads) schedule(static, 1)
        for (i64 t = 0; t < threads; t++) {
            char *mine = memory + t * each;
            const Place p = {mine + own, together, external, 0, 0, 0, 1};
            run_images(g, p, images * t / threads, images * (t + 1) / threads, together, mine, (const float **)(mine + g->scratch));
        }
    } else {
#pragma omp parallel num_threads((int)threads)
        {
            /* there may be fewer than asked for: each does what its number says, of those that there are */
            i64 t = 0, n = 1;
#ifdef _OPENMP
            extern int omp_get_thread_num(void), omp_get_num_threads(void);
            t = omp_get_thread_num();
            n = omp_get_num_threads();
#endif
            char *mine = memory + t * own;
            const Place p = {memory + threads * own, together, external, 0, 0, t, n};
            run_images(g, p, 0, images, together, mine, (const float **)(mine + g->scratch));
        }
    }
}
