/* Normalisation, gating and rotation of one row. Sums are in float32; values that transformers
 * rounds to bfloat16 are rounded here too.
 */
#ifndef LMI_POINTWISE_H
#define LMI_POINTWISE_H

#include "vectors.h"

/* out = weight * (x / rms(x)); `size` is a multiple of 32. */
static inline void normalize(const bf16 *x, const bf16 *weight, float epsilon, int64_t size,
                             bf16 *out) {
    floats sum0 = {0}, sum1 = {0};
    for (int64_t at = 0; at < size; at += 2 * LANES) {
        const floats a = widened(x + at), b = widened(x + at + LANES);
        sum0 = fused(a, a, sum0);
        sum1 = fused(b, b, sum1);
    }
    const float factor = 1.0f / sqrtf(total(sum0 + sum1) / (float)size + epsilon);
    for (int64_t at = 0; at < size; at += LANES)
        narrow(out + at, rounded(widened(x + at) * factor) * widened(weight + at));
}

/* silu(gate) * up. */
static inline floats gated(floats gate, floats up) {
    const floats below = exponential(-absolute(gate));
    /* sigmoid(gate) is 1 / (1 + e) for gate >= 0 and e / (1 + e) below, with e = exp(-|gate|). */
    const floats top = chosen(gate < 0.0f, below, fill(1.0f));
    return rounded(gate * (top / (1.0f + below))) * up;
}

/* Rotary embedding of a head of `size` components, whose pairs are (p, p + size / 2).
 *
 * cosine, sine: [size]; see Rotation in rope.py.
 */
static inline void rotate(const bf16 *from, const float *cosine, const float *sine, int64_t size,
                          bf16 *to) {
    const int64_t half = size / 2;
    for (int64_t at = 0; at < half; at += LANES) {
        const floats low = widened(from + at), high = widened(from + half + at);
        narrow(to + at, fused(high, load(sine + at), low * load(cosine + at)));
        narrow(to + half + at,
               fused(low, load(sine + half + at), high * load(cosine + half + at)));
    }
}

#endif
