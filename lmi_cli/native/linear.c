/* Linear layers, for bfloat16 on processors with AVX512-BF16.
 *
 * Weights are packed once, in the order in which every product reads them. One token takes as long
 * as reading them; many tokens take as long as the arithmetic. Bias, residual and gate are applied
 * while the sums are still in registers.
 */
#include "linear.h"
#include "pool.h"
#include "tiles.h"

enum {
    MOST_ROWS = 96, /* rows that are multiplied by a panel at once, approximately */
    IDS = 16     /* rows of an embedding that are copied at once */
};

typedef struct {
    const bf16 *weight;
    int64_t rows, columns, wide, place;
    bf16 *packed;
} Packing;

static void pack_panel(const void *work, int64_t panel, int64_t thread) {
    const Packing *all = work;
    const int64_t columns = all->columns;
    (void)thread;
    for (int64_t row = 0; row < all->wide; row += 16)
        for (int64_t column = 0; column < columns; column += 32) {
            const int64_t first = panel * all->wide + row;
            pack(all->weight + first * columns + column, clamp(all->rows - first, 0, 16), columns,
                 all->packed + panel * STRIP * columns + (column / 2 * STRIP + all->place + row) * 2,
                 2 * STRIP);
        }
}

/* Packs the rows of a weight [rows, columns] into panels; see Linear.
 *
 * If `wide` is 64, rows fill whole panels; if it is 32, the half that begins at `place`.
 */
void lmi_pack(const bf16 *weight, int64_t rows, int64_t columns, int64_t wide, int64_t place,
              bf16 *packed) {
    const Packing all = {weight, rows, columns, wide, place, packed};
    pool_run((rows + wide - 1) / wide, pack_panel, &all);
}

typedef struct {
    const Linear *linear;
    const int64_t *ids;
    int64_t count;
    bf16 *out;
} Embedding;

static void embed_ids(const void *work, int64_t piece, int64_t thread) {
    const Embedding *all = work;
    const int64_t columns = all->linear->columns;
    (void)thread;
    for (int64_t at = piece * IDS; at < all->count && at < (piece + 1) * IDS; at++) {
        const int64_t id = all->ids[at];
        const bf16 *from = panel_of(all->linear, id / STRIP) + id % STRIP * 2;
        for (int64_t pair = 0; pair < columns / 2; pair++)
            memcpy(all->out + at * columns + 2 * pair, from + pair * 2 * STRIP, 2 * sizeof(bf16));
    }
}

/* Copies rows of an embedding that is packed as a linear layer to out[count, columns]. */
void lmi_embed(const Linear *linear, const int64_t *ids, int64_t count, bf16 *out) {
    const Embedding all = {linear, ids, count, out};
    pool_run((count + IDS - 1) / IDS, embed_ids, &all);
}

typedef struct {
    const Linear *linear;
    int8_t *packed;
    float *scale;
} Quantizing;

static void quantize_panel(const void *work, int64_t panel, int64_t thread) {
    const Quantizing *all = work;
    const Linear *linear = all->linear;
    const int64_t pairs = linear->columns / 2;
    const __m512i high = _mm512_set1_epi32((int)0xFFFF0000), byte = _mm512_set1_epi32(0xFF);
    (void)thread;
    for (int64_t j = 0; j < 4; j++) {
        const bf16 *from = panel_of(linear, panel) + 32 * j;
        int8_t *to = all->packed + panel * STRIP * linear->columns + 32 * j;
        __m512 most = _mm512_setzero_ps();
        __mmask16 broken = 0; /* the maximum leaves out nan */
        for (int64_t pair = 0; pair < pairs; pair++) {
            const __m512i both = _mm512_loadu_si512(from + pair * 2 * STRIP);
            const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
            const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(both, high));
            broken |= _mm512_cmp_ps_mask(even, odd, _CMP_UNORD_Q);
            most = _mm512_max_ps(most, _mm512_max_ps(_mm512_abs_ps(even), _mm512_abs_ps(odd)));
        }
        const __m512 unit = _mm512_mask_blend_ps(
            broken, _mm512_div_ps(most, _mm512_set1_ps(127.0f)), _mm512_set1_ps(NAN));
        const __mmask16 live = _mm512_cmp_ps_mask(unit, _mm512_setzero_ps(), _CMP_GT_OQ);
        _mm512_storeu_ps(all->scale + panel * STRIP + 16 * j, unit);
        for (int64_t pair = 0; pair < pairs; pair++) {
            const __m512i both = _mm512_loadu_si512(from + pair * 2 * STRIP);
            const __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(both, 16));
            const __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(both, high));
            const __m512i left = _mm512_cvtps_epi32(_mm512_maskz_div_ps(live, even, unit));
            const __m512i right = _mm512_cvtps_epi32(_mm512_maskz_div_ps(live, odd, unit));
            const __m512i pairs_of_bytes =
                _mm512_or_si512(_mm512_and_si512(left, byte),
                                _mm512_slli_epi32(_mm512_and_si512(right, byte), 8));
            _mm256_storeu_si256((__m256i *)(to + pair * 2 * STRIP),
                                _mm512_cvtepi32_epi16(pairs_of_bytes));
        }
    }
}

