/* Windowed softmax attention for bfloat16.
 *
 * Computes the same as kernel.py, with scores and sums in float32: one softmax over several ranges
 * of keys, each in its own band of true distance. Keys and values are packed in pairs, as the dot
 * product instruction needs them, once for all queries; then tiles of queries pass over blocks of
 * keys with a running maximum and sum (Milakov and Gimelshein 2018, arXiv 1805.02867). For a few
 * queries see few_queries.c.
 */
#include "attention.h"
#include "multiply.h"
#include "pool.h"
#include "tiles.h"

enum {
    ROWS = 24,    /* queries of a tile, by vector instructions; BLOCK_ROWS by the matrix unit */
    BLOCK = 256,  /* keys of a block */
    STEP = 32,    /* columns at the edges of a band */
    LARGEST = 16  /* exponent of two allowed among the weights of a row */
};

/* Keys [n, size] to a right side with a column for each, by strips; zeros beyond n. */
static void pack_keys(const bf16 *key, int64_t n, int64_t size, Side *packed) {
    for (int64_t column = 0; column < BLOCK; column += LANES)
        for (int64_t at = 0; at < size; at += TOGETHER * LANES)
            pack_right(key + column * size + at, clamp(n - column, 0, LANES), size,
                       strip_at(packed, size, column) + at * STRIP, STRIP);
}

/* Values [n, size] to a right side with a column for each component, by strips. */
static void pack_values(const bf16 *value, int64_t n, int64_t size, Side *packed) {
    for (int64_t row = 0; row < BLOCK; row += TOGETHER)
        for (int64_t at = 0; at < size; at += LANES) {
            const bf16 *from = value + row * size + at;
            bits32 found = row < n ? extended(from) : (bits32){0};
            if (TOGETHER == 1)
                found <<= 16;
            else if (row + 1 < n)
                found |= extended(from + size) << 16;
            store_bits(strip_at(packed, BLOCK, at) + row * STRIP, found);
        }
}

/* The state of a tile of queries as it passes over the keys. */
typedef struct {
    _Alignas(64) Side query[BLOCK_ROWS * MAX_SIZE];
    _Alignas(64) float scores[BLOCK_ROWS * BLOCK];
    _Alignas(64) Side weights[BLOCK_ROWS * BLOCK];
    _Alignas(64) float output[BLOCK_ROWS * MAX_SIZE];
    floats sum[BLOCK_ROWS]; /* of weights, in LANES partial sums */
    float peak[BLOCK_ROWS], shrink[BLOCK_ROWS];
} Tile;

/* Scores of STRIP_ROWS rows with LANES * wide columns from `at` on. */
INLINE void score(Tile *tile, const int wide, int row, int64_t at, const Side *key, int64_t size) {
    Sums sums;
    clear(sums, wide);
    multiply(sums, wide, tile->query + row * size, size, strip_at(key, size, at), STRIP, size);
#pragma GCC unroll 6
    for (int r = 0; r < STRIP_ROWS; r++)
#pragma GCC unroll 4
        for (int j = 0; j < wide; j++)
            store(tile->scores + (row + r) * BLOCK + at + LANES * j, sums[r][j]);
}

/* score * log2(e) - peak, so that the weight is 2 to this power. */
static inline floats above(floats score, floats peak) { return score * 1.44269504f - peak; }

/* 2**x, relative error below 3e-6: enough before rounding to bfloat16. */
static inline floats power(floats x) {
    Power exponent;
    const floats part = split(x, &exponent);
    floats sum = fill(9.570099e-3f);
    sum = sum * part + 5.5917863e-2f;
    sum = sum * part + 0.24024744f;
    sum = sum * part + 0.6931218f;
    sum = sum * part + 0.9999993f;
    return scaled(sum, exponent, x);
}

/* Weights of one row relative to its peak so far, and their sum; returns the largest exponent.
 *
 * Where scores are `falling` with distance, many weights are tiny.
 */
