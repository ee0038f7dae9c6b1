/* What a decoder layer does between its matrix products, for many tokens: each in one pass over
 * memory, where torch needs up to seven. For bfloat16 on processors with AVX512-BF16.
 */
#include "pointwise.h"

enum { FEW_ROWS = 16 }; /* that are not worth waking other threads */

/* x[rows, size] += delta (or NULL), then each row is normalised into out. */
void lmi_add_norm(bf16 *x, const bf16 *delta, const bf16 *weight, float epsilon, int64_t rows,
                  int64_t size, bf16 *out) {
#pragma omp parallel for schedule(static) if (rows > FEW_ROWS)
    for (int64_t row = 0; row < rows; row++) {
        bf16 *here = x + row * size;
        if (delta)
            for (int64_t at = 0; at < size; at += 16)
                narrow(here + at,
                       _mm512_add_ps(widened(here + at), widened(delta + row * size + at)));
        normalize(here, weight, epsilon, size, out + row * size);
    }
}

/* silu(gate) * up: out[rows, size] of gate_up[rows, 2 * size]. */
void lmi_gate(const bf16 *gate_up, int64_t rows, int64_t size, bf16 *out) {
#pragma omp parallel for schedule(static) if (rows > FEW_ROWS)
    for (int64_t row = 0; row < rows; row++) {
        const bf16 *gate = gate_up + 2 * row * size, *up = gate + size;
        for (int64_t at = 0; at < size; at += 16)
            narrow(out + row * size + at, gated(widened(gate + at), widened(up + at)));
    }
}

/* Rotary embedding of x[heads, rows, size] into out, contiguous.
 *
 * cosine, sine: [rows, size], or [1, size] where `turn_row` is 0.
 */
void lmi_rotate(const bf16 *x, int64_t x_head, int64_t x_row, const float *cosine,
                const float *sine, int64_t turn_row, int64_t heads, int64_t rows, int64_t size,
                bf16 *out) {
#pragma omp parallel for schedule(static) collapse(2) if (rows > FEW_ROWS)
    for (int64_t head = 0; head < heads; head++)
        for (int64_t row = 0; row < rows; row++)
            rotate(x + head * x_head + row * x_row, cosine + row * turn_row,
                   sine + row * turn_row, size, out + (head * rows + row) * size);
}
