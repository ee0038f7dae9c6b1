/* One token through all layers of a decoder.
 *
 * A token takes as long as reading the weights, keys and values that it needs. Each is read once,
 * in the order in which it is stored, and threads wait only where a sum has to be complete.
 */
#include "attention.h"
#include "linear.h"
#include "pointwise.h"

/* Must match Layer in step.py. Norms are float32 [hidden], or NULL where a layer has none. */
typedef struct {
    Linear qkv, output, gate_up, down;
    const float *before_attention, *after_attention, *before_mlp, *after_mlp;
    const float *norm_query, *norm_key; /* [size], or [heads * size] if `whole_norms` */
} Layer;

/* Must match Shape in step.py. */
typedef struct {
    int64_t layers, heads, key_heads, size, hidden, inner;
    int64_t gate;        /* SWIGLU or GEGLU */
    int64_t twice;       /* see normalize */
    int64_t whole_norms; /* whether all queries are normalised together, and all keys */
    float epsilon, scale, residual_scale, softcap;
} Shape;

/* A rotation, or NULL for none: float32 [size]; see Rotation in rope.py. */
typedef struct {
    const float *cosine, *sine;
} Rotation;

/* What the token sees in one layer, and where its own key and value go. Must match Seen in step.py.
 *
 * The queries of the ranges are filled in here; their rotations include the scale of the scores.
 */
typedef struct {
    int64_t count;
    Range ranges[MAX_RANGES];
    Rotation queries[MAX_RANGES];
    bf16 *key, *value;
    int64_t key_head, value_head;
    Rotation rotation;
} Seen;

static void rotated(const bf16 *from, Rotation rotation, float scale, int64_t size, bf16 *to) {
    if (rotation.cosine != NULL) {
        rotate(from, rotation.cosine, rotation.sine, size, to);
        return;
    }
    for (int64_t at = 0; at < size; at += LANES) narrow(to + at, widened(from + at) * scale);
}

static void norm(const Shape *shape, const bf16 *from, const float *weight, int64_t size,
                 bf16 *to) {
    normalize(from, weight, shape->epsilon, shape->twice != 0, size, to);
}

/* Normalises `heads` heads one by one, or together. */
static void norm_heads(const Shape *shape, bf16 *x, const float *weight, int64_t heads) {
    const int64_t all = heads * shape->size, size = shape->whole_norms ? all : shape->size;
    for (int64_t at = 0; weight && at < all; at += size) norm(shape, x + at, weight, size, x + at);
}

/* Rotates queries for each range, and writes the key and value of every key head to the cache. */
static void place(const Shape *shape, const Layer *layer, const Seen *seen, bf16 *qkv,
                  bf16 *queries) {
    const int64_t heads = shape->heads, key_heads = shape->key_heads, size = shape->size;
    bf16 *key = qkv + heads * size, *value = key + key_heads * size;
    norm_heads(shape, qkv, layer->norm_query, heads);
    norm_heads(shape, key, layer->norm_key, key_heads);
    for (int64_t head = 0; head < key_heads; head++) {
        rotated(key + head * size, seen->rotation, 1.0f, size, seen->key + head * seen->key_head);
        memcpy(seen->value + head * seen->value_head, value + head * size, size * sizeof(bf16));
    }
    for (int64_t at = 0; at < seen->count; at++)
        for (int64_t head = 0; head < heads; head++)
            rotated(qkv + head * size, seen->queries[at], shape->scale, size,
                   queries + (at * heads + head) * size);
}

/* Adds what a linear layer makes of `from` to the residual x, normalised by `after` and scaled. */
static int add_outputs(const Shape *shape, const Linear *linear, const float *after,
                       const bf16 *from, bf16 *outputs, bf16 *x) {
    const int64_t hidden = shape->hidden;
    if (after == NULL && shape->residual_scale == 1) return lmi_linear(linear, ADD, from, 1, x, 0);
    if (lmi_linear(linear, STORE, from, 1, outputs, 0)) return 1;
    if (after) norm(shape, outputs, after, hidden, outputs);
    for (int64_t at = 0; at < hidden; at += LANES)
        narrow(x + at,
               widened(x + at) + rounded(widened(outputs + at) * shape->residual_scale));
    return 0;
}

/* Takes one token, with the residual x[hidden], through all layers. Returns 1 if memory ran out. */
int lmi_step(const Shape *shape, const Layer *layers, Seen *seen, int64_t position, bf16 *x) {
    const int64_t heads = shape->heads, key_heads = shape->key_heads, size = shape->size;
    const int64_t width = (heads + 2 * key_heads) * size;
    const int64_t hidden = shape->hidden, inner = shape->inner;
    const int64_t room = width + (1 + MAX_RANGES) * heads * size + inner + hidden;
    bf16 *qkv = aligned_alloc(64, (size_t)(room + 31) / 32 * 64);
    if (qkv == NULL) return 1;
    bf16 *queries = qkv + width, *attended = queries + MAX_RANGES * heads * size;
    bf16 *active = attended + heads * size, *normed = active + inner;
    int failed = 0;
    for (int64_t at = 0; at < shape->layers && !failed; at++) {
        const Layer *layer = layers + at;
        Range *ranges = seen[at].ranges;
        if (layer->before_attention) norm(shape, x, layer->before_attention, hidden, normed);
        failed |= lmi_linear(&layer->qkv, STORE, layer->before_attention ? normed : x, 1, qkv, 0);
        place(shape, layer, seen + at, qkv, queries);
        for (int64_t range = 0; range < seen[at].count; range++) {
            ranges[range].query = queries + range * heads * size;
            ranges[range].query_head = size;
        }
        failed |= lmi_attend_one(ranges, seen[at].count, heads, key_heads, size, shape->softcap,
                                 position, attended, NULL);
        failed |= add_outputs(shape, &layer->output, layer->after_attention, attended, normed, x);
        if (layer->before_mlp) norm(shape, x, layer->before_mlp, hidden, normed);
        failed |= lmi_linear(&layer->gate_up, shape->gate, layer->before_mlp ? normed : x, 1,
                             active, 0);
        failed |= add_outputs(shape, &layer->down, layer->after_mlp, active, normed, x);
    }
    free(qkv);
    return failed;
}