INLINE float weigh_row(const bool falling, const Tile *tile, int row, int64_t first, int64_t last,
                       Side *weights, floats *sum) {
    const float *scores = tile->scores + row * BLOCK;
    const floats top = fill(tile->peak[row] * 1.44269504f);
    floats sum0 = {0}, sum1 = {0}, most = fill(-INFINITY);
    for (int64_t at = first; at < last; at += 2 * LANES) {
        const floats x0 = above(load(scores + at), top);
        const floats x1 = above(load(scores + at + LANES), top);
        floats w0 = power(x0), w1 = power(x1);
        if (falling) w0 = without_tiny(w0, x0 < -125.0f), w1 = without_tiny(w1, x1 < -125.0f);
        most = maximum(most, maximum(x0, x1));
        sum0 += w0;
        sum1 += w1;
        store_sides(weights + at, w0, w1);
    }
    *sum = sum0 + sum1;
    return largest(most);
}

/* Scores of one row become weights; `first` and `last` bound the columns.
 *
 * Any peak will do as long as no weight grows too large: it is raised only if one would.
 */
INLINE void softmax_row(const bool falling, Tile *tile, int row, int64_t first, int64_t last) {
    Side *weights = tile->weights + row * BLOCK;
    const float before = tile->peak[row];
    floats sum;
    tile->shrink[row] = 1.0f;
    if (before == -INFINITY ||
        weigh_row(falling, tile, row, first, last, weights, &sum) > LARGEST) {
        const float here = highest(tile->scores + row * BLOCK, first, last);
        tile->peak[row] = isnan(here) ? here : fmaxf(before, here);
        if (tile->peak[row] == -INFINITY) { /* no key seen yet */
            memset(weights + first, 0, (last - first) * sizeof *weights);
            return;
        }
        tile->shrink[row] = expf(before - tile->peak[row]);
        weigh_row(falling, tile, row, first, last, weights, &sum);
    }
    tile->sum[row] = tile->sum[row] * tile->shrink[row] + sum;
}

static void mask_row(float *scores, int64_t from, int64_t to, int64_t first, int64_t last) {
    for (int64_t at = first; at < last; at += LANES) {
        const ints column = (ints){STEPS} + (int)at;
        const ints seen = (column >= (int)from) & (column < (int)to);
        store(scores + at, chosen(seen, load(scores + at), fill(-INFINITY)));
    }
}

/* Scores of `count` rows with the keys `first` to `last` of a block. */
static void score_block(Tile *tile, int64_t count, const Side *key, int64_t size, int64_t first,
                        int64_t last) {
    for (int64_t at = first; at < last;) {
        /* A strip may have two steps, of which the edge of a band leaves one. */
        const bool whole = at % STRIP == 0 && at + STRIP <= last;
        for (int row = 0; row < count; row += STRIP_ROWS) /* its keys stay cached for all rows */
            if (whole)
                score(tile, STRIP_VECTORS, row, at, key, size);
            else
                score(tile, STRIP_VECTORS / 2, row, at, key, size);
        at += whole ? STRIP : STRIP / 2;
    }
}

/* Shrinks the output of `count` rows and adds the values of a block times their weights. */
static void add_values(Tile *tile, int64_t count, const Side *value, int64_t size, int64_t first,
                       int64_t last) {
    for (int row = 0; row < count; row += STRIP_ROWS)
        for (int64_t column = 0; column < size; column += STRIP) {
            Sums sums;
            float *output = tile->output + row * size + column;
#pragma GCC unroll 6
            for (int r = 0; r < STRIP_ROWS; r++)
#pragma GCC unroll 4
                for (int j = 0; j < STRIP_VECTORS; j++)
                    sums[r][j] = load(output + r * size + LANES * j) * tile->shrink[row + r];
            multiply(sums, STRIP_VECTORS, tile->weights + row * BLOCK + first, BLOCK,
                     strip_at(value, BLOCK, column) + first * STRIP, STRIP, last - first);
#pragma GCC unroll 6
            for (int r = 0; r < STRIP_ROWS; r++)
#pragma GCC unroll 4
                for (int j = 0; j < STRIP_VECTORS; j++)
                    store(output + r * size + LANES * j, sums[r][j]);
        }
}

#ifdef LMI_HAS_TILES

