/* Linear layers, as the other kernels use them. */
#ifndef LMI_LINEAR_H
#define LMI_LINEAR_H

#include "multiply.h"
#include "pointwise.h"

/* Must match Linear in linear.py.
 *
 * The weight [rows, columns] is stored in panels of STRIP rows, the last one padded with zeros:
 * [panels][columns / 2][STRIP][2]. For any number of tokens, a panel is read in this order.
 */
typedef struct {
    const void *weight; /* bfloat16, or int8 where there is a scale; columns a multiple of 32 */
    const float *scale; /* the value of one unit in each row, [panels * STRIP], or NULL */
    const bf16 *bias;   /* [panels * STRIP] or NULL */
    int64_t rows, columns;
} Linear;

static inline int64_t panels_of(const Linear *linear) { return (linear->rows + STRIP - 1) / STRIP; }

static inline const bf16 *panel_of(const Linear *linear, int64_t panel) {
    return (const bf16 *)linear->weight + panel * STRIP * linear->columns;
}

static inline const int8_t *whole_panel_of(const Linear *linear, int64_t panel) {
    return (const int8_t *)linear->weight + panel * STRIP * linear->columns;
}

/* The bias that is added to sixteen sums of a panel, and their scale, which is applied first. */
static inline __m512 bias_of(const Linear *linear, int64_t panel, int j) {
    return linear->bias ? widened(linear->bias + panel * STRIP + 16 * j) : _mm512_setzero_ps();
}

static inline __m512 scale_of(const Linear *linear, int64_t panel, int j) {
    return _mm512_loadu_ps(linear->scale + panel * STRIP + 16 * j);
}

/* The input of a linear layer for one token: for int8 weights also in units of `step`. */
typedef struct {
    const bf16 *values;
    const int16_t *whole;
    float step;
} Token;

/* Makes x[columns] the input of a linear layer; `room` has space for as many integers. */
static inline Token token_of(const Linear *linear, const bf16 *x, int16_t *room) {
    Token token = {x, room, 0.0f};
    if (linear->scale == NULL) return token;
    __m512 most = _mm512_setzero_ps();
    __mmask16 broken = 0;
    for (int64_t at = 0; at < linear->columns; at += 16) {
        const __m512 size = _mm512_abs_ps(widened(x + at));
        broken |= _mm512_cmp_ps_mask(size, size, _CMP_UNORD_Q);
        most = _mm512_max_ps(most, size);
    }
    token.step = broken ? NAN : _mm512_reduce_max_ps(most) / 32767.0f;
    const __m512 factor = _mm512_set1_ps(token.step > 0.0f ? 1.0f / token.step : 0.0f);
    for (int64_t at = 0; at < linear->columns; at += 16) {
        const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(widened(x + at), factor));
        _mm256_storeu_si256((__m256i *)(room + at), _mm512_cvtsepi32_epi16(whole));
    }
    return token;
}

/* Products of one token with the rows of a panel of int8, bias included. */
static inline void whole_product(const Linear *linear, int64_t panel, Token token,
                                 __m512 sums[4]) {
    enum { FLUSH = 128 }; /* pairs: 2 * 128 * 32767 * 127 is below 2**31 */
    const int8_t *row = whole_panel_of(linear, panel);
    const int64_t pairs = linear->columns / 2;
    for (int j = 0; j < 4; j++) sums[j] = _mm512_setzero_ps();
    for (int64_t first = 0; first < pairs; first += FLUSH) {
        const int64_t last = first + FLUSH < pairs ? first + FLUSH : pairs;
        __m512i even[4], odd[4];
        for (int j = 0; j < 4; j++) even[j] = odd[j] = _mm512_setzero_si512();
        for (int64_t pair = first; pair < last; pair += 2, row += 4 * STRIP) {
            int32_t both, next;
            memcpy(&both, token.whole + 2 * pair, sizeof both);
            memcpy(&next, token.whole + 2 * pair + 2, sizeof next);
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                _mm_prefetch((const char *)(row + 64 * j) + AHEAD, _MM_HINT_T1);
                const __m256i one = _mm256_loadu_si256((const __m256i *)(row + 32 * j));
                const __m256i two =
                    _mm256_loadu_si256((const __m256i *)(row + 2 * STRIP + 32 * j));
                even[j] = _mm512_dpwssd_epi32(even[j], _mm512_cvtepi8_epi16(one),
                                              _mm512_set1_epi32(both));
                odd[j] = _mm512_dpwssd_epi32(odd[j], _mm512_cvtepi8_epi16(two),
                                             _mm512_set1_epi32(next));
            }
        }
        for (int j = 0; j < 4; j++)
            sums[j] = _mm512_add_ps(sums[j], _mm512_add_ps(_mm512_cvtepi32_ps(even[j]),
                                                           _mm512_cvtepi32_ps(odd[j])));
    }
    for (int j = 0; j < 4; j++)
        sums[j] = _mm512_fmadd_ps(
            sums[j], _mm512_mul_ps(_mm512_set1_ps(token.step), scale_of(linear, panel, j)),
            bias_of(linear, panel, j));
}

/* Products of one token with the rows of a panel, bias included. */
static inline void product(const Linear *linear, int64_t panel, Token token, __m512 sums[4]) {
    if (linear->scale != NULL) {
        whole_product(linear, panel, token, sums);
        return;
    }
    const bf16 *row = panel_of(linear, panel), *x = token.values;
    const int64_t pairs = linear->columns / 2;
    __m512 even[4], odd[4];
    for (int j = 0; j < 4; j++)
        even[j] = bias_of(linear, panel, j), odd[j] = _mm512_setzero_ps();
    for (int64_t pair = 0; pair < pairs; pair += 2, row += 4 * STRIP) {
        int32_t both, next;
        memcpy(&both, x + 2 * pair, sizeof both);
        memcpy(&next, x + 2 * pair + 2, sizeof next);
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            const bf16 *one = row + 32 * j, *two = one + 2 * STRIP;
            _mm_prefetch((const char *)one + AHEAD, _MM_HINT_T1);
            _mm_prefetch((const char *)two + AHEAD, _MM_HINT_T1);
            even[j] = _mm512_dpbf16_ps(even[j], (__m512bh)_mm512_set1_epi32(both),
                                       (__m512bh)_mm512_loadu_si512(one));
            odd[j] = _mm512_dpbf16_ps(odd[j], (__m512bh)_mm512_set1_epi32(next),
                                      (__m512bh)_mm512_loadu_si512(two));
        }
    }
    for (int j = 0; j < 4; j++) sums[j] = _mm512_add_ps(even[j], odd[j]);
}

/* A mask of those of the sixteen rows from `first` on that are below `rows`. */
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

/* How the outputs of a linear layer for one token are stored. */
typedef enum {
    STORE, /* bf16 [rows] */
    ADD,   /* rounded, then added to bf16 [rows] */
    GATED, /* bf16 [rows / 2]: each panel has 32 rows of the gate, then the matching 32 of `up` */
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

/* A linear layer for any number of tokens; see linear.c. */
int lmi_linear(const Linear *linear, int64_t ending, const bf16 *x, int64_t count, void *out,
               int64_t out_row);

#endif
