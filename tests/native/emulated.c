/* Compares every kernel with plain code in double precision.
 *
 * Compiled together with the kernels by test_emulated.py, for this processor or for one that is
 * emulated. Prints a line for each check, and ends with 1 if a kernel is wrong. With the argument
 * "tiles" the matrix unit is used. Nothing is freed, since the program ends soon.
 */
#include <stdarg.h>
#include <stdio.h>

#include "attention.h"
#include "linear.h"
#include "plain.h"

/* These must match step.c. */
typedef struct {
    Linear qkv, output, gate_up, down;
    const float *before_attention, *after_attention, *before_mlp, *after_mlp;
    const float *norm_query, *norm_key;
} Layer;

typedef struct {
    int64_t layers, heads, key_heads, size, hidden, inner, gate, twice, whole_norms;
    float epsilon, scale, residual_scale, softcap;
} Shape;

typedef struct {
    const float *cosine, *sine;
    int64_t row;
} Rotation;

typedef struct {
    int64_t count;
    Range ranges[MAX_RANGES];
    Rotation queries[MAX_RANGES];
    bf16 *key, *value;
    int64_t key_head, value_head;
    Rotation rotation;
} Seen;

void lmi_pack(const bf16 *, int64_t, int64_t, int64_t, int64_t, bf16 *);
void lmi_repack(int64_t, const uint8_t *, int64_t, int64_t, int64_t, int64_t, uint8_t *, uint16_t *,
                uint16_t *);
void lmi_quantize(const Part *, int64_t, int64_t, uint8_t *, uint16_t *, uint16_t *);
void lmi_embed(const Linear *, const int64_t *, int64_t, bf16 *);
int lmi_likelihood(const Linear *, const bf16 *, int64_t, const int64_t *, float, float, float *,
                   float *);
void lmi_norm(const bf16 *, const float *, float, int64_t, int64_t, int64_t, bf16 *);
void lmi_rotate(const bf16 *, int64_t, int64_t, const float *, const float *, int64_t, int64_t,
                int64_t, int64_t, bf16 *);
int lmi_attend(const Range *, int64_t, int64_t, int64_t, int64_t, int64_t, float, int64_t, bf16 *,
               float *);
int lmi_step(const Shape *, const Layer *, Seen *, int64_t, int64_t, bf16 *);
void lmi_threads(int64_t);
int lmi_tiles(int64_t);

static double worst; /* error of the current check, in units of what is allowed */
static int wrong;    /* checks */

static void compare(double found, double expected, double allowed) {
    const double error = found == expected ? 0 : fabs(found - expected) / allowed;
    if (!(error <= worst)) worst = isnan(error) ? INFINITY : error;
}

/* Ends a check. */
static void verdict(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf(worst <= 1 ? "ok " : "WRONG ");
    vprintf(format, arguments);
    printf(": %.2g of the error allowed\n", worst);
    va_end(arguments);
    wrong += worst > 1;
    worst = 0;
}

/* Adds a part whose codes are still zero; its bias is random. */
static Part *add_part(Weights *to, int bits, int offset, bool has_minimum, int64_t rows) {
    Linear *linear = &to->linear;
    const int64_t padded = (rows + 63) / 64 * 64, codes = padded * linear->columns;
    Part *part = linear->parts + linear->count++;
    *part = (Part){.weight = room(codes * bits / 8), .scale = room(codes / 8), .offset = offset,
                   .minimum = has_minimum ? room(codes / 8) : NULL, .rows = rows, .bits = bits,
                   .bias = to->gated ? NULL : randoms(padded, 1), .first = linear->rows};
    for (int64_t row = 0; row < rows; row++)
        to->bias[linear->rows + row] = part->bias ? of_bf16(part->bias[row]) : 0;
    linear->rows += rows;
    to->coded |= bits < 16;
    return part;
}

