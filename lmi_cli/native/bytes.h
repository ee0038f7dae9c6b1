/* Many tokens times weights in blocks, in whole numbers: where bytes are multiplied faster than floats.
 *
 * Each block of a token's inputs is rounded to whole numbers in a unit of its own: to eight bits, or
 * to sixteen if one of them is far above the token's others, next to which eight bits would leave
 * little of the rest. Products and their sums within a block are exact, and no token's outputs
 * depend on what the other tokens are. Codes of eight bits would take two products each, which is
 * no faster than floats.
 */
#ifndef LMI_BYTES_H
#define LMI_BYTES_H

#include "blocks.h"
#include "pool.h"

enum {
#ifdef HAS_BYTE_PAIRS
    BY_BYTES = 1,
#else
    BY_BYTES = 0,
#endif
    BYTE_BITS = BY_BYTES ? 6 : 0, /* of codes, at most, that are multiplied so */
    BYTE_DEPTH = 1024, /* columns of a panel that are unpacked at once */
    LEVELS = 127       /* the largest whole number of eight bits */
};

/* How far above the root mean square of its token's inputs a number is, for which its block gets
 * sixteen bits.
 */
#define FAR_ABOVE 8.0f

typedef int16_t words __attribute__((vector_size(4 * LANES)));

/* BLOCK columns of the inputs of STRIP_ROWS tokens: numbers are BASE * high + low. */
typedef struct {
    int8_t low[QUADS][STRIP_ROWS][4], high[QUADS][STRIP_ROWS][4];
    float unit[STRIP_ROWS];
    float minus_sum[STRIP_ROWS], minus_half[2][STRIP_ROWS]; /* of the inputs, and of halves */
    int32_t wide;                                           /* whether `high` has anything */
} Inputs;

/* BLOCK columns of STRIP rows of a panel: scale * code - below; scales are of spans, see Part. */
typedef struct {
    uint8_t codes[QUADS][STRIP][4];
    float scale[2][STRIP], below[2][STRIP];
} Weights;

/* Rounds x[count, columns], at most STRIP_ROWS tokens; others are zeros. */
static inline void round_inputs(const bf16 *x, int64_t count, int64_t columns, Inputs *to) {
    float far[STRIP_ROWS];
    for (int64_t row = 0; row < count; row++) {
        floats squares = {0};
        for (int64_t at = 0; at < columns; at += LANES) {
            const floats value = widened(x + row * columns + at);
            squares += value * value;
        }
        far[row] = FAR_ABOVE * sqrtf(total(squares) / (float)columns);
    }
    for (int64_t block = 0; block < columns / BLOCK; block++, to++, x += BLOCK) {
        memset(to, 0, sizeof *to);
        for (int64_t row = 0; row < count; row++) {
            int32_t number[BLOCK];
            int8_t high[BLOCK], low[BLOCK];
            const float most = largest_of(x + row * columns);
            const bool wide = most > far[row];
            const float unit = to->unit[row] = unit_for(most, wide ? MOST : LEVELS);
            to->wide |= wide;
            round_block(x + row * columns, unit, number);
            for (int half = 0; half < 2; half++)
                to->minus_half[half][row] = -unit * sum_of_half(number, half);
            to->minus_sum[row] = to->minus_half[0][row] + to->minus_half[1][row];
            split_numbers(number, high, low);
            for (int quad = 0; quad < QUADS; quad++) {
                memcpy(to->high[quad][row], high + 4 * quad, 4);
                memcpy(to->low[quad][row], low + 4 * quad, 4);
            }
        }
    }
}

typedef struct {
    const bf16 *x;
    int64_t count, columns;
    Inputs *inputs;
} Rounding;

static inline void round_strip(const void *work, int64_t strip, int64_t thread) {
    const Rounding *all = work;
    const int64_t row = strip * STRIP_ROWS;
    (void)thread;
    round_inputs(all->x + row * all->columns, clamp(all->count - row, 0, STRIP_ROWS), all->columns,
                 all->inputs + row / STRIP_ROWS * all->columns / BLOCK);
}

/* The inputs of a linear layer, rounded to whole numbers; NULL on failure. */
static inline Inputs *inputs_of(const bf16 *x, int64_t count, int64_t columns) {
    const int64_t strips = (count + STRIP_ROWS - 1) / STRIP_ROWS;
    Inputs *inputs = malloc((size_t)(strips * columns / BLOCK) * sizeof *inputs);
    if (inputs == NULL) return NULL;
    const Rounding all = {x, count, columns, inputs};
    pool_run(strips, round_strip, &all);
    return inputs;
}

