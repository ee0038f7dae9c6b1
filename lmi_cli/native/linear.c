/* Linear layers.
 *
 * Weights are packed once, in the order in which every product reads them. One token takes as long
 * as reading them. A few take little longer, and each gets exactly the sums that it gets alone.
 * Many take as long as the arithmetic, and blocks of few bits are expanded for them panel by panel.
 * Bias, residual and gate are applied while the sums are at hand.
 */
#include "bytes.h"
#include "linear.h"
#include "pool.h"
#include "tiles.h"

enum {
#ifdef HAS_BF16_DOT
    MOST_ROWS = 96, /* rows that are multiplied by a panel at once */
#else
    MOST_ROWS = 192, /* and the more, the less often is a panel converted */
#endif
    DEPTH = 256, /* columns of a panel that are converted to float32 at once */
    ROOM = BYTE_DEPTH / BLOCK * (PANEL / STRIP) /* Weights of a panel that are unpacked at once */
};

/* The products of a linear layer with x[count, columns]; see Ending for out.
 *
 * Of many tokens, a piece is a block of rows and a panel; of few, a panel and all of them.
 */
typedef struct {
    const Linear *linear;
    Ending ending;
    const Side *x;
    int64_t count, out_row; /* rows, and bytes from one to the next */
    char *out;
    const Token *tokens;  /* few: their inputs */
    int64_t blocks, rows; /* many: blocks of rows, and rows in each, */
    int64_t unit;         /* of which so many are multiplied at once */
    Side *room;           /* for each thread, for as many columns of a panel: */
    int64_t depth;
    int64_t *known;       /* of which panel they are, if they are all of it */
    const Inputs *inputs; /* many: for weights in blocks, where bytes are multiplied */
    Weights *weights;     /* for each thread, for BYTE_DEPTH columns of a panel */
    const Scoring *scoring; /* where logits are weighed, and what computes a block of them */
    Piece *compute;
} Product;

static inline const Logits *logits_of(const Product *all) {
    return all->scoring ? &all->scoring->logits : NULL;
}

/* Products of a few tokens with a panel, and their outputs from row `row` on. */
INLINE void some_tokens(const int tokens, const Product *all, const Part *part, int64_t panel,
                        int64_t row) {
    const int64_t columns = all->linear->columns;
    const Token *x = all->tokens + row;
    floats sums[MOST_TOGETHER][VECTORS];
    Whole whole[MOST_TOGETHER];
    for (int t = 0; t < tokens; t++) whole[t] = x[t].whole;
    switch (part->bits) {
    case 4: codes_product(4, tokens, part, columns, panel, whole, sums); break;
    case 5: codes_product(5, tokens, part, columns, panel, whole, sums); break;
    case 6: codes_product(6, tokens, part, columns, panel, whole, sums); break;
    case 8: codes_product(8, tokens, part, columns, panel, whole, sums); break;
    default: product(tokens, panel_of(part, columns, panel), x, columns / 2, sums);
    }
    for (int t = 0; t < tokens; t++)
        finish(part, panel, all->ending, logits_of(all), sums[t],
               all->out + (row + t) * all->out_row);
}

static void few_tokens(const void *work, int64_t piece, int64_t thread) {
    const Product *all = work;
    int64_t panel = piece, row = 0;
    const Part *part = part_of(all->linear, &panel);
    (void)thread;
    for (; row + 4 <= all->count; row += 4) some_tokens(4, all, part, panel, row);
    for (; row + 2 <= all->count; row += 2) some_tokens(2, all, part, panel, row);
    if (row < all->count) some_tokens(1, all, part, panel, row);
}

/* Whether the room of a thread holds these columns of the panel already, or will from now on. */
static bool is_known(const Product *all, int64_t which, int64_t thread, int64_t columns) {
    /* A thread gets the same panel several times in a row. */
    const bool known = columns == all->linear->columns && all->known[thread] == which;
    all->known[thread] = columns == all->linear->columns ? which : -1;
    return known;
}