/* Adds rows of random blocks of a file. */
static void add_blocks(Weights *to, int kind, int64_t rows) {
    Part *part = add_part(to, kinds[kind].bits, kinds[kind].offset, kinds[kind].has_minimum, rows);
    const int64_t columns = to->linear.columns, wide = kinds[kind].columns;
    const int64_t blocks = rows * columns / wide, halves = to->gated ? 2 : 1, own = rows / halves;
    const int bytes = kinds[kind].bytes, exponent = kinds[kind].power + 15;
    uint8_t *raw = room(blocks * bytes);
    for (int64_t at = 0; at < blocks; at++) {
        uint8_t *block = raw + at * bytes;
        for (int byte = 0; byte < bytes; byte++) block[byte] = (uint8_t)random_bits();
        const uint16_t scale = (uint16_t)((int)(random_bits() & 0x83FF) + exponent * 1024);
        const uint16_t minimum = (uint16_t)(scale + 2048), plain = to_bf16(uniform() / 4);
        memcpy(block + (kind == Q6_K ? 208 : 0), kind == BF16 ? &plain : &scale, 2);
        if (kinds[kind].has_minimum) memcpy(block + 2, &minimum, 2);
        for (int64_t k = 0; k < wide; k++) {
            const int64_t place = part->first * columns + at * wide + k;
            to->weight[place] = weight_of(kind, block, (int)k, to->magnitude + place);
        }
    }
    for (int64_t half = 0; half < halves; half++) {
        const uint8_t *from = raw + half * blocks / halves * bytes;
        const int64_t rows_wide = 64 / halves, place = 32 * half;
        void *codes = (void *)part->weight;
        if (kind == BF16)
            lmi_pack((const bf16 *)from, own, columns, rows_wide, place, codes);
        else
            lmi_repack(kind, from, own, columns, rows_wide, place, codes, (uint16_t *)part->scale,
                       (uint16_t *)part->minimum);
    }
    if (kind >= Q4_K) to->error = HALVING; /* products of two scales are rounded */
}

static Weights random_weights(int kind, int64_t rows, int64_t columns, bool gated) {
    Weights made = weights_of(rows, columns, gated);
    add_blocks(&made, kind, rows);
    return made;
}

static void check_linear(const char *name, const Weights *all) {
    static const char *const endings[] = {"stored", "added", "swiglu", "geglu", "wide"};
    static const int64_t counts[] = {1, 2, 6, 33};
    const int64_t columns = all->linear.columns, rows = all->linear.rows;
    const int64_t width = all->gated ? rows / 2 : rows;
    for (int ending = STORE; ending <= WIDE; ending++) {
        if ((ending == SWIGLU || ending == GEGLU) != all->gated) continue;
        for (int which = 0; which < 4; which++) {
            const int64_t count = counts[which], item = ending == WIDE ? 4 : 2;
            const int64_t out_row = (width + 5) * item; /* with a gap that must stay as it is */
            const bool many = count > lmi_few(&all->linear);
            const bf16 *x = randoms(count * columns, 1);
            const char *before = (const char *)randoms(count * out_row / 2, 1);
            char *out = memcpy(room(count * out_row), before, (size_t)(count * out_row));
            if (lmi_linear(&all->linear, ending, x, count, out, out_row)) worst = INFINITY;
            for (int64_t token = 0; token < count; token++) {
                const double *input = doubles(x + token * columns, columns);
                const int64_t gap = token * out_row + width * item;
                if (memcmp(out + gap, before + gap, (size_t)(5 * item))) worst = INFINITY;
                for (int64_t row = 0; row < width; row++) {
                    const int64_t place = token * out_row + row * item;
                    const double was = of_bf16(word_at(before + place));
                    double error[2] = {0}, allowed, b = 0;
                    const double a = plain_product(all, row, input, many, error);
                    if (all->gated)
                        b = plain_product(all, row + width, input, many, error + 1);
                    const double expected =
                        plain_ending(ending, a, error[0], b, error[1], was, &allowed);
                    float single;
                    memcpy(&single, out + place, sizeof single);
                    const double found = ending == WIDE ? single : of_bf16(word_at(out + place));
                    compare(found, expected, allowed);
                }
            }
        }
        verdict("linear %s %s", name, endings[ending]);
    }
    if (all->gated) return;
    const int64_t ids[] = {0, rows - 1, 33, 65};
    bf16 *out = room(4 * columns * 2);
    lmi_embed(&all->linear, ids, 4, out);
    for (int64_t at = 0; at < 4 * columns; at++) {
        const int64_t place = ids[at / columns] * columns + at % columns;
        const double weight = all->weight[place], error = all->error + SUMMING;
        compare(of_bf16(out[at]), weight, ROUNDING * fabs(weight) + error * all->magnitude[place]);
    }
    verdict("embed %s", name);
}

