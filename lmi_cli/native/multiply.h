/* The inner loop of every matrix product here.
 *
 * Dot product instructions take pairs of bfloat16. Where a processor has them, both sides are
 * bfloat16, and the right one is stored in pairs: components 2p and 2p + 1 of each column side by
 * side. Elsewhere both sides are float32, which bfloat16 becomes exactly.
 */
#ifndef LMI_MULTIPLY_H
#define LMI_MULTIPLY_H

#include "vectors.h"

#ifdef HAS_BF16_DOT
typedef bf16 Side; /* a component of either side */
enum { TOGETHER = 2 /* components of a column of the right side that are side by side */ };
#else
typedef float Side;
enum { TOGETHER = 1 };
#endif

/* Rows and registers of columns multiplied at once, as many as there are registers for sums. */
enum {
    STRIP_ROWS = 6,
    STRIP_VECTORS = LANES == 8 ? 2 : 4,
    STRIP = STRIP_VECTORS * LANES /* columns */
};

typedef floats Sums[STRIP_ROWS][STRIP_VECTORS];

/* sums[STRIP_ROWS][LANES * wide] += left[STRIP_ROWS][depth] * right[depth][LANES * wide].
 *
 * The right side is [depth / TOGETHER][right_row][TOGETHER].
 */
INLINE void multiply(Sums sums, const int wide, const Side *left, int64_t left_row,
                     const Side *right, int64_t right_row, int64_t depth) {
    for (int64_t at = 0; at < depth; at += TOGETHER) {
        bits32 r[STRIP_VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < wide; j++)
            r[j] = load_bits(right + at * right_row + TOGETHER * LANES * j);
#pragma GCC unroll 6
        for (int row = 0; row < STRIP_ROWS; row++) {
            uint32_t component;
            memcpy(&component, left + row * left_row + at, sizeof component);
            const bits32 l = fill_bits(component);
#pragma GCC unroll 4
            for (int j = 0; j < wide; j++) {
#ifdef HAS_BF16_DOT
                sums[row][j] = add_pairs(sums[row][j], l, r[j]);
#else
                sums[row][j] += (floats)l * (floats)r[j];
#endif
            }
        }
    }
}

INLINE void clear(Sums sums, const int wide) {
#pragma GCC unroll 6
    for (int at = 0; at < STRIP_ROWS; at++)
#pragma GCC unroll 4
        for (int j = 0; j < wide; j++) sums[at][j] = (floats){0};
}

/* Stores LANES components of a side. */
static inline void store_side(Side *to, floats x) {
#ifdef HAS_BF16_DOT
    narrow(to, x);
#else
    store(to, x);
#endif
}

/* Stores 2 * LANES components of a side. */
static inline void store_sides(Side *to, floats low, floats high) {
#ifdef HAS_BF16_DOT
    store_bits(to, (bits32)both_narrowed(low, high));
#else
    store(to, low);
    store(to + LANES, high);
#endif
}

/* Stores TOGETHER components of LANES columns of a right side. */
static inline void store_columns(Side *to, const floats *x) {
#ifdef HAS_BF16_DOT
    store_bits(to, (bits32)paired(x[0], x[1]));
#else
    store(to, x[0]);
#endif
}

/* Where a right side of `depth` components begins for a column, if it is stored strip by strip. */
#define strip_at(right, depth, column) \
    ((right) + (column) / STRIP * STRIP * (depth) + TOGETHER * ((column) % STRIP))

/* Copies `count` components, a multiple of LANES, to a left side. */
static inline void copy_left(Side *to, const bf16 *from, int64_t count) {
    for (int64_t at = 0; at < count; at += LANES) store_side(to + at, widened(from + at));
}

/* The two of each pair of bfloat16. */
static inline floats even_of(bits32 pairs) { return (floats)(pairs << 16); }

static inline floats odd_of(bits32 pairs) { return (floats)(pairs & 0xFFFF0000); }

/* Packs up to LANES rows of 2 * LANES bfloat16, `row` apart, as pairs, `pair` apart. */
static inline void pack_pairs(const bf16 *from, int64_t rows, int64_t row, bf16 *to, int64_t pair) {
    bits32 found[LANES];
    for (int at = 0; at < LANES; at++)
        found[at] = at < rows ? load_bits(from + at * row) : (bits32){0};
    transpose(found);
    for (int at = 0; at < LANES; at++) store_bits(to + at * pair, found[at]);
}

/* Packs up to LANES rows of TOGETHER * LANES components as columns of a right side. */
static inline void pack_right(const bf16 *from, int64_t rows, int64_t row, Side *to,
                              int64_t right_row) {
#ifdef HAS_BF16_DOT
    pack_pairs(from, rows, row, to, 2 * right_row);
#else
    bits32 found[LANES];
    for (int at = 0; at < LANES; at++)
        found[at] = at < rows ? (bits32)widened(from + at * row) : (bits32){0};
    transpose(found);
    for (int at = 0; at < LANES; at++) store_bits(to + at * right_row, found[at]);
#endif
}

#endif
