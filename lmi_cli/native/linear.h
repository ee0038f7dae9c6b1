/* Linear layers, as the other kernels use them. */
#ifndef LMI_LINEAR_H
#define LMI_LINEAR_H

#include "blocks.h"
#include "likelihood.h"
#include "multiply.h"
#include "pointwise.h"

enum {
    MAX_PARTS = 3,
    FEW = 16, /* tokens that are multiplied one by one; see lmi_few */
    GROUP = 16, /* panels of a piece, where logits are weighed */
    STRIP_WIDE = VECTORS < 4 ? VECTORS : 4 /* registers of rows that two tokens share */
};

/* Must match Linear in linear.py.
 *
 * A weight [rows, columns] is stored in panels of PANEL rows, the last one of a part padded with
 * zeros. For any number of tokens, a panel is read in the order in which it is stored. `columns` is
 * a multiple of 32.
 */
typedef struct {
    Part parts[MAX_PARTS];
    int64_t count, rows, columns;
} Linear;

/* How the outputs of a linear layer for one token are stored. */
typedef enum {
    STORE,  /* bf16 [rows] */
    ADD,    /* rounded, then added to bf16 [rows] */
    SWIGLU, /* bf16 [rows / 2]: each panel has 32 rows of the gate, then the matching 32 of `up` */
    GEGLU,  /* the same with another activation */
    WIDE,   /* float [rows] */
    WEIGH   /* as logits, into a Running */
} Ending;

static inline int64_t all_panels_of(const Linear *linear) {
    int64_t panels = 0;
    for (int64_t at = 0; at < linear->count; at++) panels += panels_of(linear->parts + at);
    return panels;
}

/* The part that a panel belongs to; *panel becomes its number there. */
static inline const Part *part_of(const Linear *linear, int64_t *panel) {
    const Part *part = linear->parts;
    for (; *panel >= panels_of(part); part++) *panel -= panels_of(part);
    return part;
}

static inline const bf16 *panel_of(const Part *part, int64_t columns, int64_t panel) {
    return (const bf16 *)part->weight + panel * PANEL * columns;
}

/* Converts columns `first` to `stop` of a panel of bfloat16 to a right side, by strips. */
static inline void widen_columns(const bf16 *panel, int64_t first, int64_t stop, Side *to) {
    for (int64_t at = first; at < stop; at += 2)
        for (int64_t row = 0; row < PANEL; row += LANES) {
            const bits32 pairs = load_bits(panel + at * PANEL + 2 * row);
            floats value[2] = {even_of(pairs), odd_of(pairs)};
            Side *place = strip_at(to, stop - first, row) + (at - first) * STRIP;
            for (int k = 0; k < 2; k += TOGETHER) store_columns(place + k * STRIP, value + k);
        }
}

/* The input of a linear layer for one token; what its parts do not need is not there. */
typedef struct {
    const Side *values;
    Whole whole;
} Token;

/* Products of a few tokens with LANES * wide rows of a panel of bfloat16, from `first` on.
 *
 * Each token's sums are those that it gets alone.
 */