/* Columns `first` to `stop` of a panel, the number `which` of all, as a right side, by strips. */
static const Side *right_of(const Product *all, const Part *part, int64_t panel, int64_t which,
                            int64_t thread, int64_t first, int64_t stop) {
    const int64_t columns = all->linear->columns;
#ifdef HAS_BF16_DOT
    if (part->bits == 16) return panel_of(part, columns, panel) + first * PANEL;
#endif
    Side *room = all->room + thread * all->depth * PANEL;
    if (is_known(all, which, thread, stop - first)) return room;
    switch (part->bits) { /* a separate loop for each */
#ifndef HAS_BYTE_PAIRS
    case 4: expand_codes(4, part, columns, panel, first, stop, room); break;
    case 5: expand_codes(5, part, columns, panel, first, stop, room); break;
    case 6: expand_codes(6, part, columns, panel, first, stop, room); break;
#endif
    case 8: expand_codes(8, part, columns, panel, first, stop, room); break;
    default: widen_columns(panel_of(part, columns, panel), first, stop, room);
    }
    return room;
}

typedef floats Found[MOST_ROWS][VECTORS]; /* sums of a panel's products with some rows */

/* Where a strip of rows begins: of floats, the last one overlaps. */
INLINE int64_t strip_from(const Product *all, const bool by_bytes, int64_t row) {
    return by_bytes ? row : clamp(row, 0, all->count - STRIP_ROWS);
}

INLINE void begin_strip(Sums sums, Found found, int64_t row, int at, int64_t column) {
    if (column == 0) {
        clear(sums, STRIP_VECTORS);
        return;
    }
#pragma GCC unroll 6
    for (int r = 0; r < STRIP_ROWS; r++) memcpy(sums[r], &found[row + r][at], sizeof sums[r]);
}

INLINE void keep_strip(Sums sums, Found found, int64_t row, int at) {
#pragma GCC unroll 6
    for (int r = 0; r < STRIP_ROWS; r++) memcpy(&found[row + r][at], sums[r], sizeof sums[r]);
}

/* Multiplies rows `from` to `to` by a panel in floats; all->count is at least STRIP_ROWS. */
INLINE void multiply_floats(const Product *all, const Part *part, int64_t panel, int64_t which,
                            int64_t thread, int64_t from, int64_t to, Found found) {
    const int64_t columns = all->linear->columns;
    for (int64_t begin = 0; begin < columns; begin += all->depth) {
        const int64_t stop = clamp(begin + all->depth, 0, columns);
        const Side *right = right_of(all, part, panel, which, thread, begin, stop);
        for (int at = 0; at < VECTORS; at += STRIP_VECTORS)
            for (int64_t row = from; row < to; row += STRIP_ROWS) {
                Sums sums;
                begin_strip(sums, found, row - from, at, begin);
                multiply(sums, STRIP_VECTORS, all->x + strip_from(all, false, row) * columns + begin,
                         columns, right + at / STRIP_VECTORS * STRIP * (stop - begin), STRIP,
                         stop - begin);
                keep_strip(sums, found, row - from, at);
            }
    }
}

#ifdef HAS_BYTE_PAIRS

INLINE void multiply_bits(const int bits, const Product *all, const Part *part, int64_t panel,
                          int64_t which, int64_t thread, int64_t from, int64_t to, Found found) {
    const int64_t columns = all->linear->columns;
    Weights *weights = all->weights + thread * ROOM;
    for (int64_t begin = 0; begin < columns; begin += BYTE_DEPTH) {
        const int64_t stop = clamp(begin + BYTE_DEPTH, 0, columns), blocks = (stop - begin) / BLOCK;
        if (!is_known(all, which, thread, stop - begin))
            unpack_codes(bits, part, columns, panel, begin, stop, weights);
        for (int at = 0; at < VECTORS; at += STRIP_VECTORS)
            for (int64_t row = from; row < to; row += STRIP_ROWS) {
                const Inputs *x = all->inputs + (row / STRIP_ROWS * columns + begin) / BLOCK;
                Sums sums;
                begin_strip(sums, found, row - from, at, begin);
                for (int64_t block = 0; block < blocks; block++)
                    add_block(bits, x + block, weights + at / STRIP_VECTORS * blocks + block, sums);
                keep_strip(sums, found, row - from, at);
            }
    }
}