/* Quantizes a layer, and takes its weights from where blocks.h says that they are. */
static void check_quantized(const Weights *from, int bits) {
    const int64_t rows = from->linear.rows, columns = from->linear.columns;
    Weights made = weights_of(rows, columns, false);
    Part *part = add_part(&made, bits, bits == 8 ? 128 : 0, bits == 4, rows);
    lmi_quantize(from->linear.parts, columns, bits, (uint8_t *)part->weight,
                 (uint16_t *)part->scale, (uint16_t *)part->minimum);
    for (int64_t block = 0; block < rows * columns / 32; block++) {
        const int64_t row = block / (columns / 32), column = block % (columns / 32);
        const int64_t first = row / 64 * (columns / 32) + column, own = row % 64;
        const double *exact = from->weight + 32 * block;
        double low = exact[0], high = exact[0], error = 0, usual = 0;
        for (int k = 1; k < 32; k++) low = fmin(low, exact[k]), high = fmax(high, exact[k]);
        const double step = bits == 8 ? fmax(-low, high) / 127 : (high - low) / 15;
        const double scale = half_at(part->scale + first * 64 + own);
        const double minimum = bits == 8 ? 128 * scale : half_at(part->minimum + first * 64 + own);
        for (int k = 0; k < 32; k++) {
            const uint8_t *codes = (const uint8_t *)part->weight + first * 256 * bits;
            const int code = bits == 8 ? codes[k / 4 * 256 + 4 * own + k % 4]
                                       : codes[k / 8 * 256 + 4 * own + k % 4] >> k / 4 % 2 * 4 & 15;
            const double found = scale * code - minimum, start = bits == 8 ? 0 : low;
            made.weight[32 * block + k] = found;
            made.magnitude[32 * block + k] = fabs(scale) * code + fabs(minimum);
            error += pow(found - exact[k], 2);
            usual += pow(rint((exact[k] - start) / step) * step + start - exact[k], 2);
        }
        compare(error, 0, 1.05 * usual); /* hardly more than of the range cut into equal steps */
    }
    verdict("quantize %d", bits);
    check_linear(bits == 8 ? "quantized 8" : "quantized 4", &made);
}

/* Losses and entropies of tokens by a vocabulary of several groups of panels, with a tail. */
static void check_likelihood(int64_t count) {
    enum { ROWS = 1170, COLUMNS = 64, MOST = 33 };
    const Weights all = random_weights(BF16, ROWS, COLUMNS, false);
    const bf16 *x = randoms(count * COLUMNS, 8);
    const double factor = 0.5, cap = 9;
    float losses[MOST], entropies[MOST];
    double logits[ROWS];
    int64_t targets[MOST];
    for (int64_t at = 0; at < count; at++) targets[at] = (ROWS - 1) * at / (MOST - 1);
    if (lmi_likelihood(&all.linear, x, count, targets, (float)factor, (float)cap, losses,
                       entropies))
        worst = INFINITY;
    for (int64_t at = 0; at < count; at++) {
        const double *input = doubles(x + at * COLUMNS, COLUMNS);
        double sum = 0, mean = 0, error = 0, most = 0;
        for (int64_t row = 0; row < ROWS; row++) {
            const double product = plain_product(&all, row, input, true, &error);
            logits[row] = cap * tanh(factor * product / cap);
            most = fmax(most, error);
            sum += exp(logits[row]), mean += exp(logits[row]) * logits[row];
        }
        const double allowed = 2 * most + SUMMING * 64;
        compare(losses[at], log(sum) - logits[targets[at]], allowed);
        compare(entropies[at], log(sum) - mean / sum, cap * allowed);
    }
    verdict("likelihood of %d", (int)count);
}

