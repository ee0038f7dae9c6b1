/* Linear layers, for bfloat16 on processors with AVX512-BF16.
 *
 * Weights are packed once, in the order in which every product reads them. One token takes as long
 * as reading them; many tokens take as long as the arithmetic. Bias, residual and gate are applied
 * while the sums are still in registers.
 */
#include "linear.h"

enum { STRIPS = 16 }; /* strips of rows that a thread multiplies by one panel, approximately */

/* Packs the rows of a weight [rows, columns] into panels; see Linear.
 *
 * If `wide` is 64, rows fill whole panels; if it is 32, the half that begins at `place`.
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

/* Copies rows of an embedding that is packed as a linear layer to out[count, columns]. */
void lmi_embed(const Linear *linear, const int64_t *ids, int64_t count, bf16 *out) {
#pragma omp parallel for schedule(static) if (count > 16)
    for (int64_t at = 0; at < count; at++) {
        const bf16 *from = panel_of(linear, ids[at] / STRIP) + ids[at] % STRIP * 2;
        for (int64_t pair = 0; pair < linear->columns / 2; pair++)
            memcpy(out + at * linear->columns + 2 * pair, from + pair * 2 * STRIP,
                   2 * sizeof(bf16));
    }
}

/* Converts a packed bfloat16 weight to eight bits; a row's unit is its largest magnitude / 127.
 *
 * scale: [panels * STRIP]. A row of zeros has the scale 0.
 */
void lmi_quantize(const Linear *linear, int8_t *packed, float *scale) {
    const int64_t pairs = linear->columns / 2;
    const __m512i high = _mm512_set1_epi32((int)0xFFFF0000), byte = _mm512_set1_epi32(0xFF);
#pragma omp parallel for schedule(static)
    for (int64_t panel = 0; panel < panels_of(linear); panel++)
        for (int64_t j = 0; j < 4; j++) {
            const bf16 *from = panel_of(linear, panel) + 32 * j;
            int8_t *to = packed + panel * STRIP * linear->columns + 32 * j;
            __m512 most = _mm512_setzero_ps();
            for (int64_t pair = 0; pair < pairs; pair++) {
                const __m512i both = _mm512_loadu_si512(from + pair * 2 * STRIP);
                const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
                const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(both, high));
                most = _mm512_max_ps(most, _mm512_max_ps(_mm512_abs_ps(even), _mm512_abs_ps(odd)));
            }
            const __m512 unit = _mm512_div_ps(most, _mm512_set1_ps(127.0f));
            const __mmask16 live = _mm512_cmp_ps_mask(unit, _mm512_setzero_ps(), _CMP_GT_OQ);
            _mm512_storeu_ps(scale + panel * STRIP + 16 * j, unit);
            for (int64_t pair = 0; pair < pairs; pair++) {
                const __m512i both = _mm512_loadu_si512(from + pair * 2 * STRIP);
                const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
                const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(both, high));
                const __m512i left = _mm512_cvtps_epi32(_mm512_maskz_div_ps(live, even, unit));
                const __m512i right = _mm512_cvtps_epi32(_mm512_maskz_div_ps(live, odd, unit));
                const __m512i pairs_of_bytes = _mm512_or_si512(
                    _mm512_and_si512(left, byte),
                    _mm512_slli_epi32(_mm512_and_si512(right, byte), 8));
                _mm256_storeu_si256((__m256i *)(to + pair * 2 * STRIP),
                                    _mm512_cvtepi32_epi16(pairs_of_bytes));
            }
        }
}

/* Converts a panel of int8 to bfloat16, which represents such integers exactly. */
static void expand(const Linear *linear, int64_t panel, bf16 *to) {
    const int8_t *from = whole_panel_of(linear, panel);
    for (int64_t at = 0; at < STRIP * linear->columns; at += 32) {
        const __m512i low = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(from + at)));
        const __m512i high =
            _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(from + at + 16)));
        _mm512_storeu_si512(to + at, (__m512i)_mm512_cvtne2ps_pbh(_mm512_cvtepi32_ps(high),
                                                                  _mm512_cvtepi32_ps(low)));
    }
}