/* Multiplies rows `from` to `to` by a panel of weights in blocks. */
static void multiply_bytes_of(const Product *all, const Part *part, int64_t panel, int64_t which,
                              int64_t thread, int64_t from, int64_t to, Found found) {
    switch (part->bits) { /* a separate loop for each */
    case 4: multiply_bits(4, all, part, panel, which, thread, from, to, found); break;
    case 5: multiply_bits(5, all, part, panel, which, thread, from, to, found); break;
    default: multiply_bits(6, all, part, panel, which, thread, from, to, found);
    }
}

#endif

/* The outputs of rows `from` to `to`. */
INLINE void some_rows(const Product *all, const Part *part, int64_t panel, int64_t which,
                      int64_t thread, Ending ending, int64_t from, int64_t to) {
    Found found;
#ifdef HAS_BYTE_PAIRS
    const bool by_bytes = part->bits <= BYTE_BITS;
    if (by_bytes)
        multiply_bytes_of(all, part, panel, which, thread, from, to, found);
    else
        multiply_floats(all, part, panel, which, thread, from, to, found);
#else
    const bool by_bytes = false;
    multiply_floats(all, part, panel, which, thread, from, to, found);
#endif
    for (int64_t row = from; row < to; row += STRIP_ROWS) {
        const int64_t first = strip_from(all, by_bytes, row);
        for (int r = 0; r < STRIP_ROWS; r++)
            if (first + r >= row && first + r < to)
                finish(part, panel, ending, logits_of(all), found[row - from + r],
                       all->out + (first + r) * all->out_row);
    }
}

#ifdef LMI_HAS_TILES

/* Like some_rows; all->x has at least BLOCK_ROWS rows. */
INLINE WITH_TILES void some_blocks(const Product *all, const Part *part, int64_t panel,
                                   Ending ending, const Side *weight, int64_t from, int64_t to) {
    const int64_t columns = all->linear->columns;
    const int64_t last = all->count > BLOCK_ROWS ? all->count - BLOCK_ROWS : 0;
    floats block[BLOCK_ROWS][VECTORS];
    open_tiles();
    for (int64_t row = from; row < to; row += BLOCK_ROWS) {
        const int64_t first = clamp(row, 0, last); /* the last one overlaps */
        for (int64_t column = 0; column < PANEL; column += BLOCK_COLUMNS)
            multiply_tiles((float *)block + column, PANEL, false, all->x + first * columns, columns,
                           weight + 2 * column, 2 * PANEL, columns / 2);
        for (int64_t r = 0; r < BLOCK_ROWS; r++)
            if (first + r >= row && first + r < to)
                finish(part, panel, ending, logits_of(all), block[r],
                       all->out + (first + r) * all->out_row);
    }
    close_tiles();
}

static WITH_TILES void by_tiles(const Product *all, const Part *part, int64_t panel,
                                const Side *weight, int64_t from, int64_t to) {
    switch (all->ending) { /* a separate loop for each */
    case STORE: some_blocks(all, part, panel, STORE, weight, from, to); break;
    case ADD: some_blocks(all, part, panel, ADD, weight, from, to); break;
    case SWIGLU: some_blocks(all, part, panel, SWIGLU, weight, from, to); break;
    case GEGLU: some_blocks(all, part, panel, GEGLU, weight, from, to); break;
    case WIDE: some_blocks(all, part, panel, WIDE, weight, from, to); break;
    case WEIGH: some_blocks(all, part, panel, WEIGH, weight, from, to); break;
    }
}

#endif