/* Converts a packed bfloat16 weight to eight bits; a row's unit is its largest magnitude / 127.
 *
 * scale: [panels * STRIP]. A row of zeros has the scale 0, and one with nan the scale nan.
 */
void lmi_quantize(const Linear *linear, int8_t *packed, float *scale) {
    const Quantizing all = {linear, packed, scale};
    pool_run(panels_of(linear), quantize_panel, &all);
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

/* The products of a linear layer with x[count, columns]; see Ending for out.
 *
 * Of many tokens, a piece is a block of rows and a panel; of few, a panel and all of them.
 */
typedef struct {
    const Linear *linear;
    Ending ending;
    const bf16 *x;
    int64_t count, out_row; /* rows, and bytes from one to the next */
    char *out;
    const Token *tokens;  /* few: their inputs */
    int64_t blocks, rows; /* many: blocks of rows, and rows in each, */
    int64_t unit;         /* of which so many are multiplied at once */
    bf16 *expanded;       /* for int8, many: a panel for each thread, */
    int64_t *known;       /* and which one it is */
} Product;

static void few_tokens(const void *work, int64_t panel, int64_t thread) {
    const Product *all = work;
    (void)thread;
    for (int64_t row = 0; row < all->count; row++) {
        __m512 sums[4];
        product(all->linear, panel, all->tokens[row], sums);
        finish(all->linear, panel, all->ending, sums, all->out + row * all->out_row);
    }
}

/* Multiplies rows `from` to `to` by a panel; all->count is at least STRIP_ROWS. */
static inline __attribute__((always_inline)) void some_rows(const Product *all, int64_t panel,
                                                            Ending ending, const bf16 *weight,
                                                            int64_t from, int64_t to) {
    const Linear *linear = all->linear;
    const int64_t columns = linear->columns;
    for (int64_t row = from; row < to; row += STRIP_ROWS) {
        const int64_t first = clamp(row, 0, all->count - STRIP_ROWS); /* the last strip overlaps */
        Sums sums;
        clear(sums, 4);
        multiply(sums, 4, all->x + first * columns, columns, weight, 2 * STRIP, columns / 2);
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
                finish(linear, panel, ending, sums[r], all->out + (first + r) * all->out_row);
    }
}

/* Like some_rows; all->x has at least BLOCK_ROWS rows. */
static inline __attribute__((always_inline)) WITH_TILES void some_blocks(
    const Product *all, int64_t panel, Ending ending, const bf16 *weight, int64_t from,
    int64_t to) {
    const Linear *linear = all->linear;
    const int64_t columns = linear->columns;
    const int64_t last = all->count > BLOCK_ROWS ? all->count - BLOCK_ROWS : 0;
    _Alignas(64) float block[BLOCK_ROWS][STRIP];
    open_tiles();
    for (int64_t row = from; row < to; row += BLOCK_ROWS) {
        const int64_t first = clamp(row, 0, last); /* the last one overlaps */
        for (int64_t column = 0; column < STRIP; column += BLOCK_COLUMNS)
            multiply_tiles(&block[0][column], STRIP, false, all->x + first * columns, columns,
                           weight + 2 * column, 2 * STRIP, columns / 2);
        for (int64_t r = 0; r < BLOCK_ROWS; r++) {
            if (first + r < row || first + r >= to) continue;
            __m512 sums[4];
#pragma GCC unroll 4
            for (int j = 0; j < 4; j++) {
                const __m512 scale =
                    linear->scale ? scale_of(linear, panel, j) : _mm512_set1_ps(1.0f);
                sums[j] = _mm512_fmadd_ps(_mm512_load_ps(block[r] + 16 * j), scale,
                                          bias_of(linear, panel, j));
            }
            finish(linear, panel, ending, sums, all->out + (first + r) * all->out_row);
        }
    }
    close_tiles();
}

static WITH_TILES void by_tiles(const Product *all, int64_t panel, const bf16 *weight,
                                int64_t from, int64_t to) {
    switch (all->ending) { /* a separate loop for each */
    case STORE: some_blocks(all, panel, STORE, weight, from, to); break;
    case ADD: some_blocks(all, panel, ADD, weight, from, to); break;
    case GATED: some_blocks(all, panel, GATED, weight, from, to); break;
    case WIDE: some_blocks(all, panel, WIDE, weight, from, to); break;
    }
}

static void many_tokens(const void *work, int64_t piece, int64_t thread) {
    const Product *all = work;
    const Linear *linear = all->linear;
    const int64_t panel = piece / all->blocks, from = piece % all->blocks * all->rows;
    const int64_t to = clamp(from + all->rows, from, all->count);
    const bf16 *weight;
    if (all->expanded == NULL) {
        weight = panel_of(linear, panel);
    } else { /* a thread gets the same panel several times in a row, and expands it once */
        bf16 *room = all->expanded + thread * STRIP * linear->columns;
        if (all->known[thread] != panel) expand(linear, all->known[thread] = panel, room);
        weight = room;
    }
    if (all->unit == BLOCK_ROWS) {
        by_tiles(all, panel, weight, from, to);
        return;
    }
    switch (all->ending) { /* a separate loop for each */
    case STORE: some_rows(all, panel, STORE, weight, from, to); break;
    case ADD: some_rows(all, panel, ADD, weight, from, to); break;
    case GATED: some_rows(all, panel, GATED, weight, from, to); break;
    case WIDE: some_rows(all, panel, WIDE, weight, from, to); break;
    }
}

/* A linear layer for x[count, columns]; see Ending for out, whose rows are out_row bytes apart.
 *
 * Returns 1 if memory ran out.
 */
int lmi_linear(const Linear *linear, int64_t ending, const bf16 *x, int64_t count, void *out,
               int64_t out_row) {
    Product all = {.linear = linear, .ending = (Ending)ending, .x = x, .count = count,
                   .out_row = out_row, .out = out};
    if (count < STRIP_ROWS) {
        Token tokens[STRIP_ROWS];
        int16_t *room = NULL; /* only weights of eight bits need it */
        if (linear->scale != NULL) {
            room = malloc((size_t)(count * linear->columns) * sizeof *room);
            if (room == NULL) return 1;
        }
        for (int64_t row = 0; row < count; row++)
            tokens[row] = token_of(linear, x + row * linear->columns,
                                   room ? room + row * linear->columns : NULL);
        all.tokens = tokens;
        pool_run(panels_of(linear), few_tokens, &all);
        free(room);
        return 0;
    }
    all.unit = uses_tiles() ? BLOCK_ROWS : STRIP_ROWS;
    bf16 *padded = NULL; /* a block that is not full is still faster than strips */
    if (all.unit == BLOCK_ROWS && count < BLOCK_ROWS) {
        padded = calloc((size_t)(BLOCK_ROWS * linear->columns), sizeof *padded);
        if (padded == NULL) return 1;
        memcpy(padded, x, (size_t)(count * linear->columns) * sizeof *padded);
        all.x = padded;
    }
    const int64_t units = (count + all.unit - 1) / all.unit, most = MOST_ROWS / all.unit;
    all.blocks = (units + most - 1) / most;
    all.rows = (units + all.blocks - 1) / all.blocks * all.unit;
    if (linear->scale != NULL) {
        const int64_t threads = pool_threads();
        const size_t panel = (size_t)(STRIP * linear->columns) * sizeof(bf16);
        all.expanded = aligned_alloc(64, (size_t)threads * panel);
        all.known = malloc((size_t)threads * sizeof *all.known);
        for (int64_t at = 0; all.known && at < threads; at++) all.known[at] = -1;
    }
    const int failed = linear->scale != NULL && (all.expanded == NULL || all.known == NULL);
    if (!failed) pool_run(panels_of(linear) * all.blocks, many_tokens, &all);
    free(all.expanded);
    free(all.known);
    free(padded);
    return failed;
}