/* The same by the matrix unit, for BLOCK_ROWS rows. */
static WITH_TILES void score_block_by_tiles(Tile *tile, const bf16 *key, int64_t size,
                                            int64_t first, int64_t last) {
    for (int64_t at = first; at < last; at += BLOCK_COLUMNS)
        multiply_tiles(tile->scores + at, BLOCK, false, tile->query, size, strip_at(key, size, at),
                       2 * STRIP, size / 2);
}

static WITH_TILES void add_values_by_tiles(Tile *tile, int64_t count, const bf16 *value,
                                           int64_t size, int64_t first, int64_t last) {
    for (int64_t row = 0; row < count; row++)
        if (tile->shrink[row] != 1.0f)
            for (int64_t at = row * size; at < (row + 1) * size; at += LANES)
                store(tile->output + at, load(tile->output + at) * tile->shrink[row]);
    for (int64_t column = 0; column < size; column += BLOCK_COLUMNS)
        multiply_tiles(tile->output + column, size, true, tile->weights + first, BLOCK,
                       strip_at(value, BLOCK, column) + first * STRIP, 2 * STRIP,
                       (last - first) / 2);
}

#else /* uses_tiles() is false, and these are never called */

static void score_block_by_tiles(Tile *tile, const Side *key, int64_t size, int64_t first,
                                 int64_t last) {
    (void)tile, (void)key, (void)size, (void)first, (void)last;
}

static void add_values_by_tiles(Tile *tile, int64_t count, const Side *value, int64_t size,
                                int64_t first, int64_t last) {
    (void)tile, (void)count, (void)value, (void)size, (void)first, (void)last;
}

#endif

/* Adds the visible part of a range to `count` queries of a head at positions from `position` on. */
static void take_up(Tile *tile, const Range *range, int64_t head, int64_t start, const Side *keys,
                    const Side *values, int64_t rows, int64_t count, int64_t position, int64_t size,
                    float softcap) {
    const bool tiled = rows == BLOCK_ROWS;
    int64_t begin, end, unused;
    band(range, position, &begin, &unused);
    band(range, position + count - 1, &unused, &end);
    for (int64_t block = begin / BLOCK; block * BLOCK < end; block++) {
        const int64_t base = block * BLOCK;
        const int64_t first = clamp(begin - base, 0, BLOCK) / STEP * STEP;
        const int64_t last = (clamp(end - base, 0, BLOCK) + STEP - 1) / STEP * STEP;
        const Side *key = keys + base * size, *value = values + base * size;
        if (tiled)
            score_block_by_tiles(tile, key, size, first, last);
        else
            score_block(tile, count, key, size, first, last);
        for (int row = 0; row < count; row++) {
            int64_t from, to;
            band(range, position + row, &from, &to);
            from -= base, to -= base;
            float *scores = tile->scores + row * BLOCK;
            for (int64_t at = first; softcap != 0 && at < last; at += LANES)
                store(scores + at, capped(load(scores + at), softcap));
            if (range->slopes)
                lower(scores, range->slopes[head], range->query_at[start + row],
                      range->key_at + base, first, last);
            if (from > first || to < last)
                mask_row(scores, clamp(from, 0, BLOCK), clamp(to, 0, BLOCK), first, last);
            if (range->slopes)
                softmax_row(true, tile, row, first, last);
            else
                softmax_row(false, tile, row, first, last);
        }
        if (tiled)
            add_values_by_tiles(tile, count, value, size, first, last);
        else
            add_values(tile, count, value, size, first, last);
    }
}

/* Attention of `rows` queries of every head, with their keys and values packed. */
typedef struct {
    const Range *ranges;
    int64_t count, heads, key_heads, rows, size, position;
    float softcap;
    int64_t tile_rows; /* ROWS or BLOCK_ROWS */
    int64_t blocks[MAX_RANGES]; /* of keys */
    Side *keys[MAX_RANGES], *values[MAX_RANGES];
    Tile *tiles; /* one for each thread */
    bf16 *out;
    float *lse;
} Chunk;