/* Unpacks columns `first` to `stop` of a panel, whole blocks, strip by strip. */
INLINE void unpack_codes(const int bits, const Part *part, int64_t columns, int64_t panel,
                         int64_t first, int64_t stop, Weights *to) {
    const int64_t span = span_of(bits), spans = columns / span, blocks = (stop - first) / BLOCK;
    const uint8_t *block = codes_at(part, columns, panel) + first / BLOCK * block_bytes(bits);
    const floats offset = fill((float)part->offset);
    for (int64_t at = 0; at < blocks; at++, block += block_bytes(bits))
        for (int row = 0; row < PANEL; row += LANES) {
            Weights *place = to + row / STRIP * blocks + at;
            const int lane = row % STRIP;
#pragma GCC unroll 8
            for (int quad = 0; quad < QUADS; quad++)
                store_bits(place->codes[quad][lane], codes_of(bits, block, row, quad));
            for (int half = 0; half < BLOCK / span; half++) {
                const int64_t which =
                    (panel * spans + first / span + at * (BLOCK / span) + half) * PANEL + row;
                const floats scale = from_half(part->scale + which);
                floats below = offset * scale;
                if (part->minimum) below += from_half(part->minimum + which);
                store(place->scale[half] + lane, scale);
                store(place->below[half] + lane, below);
            }
        }
}

#ifdef HAS_BYTE_PAIRS

/* Quads whose products fit into sixteen bits together: each may be 2 * 127 * (2**bits - 1). */
INLINE int quads_of_words(int bits) { return bits == 6 ? 2 : bits == 5 ? 4 : 8; }

/* Two words. Volatile, since the loop below leaves no register for what is constant. */
static const volatile uint32_t ONES = 0x00010001;

/* sums += the products of some quads of a block, in sixteen bits. */
INLINE void add_quads(const int quads, const int8_t numbers[][STRIP_ROWS][4],
                      const uint8_t codes[][STRIP][4], words sums[STRIP_ROWS][STRIP_VECTORS]) {
    /* A loop that was unrolled would need more registers than there are. */
#pragma GCC unroll 1
    for (int quad = 0; quad < quads; quad++) {
        bits32 code[STRIP_VECTORS];
#pragma GCC unroll 4
        for (int j = 0; j < STRIP_VECTORS; j++) code[j] = load_bits(codes[quad][j * LANES]);
#pragma GCC unroll 6
        for (int r = 0; r < STRIP_ROWS; r++) {
            uint32_t four;
            memcpy(&four, numbers[quad][r], sizeof four);
#pragma GCC unroll 4
            for (int j = 0; j < STRIP_VECTORS; j++)
                sums[r][j] += (words)multiply_bytes(code[j], fill_bits(four));
        }
    }
}

/* found = the sums of the products of some quads of a block, from `from` on. */
INLINE void multiply_codes(const int bits, const int quads, const int from,
                           const int8_t numbers[QUADS][STRIP_ROWS][4], const Weights *weights,
                           ints found[STRIP_ROWS][STRIP_VECTORS]) {
    const int together = quads_of_words(bits);
    for (int first = from; first < from + quads; first += together) {
        words sums[STRIP_ROWS][STRIP_VECTORS];
        memset(sums, 0, sizeof sums);
        add_quads(together, numbers + first, weights->codes + first, sums);
        const bits32 ones = fill_bits(ONES);
#pragma GCC unroll 6
        for (int r = 0; r < STRIP_ROWS; r++)
#pragma GCC unroll 4
            for (int j = 0; j < STRIP_VECTORS; j++) {
                const ints sum = (ints)multiply_words((bits32)sums[r][j], ones);
                found[r][j] = first > from ? found[r][j] + sum : sum;
            }
    }
}

/* sums += the products of inputs and weights; `wide` as in the inputs. */
INLINE void add_products(const int bits, const bool wide, const Inputs *x, const Weights *weights,
                         Sums sums) {
    const int span = (int)span_of(bits), quads = span / 4;
#pragma GCC unroll 2
    for (int half = 0; half < BLOCK / span; half++) {
        const float *minus = span == BLOCK ? x->minus_sum : x->minus_half[half];
        ints low[STRIP_ROWS][STRIP_VECTORS], high[STRIP_ROWS][STRIP_VECTORS];
        if (wide) multiply_codes(bits, quads, half * quads, x->high, weights, high);
        multiply_codes(bits, quads, half * quads, x->low, weights, low);
#pragma GCC unroll 6
        for (int r = 0; r < STRIP_ROWS; r++)
#pragma GCC unroll 4
            for (int j = 0; j < STRIP_VECTORS; j++) {
                floats product = __builtin_convertvector(low[r][j], floats);
                if (wide)
                    product = fused(__builtin_convertvector(high[r][j], floats), fill((float)BASE),
                                    product);
                product *= load(weights->scale[half] + j * LANES);
                sums[r][j] = fused(product, fill(x->unit[r]), sums[r][j]);
                sums[r][j] =
                    fused(load(weights->below[half] + j * LANES), fill(minus[r]), sums[r][j]);
            }
    }
}

INLINE void add_block(const int bits, const Inputs *x, const Weights *weights, Sums sums) {
    if (x->wide)
        add_products(bits, true, x, weights, sums);
    else
        add_products(bits, false, x, weights, sums);
}

#endif
#endif
