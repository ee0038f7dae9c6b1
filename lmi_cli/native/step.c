/* One token through all layers of a decoder, for bfloat16 on processors with AVX512-BF16.
 *
 * A token takes as long as reading the weights and the keys and values it sees, once, so each is
 * read in the order in which it lies, and the threads part only where a sum has to be complete.
 */
#include <omp.h>

#include "attention.h"
#include "pointwise.h"

enum {
    ROWS = 16,   /* of a weight, for one vector of sums */
    AHEAD = 8192 /* bytes; the hardware's own prefetching stops at the end of a page */
};

/* Must match Linear in step.py. */
typedef struct {
    const bf16 *weight; /* [rows, columns], columns a multiple of 32 */
    const bf16 *bias;   /* [rows] or NULL */
    int64_t rows, columns;
} Linear;

/* Must match Layer in step.py. */
typedef struct {
    Linear qkv, output, gate, up, down;
    const bf16 *norm_attention, *norm_mlp; /* [hidden] */
    const bf16 *norm_query, *norm_key;     /* [size] or NULL */
} Layer;

/* Must match Shape in step.py. */
typedef struct {
    int64_t layers, heads, key_heads, size, hidden, inner;
    float epsilon, scale;
} Shape;

/* A rotation, or NULL for none: float32 [size]; see Turn in rope.py. */
typedef struct {
    const float *cosine, *sine;
} Turn;

/* What the token sees in one layer, and where its own key and value go. Must match Seen in step.py.
 *
 * The queries of the ranges are filled in here; their turns have the scale of the scores in them.
 */
typedef struct {
    int64_t count;
    Range ranges[MAX_RANGES];
    Turn queries[MAX_RANGES];
    bf16 *key, *value;
    int64_t key_head, value_head;
    Turn turn;
} Seen;

static inline __m512 dot(__m512 sum, const bf16 *left, const bf16 *right) {
    return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_loadu_si512(left),
                            (__m512bh)_mm512_loadu_si512(right));
}

static inline int64_t blocks_of(const Linear *linear) { return (linear->rows + ROWS - 1) / ROWS; }

static inline __mmask16 live_rows(const Linear *linear, int64_t block) {
    return (__mmask16)((1u << clamp(linear->rows - block * ROWS, 0, ROWS)) - 1);
}

