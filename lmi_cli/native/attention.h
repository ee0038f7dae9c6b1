/* Attention as the other kernels see it. */
#ifndef LMI_ATTENTION_H
#define LMI_ATTENTION_H

#include "vectors.h"

enum {
    MAX_SIZE = 256, /* components of a head */
    MAX_RANGES = 4
};

/* Must match Range in attention.py. Strides are in elements; rows of keys and values lie close. */
typedef struct {
    const bf16 *query, *key, *value;
    int64_t query_head, query_row, key_head, value_head;
    int64_t keys;      /* number of keys */
    int64_t key_start; /* true position of the first */
    int64_t nearest;   /* smallest visible distance */
    int64_t farthest;  /* first distance no longer visible */
} Range;

/* One query of every head on its way over the keys, which are cut into parts. Between begin and
 * end any thread may take any part of any group of heads, and, when all are done, merge any head.
 */
typedef struct {
    const Range *ranges;
    int64_t heads, key_heads, size, split, parts; /* a part is of at most `split` keys */
    int64_t from[MAX_RANGES], seen[MAX_RANGES];
    float *partial;
} OneQuery;

/* Returns 1 if memory ran out. */
int one_query_begin(OneQuery *one, const Range *ranges, int64_t count, int64_t heads,
                    int64_t key_heads, int64_t size, int64_t position);
void one_query_part(const OneQuery *one, int64_t part, int64_t group);
/* out: [heads, size]; lse: [heads] or NULL. */
void one_query_merge(const OneQuery *one, int64_t head, bf16 *out, float *lse);
void one_query_end(OneQuery *one);

#endif
