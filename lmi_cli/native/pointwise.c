/* Normalisation and rotation of many tokens, each in one pass over memory, where torch needs up to
 * seven. For bfloat16 on processors with AVX512-BF16.
 */
#include "pointwise.h"

enum { FEW_ROWS = 16 }; /* up to which waking other threads does not pay off */

/* Normalises each row of x[rows, size] into out. */
void lmi_norm(const bf16 *x, const bf16 *weight, float epsilon, int64_t rows, int64_t size,
              bf16 *out) {
#pragma omp parallel for schedule(static) if (rows > FEW_ROWS)
    for (int64_t row = 0; row < rows; row++)
        normalize(x + row * size, weight, epsilon, size, out + row * size);
}

/* Rotary embedding of x[heads, rows, size] into out, which is contiguous.
 *
 * cosine, sine: [rows, size], or [1, size] where `rotation_row` is 0.
 */
void lmi_rotate(const bf16 *x, int64_t x_head, int64_t x_row, const float *cosine,
                const float *sine, int64_t rotation_row, int64_t heads, int64_t rows, int64_t size,
                bf16 *out) {
#pragma omp parallel for schedule(static) collapse(2) if (rows > FEW_ROWS)
    for (int64_t head = 0; head < heads; head++)
        for (int64_t row = 0; row < rows; row++)
            rotate(x + head * x_head + row * x_row, cosine + row * rotation_row,
                   sine + row * rotation_row, size, out + (head * rows + row) * size);
}
