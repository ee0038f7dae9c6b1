/* Attention of a few queries of every head: nothing is packed, since each key is read once.
 *
 * The visible keys are cut into parts, so that all threads have work. Each part has its own softmax
 * with a peak and a sum, and the parts of a head are merged at the end. Queries at consecutive
 * positions see almost the same keys: those of a part stay cached for all of them. Every query has
 * parts of its own, exactly those that it has alone, so that its result is the same to the last bit.
 */
#include "attention.h"
#include "multiply.h"
#include "pool.h"

enum {
    SPLIT = 512,  /* the most keys in a part */
    PARTS = 4,    /* the fewest parts for heads that share keys, unless they get too small */
    GROUP = 4,    /* queries that share one pass over keys and values */
    SUMS = LANES == 8 ? 2 : 4, /* registers of components summed at once for each query */
    WIDE = SUMS * LANES
};

/* The keys that the query of one row sees, cut into parts of at most `split`. */
typedef struct {
    int64_t from[MAX_RANGES], seen[MAX_RANGES], split;
} Row;

/* A few queries of every head; `parts[range]` are the most parts of a row, in that range and all. */
typedef struct {
    const Range *ranges;
    int64_t heads, key_heads, count, size, all_parts;
    float softcap;
    int64_t parts[MAX_RANGES];
    Row rows[MAX_FEW];
    float *partial;
} Few;

static inline int64_t parts_of(const Row *row, int64_t range) {
    return (row->seen[range] + row->split - 1) / row->split;
}

/* The partial results of a row, a part and a head: output[size], peak, sum. */
static inline float *partial_of(const Few *few, int64_t row, int64_t part, int64_t head) {
    const int64_t place = (row * few->all_parts + part) * few->heads + head;
    return few->partial + place * (few->size + 2);
}

/* Returns 1 if memory ran out. */
static int begin(Few *few, int64_t ranges, int64_t rows, int64_t position) {
    for (int64_t at = 0; at < rows; at++) {
        Row *row = few->rows + at;
        int64_t total = 0;
        for (int64_t range = 0; range < ranges; range++) {
            int64_t to;
            band(few->ranges + range, position + at, row->from + range, &to);
            row->seen[range] = to - row->from[range];
            total += row->seen[range];
        }
        row->split = clamp((total / PARTS + 15) / 16 * 16, 64, SPLIT);
        for (int64_t range = 0; range < ranges; range++)
            few->parts[range] = clamp(parts_of(row, range), few->parts[range], INT64_MAX);
    }
    for (int64_t range = 0; range < ranges; range++) few->all_parts += few->parts[range];
    const size_t numbers = (size_t)(rows * few->all_parts * few->heads * (few->size + 2)) + 1;
    few->partial = malloc(numbers * sizeof *few->partial);
    return few->partial == NULL;
}

/* sum + the products of LANES pairs of bfloat16, in LANES partial sums. */
static inline floats add_products(floats sum, bits32 a, bits32 b) {
#ifdef HAS_BF16_DOT
    return add_pairs(sum, a, b);
#else
    return sum + even_of(a) * even_of(b) + odd_of(a) * odd_of(b);
#endif
}

/* Scores of `heads` queries with n keys, in one pass over the keys. */
static void score_one(const int heads, const bf16 *query, int64_t query_head, const bf16 *key,
                      int64_t n, int64_t size, float softcap, float scores[][SPLIT]) {
    for (int64_t at = 0; at < n; at += LANES) {
        for (int64_t line = 0; line < LANES * size; line += 32)
            PREFETCH(key + (at + LANES) * size + line);
        for (int head = 0; head < heads; head++) {
            floats rows[LANES];
#pragma GCC unroll 16
            for (int r = 0; r < LANES; r++) rows[r] = (floats){0};
            for (int64_t c = 0; c < size; c += 2 * LANES) {
                const bits32 q = load_bits(query + head * query_head + c);
                const bf16 *row = key + at * size + c;
                if (n - at >= LANES)
#pragma GCC unroll 16
                    for (int r = 0; r < LANES; r++)
                        rows[r] = add_products(rows[r], q, load_bits(row + r * size));
                else
                    for (int r = 0; r < n - at; r++)
                        rows[r] = add_products(rows[r], q, load_bits(row + r * size));
            }
            floats found = capped(sums_of(rows), softcap);
            if (n - at < LANES)
                found = chosen((ints){STEPS} < (int)(n - at), found, fill(-INFINITY));
            store(scores[head] + at, found);
        }
    }
}

/* Weighted sums of n values (WIDE components of each) for `heads` queries, in one pass. */
INLINE void weigh_one(const int heads, const bf16 *value, int64_t n, int64_t size,
                      float weights[][SPLIT], float *output[]) {
    floats sums[GROUP][SUMS];
#pragma GCC unroll 4
    for (int head = 0; head < heads; head++)
#pragma GCC unroll 4
        for (int j = 0; j < SUMS; j++) sums[head][j] = (floats){0};
    for (int64_t at = 0; at < n; at++) {
        floats wide[SUMS];
        for (int line = 0; line < WIDE; line += 32) PREFETCH(value + at * size + line);
#pragma GCC unroll 4
        for (int j = 0; j < SUMS; j++) wide[j] = widened(value + at * size + LANES * j);
#pragma GCC unroll 4
        for (int head = 0; head < heads; head++) {
            const floats w = fill(weights[head][at]);
#pragma GCC unroll 4
            for (int j = 0; j < SUMS; j++) sums[head][j] += w * wide[j];
        }
    }
#pragma GCC unroll 4
    for (int head = 0; head < heads; head++)
#pragma GCC unroll 4
        for (int j = 0; j < SUMS; j++) store(output[head] + LANES * j, sums[head][j]);
}

