/* bfloat16 and vectors of sixteen floats: what all kernels share. */
#ifndef LMI_VECTORS_H
#define LMI_VECTORS_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;

/* Bytes to prefetch ahead: the hardware's own prefetching stops at the end of a page. */
enum { AHEAD = 8192 };

static inline int64_t clamp(int64_t x, int64_t low, int64_t high) {
    return x < low ? low : x > high ? high : x;
}

/* Sixteen bfloat16 as floats. */
static inline __m512 widened(const bf16 *from) {
    const __m256i half = _mm256_loadu_si256((const __m256i *)from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

/* Sixteen floats, rounded to bfloat16 and back. */
static inline __m512 rounded(__m512 x) {
    const __m256i half = (__m256i)_mm512_cvtneps_pbh(x);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

static inline void narrow(bf16 *to, __m512 x) {
    _mm256_storeu_si256((__m256i *)to, (__m256i)_mm512_cvtneps_pbh(x));
}

/* Sixteen sums of sixteen floats: result[i] is the sum of rows[i]. */
static inline __m512 sums_of(__m512 rows[16]) {
#pragma GCC unroll 8
    for (int at = 0; at < 8; at++) {
        __m512 low = _mm512_shuffle_f32x4(rows[at], rows[at + 8], 0x44);
        __m512 high = _mm512_shuffle_f32x4(rows[at], rows[at + 8], 0xEE);
        rows[at] = _mm512_add_ps(low, high); /* 8 lanes of row at, 8 of row at + 8 */
    }
#pragma GCC unroll 4
    for (int at = 0; at < 4; at++) {
        __m512 low = _mm512_shuffle_f32x4(rows[at], rows[at + 4], 0x88);
        __m512 high = _mm512_shuffle_f32x4(rows[at], rows[at + 4], 0xDD);
        rows[at] = _mm512_add_ps(low, high); /* 4 lanes each of at, at + 8, at + 4, at + 12 */
    }
#pragma GCC unroll 2
    for (int at = 0; at < 2; at++) {
        __m512 low = _mm512_unpacklo_ps(rows[at], rows[at + 2]);
        __m512 high = _mm512_unpackhi_ps(rows[at], rows[at + 2]);
        rows[at] = _mm512_add_ps(low, high); /* two lanes of at and at + 2, in turn */
    }
    __m512 low = _mm512_unpacklo_ps(rows[0], rows[1]);
    __m512 high = _mm512_unpackhi_ps(rows[0], rows[1]);
    __m512 sum = _mm512_add_ps(low, high); /* in each quarter: 0, 1, 2, 3 plus 0, 8, 4, 12 */
    return _mm512_shuffle_f32x4(sum, sum, 0xD8);
}

/* exp(x), relative error below 1e-5; 0 for -inf and very low x, nan for nan. For x <= 88. */
static inline __m512 exponential(__m512 x) {
    const __m512 scaled = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    /* The fraction in [-1/2, 1/2], and 0 for an infinity. */
    const __m512 part = _mm512_reduce_ps(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 whole = _mm512_sub_ps(scaled, part);
    __m512 sum = _mm512_set1_ps(1.3333558e-3f); /* the series of 2**part */
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(9.6181291e-3f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(5.5504109e-2f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(0.24022651f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(0.69314718f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(1.0f));
    return _mm512_scalef_ps(sum, whole);
}

#endif
