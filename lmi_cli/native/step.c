/* One token, or a few consecutive ones, through all layers of a decoder.
 *
 * A token takes as long as reading the weights, keys and values that it needs. Each is read once,
 * in the order in which it is stored, and threads wait only where a sum has to be complete. A few
 * tokens read them together, and each gets exactly what it would get after those before it.
 */
#include "attention.h"
#include "linear.h"
#include "pointwise.h"

/* Must match Layer in step.py. */
typedef struct {
    Linear qkv, output, gate_up, down; /* gate_up is used with GATED */
    const bf16 *norm_attention, *norm_mlp; /* [hidden] */
    const bf16 *norm_query, *norm_key;     /* [size] or NULL */
} Layer;

/* Must match Shape in step.py. */
typedef struct {
    int64_t layers, heads, key_heads, size, hidden, inner;
    float epsilon, scale;
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

/* Rotates the queries of token number `row` for each range, and writes its keys and values to the
 * cache. `queries` has a place for those of every range and token.
 */
static void place(const Shape *shape, const Layer *layer, const Seen *seen, int64_t rows,
                  int64_t row, bf16 *qkv, bf16 *queries) {
    const int64_t heads = shape->heads, key_heads = shape->key_heads, size = shape->size;
    bf16 *key = qkv + heads * size, *value = key + key_heads * size;
    for (int64_t head = 0; layer->norm_query && head < heads; head++)
        normalize(qkv + head * size, layer->norm_query, shape->epsilon, size, qkv + head * size);
    for (int64_t head = 0; layer->norm_key && head < key_heads; head++)
        normalize(key + head * size, layer->norm_key, shape->epsilon, size, key + head * size);
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
        for (int64_t row = 0; row < rows; row++)
            normalize(x + row * hidden, layer->norm_attention, shape->epsilon, hidden,
                      normed + row * hidden);
        failed |= lmi_linear(&layer->qkv, STORE, normed, rows, qkv, width * bytes);
        for (int64_t row = 0; row < rows; row++)
            place(shape, layer, seen + at, rows, row, qkv + row * width, queries);
        for (int64_t range = 0; range < seen[at].count; range++) {
            ranges[range].query = queries + range * rows * heads * size;
            ranges[range].query_head = size;
            ranges[range].query_row = heads * size;
        }
        failed |= lmi_attend_few(ranges, seen[at].count, heads, key_heads, rows, size, position,
                                 attended, NULL);
        failed |= lmi_linear(&layer->output, ADD, attended, rows, x, hidden * bytes);
        for (int64_t row = 0; row < rows; row++)
            normalize(x + row * hidden, layer->norm_mlp, shape->epsilon, hidden,
                      normed + row * hidden);
        failed |= lmi_linear(&layer->gate_up, GATED, normed, rows, active, inner * bytes);
        failed |= lmi_linear(&layer->down, ADD, active, rows, x, hidden * bytes);
    }
    free(qkv);
    return failed;
}
