/* Weights that are kept in blocks of a few bits: their order in memory and their products.
 *
 * A weight is scale * (code - offset) - minimum. Codes have 4, 5, 6 or 8 bits; the scale and the
 * minimum, in half precision, belong to a span of columns of one row. This takes in the block
 * formats of GGUF files (ggml-common.h of llama.cpp) without loss, but for the products of two
 * scales in the K formats, which are rounded to half precision.
 *
 * A panel has PANEL rows. For every BLOCK columns it holds BLOCK * bits / 8 bytes of each row:
 *   4 to 6 bits: four planes [PANEL][4] bytes, whose lower halves are columns 8g to 8g + 3 and whose
 *                upper halves columns 8g + 4 to 8g + 7;
 *   5 bits:      and a plane [PANEL][4], where bit g of byte k is the fifth of column 4g + k;
 *   6 bits:      and two, where bits 2g and 2g + 1 of byte k of plane h are the upper ones of column
 *                16h + 4g + k;
 *   8 bits:      eight planes [PANEL][4] bytes, one for each four columns.
 */
#ifndef LMI_BLOCKS_H
#define LMI_BLOCKS_H

#include <float.h>

#include "multiply.h"

enum {
    PANEL = 64, /* rows that are stored together */
    BLOCK = 32, /* columns that are stored together */
    QUADS = BLOCK / 4,
    VECTORS = PANEL / LANES,
    MOST_TOGETHER = 4, /* tokens for which weights are unpacked once */
    PLANE = 4 * PANEL /* bytes */
};

/* Must match PackedPart in linear.py: rows of a linear layer that are stored alike. */
typedef struct {
    const void *weight;             /* bf16 pairs [panels][columns / 2][PANEL][2], or codes */
    const uint16_t *scale, *minimum; /* [panels][columns / span][PANEL]; NULL if there are none */
    const bf16 *bias;               /* [panels * PANEL] or NULL */
    int64_t rows, first;            /* rows, and the number of the first */
    int64_t bits, offset;           /* of codes; 16 bits for bfloat16 */
} Part;

/* Columns that share a scale. */
INLINE int64_t span_of(int bits) { return bits == 6 ? 16 : 32; }

static inline int64_t panels_of(const Part *part) { return (part->rows + PANEL - 1) / PANEL; }

/* Bytes of the codes of PANEL rows and BLOCK columns. */
INLINE int64_t block_bytes(int bits) { return PANEL * BLOCK / 8 * bits; }

/* The codes of a panel. */
static inline const uint8_t *codes_at(const Part *part, int64_t columns, int64_t panel) {
    return (const uint8_t *)part->weight + panel * (columns / BLOCK) * block_bytes((int)part->bits);
}

/* The codes of columns 4 * quad to 4 * quad + 3 of a block, for LANES rows from `row` on. */
INLINE bits32 codes_of(const int bits, const uint8_t *block, int row, int quad) {
    if (bits == 8) return load_bits(block + quad * PLANE + 4 * row);
    bits32 codes = load_bits(block + quad / 2 * PLANE + 4 * row);
    codes = (quad % 2 ? codes >> 4 : codes) & 0x0F0F0F0F;
    const uint8_t *upper = block + QUADS / 2 * PLANE + 4 * row;
    if (bits == 5) codes |= (load_bits(upper) >> quad & 0x01010101) << 4;
    if (bits == 6)
        codes |= (load_bits(upper + quad / 4 * PLANE) >> 2 * (quad % 4) & 0x03030303) << 4;
    return codes;
}

/* Writes the codes of one row and block; the bits in which they go are zero before. */
static inline void put_codes(int bits, uint8_t *block, int64_t row, const uint8_t codes[BLOCK]) {
    for (int quad = 0; quad < QUADS; quad++)
        for (int k = 0; k < 4; k++) {
            const int code = codes[4 * quad + k];
            uint8_t *at = block + 4 * row + k;
            if (bits == 8) {
                at[quad * PLANE] = (uint8_t)code;
                continue;
            }
            at[quad / 2 * PLANE] |= (uint8_t)((code & 15) << 4 * (quad % 2));
            at += QUADS / 2 * PLANE;
            if (bits == 5) at[0] |= (uint8_t)(code >> 4 << quad);
            if (bits == 6) at[quad / 4 * PLANE] |= (uint8_t)(code >> 4 << 2 * (quad % 4));
        }
}

static inline int code_of(int bits, const uint8_t *block, int64_t row, int column) {
    const int quad = column / 4;
    const uint8_t *at = block + 4 * row + column % 4;
    if (bits == 8) return at[quad * PLANE];
    const int code = at[quad / 2 * PLANE] >> 4 * (quad % 2) & 15;
    at += QUADS / 2 * PLANE;
    if (bits == 5) return code | (at[0] >> quad & 1) << 4;
    if (bits == 6) return code | (at[quad / 4 * PLANE] >> 2 * (quad % 4) & 3) << 4;
    return code;
}

