/* Attention: what its kernels share. */
#ifndef LMI_ATTENTION_H
#define LMI_ATTENTION_H

#include "vectors.h"

enum {
    MAX_SIZE = 256, /* components of a head */
    MAX_RANGES = 4
};

/* Must match Range in attention.py. Strides are in elements; keys and values have no gaps. */
typedef struct {
    const bf16 *query, *key, *value;
    int64_t query_head, query_row, key_head, value_head;
    int64_t keys;      /* number of keys */
    int64_t key_start; /* true position of the first */
    int64_t nearest;   /* smallest visible distance */
    int64_t farthest;  /* first distance no longer visible */
} Range;

/* The keys of a range that a query at a position sees: [*from, *to). */
static inline void band(const Range *range, int64_t position, int64_t *from, int64_t *to) {
    *from = clamp(position - range->farthest + 1 - range->key_start, 0, range->keys);
    *to = clamp(position - range->nearest - range->key_start + 1, *from, range->keys);
}

/* The largest of some scores, whose number is a multiple of 16; nan if one is nan. */
static inline float highest(const float *scores, int64_t first, int64_t last) {
    __m512 most = _mm512_set1_ps(-INFINITY);
    __mmask16 broken = 0;
    for (int64_t at = first; at < last; at += 16) {
        const __m512 found = _mm512_load_ps(scores + at);
        broken |= _mm512_cmp_ps_mask(found, found, _CMP_UNORD_Q);
        most = _mm512_max_ps(most, found);
    }
    return broken ? NAN : _mm512_reduce_max_ps(most);
}

/* Writes the components of one head, times a factor. */
static inline void write_row(bf16 *out, const float *values, float factor, int64_t size) {
    const __m512 scale = _mm512_set1_ps(factor);
    for (int64_t at = 0; at < size; at += 32) {
        __m512 low = _mm512_mul_ps(scale, _mm512_loadu_ps(values + at));
        __m512 high = _mm512_mul_ps(scale, _mm512_loadu_ps(values + at + 16));
        _mm512_storeu_si512(out + at, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

/* A single query of every head; see one_query.c. */
int lmi_attend_one(const Range *ranges, int64_t count, int64_t heads, int64_t key_heads,
                   int64_t size, int64_t position, bf16 *out, float *lse);

#endif
