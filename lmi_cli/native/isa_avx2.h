/* Vectors of eight lanes: AVX2, FMA and F16C (x86-64-v3). */
#ifndef LMI_ISA_H
#define LMI_ISA_H

#include <immintrin.h>

#define LANES 8
#define ZIP_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#define STEPS 0, 1, 2, 3, 4, 5, 6, 7

/* a * b + c, rounded once. The operators leave that to the compiler, which decides by the loop. */
static inline __m256 fused(__m256 a, __m256 b, __m256 c) { return _mm256_fmadd_ps(a, b, c); }

/* The larger of each two; of b, if either is nan. */
static inline __m256 maximum(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }

static inline float total(__m256 x) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
}

static inline float largest(__m256 x) {
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
}

static inline int any(__m256i mask) { return !_mm256_testz_si256(mask, mask); }

/* Eight numbers in half precision. */
static inline __m256 from_half(const uint16_t *from) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

static inline uint16_t half_of(float x) { return (uint16_t)_cvtss_sh(x, 0); }

static inline float float_of(uint16_t half) { return _cvtsh_ss(half); }

/* The sums of the products of pairs of sixteen-bit numbers. */
static inline __m256i multiply_words(__m256i a, __m256i b) { return _mm256_madd_epi16(a, b); }

#define HAS_BYTE_PAIRS 1

/* The sums of the products of pairs of bytes, unsigned and signed, in sixteen bits. */
static inline __m256i multiply_bytes(__m256i codes, __m256i bytes) {
    return _mm256_maddubs_epi16(codes, bytes);
}

#endif