static void check_pointwise(void) {
    enum { HEADS = 3, ROWS = 17, SIZE = 160 };
    const bf16 *x = randoms(HEADS * ROWS * SIZE, 1);
    const float *weight = singles(SIZE);
    bf16 *out = room(HEADS * ROWS * SIZE * 2);
    double expected[SIZE], size;
    for (int twice = 0; twice < 2; twice++) {
        lmi_norm(x, weight, 1e-2f, twice, ROWS, SIZE, out);
        for (int row = 0; row < ROWS; row++) {
            plain_norm(doubles(x + row * SIZE, SIZE), weight, 1e-2f, twice, SIZE, expected);
            for (int at = 0; at < SIZE; at++)
                compare(of_bf16(out[row * SIZE + at]), expected[at],
                        (1 + twice) * ROUNDING * fabs(expected[at]));
        }
        verdict("norm, %d roundings", 1 + twice);
    }
    for (int64_t each = 0; each < 2; each++) { /* all rows alike, or each with its own */
        const float *cosine = singles(ROWS * 128), *sine = singles(ROWS * 128);
        lmi_rotate(x, SIZE, HEADS * SIZE, cosine, sine, 128 * each, HEADS, ROWS, 128, out);
        for (int at = 0; at < HEADS * ROWS * 128; at++) {
            const int64_t row = at / 128 % ROWS, head = at / 128 / ROWS, turn = each * row * 128;
            const double *from = doubles(x + (row * HEADS + head) * SIZE, 128);
            const double turned =
                plain_rotation(from, cosine + turn, sine + turn, 128, at % 128, &size);
            compare(of_bf16(out[at]), turned, ROUNDING * fabs(turned) + SUMMING * size);
        }
        verdict("rotate %s", each ? "each" : "alike");
    }
}

/* Keys at a distance of 40 to 250, and from `near_start` on nearer ones that matter more. If scores
 * are `falling`, those of keys that are farther away are lower.
 */
static void check_attention(int64_t size, int64_t rows, int64_t near_start, int64_t position,
                            float softcap, bool falling) {
    enum { HEADS = 10, GROUPS = 2, FAR = 300, NEAR = 70 };
    double expected[MAX_SIZE], magnitude[MAX_SIZE];
    const int64_t row = HEADS * size, far_head = (FAR + 1) * size, near_head = (NEAR + 2) * size;
    Range ranges[] = {
        {randoms(rows * row, 0.3), randoms(GROUPS * far_head, 1), randoms(GROUPS * far_head, 1),
         size, row, far_head, far_head, FAR, 0, 40, 250},
        {randoms(rows * row, 0.3), randoms(GROUPS * near_head, 8), randoms(GROUPS * near_head, 1),
         size, row, near_head, near_head, NEAR, near_start, 0, 40}};
    bf16 *out = room(rows * row * 2);
    float *lse = room(rows * HEADS * 4);
    for (Range *range = ranges; falling && range < ranges + 2; range++) {
        float *slopes = room(HEADS * 4), *query_at = room(rows * 4);
        float *key_at = room((range->keys + PAST_KEYS) * 4);
        for (int64_t at = 0; at < HEADS; at++) slopes[at] = 1.0f / (float)(2 << at);
        for (int64_t at = 0; at < rows; at++) query_at[at] = (float)at;
        for (int64_t at = 0; at < range->keys; at++)
            key_at[at] = (float)(range->key_start + at - position);
        range->slopes = slopes, range->query_at = query_at, range->key_at = key_at;
    }
    for (int few = 0; few <= (rows <= MAX_FEW); few++) {
        if (few ? lmi_attend_few(ranges, 2, HEADS, GROUPS, rows, size, softcap, position, out, lse)
                : lmi_attend(ranges, 2, HEADS, GROUPS, rows, size, softcap, position, out, lse))
            worst = INFINITY;
        const double weighing = SUMMING * 16 + (few ? 0 : SIDES);
        for (int64_t at = 0; at < rows * HEADS; at++) {
            const int64_t head = at % HEADS, own = at / HEADS;
            const double sum = plain_attention(ranges, 2, head, head / (HEADS / GROUPS), own, size,
                                               softcap, position + own, expected, magnitude);
            compare(lse[head * rows + own], sum, SUMMING * (8 + fabs(sum)));
            for (int64_t k = 0; k < size; k++)
                compare(of_bf16(out[at * size + k]), expected[k],
                        ROUNDING * fabs(expected[k]) + weighing * magnitude[k]);
        }
        verdict("attention of %d %s at %d, %d%s", (int)rows, few ? "unpacked" : "packed",
                (int)position, (int)size, softcap > 0 ? ", capped" : falling ? ", falling" : "");
    }
}

static void plain_linear(const Weights *all, const double *x, double *out) {
    double unused;
    for (int64_t row = 0; row < all->linear.rows; row++)
        out[row] = near(plain_product(all, row, x, false, &unused));
}

