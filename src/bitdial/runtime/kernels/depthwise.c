/* Convolutions in which every channel has weights of its own alone: codes (uint8) and whole weights of 16 bits, exact.
 *
 * Two taps at a time: their codes stand beside each other, and one instruction multiplies both and adds them.
 */
typedef struct {
    Finish finish;
    Tensor input;
    i64 base, down, right;
    i32 height, width, channels, pairs;
    const i64 *taps;        /* offsets, two for each pair */
    const int16_t *weights; /* [block of 16 channels][pair][16 channels x 2 taps, in the order of unpacking] */
} Depthwise;

static inline __m256i sixteen(const char *from) {
    return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)from));
}

static void convolve_each(const Depthwise *c, const Place *p) {
    const Targets t = targets_of(&c->finish, p);
    const char *input = start_of(&c->input, p) + c->base;
    const i64 blocks = (c->channels + 15) / 16;
    i64 line, end;
    if (c->finish.to_codes) fill_border(&c->finish.codes, p, c->finish.zero);
    share_of(p, p->count * c->height, &line, &end);
    for (; line < end; line++) {
        const i64 b = line / c->height, y = line % c->height;
        for (i64 k = 0; k < blocks; k++) {
            const int n = c->channels - 16 * k < 16 ? (int)(c->channels - 16 * k) : 16;
            const char *x = input + b * c->input.image + y * c->down + 16 * k;
            const int16_t *weights = c->weights + 32 * k * c->pairs;
            for (i64 i = 0; i < c->width; i++, x += c->right) {
                __m256i low = _mm256_setzero_si256(), high = low;
                for (i64 q = 0; q < c->pairs; q++) {
                    const __m256i a = sixteen(x + c->taps[2 * q]), d = sixteen(x + c->taps[2 * q + 1]);
                    const __m256i *w = (const __m256i *)(weights + 32 * q);
                    low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(a, d), _mm256_loadu_si256(w)));
                    high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(a, d), _mm256_loadu_si256(w + 1)));
                }
                finish_sums(&c->finish, &t, b, y, i, 16 * k, n, 16 * k, _mm256_permute2x128_si256(low, high, 0x20),
                            _mm256_permute2x128_si256(low, high, 0x31));
            }
        }
    }
}