static void many_tokens(const void *work, int64_t piece, int64_t thread) {
    const Product *all = work;
    const int64_t which = piece / all->blocks, from = piece % all->blocks * all->rows;
    const int64_t to = clamp(from + all->rows, from, all->count);
    int64_t panel = which;
    const Part *part = part_of(all->linear, &panel);
#ifdef LMI_HAS_TILES
    if (all->unit == BLOCK_ROWS) {
        const int64_t columns = all->linear->columns;
        by_tiles(all, part, panel, right_of(all, part, panel, which, thread, 0, columns), from, to);
        return;
    }
#endif
    switch (all->ending) { /* a separate loop for each */
    case STORE: some_rows(all, part, panel, which, thread, STORE, from, to); break;
    case ADD: some_rows(all, part, panel, which, thread, ADD, from, to); break;
    case SWIGLU: some_rows(all, part, panel, which, thread, SWIGLU, from, to); break;
    case GEGLU: some_rows(all, part, panel, which, thread, GEGLU, from, to); break;
    case WIDE: some_rows(all, part, panel, which, thread, WIDE, from, to); break;
    case WEIGH: some_rows(all, part, panel, which, thread, WEIGH, from, to); break;
    }
}

/* The logits of all tokens by the panels of a group, one panel after the other. */
static void weigh_group(const void *work, int64_t group, int64_t thread) {
    const Product *all = work;
    const Scoring *scoring = all->scoring;
    const int64_t groups = groups_of(all->linear), panels = all_panels_of(all->linear);
    const int64_t stop = clamp((group + 1) * GROUP, 0, panels) * all->blocks;
    Running *running = scoring->running + thread * all->count;
    Product own = *all;
    own.out = (char *)running;
    for (int64_t row = 0; row < all->count; row++)
        running[row] = nothing_weighed(scoring->targets[row]);
    for (int64_t piece = group * GROUP * all->blocks; piece < stop; piece++)
        all->compute(&own, piece, thread);
    for (int64_t row = 0; row < all->count; row++)
        scoring->pieces[row * groups + group] = all_weighed(running + row);
}

/* Computes all pieces of a product, or all groups of them. */
static void run(Product *all, Piece *compute) {
    if (all->scoring == NULL) {
        pool_run(all_panels_of(all->linear) * all->blocks, compute, all);
        return;
    }
    all->compute = compute;
    pool_run(groups_of(all->linear), weigh_group, all);
}

typedef struct {
    const bf16 *x;
    int64_t columns;
    Side *left;
} Copying;

static void copy_row(const void *work, int64_t row, int64_t thread) {
    const Copying *all = work;
    (void)thread;
    copy_left(all->left + row * all->columns, all->x + row * all->columns, all->columns);
}

/* The inputs of a linear layer for a left side, followed by zeros up to `rows`; NULL on failure. */
static Side *left_of(const bf16 *x, int64_t count, int64_t columns, int64_t rows) {
    Side *left = malloc((size_t)(rows * columns) * sizeof *left);
    if (left == NULL) return NULL;
    const Copying all = {x, columns, left};
    pool_run(count, copy_row, &all);
    memset(left + count * columns, 0, (size_t)((rows - count) * columns) * sizeof *left);
    return left;
}

static int few(Product *all, const bf16 *x, bool has_values, bool has_codes) {
    const int64_t columns = all->linear->columns;
    const size_t room = has_codes ? whole_bytes(columns) : 0;
    const bool copies = has_values && sizeof(Side) > sizeof(bf16);
    Token tokens[FEW];
    char *places = room ? malloc((size_t)all->count * room) : NULL;
    Side *left = copies ? left_of(x, all->count, columns, all->count) : NULL;
    const int failed = (room && places == NULL) || (copies && left == NULL);
    for (int64_t row = 0; !failed && row < all->count; row++) {
        const bf16 *from = x + row * columns;
        tokens[row].values = copies ? left + row * columns : (const Side *)from;
        if (has_codes) tokens[row].whole = whole_of(from, columns, places + (size_t)row * room);
    }
    all->tokens = tokens;
    all->blocks = 1;
    if (!failed) run(all, few_tokens);
    free(places);
    free(left);
    return failed;
}