/* One token's input in whole numbers of sixteen bits, in units of its own for each block.
 *
 * Where bytes are multiplied, a number is BASE * high + low; otherwise words are: even and odd.
 */
typedef struct {
    uint32_t (*quads)[2]; /* [columns / 4]: high and low, or even and odd */
    float *unit;          /* [columns / BLOCK] */
    float *sum;           /* of the input, [columns / 16] */
} Whole;

enum { BASE = 255, MOST = BASE * 127 + 127 };

static inline size_t whole_bytes(int64_t columns) {
    return (size_t)columns * 2 + (size_t)(columns / BLOCK + columns / 16) * sizeof(float);
}

/* The largest magnitude of a block of an input; nan if one of them is not finite. */
static inline float largest_of(const bf16 *x) {
    floats most = {0};
    ints broken = {0};
    for (int at = 0; at < BLOCK; at += LANES) {
        const floats size = absolute(widened(x + at));
        broken |= ~(size < INFINITY);
        most = maximum(most, size);
    }
    return any(broken) ? NAN : largest(most);
}

/* The unit in which a magnitude is `levels`. The reciprocal of anything smaller would be infinite. */
static inline float unit_for(float most, int levels) {
    return most < INFINITY ? fmaxf(most / (float)levels, FLT_MIN) : NAN;
}

/* Rounds a block of an input to whole numbers; zeros if the unit is nan. */
static inline void round_block(const bf16 *x, float unit, int32_t number[BLOCK]) {
    const float factor = 1.0f / unit;
    if (!(unit < INFINITY)) {
        memset(number, 0, BLOCK * sizeof *number);
        return;
    }
    for (int at = 0; at < BLOCK; at += LANES) {
        const floats numbers = nearest(widened(x + at) * factor);
        const ints found = __builtin_convertvector(numbers, ints);
        memcpy(number + at, &found, sizeof found);
    }
}

static inline float sum_of_half(const int32_t number[BLOCK], int half) {
    int32_t sum = 0;
    for (int at = 0; at < BLOCK / 2; at++) sum += number[BLOCK / 2 * half + at];
    return (float)sum;
}

/* Splits numbers up to MOST: each is BASE * high + low. */
static inline void split_numbers(const int32_t number[BLOCK], int8_t high[BLOCK], int8_t low[BLOCK]) {
    for (int at = 0; at < BLOCK; at++) {
        /* The nearest multiple of BASE: the sum is positive, so division rounds down. */
        high[at] = (int8_t)((number[at] + MOST) / BASE - 127);
        low[at] = (int8_t)(number[at] - BASE * high[at]);
    }
}

/* Rounds x[columns] to whole numbers, in a place of whole_bytes(columns). */
static inline Whole whole_of(const bf16 *x, int64_t columns, void *place) {
    Whole whole = {.quads = place};
    whole.unit = (float *)(whole.quads + columns / 4);
    whole.sum = whole.unit + columns / BLOCK;
    for (int64_t block = 0; block < columns / BLOCK; block++) {
        int32_t number[BLOCK];
        const float unit = whole.unit[block] = unit_for(largest_of(x + block * BLOCK), MOST);
        round_block(x + block * BLOCK, unit, number);
        for (int half = 0; half < 2; half++)
            whole.sum[2 * block + half] = unit * sum_of_half(number, half);
        uint32_t(*to)[2] = whole.quads + block * QUADS;
#ifdef HAS_BYTE_DOT
        int8_t high[BLOCK], low[BLOCK];
        split_numbers(number, high, low);
        for (int quad = 0; quad < QUADS; quad++) {
            memcpy(to[quad], high + 4 * quad, 4);
            memcpy(to[quad] + 1, low + 4 * quad, 4);
        }
#else
        for (int quad = 0; quad < QUADS; quad++)
            for (int odd = 0; odd < 2; odd++) {
                const int32_t *at = number + 4 * quad + odd;
                to[quad][odd] = (uint16_t)at[0] | (uint32_t)at[2] << 16;
            }
#endif
    }
    return whole;
}

/* sums += the products of four codes of each row with four numbers. */
INLINE void add_quad(ints sums[2], bits32 codes, const uint32_t numbers[2]) {
#ifdef HAS_BYTE_DOT
    sums[0] = add_bytes(sums[0], codes, fill_bits(numbers[0]));
    sums[1] = add_bytes(sums[1], codes, fill_bits(numbers[1]));
#else
    sums[0] += (ints)multiply_words(codes & 0x00FF00FF, fill_bits(numbers[0]));
    sums[1] += (ints)multiply_words(codes >> 8 & 0x00FF00FF, fill_bits(numbers[1]));
#endif
}