static inline __m512 load_live(const bf16 *from, __mmask16 live) {
    const __m256i half = _mm256_maskz_loadu_epi16(live, from);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

static inline void store_live(bf16 *to, __mmask16 live, __m512 x) {
    _mm256_mask_storeu_epi16(to, live, (__m256i)_mm512_cvtneps_pbh(x));
}

/* Products of x with a block of rows, bias included. */
static inline __m512 product(const Linear *linear, int64_t block, const bf16 *x) {
    __m512 sums[ROWS];
    const int64_t columns = linear->columns, last = linear->rows - 1;
    for (int at = 0; at < ROWS; at++) {
        const bf16 *row = linear->weight + clamp(block * ROWS + at, 0, last) * columns;
        __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0;
        int64_t column = 0;
        for (; column + 64 <= columns; column += 64) {
            _mm_prefetch((const char *)(row + column) + AHEAD, _MM_HINT_T1);
            _mm_prefetch((const char *)(row + column) + AHEAD + 64, _MM_HINT_T1);
            sum0 = dot(sum0, x + column, row + column);
            sum1 = dot(sum1, x + column + 32, row + column + 32);
        }
        if (column < columns) sum0 = dot(sum0, x + column, row + column);
        sums[at] = _mm512_add_ps(sum0, sum1);
    }
    const __m512 found = sums_of(sums);
    if (linear->bias == NULL) return found;
    return _mm512_add_ps(found, load_live(linear->bias + block * ROWS, live_rows(linear, block)));
}

/* wide[rows] = weight * x + bias for one token x[columns]; float32, as logits are wanted. */
void lmi_linear_one(const Linear *linear, const bf16 *x, float *wide) {
#pragma omp parallel for schedule(static)
    for (int64_t block = 0; block < blocks_of(linear); block++)
        _mm512_mask_storeu_ps(wide + block * ROWS, live_rows(linear, block),
                              product(linear, block, x));
}

/* x[hidden] += what a linear layer makes of y, rounded before it is added. */
static inline void add_product(const Linear *linear, int64_t block, const bf16 *y, bf16 *x) {
    const __mmask16 live = live_rows(linear, block);
    const __m512 before = load_live(x + block * ROWS, live);
    store_live(x + block * ROWS, live,
               _mm512_add_ps(before, rounded(product(linear, block, y))));
}

static void turned(const bf16 *from, Turn turn, float scale, int64_t size, bf16 *to) {
    if (turn.cosine != NULL) {
        rotate(from, turn.cosine, turn.sine, size, to);
        return;
    }
    for (int64_t at = 0; at < size; at += 16)
        narrow(to + at, _mm512_mul_ps(widened(from + at), _mm512_set1_ps(scale)));
}

/* From queries, keys and values side by side to the cache, and to the queries of each range. */
static void place(const Shape *shape, const Layer *layer, const Seen *seen, bf16 *qkv,
                  bf16 *queries) {
    const int64_t heads = shape->heads, key_heads = shape->key_heads, size = shape->size;
    bf16 *key = qkv + heads * size, *value = key + key_heads * size;
    for (int64_t head = 0; layer->norm_query && head < heads; head++)
        normalize(qkv + head * size, layer->norm_query, shape->epsilon, size, qkv + head * size);
    for (int64_t head = 0; layer->norm_key && head < key_heads; head++)
        normalize(key + head * size, layer->norm_key, shape->epsilon, size, key + head * size);
    for (int64_t head = 0; head < key_heads; head++) {
        turned(key + head * size, seen->turn, 1.0f, size, seen->key + head * seen->key_head);
        memcpy(seen->value + head * seen->value_head, value + head * size, size * sizeof(bf16));
    }
    for (int64_t at = 0; at < seen->count; at++)
        for (int64_t head = 0; head < heads; head++)
            turned(qkv + head * size, seen->queries[at], shape->scale, size,
                   queries + (at * heads + head) * size);
}

/* One token, whose residual is x[hidden], through all layers. Returns 1 if memory ran out. */
int lmi_step(const Shape *shape, const Layer *layers, Seen *seen, int64_t position, bf16 *x) {
    const int64_t heads = shape->heads, key_heads = shape->key_heads, size = shape->size;
    const int64_t width = (heads + 2 * key_heads) * size;
    const int64_t private = (shape->hidden + 31) / 32 * 32;
    const int64_t shared = width + (1 + MAX_RANGES) * heads * size + shape->inner;
    const size_t room = (size_t)(shared + omp_get_max_threads() * private + 32) / 32 * 64;
    bf16 *scratch = aligned_alloc(64, room);
    if (scratch == NULL) return 1;
    bf16 *qkv = scratch, *queries = qkv + width, *attended = queries + MAX_RANGES * heads * size;
    bf16 *active = attended + heads * size, *privates = active + shape->inner;
    OneQuery one = {0};
    int failed = 0;
#pragma omp parallel
    {
        bf16 *normed = privates + omp_get_thread_num() * private; /* each computes its own */
        for (int64_t at = 0; at < shape->layers; at++) {
            const Layer *layer = layers + at;
            normalize(x, layer->norm_attention, shape->epsilon, shape->hidden, normed);
#pragma omp for schedule(static)
            for (int64_t block = 0; block < blocks_of(&layer->qkv); block++)
                store_live(qkv + block * ROWS, live_rows(&layer->qkv, block),
                           product(&layer->qkv, block, normed));
#pragma omp single
            {
                place(shape, layer, seen + at, qkv, queries);
                for (int64_t range = 0; range < seen[at].count; range++) {
                    seen[at].ranges[range].query = queries + range * heads * size;
                    seen[at].ranges[range].query_head = size;
                }
                failed |= one_query_begin(&one, seen[at].ranges, seen[at].count, heads, key_heads,
                                          size, position);
            }
            if (failed) break;
#pragma omp for schedule(dynamic) collapse(2)
            for (int64_t part = 0; part < one.parts; part++)
                for (int64_t group = 0; group < key_heads; group++)
                    one_query_part(&one, part, group);
#pragma omp for schedule(static)
            for (int64_t head = 0; head < heads; head++)
                one_query_merge(&one, head, attended, NULL);
#pragma omp for schedule(static)
            for (int64_t block = 0; block < blocks_of(&layer->output); block++)
                add_product(&layer->output, block, attended, x);
            normalize(x, layer->norm_mlp, shape->epsilon, shape->hidden, normed);
#pragma omp for schedule(static) nowait
            for (int64_t block = 0; block < blocks_of(&layer->gate); block++)
                store_live(active + block * ROWS, live_rows(&layer->gate, block),
                           product(&layer->gate, block, normed));
#pragma omp for schedule(static) /* each thread has the blocks that it has just had */
            for (int64_t block = 0; block < blocks_of(&layer->up); block++) {
                const __mmask16 live = live_rows(&layer->up, block);
                const __m512 gate = load_live(active + block * ROWS, live);
                const __m512 up = rounded(product(&layer->up, block, normed));
                store_live(active + block * ROWS, live, gated(gate, up));
            }
#pragma omp single nowait
            one_query_end(&one);
#pragma omp for schedule(static)
            for (int64_t block = 0; block < blocks_of(&layer->down); block++)
                add_product(&layer->down, block, active, x);
        }
    }
    free(scratch);
    return failed;
}
