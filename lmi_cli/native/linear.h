/* A linear layer, as the other kernels see it. */
#ifndef LMI_LINEAR_H
#define LMI_LINEAR_H

#include "multiply.h"
#include "pointwise.h"

/* Must match Linear in linear.py.
 *
 * The weight [rows, columns] lies in panels of STRIP rows, the last one filled up with zeros:
 * [panels][columns / 2][STRIP][2]. Whatever the number of tokens, a panel is read as it lies.
 */
typedef struct {
    const bf16 *weight; /* columns a multiple of 32 */
    const bf16 *bias;   /* [panels * STRIP] or NULL */
    int64_t rows, columns;
} Linear;

static inline int64_t panels_of(const Linear *linear) { return (linear->rows + STRIP - 1) / STRIP; }

static inline const bf16 *panel_of(const Linear *linear, int64_t panel) {
    return linear->weight + panel * STRIP * linear->columns;
}

/* Products of one token x[columns] with the rows of a panel, bias included. */
static inline void product(const Linear *linear, int64_t panel, const bf16 *x, __m512 sums[4]) {
    const bf16 *weight = panel_of(linear, panel);
    const int64_t pairs = linear->columns / 2;
    __m512 even[4], odd[4];
    for (int j = 0; j < 4; j++) {
        even[j] = linear->bias ? widened(linear->bias + panel * STRIP + 16 * j)
                               : _mm512_setzero_ps();
        odd[j] = _mm512_setzero_ps();
    }
    for (int64_t pair = 0; pair < pairs; pair += 2) {
        int32_t both, next;
        memcpy(&both, x + 2 * pair, sizeof both);
        memcpy(&next, x + 2 * pair + 2, sizeof next);
        const bf16 *row = weight + pair * 2 * STRIP;
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            _mm_prefetch((const char *)(row + 32 * j) + AHEAD, _MM_HINT_T1);
            even[j] = _mm512_dpbf16_ps(even[j], (__m512bh)_mm512_set1_epi32(both),
                                       (__m512bh)_mm512_loadu_si512(row + 32 * j));
        }
        row += 2 * STRIP;
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            _mm_prefetch((const char *)(row + 32 * j) + AHEAD, _MM_HINT_T1);
            odd[j] = _mm512_dpbf16_ps(odd[j], (__m512bh)_mm512_set1_epi32(next),
                                      (__m512bh)_mm512_loadu_si512(row + 32 * j));
        }
    }
    for (int j = 0; j < 4; j++) sums[j] = _mm512_add_ps(even[j], odd[j]);
}

/* Which of sixteen from `first` on there are, of `rows`. */
static inline __mmask16 live_of(int64_t rows, int64_t first) {
    return (__mmask16)((1u << clamp(rows - first, 0, 16)) - 1);
}

static inline __m512 load_live(const bf16 *from, __mmask16 live) {
    const __m256i half = _mm256_maskz_loadu_epi16(live, from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

static inline void store_live(bf16 *to, __mmask16 live, __m512 x) {
    _mm256_mask_storeu_epi16(to, live, (__m256i)_mm512_cvtneps_pbh(x));
}

/* What becomes of the products of a row with a linear layer. */
typedef enum {
    STORE, /* bf16 [rows] */
    ADD,   /* added to bf16 [rows], having been rounded */
    GATED, /* bf16 [rows / 2]: each panel has 32 rows of the gate, then the 32 of `up` to them */
    WIDE   /* float [rows] */
} Ending;

static inline __attribute__((always_inline)) void finish(const Linear *linear, int64_t panel,
                                                         Ending ending, const __m512 sums[4],
                                                         void *row) {
    if (ending == GATED) {
#pragma GCC unroll 2
        for (int j = 0; j < 2; j++) {
            const int64_t first = panel * STRIP / 2 + 16 * j;
            store_live((bf16 *)row + first, live_of(linear->rows / 2, first),
                       gated(rounded(sums[j]), rounded(sums[j + 2])));
        }
        return;
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        const int64_t first = panel * STRIP + 16 * j;
        const __mmask16 live = live_of(linear->rows, first);
        if (ending == STORE) store_live((bf16 *)row + first, live, sums[j]);
        if (ending == WIDE) _mm512_mask_storeu_ps((float *)row + first, live, sums[j]);
        if (ending == ADD)
            store_live((bf16 *)row + first, live,
                       _mm512_add_ps(load_live((bf16 *)row + first, live), rounded(sums[j])));
    }
}

#endif
