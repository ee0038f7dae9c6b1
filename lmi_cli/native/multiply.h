/* The inner loop of every matrix product here.
 *
 * The dot product instruction takes pairs of bfloat16, so the right side is stored in pairs:
 * components 2p and 2p + 1 of each column side by side.
 */
#ifndef LMI_MULTIPLY_H
#define LMI_MULTIPLY_H

#include "vectors.h"

enum {
    STRIP_ROWS = 6, /* rows multiplied at once: 6 x 4 registers of sums */
    STRIP = 64      /* columns multiplied at once: 4 registers of 16 floats */
};

typedef __m512 Sums[STRIP_ROWS][STRIP / 16];

/* sums[STRIP_ROWS][16 * wide] += left[STRIP_ROWS][pairs] * right[pairs][16 * wide]. */
static inline __attribute__((always_inline)) void multiply(
    Sums sums, const int wide, const bf16 *left, int64_t left_row, const bf16 *right,
    int64_t right_row, int64_t pairs) {
    for (int64_t pair = 0; pair < pairs; pair++) {
        const bf16 *row = right + pair * right_row;
        __m512bh r[4];
#pragma GCC unroll 4
        for (int j = 0; j < wide; j++) r[j] = (__m512bh)_mm512_loadu_si512(row + 32 * j);
#pragma GCC unroll 6
        for (int at = 0; at < STRIP_ROWS; at++) {
            int32_t both;
            memcpy(&both, left + at * left_row + 2 * pair, sizeof both);
            const __m512bh l = (__m512bh)_mm512_set1_epi32(both);
#pragma GCC unroll 4
            for (int j = 0; j < wide; j++) sums[at][j] = _mm512_dpbf16_ps(sums[at][j], l, r[j]);
        }
    }
}

static inline __attribute__((always_inline)) void clear(Sums sums, const int wide) {
#pragma GCC unroll 6
    for (int at = 0; at < STRIP_ROWS; at++)
#pragma GCC unroll 4
        for (int j = 0; j < wide; j++) sums[at][j] = _mm512_setzero_ps();
}

/* Transposes sixteen rows of sixteen pairs of bfloat16. */
static inline void transpose(__m512i rows[16]) {
    __m512i part[16];
#pragma GCC unroll 8
    for (int at = 0; at < 16; at += 2) {
        part[at] = _mm512_unpacklo_epi32(rows[at], rows[at + 1]);
        part[at + 1] = _mm512_unpackhi_epi32(rows[at], rows[at + 1]);
    }
#pragma GCC unroll 4
    for (int at = 0; at < 16; at += 4) {
        rows[at] = _mm512_unpacklo_epi64(part[at], part[at + 2]);
        rows[at + 1] = _mm512_unpackhi_epi64(part[at], part[at + 2]);
        rows[at + 2] = _mm512_unpacklo_epi64(part[at + 1], part[at + 3]);
        rows[at + 3] = _mm512_unpackhi_epi64(part[at + 1], part[at + 3]);
    }
    /* Quarter q of rows[4 * g + c] now has column 4 * q + c of rows 4 * g to 4 * g + 3. */
#pragma GCC unroll 4
    for (int c = 0; c < 4; c++) {
        const __m512i low = _mm512_shuffle_i32x4(rows[c], rows[4 + c], 0x88);
        const __m512i high = _mm512_shuffle_i32x4(rows[c], rows[4 + c], 0xDD);
        const __m512i low2 = _mm512_shuffle_i32x4(rows[8 + c], rows[12 + c], 0x88);
        const __m512i high2 = _mm512_shuffle_i32x4(rows[8 + c], rows[12 + c], 0xDD);
        part[c] = _mm512_shuffle_i32x4(low, low2, 0x88);
        part[4 + c] = _mm512_shuffle_i32x4(high, high2, 0x88);
        part[8 + c] = _mm512_shuffle_i32x4(low, low2, 0xDD);
        part[12 + c] = _mm512_shuffle_i32x4(high, high2, 0xDD);
    }
    memcpy(rows, part, sizeof part);
}

/* Packs up to sixteen rows of 32 components, `row` apart, as 16 x 16 pairs, `pair` apart. */
static inline void pack(const bf16 *from, int64_t rows, int64_t row, bf16 *to, int64_t pair) {
    __m512i found[16];
    for (int at = 0; at < 16; at++)
        found[at] = at < rows ? _mm512_loadu_si512(from + at * row) : _mm512_setzero_si512();
    transpose(found);
    for (int at = 0; at < 16; at++) _mm512_storeu_si512(to + at * pair, found[at]);
}

#endif
