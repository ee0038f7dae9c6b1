/* Linear layers, for bfloat16 on processors with AVX512-BF16.
 *
 * Weights are packed once, in the order in which every product reads them. One token takes as long
 * as reading them; many tokens take as long as the arithmetic. What comes next is done while the
 * sums are still in registers.
 */
#include "linear.h"

enum { STRIPS = 16 }; /* of rows, about, that a thread takes with one panel */

/* Rows of a weight [rows, columns] to a panel; `step` panels on, the next one. See Linear.
 *
 * With `wide` of 64 rows fill a panel; with 32 they fill the half of it that begins at `place`.
 */
void lmi_pack(const bf16 *weight, int64_t rows, int64_t columns, int64_t wide, int64_t place,
              bf16 *packed) {
    const int64_t panels = (rows + wide - 1) / wide;
#pragma omp parallel for schedule(static)
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t row = 0; row < wide; row += 16)
            for (int64_t column = 0; column < columns; column += 32) {
                const int64_t first = panel * wide + row;
                pack(weight + first * columns + column, clamp(rows - first, 0, 16), columns,
                     packed + panel * STRIP * columns + (column / 2 * STRIP + place + row) * 2,
                     2 * STRIP);
            }
}

/* Rows of an embedding that is packed as a linear layer: out[count, columns]. */
void lmi_embed(const Linear *linear, const int64_t *ids, int64_t count, bf16 *out) {
#pragma omp parallel for schedule(static) if (count > 16)
    for (int64_t at = 0; at < count; at++) {
        const bf16 *from = panel_of(linear, ids[at] / STRIP) + ids[at] % STRIP * 2;
        for (int64_t pair = 0; pair < linear->columns / 2; pair++)
            memcpy(out + at * linear->columns + 2 * pair, from + pair * 2 * STRIP, 2 * sizeof(bf16));
    }
}

/* Rows `from` to `to` of x[count, columns], of which there are STRIP_ROWS or more, with a panel. */
static inline __attribute__((always_inline)) void some_rows(
    const Linear *linear, int64_t panel, Ending ending, const bf16 *x, int64_t count,
    int64_t from, int64_t to, char *out, int64_t out_row) {
    const int64_t columns = linear->columns;
    const bf16 *weight = panel_of(linear, panel);
    __m512 bias[4];
    for (int j = 0; j < 4; j++)
        bias[j] = linear->bias ? widened(linear->bias + panel * STRIP + 16 * j)
                               : _mm512_setzero_ps();
    for (int64_t row = from; row < to; row += STRIP_ROWS) {
        const int64_t first = clamp(row, 0, count - STRIP_ROWS); /* the last strip overlaps */
        Sums sums;
#pragma GCC unroll 6
        for (int r = 0; r < STRIP_ROWS; r++)
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) sums[r][j] = bias[j];
        multiply(sums, 4, x + first * columns, columns, weight, 2 * STRIP, columns / 2);
#pragma GCC unroll 6
        for (int r = 0; r < STRIP_ROWS; r++)
            if (first + r >= row && first + r < to)
                finish(linear, panel, ending, sums[r], out + (first + r) * out_row);
    }
}

/* A linear layer of x[count, columns]; see Ending for out, whose rows are out_row bytes apart. */
void lmi_linear(const Linear *linear, int64_t ending, const bf16 *x, int64_t count, void *out,
                int64_t out_row) {
    const int64_t panels = panels_of(linear);
    char *bytes = out;
    if (count < STRIP_ROWS) {
#pragma omp parallel for schedule(static)
        for (int64_t panel = 0; panel < panels; panel++)
            for (int64_t row = 0; row < count; row++) {
                __m512 sums[4];
                product(linear, panel, x + row * linear->columns, sums);
                finish(linear, panel, (Ending)ending, sums, bytes + row * out_row);
            }
        return;
    }
    const int64_t strips = (count + STRIP_ROWS - 1) / STRIP_ROWS;
    const int64_t parts = (strips + STRIPS - 1) / STRIPS;
    const int64_t rows = (strips + parts - 1) / parts * STRIP_ROWS;
#pragma omp parallel for schedule(dynamic) collapse(2)
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t part = 0; part < parts; part++) {
            const int64_t from = part * rows, to = clamp(from + rows, from, count);
            switch ((Ending)ending) { /* a loop of its own for each */
            case STORE: some_rows(linear, panel, STORE, x, count, from, to, bytes, out_row); break;
            case ADD: some_rows(linear, panel, ADD, x, count, from, to, bytes, out_row); break;
            case GATED: some_rows(linear, panel, GATED, x, count, from, to, bytes, out_row); break;
            case WIDE: some_rows(linear, panel, WIDE, x, count, from, to, bytes, out_row); break;
            }
        }
}