/* A part of n keys, from `first` on, with the queries of one row that share them. */
static void attend_part(const Few *few, int64_t row, int64_t part, int64_t group,
                        const Range *range, int64_t first, int64_t n) {
    const int64_t folds = few->heads / few->key_heads, size = few->size;
    const bf16 *key = range->key + group * range->key_head + first * size;
    const bf16 *value = range->value + group * range->value_head + first * size;
    _Alignas(64) float scores[GROUP][SPLIT];
    for (int64_t fold = 0; fold < folds; fold += GROUP) {
        const int64_t head = group * folds + fold;
        const int heads = (int)clamp(folds - fold, 0, GROUP);
        score_one(heads, range->query + head * range->query_head + row * range->query_row,
                  range->query_head, key, n, size, few->softcap, scores);
        float *output[GROUP];
        for (int h = 0; h < heads; h++) {
            output[h] = partial_of(few, row, part, head + h);
            if (range->slopes)
                lower(scores[h], range->slopes[head + h], range->query_at[row],
                      range->key_at + first, 0, n);
            const float peak = highest(scores[h], 0, n);
            floats sum = {0};
            for (int64_t at = 0; at < n; at += LANES) {
                const floats x = load(scores[h] + at) - peak;
                floats w = exponential(x);
                if (range->slopes) w = without_tiny(w, x < -87.0f);
                sum += w;
                store(scores[h] + at, w);
            }
            output[h][size] = peak;
            output[h][size + 1] = total(sum);
        }
        for (int64_t c = 0; c < size; c += WIDE) {
            switch (heads) { /* a separate loop for each */
            case 1: weigh_one(1, value + c, n, size, scores, output); break;
            case 2: weigh_one(2, value + c, n, size, scores, output); break;
            case 3: weigh_one(3, value + c, n, size, scores, output); break;
            default: weigh_one(4, value + c, n, size, scores, output);
            }
            for (int h = 0; h < heads; h++) output[h] += WIDE;
        }
    }
}

/* The pieces of a group of heads follow each other, so that memory is read in long runs. */
static void attend_parts(const void *work, int64_t piece, int64_t thread) {
    const Few *few = work;
    const int64_t part = piece % few->all_parts, group = piece / few->all_parts;
    (void)thread;
    int64_t which = 0, split = part;
    while (split >= few->parts[which]) split -= few->parts[which++];
    const Range *range = few->ranges + which;
    for (int64_t at = 0; at < few->count; at++) {
        const Row *row = few->rows + at;
        if (split >= parts_of(row, which)) continue;
        const int64_t first = row->from[which] + split * row->split;
        attend_part(few, at, part, group, range, first,
                    clamp(row->seen[which] - split * row->split, 0, row->split));
    }
}

/* Merges the parts of one head, of which the row has some in each of the ranges. */
static void merge(const Few *few, int64_t ranges, int64_t row, int64_t head, bf16 *out,
                  float *lse) {
    const int64_t size = few->size;
    float peak = -INFINITY, sum = 0.0f, whole[MAX_SIZE] = {0};
    for (int64_t range = 0, first = 0; range < ranges; first += few->parts[range++])
        for (int64_t part = 0; part < parts_of(few->rows + row, range); part++)
            peak = fmaxf(peak, partial_of(few, row, first + part, head)[size]);
    for (int64_t range = 0, first = 0; range < ranges; first += few->parts[range++])
        for (int64_t part = 0; part < parts_of(few->rows + row, range); part++) {
            const float *found = partial_of(few, row, first + part, head);
            const float share = expf(found[size] - peak);
            sum += share * found[size + 1];
            for (int64_t at = 0; at < size; at++) whole[at] += share * found[at];
        }
    write_row(out, whole, sum == 0 ? 0 : 1 / sum, size);
    if (lse) *lse = sum == 0 ? -INFINITY : peak + logf(sum);
}

/* At most MAX_FEW queries of every head; nothing is packed. Otherwise like lmi_attend. */
int lmi_attend_few(const Range *ranges, int64_t count, int64_t heads, int64_t key_heads,
                   int64_t rows, int64_t size, float softcap, int64_t position, bf16 *out,
                   float *lse) {
    Few few = {.ranges = ranges, .heads = heads, .key_heads = key_heads, .count = rows,
               .size = size, .softcap = softcap};
    if (begin(&few, count, rows, position)) return 1;
    pool_run(key_heads * few.all_parts, attend_parts, &few);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t head = 0; head < heads; head++)
            merge(&few, count, row, head, out + (row * heads + head) * size,
                  lse ? lse + head * rows + row : NULL);
    free(few.partial);
    return 0;
}