INLINE void strip_product(const int tokens, const int wide, int first, const bf16 *panel,
                          const Token x[], int64_t pairs, floats sums[][VECTORS]) {
    floats even[MOST_TOGETHER][VECTORS], odd[MOST_TOGETHER][VECTORS];
    const bf16 *row = panel + 2 * LANES * first;
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 16
        for (int j = 0; j < wide; j++) even[t][j] = odd[t][j] = (floats){0};
#ifdef HAS_BF16_DOT
    for (int64_t pair = 0; pair < pairs; pair += 2, row += 4 * PANEL) {
        for (int line = 0; first == 0 && line < 8; line++)
            PREFETCH(panel + pair * 2 * PANEL + 32 * line);
        bits32 one[VECTORS], two[VECTORS];
#pragma GCC unroll 16
        for (int j = 0; j < wide; j++) {
            one[j] = load_bits(row + 2 * LANES * j);
            two[j] = load_bits(row + 2 * LANES * j + 2 * PANEL);
        }
#pragma GCC unroll 4
        for (int t = 0; t < tokens; t++) {
            uint32_t both, next;
            memcpy(&both, x[t].values + 2 * pair, sizeof both);
            memcpy(&next, x[t].values + 2 * pair + 2, sizeof next);
#pragma GCC unroll 16
            for (int j = 0; j < wide; j++) {
                even[t][j] = add_pairs(even[t][j], fill_bits(both), one[j]);
                odd[t][j] = add_pairs(odd[t][j], fill_bits(next), two[j]);
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 16
        for (int j = 0; j < wide; j++) sums[t][first + j] = even[t][j] + odd[t][j];
#else
    for (int64_t pair = 0; pair < pairs; pair++, row += 2 * PANEL) {
        for (int line = 0; first == 0 && line < 4; line++)
            PREFETCH(panel + pair * 2 * PANEL + 32 * line);
#pragma GCC unroll 16
        for (int j = 0; j < wide; j++) {
            const bits32 both = load_bits(row + 2 * LANES * j);
#pragma GCC unroll 4
            for (int t = 0; t < tokens; t++) {
                const Side *values = x[t].values + 2 * pair;
                even[t][j] = fused(fill(values[0]), even_of(both), even[t][j]);
                even[t][j] = fused(fill(values[1]), odd_of(both), even[t][j]);
            }
        }
    }
#pragma GCC unroll 4
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 16
        for (int j = 0; j < wide; j++) sums[t][first + j] = even[t][j];
#endif
}

/* Products of a few tokens with the rows of a panel of bfloat16, as many at once as fit registers. */
INLINE void product(const int tokens, const bf16 *panel, const Token x[], int64_t pairs,
                    floats sums[][VECTORS]) {
    const int wide = tokens <= 2 ? STRIP_WIDE : STRIP_WIDE / 2;
    for (int first = 0; first < VECTORS; first += wide)
        strip_product(tokens, wide, first, panel, x, pairs, sums);
}

/* Stores `live` of LANES numbers. */
static inline void store_live(bf16 *to, int64_t live, floats x) {
    bf16 all[LANES];
    if (live >= LANES) {
        narrow(to, x);
    } else if (live > 0) {
        narrow(all, x);
        memcpy(to, all, (size_t)live * sizeof *to);
    }
}

static inline floats load_live(const bf16 *from, int64_t live) {
    bf16 all[LANES] = {0};
    if (live >= LANES) return widened(from);
    if (live > 0) memcpy(all, from, (size_t)live * sizeof *from);
    return widened(all);
}

/* Adds the bias to the sums of a panel and stores them as outputs of one token. */
INLINE void finish(const Part *part, int64_t panel, Ending ending, const Logits *logits,
                   const floats sums[VECTORS], void *row) {
    floats out[VECTORS];
#pragma GCC unroll 16
    for (int j = 0; j < VECTORS; j++)
        out[j] = part->bias ? sums[j] + widened(part->bias + panel * PANEL + LANES * j) : sums[j];
    if (ending == WEIGH) {
        const int64_t before = panel * PANEL;
        weigh(logits, out, part->first + before, clamp(part->rows - before, 0, PANEL), row);
        return;
    }
    if (ending == SWIGLU || ending == GEGLU) {
#pragma GCC unroll 8
        for (int j = 0; j < VECTORS / 2; j++) {
            const int64_t first = panel * PANEL / 2 + LANES * j;
            const floats gate = rounded(out[j]), up = rounded(out[j + VECTORS / 2]);
            store_live((bf16 *)row + first, part->rows / 2 - first,
                       ending == SWIGLU ? swiglu(gate, up) : geglu(gate, up));
        }
        return;
    }
#pragma GCC unroll 16
    for (int j = 0; j < VECTORS; j++) {
        const int64_t local = panel * PANEL + LANES * j, live = part->rows - local;
        const int64_t first = part->first + local;
        if (ending == STORE) store_live((bf16 *)row + first, live, out[j]);
        if (ending == WIDE && live > 0)
            memcpy((float *)row + first, &out[j], (size_t)clamp(live, 0, LANES) * sizeof(float));
        if (ending == ADD) {
            bf16 *to = (bf16 *)row + first;
            store_live(to, live, load_live(to, live) + rounded(out[j]));
        }
    }
}

/* Tokens, at most, each of which gets exactly the outputs that it gets alone; see linear.c. */
int64_t lmi_few(const Linear *linear);

/* Where logits are weighed: each piece of work has GROUP panels, and its results for all tokens. */
typedef struct {
    Logits logits;
    const int64_t *targets; /* [count] */
    Running *running;       /* [threads][count] */
    Weighed *pieces;        /* [count][groups] */
} Scoring;

static inline int64_t groups_of(const Linear *linear) {
    return (all_panels_of(linear) + GROUP - 1) / GROUP;
}

/* The pieces of some tokens' logits; see linear.c. */
int linear_scores(const Linear *linear, const bf16 *x, int64_t count, const Scoring *scoring);

/* A linear layer for any number of tokens; see linear.c. */
int lmi_linear(const Linear *linear, int64_t ending, const bf16 *x, int64_t count, void *out,
               int64_t out_row);

#endif
