/* Attention: what its kernels share. */
#ifndef LMI_ATTENTION_H
#define LMI_ATTENTION_H

#include "pointwise.h"

enum {
    MAX_SIZE = 256, /* components of a head */
    MAX_RANGES = 4,
    PAST_KEYS = 256,
    MAX_FEW = 8 /* queries of a head that are attended without packing the keys */
};

/* Must match Range in attention.py. Strides are in elements; keys and values have no gaps. */
typedef struct {
    const bf16 *query, *key, *value;
    int64_t query_head, query_row, key_head, value_head;
    int64_t keys;      /* number of keys */
    int64_t key_start; /* true position of the first */
    int64_t nearest;   /* smallest visible distance */
    int64_t farthest;  /* first distance no longer visible */
    /* ALiBi: what is taken off the scores of a query head for each token from key_at to query_at,
     * the assigned positions [rows] and [keys], after which PAST_KEYS more can be read; or NULL.
     */
    const float *slopes, *query_at, *key_at;
} Range;

/* The keys of a range that a query at a position sees: [*from, *to). */
static inline void band(const Range *range, int64_t position, int64_t *from, int64_t *to) {
    *from = clamp(position - range->farthest + 1 - range->key_start, 0, range->keys);
    *to = clamp(position - range->nearest - range->key_start + 1, *from, range->keys);
}

/* Takes the slope of the head off the scores of a query, for each token of distance. */
static inline void lower(float *scores, float slope, float query_at, const float *key_at,
                         int64_t first, int64_t last) {
    for (int64_t at = first; at < last; at += LANES)
        store(scores + at, fused(fill(slope), load(key_at + at) - query_at, load(scores + at)));
}

/* Weights, 0 where one is tiny: products with numbers below 2**-126 take many times as long. */
static inline floats without_tiny(floats weights, ints tiny) {
    return chosen(tiny, (floats){0}, weights);
}

/* The largest of some scores, whose number is a multiple of LANES; nan if one is nan. */
static inline float highest(const float *scores, int64_t first, int64_t last) {
    floats most = fill(-INFINITY);
    ints broken = {0};
    for (int64_t at = first; at < last; at += LANES) {
        const floats found = load(scores + at);
        broken |= found != found;
        most = maximum(most, found);
    }
    return any(broken) ? NAN : largest(most);
}

/* Writes the components of one head, times a factor. */
static inline void write_row(bf16 *out, const float *values, float factor, int64_t size) {
    for (int64_t at = 0; at < size; at += LANES) narrow(out + at, load(values + at) * factor);
}

/* At most MAX_FEW queries of every head, each as if it were alone; see few_queries.c. */
int lmi_attend_few(const Range *ranges, int64_t count, int64_t heads, int64_t key_heads,
                   int64_t rows, int64_t size, float softcap, int64_t position, bf16 *out,
                   float *lse);

#endif