static void plain_rotated(const double *x, Rotation rotation, bf16 *to) {
    double unused;
    for (int64_t at = 0; at < 64; at++)
        to[at] = to_bf16(rotation.cosine == NULL ? x[at] / 8
                                                 : plain_rotation(x, rotation.cosine, rotation.sine,
                                                                  64, at, &unused));
}

static void plain_heads(const Shape *shape, double *x, const float *weight, int64_t heads) {
    const int64_t size = shape->whole_norms ? heads * shape->size : shape->size;
    for (int64_t at = 0; weight && at < heads * shape->size; at += size)
        plain_norm(x + at, weight, shape->epsilon, shape->twice, size, x + at);
}

/* Adds outputs to the residual x, normalised by `after`. */
static void plain_addition(const Shape *shape, double *outputs, const float *after, double *x) {
    if (after) plain_norm(outputs, after, shape->epsilon, shape->twice, shape->hidden, outputs);
    for (int at = 0; at < shape->hidden; at++)
        x[at] = near(x[at] + near(outputs[at] * shape->residual_scale));
}

/* A token at position 20, with two layers that see the last 13 tokens and the first 8: layers of
 * the Llama kind, or, `changed`, with all that others have.
 */
static void check_step(bool changed) {
    enum { HEADS = 4, GROUPS = 2, SIZE = 64, HIDDEN = 64, INNER = 96, KEYS = 24, AT = 20 };
    enum { QUERIES = HEADS * SIZE, OUT = QUERIES + 2 * GROUPS * SIZE };
    enum { CACHE = GROUPS * KEYS * SIZE };
    const Shape shape = {2, HEADS, GROUPS, SIZE, HIDDEN, INNER, changed ? GEGLU : SWIGLU,
                         !changed, changed, 1e-5f, 0.125f, changed ? 0.5f : 1, changed ? 3 : 0};
    double x[HIDDEN], normed[HIDDEN], qkv[OUT], attended[QUERIES], unused[SIZE], moved[HIDDEN];
    double inner[2 * INNER];
    Layer layers[2];
    Seen seen[2];
    bf16 *residual = randoms(HIDDEN, 1), *caches[2], *plain[2];
    for (int at = 0; at < HIDDEN; at++) x[at] = of_bf16(residual[at]);
    for (int layer = 0; layer < 2; layer++) {
        const int kind = layer ? Q8_0 : BF16;
        const Weights in = random_weights(kind, OUT, HIDDEN, false);
        const Weights output = random_weights(kind, HIDDEN, QUERIES, false);
        const Weights gate_up = random_weights(kind, 2 * INNER, HIDDEN, true);
        const Weights down = random_weights(kind, HIDDEN, INNER, false);
        const bool before = !changed || layer;
        const Layer norms = {
            .before_attention = before ? singles(HIDDEN) : NULL,
            .after_attention = changed ? singles(HIDDEN) : NULL,
            .before_mlp = before ? singles(HIDDEN) : NULL,
            .after_mlp = changed ? singles(HIDDEN) : NULL,
            .norm_query = singles(changed ? QUERIES : SIZE),
            .norm_key = layer ? NULL : singles(changed ? GROUPS * SIZE : SIZE)};
        bf16 *cache = caches[layer] = randoms(2 * CACHE, 1), *copy = room(4 * CACHE);
        plain[layer] = memcpy(copy, cache, 4 * CACHE);
        layers[layer] = norms;
        layers[layer].qkv = in.linear, layers[layer].output = output.linear;
        layers[layer].gate_up = gate_up.linear, layers[layer].down = down.linear;
        seen[layer] = (Seen){
            .count = 2, .key = cache + AT * SIZE, .value = cache + CACHE + AT * SIZE,
            .key_head = KEYS * SIZE, .value_head = KEYS * SIZE,
            .queries = {{singles(SIZE), singles(SIZE)}},
            .rotation = {singles(SIZE), singles(SIZE)}};
        Range ranges[2];
        bf16 *queries[] = {room(2 * QUERIES), room(2 * QUERIES)};
        for (int which = 0; which < 2; which++) {
            const int64_t first = which * 8;
            ranges[which] = (Range){
                queries[which], copy + first * SIZE, copy + CACHE + first * SIZE, SIZE, 0,
                KEYS * SIZE, KEYS * SIZE, which ? 13 : 8, first, which ? 0 : 13, which ? 13 : 99};
            seen[layer].ranges[which] = ranges[which];
            seen[layer].ranges[which].key += cache - copy;
            seen[layer].ranges[which].value += cache - copy;
        }
        memcpy(normed, x, sizeof x);
        if (before) plain_norm(x, norms.before_attention, shape.epsilon, !changed, HIDDEN, normed);
        plain_linear(&in, normed, qkv);
        plain_heads(&shape, qkv, norms.norm_query, HEADS);
        plain_heads(&shape, qkv + QUERIES, norms.norm_key, GROUPS);
        for (int head = 0; head < HEADS + GROUPS; head++) {
            double *own = qkv + head * SIZE;
            for (int which = 0; which < 2 && head < HEADS; which++)
                plain_rotated(own, seen[layer].queries[which], queries[which] + head * SIZE);
            bf16 *key = copy + ((head - HEADS) * KEYS + AT) * SIZE;
            if (head < HEADS) continue;
            plain_rotated(own, seen[layer].rotation, key);
            for (int at = 0; at < SIZE; at++) key[CACHE + at] = to_bf16(own[GROUPS * SIZE + at]);
        }
        for (int head = 0; head < HEADS; head++)
            plain_attention(ranges, 2, head, head / 2, 0, SIZE, shape.softcap, AT,
                            attended + head * SIZE, unused);
        for (int at = 0; at < QUERIES; at++) attended[at] = near(attended[at]);
        plain_linear(&output, attended, moved);
        plain_addition(&shape, moved, norms.after_attention, x);
        memcpy(normed, x, sizeof x);
        if (before) plain_norm(x, norms.before_mlp, shape.epsilon, !changed, HIDDEN, normed);
        plain_linear(&gate_up, normed, inner);
        for (int at = 0; at < INNER; at++)
            inner[at] = near(near(plain_gate(shape.gate, inner[at])) * inner[INNER + at]);
        plain_linear(&down, inner, moved);
        plain_addition(&shape, moved, norms.after_mlp, x);
    }
    if (lmi_step(&shape, layers, seen, 1, AT, residual)) worst = INFINITY;
    double most = 0; /* sums are rounded before they cancel */
    for (int at = 0; at < HIDDEN; at++) most = fmax(most, fabs(x[at]));
    for (int at = 0; at < HIDDEN; at++) compare(of_bf16(residual[at]), x[at], 4 * ROUNDING * most);
    for (int at = 0; at < 4 * CACHE; at++) {
        const int layer = at / (2 * CACHE), place = at % (2 * CACHE);
        const double expected = of_bf16(plain[layer][place]);
        compare(of_bf16(caches[layer][place]), expected, 8 * ROUNDING);
    }
    verdict(changed ? "step, changed" : "step");
}