/* Multiplies rows `from` to `to` of x[count, columns] by a panel; count is at least STRIP_ROWS. */
static inline __attribute__((always_inline)) void some_rows(
    const Linear *linear, int64_t panel, Ending ending, const bf16 *weight, const bf16 *x,
    int64_t count, int64_t from, int64_t to, char *out, int64_t out_row) {
    const int64_t columns = linear->columns;
    for (int64_t row = from; row < to; row += STRIP_ROWS) {
        const int64_t first = clamp(row, 0, count - STRIP_ROWS); /* the last strip overlaps */
        Sums sums;
        clear(sums, 4);
        multiply(sums, 4, x + first * columns, columns, weight, 2 * STRIP, columns / 2);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const __m512 bias = bias_of(linear, panel, j);
            const __m512 scale = linear->scale ? scale_of(linear, panel, j) : _mm512_set1_ps(1.0f);
#pragma GCC unroll 6
            for (int r = 0; r < STRIP_ROWS; r++)
                sums[r][j] = _mm512_fmadd_ps(sums[r][j], scale, bias);
        }
#pragma GCC unroll 6
        for (int r = 0; r < STRIP_ROWS; r++)
            if (first + r >= row && first + r < to)
                finish(linear, panel, ending, sums[r], out + (first + r) * out_row);
    }
}

/* A linear layer for few tokens, each of which reads all weights. */
static int few_tokens(const Linear *linear, Ending ending, const bf16 *x, int64_t count, char *out,
                      int64_t out_row) {
    int16_t *room = malloc((size_t)(count * linear->columns) * sizeof *room);
    if (room == NULL) return 1;
    Token tokens[STRIP_ROWS];
    for (int64_t row = 0; row < count; row++)
        tokens[row] = token_of(linear, x + row * linear->columns, room + row * linear->columns);
#pragma omp parallel for schedule(static)
    for (int64_t panel = 0; panel < panels_of(linear); panel++)
        for (int64_t row = 0; row < count; row++) {
            __m512 sums[4];
            product(linear, panel, tokens[row], sums);
            finish(linear, panel, ending, sums, out + row * out_row);
        }
    free(room);
    return 0;
}

/* A linear layer for x[count, columns]; see Ending for out, whose rows are out_row bytes apart.
 *
 * Returns 1 if memory ran out.
 */
int lmi_linear(const Linear *linear, int64_t ending, const bf16 *x, int64_t count, void *out,
               int64_t out_row) {
    if (count < STRIP_ROWS) return few_tokens(linear, (Ending)ending, x, count, out, out_row);
    const int64_t strips = (count + STRIP_ROWS - 1) / STRIP_ROWS;
    const int64_t parts = (strips + STRIPS - 1) / STRIPS;
    const int64_t rows = (strips + parts - 1) / parts * STRIP_ROWS;
    int failed = 0;
#pragma omp parallel reduction(| : failed)
    {
        /* A thread gets the same panel several times in a row, and expands it once. */
        bf16 *expanded = NULL;
        int64_t known = -1;
        if (linear->scale != NULL) {
            expanded = aligned_alloc(64, (size_t)(STRIP * linear->columns) * sizeof *expanded);
            failed = expanded == NULL;
        }
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t panel = 0; panel < panels_of(linear); panel++)
            for (int64_t part = 0; part < parts; part++) {
                const int64_t from = part * rows, to = clamp(from + rows, from, count);
                const bf16 *weight = expanded;
                if (failed) continue;
                if (expanded == NULL) weight = panel_of(linear, panel);
                else if (panel != known) expand(linear, known = panel, expanded);
                switch ((Ending)ending) { /* a separate loop for each */
                case STORE:
                    some_rows(linear, panel, STORE, weight, x, count, from, to, out, out_row);
                    break;
                case ADD:
                    some_rows(linear, panel, ADD, weight, x, count, from, to, out, out_row);
                    break;
                case GATED:
                    some_rows(linear, panel, GATED, weight, x, count, from, to, out, out_row);
                    break;
                case WIDE:
                    some_rows(linear, panel, WIDE, weight, x, count, from, to, out, out_row);
                    break;
                }
            }
        free(expanded);
    }
    return failed;
}