/* `rounds`: parts are multiplied by bytes; `converts`: others have to be converted. */
static int many(Product *all, const bf16 *x, bool rounds, bool multiplies, bool converts) {
    const int64_t columns = all->linear->columns, threads = pool_threads();
    all->unit = uses_tiles() ? BLOCK_ROWS : STRIP_ROWS;
    /* A block that is not full is still faster than strips. */
    const int64_t rows = all->count < all->unit ? all->unit : all->count;
    const bool copies = multiplies && (rows > all->count || sizeof(Side) > sizeof(bf16));
    Side *left = copies ? left_of(x, all->count, columns, rows) : NULL;
    Inputs *inputs = rounds ? inputs_of(x, all->count, columns) : NULL;
    all->x = copies ? left : (const Side *)x;
    all->inputs = inputs;
    const int64_t units = (all->count + all->unit - 1) / all->unit, most = MOST_ROWS / all->unit;
    all->blocks = (units + most - 1) / most;
    all->rows = (units + all->blocks - 1) / all->blocks * all->unit;
    all->depth = sizeof(Side) > sizeof(bf16) ? clamp(columns, 0, DEPTH) : columns;
    if (converts)
        all->room = aligned_alloc(64, (size_t)(threads * PANEL * all->depth) * sizeof *all->room);
    if (rounds) all->weights = malloc((size_t)threads * ROOM * sizeof *all->weights);
    all->known = malloc((size_t)threads * sizeof *all->known);
    for (int64_t at = 0; all->known && at < threads; at++) all->known[at] = -1;
    const int failed = (copies && left == NULL) || (converts && all->room == NULL) ||
                       (rounds && (inputs == NULL || all->weights == NULL)) || all->known == NULL;
    if (!failed) run(all, many_tokens);
    free(all->room);
    free(all->weights);
    free(all->known);
    free(inputs);
    free(left);
    return failed;
}

/* The matrix unit multiplies more than half as many tokens by bfloat16 in less time. */
int64_t lmi_few(const Linear *linear) {
    for (int64_t at = 0; uses_tiles() && at < linear->count; at++)
        if (linear->parts[at].bits == 16) return FEW / 2;
    return FEW;
}

/* Computes a product. Returns 1 if memory ran out. */
static int multiplied(Product all, const bf16 *x) {
    bool has_values = false, has_codes = false, rounds = false, converts = false;
    for (int64_t at = 0; at < all.linear->count; at++) {
        const int64_t bits = all.linear->parts[at].bits;
        has_values |= bits == 16;
        has_codes |= bits < 16;
        rounds |= bits <= BYTE_BITS;
        converts |= bits > BYTE_BITS && (bits < 16 || sizeof(Side) > sizeof(bf16));
    }
    return all.count <= lmi_few(all.linear) ? few(&all, x, has_values, has_codes)
                                            : many(&all, x, rounds, has_values || converts, converts);
}

/* A linear layer for x[count, columns]; see Ending for out, whose rows are out_row bytes apart.
 * Returns 1 if memory ran out. */
int lmi_linear(const Linear *linear, int64_t ending, const bf16 *x, int64_t count, void *out,
               int64_t out_row) {
    const Product all = {.linear = linear, .ending = (Ending)ending, .count = count,
                         .out_row = out_row, .out = out};
    return multiplied(all, x);
}

/* Fills scoring->pieces for x[count, columns]. Returns 1 if memory ran out. */
int linear_scores(const Linear *linear, const bf16 *x, int64_t count, const Scoring *scoring) {
    const Product all = {.linear = linear, .ending = WEIGH, .count = count,
                         .out_row = sizeof(Running), .scoring = scoring};
    return multiplied(all, x);
}
