/* Normalisation and rotation of many tokens, each in one pass over memory, where torch needs up to
 * seven.
 */
#include "pointwise.h"
#include "pool.h"

enum { ROWS = 16 }; /* rows of a piece */

typedef struct {
    const bf16 *x;
    const float *weight;
    float epsilon;
    bool twice;
    int64_t rows, size;
    bf16 *out;
} Norm;

static void norm_rows(const void *work, int64_t piece, int64_t thread) {
    const Norm *norm = work;
    (void)thread;
    for (int64_t row = piece * ROWS; row < norm->rows && row < (piece + 1) * ROWS; row++)
        normalize(norm->x + row * norm->size, norm->weight, norm->epsilon, norm->twice, norm->size,
                  norm->out + row * norm->size);
}

/* Normalises each row of x[rows, size] into out; see normalize. */
void lmi_norm(const bf16 *x, const float *weight, float epsilon, int64_t twice, int64_t rows,
              int64_t size, bf16 *out) {
    const Norm norm = {x, weight, epsilon, twice != 0, rows, size, out};
    pool_run((rows + ROWS - 1) / ROWS, norm_rows, &norm);
}

typedef struct {
    const bf16 *x;
    int64_t x_head, x_row;
    const float *cosine, *sine;
    int64_t rotation_row, rows, size;
    bf16 *out;
} Rotate;

static void rotate_rows(const void *work, int64_t piece, int64_t thread) {
    const Rotate *all = work;
    const int64_t blocks = (all->rows + ROWS - 1) / ROWS;
    const int64_t head = piece / blocks, first = piece % blocks * ROWS;
    (void)thread;
    for (int64_t row = first; row < all->rows && row < first + ROWS; row++)
        rotate(all->x + head * all->x_head + row * all->x_row,
               all->cosine + row * all->rotation_row, all->sine + row * all->rotation_row,
               all->size, all->out + (head * all->rows + row) * all->size);
}

/* Rotary embedding of x[heads, rows, size] into out, which is contiguous.
 *
 * cosine, sine: [rows, size], or [1, size] where `rotation_row` is 0.
 */
void lmi_rotate(const bf16 *x, int64_t x_head, int64_t x_row, const float *cosine,
                const float *sine, int64_t rotation_row, int64_t heads, int64_t rows, int64_t size,
                bf16 *out) {
    const Rotate all = {x, x_head, x_row, cosine, sine, rotation_row, rows, size, out};
    pool_run(heads * ((rows + ROWS - 1) / ROWS), rotate_rows, &all);
}
