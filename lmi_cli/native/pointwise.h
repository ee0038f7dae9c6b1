/* Normalisation, gating, capping and rotation of one row. Sums are in float32; values that
 * transformers rounds to bfloat16 are rounded here too.
 */
#ifndef LMI_POINTWISE_H
#define LMI_POINTWISE_H

#include "vectors.h"

/* out = weight * (x / rms(x)); `size` is a multiple of 32.
 *
 * If `twice`, the quotient is rounded too, as Llama does it.
 */
static inline void normalize(const bf16 *x, const float *weight, float epsilon, bool twice,
                             int64_t size, bf16 *out) {
    floats sum0 = {0}, sum1 = {0};
    for (int64_t at = 0; at < size; at += 2 * LANES) {
        const floats a = widened(x + at), b = widened(x + at + LANES);
        sum0 = fused(a, a, sum0);
        sum1 = fused(b, b, sum1);
    }
    const float factor = 1.0f / sqrtf(total(sum0 + sum1) / (float)size + epsilon);
    for (int64_t at = 0; at < size; at += LANES) {
        const floats quotient = widened(x + at) * factor;
        narrow(out + at, (twice ? rounded(quotient) : quotient) * load(weight + at));
    }
}

static inline floats sigmoid(floats x) {
    const floats below = exponential(-absolute(x));
    /* 1 / (1 + e) for x >= 0 and e / (1 + e) below, with e = exp(-|x|). */
    return chosen(x < 0.0f, below, fill(1.0f)) / (1.0f + below);
}

/* silu(gate) * up. */
static inline floats swiglu(floats gate, floats up) {
    return rounded(gate * sigmoid(gate)) * up;
}

/* gelu(gate) * up, with the usual approximation by a hyperbolic tangent: (1 + tanh(z)) / 2 is
 * sigmoid(2 z).
 */
static inline floats geglu(floats gate, floats up) {
    const floats z = 0.7978845608f * (gate + 0.044715f * gate * gate * gate);
    return rounded(gate * sigmoid(2.0f * z)) * up;
}

/* cap * tanh(score / cap); a cap of 0 is none. */
static inline floats capped(floats score, float cap) {
    if (cap == 0) return score;
    const floats below = exponential(absolute(score) * (-2 / cap));
    const floats size = (1.0f - below) / (1.0f + below) * cap;
    return chosen(score < 0.0f, -size, size);
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