static void pack_block(const void *work, int64_t piece, int64_t thread) {
    const Chunk *all = work;
    int64_t at = 0;
    (void)thread;
    for (; piece >= all->key_heads * all->blocks[at]; at++)
        piece -= all->key_heads * all->blocks[at];
    const Range *range = all->ranges + at;
    const int64_t head = piece / all->blocks[at], first = piece % all->blocks[at] * BLOCK;
    const int64_t n = clamp(range->keys - first, 0, BLOCK), size = all->size;
    const int64_t place = piece * BLOCK * size;
    pack_keys(range->key + head * range->key_head + first * size, n, size, all->keys[at] + place);
    pack_values(range->value + head * range->value_head + first * size, n, size,
                all->values[at] + place);
}

static void attend_tile(const void *work, int64_t piece, int64_t thread) {
    const Chunk *all = work;
    Tile *tile = all->tiles + thread;
    const int64_t rows = all->rows, size = all->size, most = all->tile_rows;
    const int64_t tiles = (rows + most - 1) / most;
    const int64_t head = piece / tiles, row = piece % tiles * most;
    const int64_t n = clamp(rows - row, 0, most), group = head / (all->heads / all->key_heads);
    if (most == BLOCK_ROWS) open_tiles();
    memset(tile->output, 0, (size_t)(most * size) * sizeof *tile->output);
    for (int at = 0; at < most; at++)
        tile->peak[at] = -INFINITY, tile->sum[at] = (floats){0}, tile->shrink[at] = 0;
    for (int64_t at = 0; at < all->count; at++) {
        const Range *range = all->ranges + at;
        for (int64_t r = 0; r < n; r++)
            copy_left(tile->query + r * size,
                      range->query + head * range->query_head + (row + r) * range->query_row, size);
        const int64_t place = group * all->blocks[at] * BLOCK * size;
        take_up(tile, range, head, row, all->keys[at] + place, all->values[at] + place, most, n,
                all->position + row, size, all->softcap);
    }
    if (most == BLOCK_ROWS) close_tiles();
    for (int64_t r = 0; r < n; r++) {
        const float sum = total(tile->sum[r]);
        write_row(all->out + ((row + r) * all->heads + head) * size, tile->output + r * size,
                  sum == 0 ? 0 : 1 / sum, size);
        if (all->lse)
            all->lse[head * rows + row + r] = sum == 0 ? -INFINITY : tile->peak[r] + logf(sum);
    }
}

/* Attention of `rows` queries of every head, the first at true position `position`.
 *
 * softcap: Scores pass through `capped`.
 * out: [rows, heads, size]; lse: [heads, rows] or NULL. Returns 0, or 1 if memory ran out.
 */
int lmi_attend(const Range *ranges, int64_t count, int64_t heads, int64_t key_heads, int64_t rows,
               int64_t size, float softcap, int64_t position, bf16 *out, float *lse) {
    Chunk all = {.ranges = ranges, .count = count, .heads = heads, .key_heads = key_heads,
                 .rows = rows, .size = size, .position = position, .softcap = softcap, .out = out,
                 .lse = lse};
    const int64_t threads = pool_threads();
    int64_t blocks = 0;
    all.tiles = aligned_alloc(64, (size_t)threads * sizeof *all.tiles);
    int failed = all.tiles == NULL;
    for (int64_t at = 0; at < count; at++) {
        blocks += all.blocks[at] = (ranges[at].keys + BLOCK - 1) / BLOCK;
        const size_t bytes = (size_t)(key_heads * all.blocks[at]) * BLOCK * size * sizeof(Side);
        all.keys[at] = aligned_alloc(64, bytes + 64 - bytes % 64);
        all.values[at] = aligned_alloc(64, bytes + 64 - bytes % 64);
        failed |= all.keys[at] == NULL || all.values[at] == NULL;
    }
    if (!failed) {
        pool_run(key_heads * blocks, pack_block, &all);
        /* Rows beyond the last query are multiplied with the others, but never read. */
        memset(all.tiles, 0, (size_t)threads * sizeof *all.tiles);
        all.tile_rows = uses_tiles() && rows >= TILE_ROWS ? BLOCK_ROWS : ROWS;
        pool_run(heads * ((rows + all.tile_rows - 1) / all.tile_rows), attend_tile, &all);
    }
    for (int64_t at = 0; at < count; at++) free(all.keys[at]), free(all.values[at]);
    free(all.tiles);
    return failed;
}
