/* Attention of a single query of every head: nothing is packed, since each key is read once.
 *
 * The visible keys are cut into parts, so that all threads have work. Each part has its own softmax
 * with a peak and a sum, and the parts of a head are merged at the end.
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

/* One query of every head and the keys, which are cut into parts of at most `split`. */
typedef struct {
    const Range *ranges;
    int64_t heads, key_heads, size, split, parts;
    float softcap;
    int64_t from[MAX_RANGES], seen[MAX_RANGES];
    float *partial;
} OneQuery;

static inline int64_t parts_of(const OneQuery *one, int64_t range) {
    return (one->seen[range] + one->split - 1) / one->split;
}

/* The partial results of a part and a head: output[size], peak, sum. */
static inline float *partial_of(const OneQuery *one, int64_t part, int64_t head) {
    return one->partial + (part * one->heads + head) * (one->size + 2);
}

/* Returns 1 if memory ran out. */
static int begin(OneQuery *one, const Range *ranges, int64_t count, int64_t heads,
                 int64_t key_heads, int64_t size, int64_t position) {
    *one = (OneQuery){.ranges = ranges, .heads = heads, .key_heads = key_heads, .size = size};
    int64_t total = 0;
    for (int64_t at = 0; at < count; at++) {
        int64_t to;
        band(ranges + at, position, one->from + at, &to);
        one->seen[at] = to - one->from[at];
        total += one->seen[at];
    }
    one->split = clamp((total / PARTS + 15) / 16 * 16, 64, SPLIT);
    for (int64_t at = 0; at < count; at++) one->parts += parts_of(one, at);
    const size_t numbers = (size_t)(one->parts * heads * (size + 2)) + 1;
    one->partial = malloc(numbers * sizeof *one->partial);
    return one->partial == NULL;
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

/* The pieces of a group of heads follow each other, so that memory is read in long runs. */
static void attend_part(const void *work, int64_t piece, int64_t thread) {
    const OneQuery *one = work;
    const int64_t part = piece % one->parts, group = piece / one->parts;
    (void)thread;
    const int64_t folds = one->heads / one->key_heads, size = one->size;
    int64_t which = 0, split = part;
    while (split >= parts_of(one, which)) split -= parts_of(one, which++);
    const Range *range = one->ranges + which;
    const int64_t first = one->from[which] + split * one->split;
    const int64_t n = clamp(one->seen[which] - split * one->split, 0, one->split);
    const bf16 *key = range->key + group * range->key_head + first * size;
    const bf16 *value = range->value + group * range->value_head + first * size;
    _Alignas(64) float scores[GROUP][SPLIT];
    for (int64_t fold = 0; fold < folds; fold += GROUP) {
        const int64_t head = group * folds + fold;
        const int heads = (int)clamp(folds - fold, 0, GROUP);
        score_one(heads, range->query + head * range->query_head, range->query_head, key, n, size,
                  one->softcap, scores);
        float *output[GROUP];
        for (int h = 0; h < heads; h++) {
            output[h] = partial_of(one, part, head + h);
            const float peak = highest(scores[h], 0, n);
            floats sum = {0};
            for (int64_t at = 0; at < n; at += LANES) {
                const floats w = exponential(load(scores[h] + at) - peak);
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

static void merge(const OneQuery *one, int64_t head, bf16 *out, float *lse) {
    const int64_t size = one->size;
    float peak = -INFINITY, sum = 0.0f, whole[MAX_SIZE] = {0};
    for (int64_t part = 0; part < one->parts; part++)
        peak = fmaxf(peak, partial_of(one, part, head)[size]);
    for (int64_t part = 0; part < one->parts; part++) {
        const float *found = partial_of(one, part, head);
        const float share = expf(found[size] - peak);
        sum += share * found[size + 1];
        for (int64_t at = 0; at < size; at++) whole[at] += share * found[at];
    }
    write_row(out + head * size, whole, sum == 0 ? 0 : 1 / sum, size);
    if (lse) lse[head] = sum == 0 ? -INFINITY : peak + logf(sum);
}

/* A single query of every head; nothing is packed. Otherwise like lmi_attend. */
int lmi_attend_one(const Range *ranges, int64_t count, int64_t heads, int64_t key_heads,
                   int64_t size, float softcap, int64_t position, bf16 *out, float *lse) {
    OneQuery one;
    if (begin(&one, ranges, count, heads, key_heads, size, position)) return 1;
    one.softcap = softcap;
    pool_run(key_heads * one.parts, attend_part, &one);
    for (int64_t head = 0; head < heads; head++) merge(&one, head, out, lse);
    free(one.partial);
    return 0;
}