int main(int count, char **arguments) {
    lmi_threads(3);
    if (count > 1 && strcmp(arguments[1], "tiles") == 0 && !lmi_tiles(1)) {
        printf("the matrix unit is not allowed\n");
        return 3;
    }
    for (int kind = 0; kind < KINDS; kind++) {
        const int64_t columns = kind == BF16 ? 288 : kind < Q4_K ? 96 : 512;
        if (kinds[kind].name == NULL) continue;
        const Weights plain = random_weights(kind, 70, columns, false);
        const Weights gated = random_weights(kind, 70, columns, true);
        check_linear(kinds[kind].name, &plain);
        check_linear(kinds[kind].name, &gated);
    }
    Weights parts = weights_of(180, 512, false);
    add_blocks(&parts, Q6_K, 70), add_blocks(&parts, BF16, 40), add_blocks(&parts, Q4_1, 70);
    check_linear("of three parts", &parts);
    const Weights source = random_weights(BF16, 130, 96, false);
    check_quantized(&source, 4), check_quantized(&source, 8);
    check_likelihood(3), check_likelihood(33);
    check_pointwise();
    for (int64_t size = 64; size <= 128; size *= 2)
        for (int64_t rows = 1; rows <= 29; rows += rows == 1 ? 7 : 21) {
            /* The last query has the last key. */
            check_attention(size, rows, 300, 370 - rows, 0, false);
            check_attention(size, rows, 300, 370 - rows, 2, false);
            check_attention(size, rows, 300, 370 - rows, 0, true);
            check_attention(size, rows, 0, 5 - rows, 0, false); /* the first ones have none */
        }
    check_step(false), check_step(true);
    return wrong > 0;
}