INLINE floats sum_of_quads(const ints sums[2]) {
#ifdef HAS_BYTE_DOT
    return fused(__builtin_convertvector(sums[0], floats), fill((float)BASE),
                 __builtin_convertvector(sums[1], floats));
#else
    return __builtin_convertvector(sums[0] + sums[1], floats);
#endif
}

/* Products of a few tokens with the rows of a panel.
 *
 * The codes are unpacked once for all tokens, and each token's sums are those that it gets alone.
 */
INLINE void codes_product(const int bits, const int tokens, const Part *part, int64_t columns,
                          int64_t panel, const Whole x[], floats sums[][VECTORS]) {
    const int64_t span = span_of(bits), spans = columns / span;
    const int quads = (int)span / 4;
    const uint8_t *block = codes_at(part, columns, panel);
    const int64_t scales = panel * spans * PANEL;
    const float offset = (float)part->offset;
    for (int t = 0; t < tokens; t++)
        for (int j = 0; j < VECTORS; j++) sums[t][j] = (floats){0};
    for (int64_t at = 0; at < columns / BLOCK; at++, block += block_bytes(bits)) {
        for (int64_t line = 0; line < block_bytes(bits); line += 64) PREFETCH(block + line);
#pragma GCC unroll 2
        for (int half = 0; half < BLOCK / span; half++) {
            const int64_t which = at * (BLOCK / span) + half, first = scales + which * PANEL;
            float sum[MOST_TOGETHER], below[MOST_TOGETHER];
            for (int t = 0; t < tokens; t++) {
                sum[t] = bits == 6 ? x[t].sum[which]
                                   : x[t].sum[2 * which] + x[t].sum[2 * which + 1];
                below[t] = offset * sum[t];
            }
#pragma GCC unroll 4
            for (int j = 0; j < VECTORS; j++) {
                ints dots[MOST_TOGETHER][2];
#pragma GCC unroll 4
                for (int t = 0; t < tokens; t++) dots[t][0] = dots[t][1] = (ints){0};
#pragma GCC unroll 8
                for (int quad = 0; quad < quads; quad++) {
                    const bits32 codes = codes_of(bits, block, j * LANES, half * quads + quad);
#pragma GCC unroll 4
                    for (int t = 0; t < tokens; t++)
                        add_quad(dots[t], codes, x[t].quads[at * QUADS + half * quads + quad]);
                }
                const floats scale = from_half(part->scale + first + j * LANES);
#pragma GCC unroll 4
                for (int t = 0; t < tokens; t++) {
                    const floats unit = fill(x[t].unit[at]);
                    const floats product = fused(sum_of_quads(dots[t]), unit, fill(-below[t]));
                    sums[t][j] = fused(scale, product, sums[t][j]);
                    if (part->minimum)
                        sums[t][j] = fused(from_half(part->minimum + first + j * LANES),
                                           fill(-sum[t]), sums[t][j]);
                }
            }
        }
    }
}

/* Converts columns `first` to `stop` of a panel, whole blocks, to a right side, by strips. */
INLINE void expand_codes(const int bits, const Part *part, int64_t columns, int64_t panel,
                         int64_t first, int64_t stop, Side *to) {
    const int64_t span = span_of(bits), spans = columns / span;
    const int quads = (int)span / 4;
    const uint8_t *codes = codes_at(part, columns, panel);
    const floats offset = fill((float)part->offset);
    for (int64_t at = first / span; at < stop / span; at++) {
        const int64_t scales = (panel * spans + at) * PANEL;
        const uint8_t *block = codes + at * span / BLOCK * block_bytes(bits);
        const int half = (int)(at % (BLOCK / span));
        for (int j = 0; j < VECTORS; j++) {
            const floats scale = from_half(part->scale + scales + j * LANES);
            floats below = offset * scale;
            if (part->minimum) below += from_half(part->minimum + scales + j * LANES);
            Side *place = strip_at(to, stop - first, j * LANES) + (at * span - first) * STRIP;
#pragma GCC unroll 8
            for (int quad = 0; quad < quads; quad++) {
                const bits32 four = codes_of(bits, block, j * LANES, half * quads + quad);
                floats value[4];
#pragma GCC unroll 4
                for (int k = 0; k < 4; k++) {
                    const ints code = (ints)(four >> 8 * k & 0xFF);
                    value[k] = __builtin_convertvector(code, floats) * scale - below;
                }
#pragma GCC unroll 4
                for (int k = 0; k < 4; k += TOGETHER, place += TOGETHER * STRIP)
                    store_columns(place, value + k);
            }
        }
    }
}

#endif
