/* Normalisation, gating and rotation of one row. Sums are in float32; values that transformers
 * rounds to bfloat16 are rounded here too.
 */
#ifndef LMI_POINTWISE_H
#define LMI_POINTWISE_H

#include "vectors.h"

/* out = weight * (x / rms(x)); `size` is a multiple of 32. */
static inline void normalize(const bf16 *x, const bf16 *weight, float epsilon, int64_t size,
                             bf16 *out) {
    __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0;
    for (int64_t at = 0; at < size; at += 32) {
        const __m512 a = widened(x + at), b = widened(x + at + 16);
        sum0 = _mm512_fmadd_ps(a, a, sum0);
        sum1 = _mm512_fmadd_ps(b, b, sum1);
    }
    const float mean = _mm512_reduce_add_ps(_mm512_add_ps(sum0, sum1)) / (float)size;
    const __m512 factor = _mm512_set1_ps(1.0f / sqrtf(mean + epsilon));
    for (int64_t at = 0; at < size; at += 16) {
        const __m512 scaled = rounded(_mm512_mul_ps(widened(x + at), factor));
        narrow(out + at, _mm512_mul_ps(scaled, widened(weight + at)));
    }
}

/* silu(gate) * up, sixteen at once. */
static inline __m512 gated(__m512 gate, __m512 up) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512 below = exponential(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_abs_ps(gate)));
    /* sigmoid(gate) is 1 / (1 + e) for gate >= 0 and e / (1 + e) below, with e = exp(-|gate|). */
    const __mmask16 negative = _mm512_cmp_ps_mask(gate, _mm512_setzero_ps(), _CMP_LT_OQ);
    const __m512 top = _mm512_mask_blend_ps(negative, one, below);
    const __m512 sigmoid = _mm512_div_ps(top, _mm512_add_ps(one, below));
    return _mm512_mul_ps(rounded(_mm512_mul_ps(gate, sigmoid)), up);
}

/* Rotary embedding of a head of `size` components, whose pairs are (p, p + size / 2).
 *
 * cosine, sine: [size]; see Rotation in rope.py.
 */
static inline void rotate(const bf16 *from, const float *cosine, const float *sine, int64_t size,
                          bf16 *to) {
    const int64_t half = size / 2;
    for (int64_t at = 0; at < half; at += 16) {
        const __m512 low = widened(from + at), high = widened(from + half + at);
        narrow(to + at, _mm512_fmadd_ps(high, _mm512_loadu_ps(sine + at),
                                        _mm512_mul_ps(low, _mm512_loadu_ps(cosine + at))));
        narrow(to + half + at,
               _mm512_fmadd_ps(low, _mm512_loadu_ps(sine + half + at),
                               _mm512_mul_ps(high, _mm512_loadu_ps(cosine + half + at))));
    }
}

#endif
