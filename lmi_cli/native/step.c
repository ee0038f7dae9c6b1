/* One token, or a few consecutive ones, through all layers of a decoder.
 *
 * A token takes as long as reading the weights, keys and values that it needs. Each is read once,
 * in the order in which it is stored, and threads wait only where a sum has to be complete. A few
 * tokens read them together, and each gets exactly what it would get after those before it.
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

/* Rotations of the tokens, or NULL for none: float32 [tokens, size]; see Rotation in rope.py.
 *
 * `row` is the distance from one to the next; 0 if all are the same.
 */
typedef struct {
    const float *cosine, *sine;
    int64_t row;
} Rotation;

/* What the tokens see in one layer, and where their own keys and values go, one behind the other.
 *
 * The queries of the ranges are filled in here; their rotations include the scale of the scores.
 * Must match Seen in step.py.
 */
typedef struct {
    int64_t count;
    Range ranges[MAX_RANGES];
    Rotation queries[MAX_RANGES];
    bf16 *key, *value;
    int64_t key_head, value_head;
    Rotation rotation;
} Seen;

static void rotated(const bf16 *from, Rotation rotation, int64_t row, float scale, int64_t size,
                    bf16 *to) {
    if (rotation.cosine != NULL) {
        const int64_t first = row * rotation.row;
        rotate(from, rotation.cosine + first, rotation.sine + first, size, to);
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

/* Rotates the queries of token number `row` for each range, and writes its keys and values to the
 * cache. `queries` has a place for those of every range and token.
 */
static void place(const Shape *shape, const Layer *layer, const Seen *seen, int64_t rows,
                  int64_t row, bf16 *qkv, bf16 *queries) {
    const int64_t heads = shape->heads, key_heads = shape->key_heads, size = shape->size;
    bf16 *key = qkv + heads * size, *value = key + key_heads * size;
    norm_heads(shape, qkv, layer->norm_query, heads);
    norm_heads(shape, key, layer->norm_key, key_heads);
    for (int64_t head = 0; head < key_heads; head++) {
        rotated(key + head * size, seen->rotation, row, 1.0f, size,
                seen->key + head * seen->key_head + row * size);
        memcpy(seen->value + head * seen->value_head + row * size, value + head * size,
               size * sizeof(bf16));
    }
    for (int64_t at = 0; at < seen->count; at++)
        for (int64_t head = 0; head < heads; head++)
            rotated(qkv + head * size, seen->queries[at], row, shape->scale, size,
                    queries + ((at * rows + row) * heads + head) * size);
}

/* Adds what a linear layer makes of `from` to the residuals x, normalised by `after` and scaled. */
static int add_outputs(const Shape *shape, const Linear *linear, const float *after, int64_t rows,
                       const bf16 *from, bf16 *outputs, bf16 *x) {
    const int64_t hidden = shape->hidden, row = hidden * (int64_t)sizeof *x;
    if (after == NULL && shape->residual_scale == 1)
        return lmi_linear(linear, ADD, from, rows, x, row);
    if (lmi_linear(linear, STORE, from, rows, outputs, row)) return 1;
    for (int64_t at = 0; after && at < rows * hidden; at += hidden)
        norm(shape, outputs + at, after, hidden, outputs + at);
    for (int64_t at = 0; at < rows * hidden; at += LANES)
        narrow(x + at,
               widened(x + at) + rounded(widened(outputs + at) * shape->residual_scale));
    return 0;
}

/* The residuals x, or what normalising them by `before` gives. */
static const bf16 *inputs(const Shape *shape, const float *before, int64_t rows, const bf16 *x,
                          bf16 *normed) {
    if (before == NULL) return x;
    for (int64_t at = 0; at < rows * shape->hidden; at += shape->hidden)
        norm(shape, x + at, before, shape->hidden, normed + at);
    return normed;
}

/* Takes tokens, at most MAX_FEW, with the residuals x[rows, hidden], through all layers.
 *
 * The first is at true position `position`. Returns 1 if memory ran out.
 */
int lmi_step(const Shape *shape, const Layer *layers, Seen *seen, int64_t rows, int64_t position,
             bf16 *x) {
    const int64_t heads = shape->heads, key_heads = shape->key_heads, size = shape->size;
    const int64_t width = (heads + 2 * key_heads) * size;
    const int64_t hidden = shape->hidden, inner = shape->inner;
    const int64_t room = rows * (width + (1 + MAX_RANGES) * heads * size + inner + hidden);
    bf16 *qkv = aligned_alloc(64, (size_t)(room + 31) / 32 * 64);
    if (qkv == NULL) return 1;
    bf16 *queries = qkv + rows * width, *attended = queries + MAX_RANGES * rows * heads * size;
    bf16 *active = attended + rows * heads * size, *normed = active + rows * inner;
    const int64_t bytes = sizeof(bf16);
    int failed = 0;
    for (int64_t at = 0; at < shape->layers && !failed; at++) {
        const Layer *layer = layers + at;
        Range *ranges = seen[at].ranges;
        const bf16 *from = inputs(shape, layer->before_attention, rows, x, normed);
        failed |= lmi_linear(&layer->qkv, STORE, from, rows, qkv, width * bytes);
        for (int64_t row = 0; row < rows; row++)
            place(shape, layer, seen + at, rows, row, qkv + row * width, queries);
        for (int64_t range = 0; range < seen[at].count; range++) {
            ranges[range].query = queries + range * rows * heads * size;
            ranges[range].query_head = size;
            ranges[range].query_row = heads * size;
        }
        failed |= lmi_attend_few(ranges, seen[at].count, heads, key_heads, rows, size,
                                 shape->softcap, position, attended, NULL);
        failed |= add_outputs(shape, &layer->output, layer->after_attention, rows, attended, normed,
                              x);
        from = inputs(shape, layer->before_mlp, rows, x, normed);
        failed |= lmi_linear(&layer->gate_up, shape->gate, from, rows, active, inner * bytes);
        failed |= add_outputs(shape, &layer->down, layer->after_mlp, rows, active, normed, x);
    }
    free(qkv);
    return failed;
}
