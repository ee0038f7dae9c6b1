/* What the kernels compute, in plain code and double precision, and numbers to compute with; for
 * emulated.c. Errors are allowed as far as the formats of numbers explain them.
 */
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ROUNDING (1.01 / 256) /* to bfloat16 */
#define SUMMING (1.0 / 32768) /* up to 512 numbers in float32, of the sum of their magnitudes */
#define HALVING (1.0 / 2048)  /* to half precision */
#define WHOLE (1.0 / 65024)   /* an input below 1 to a whole number of 16 bits */
#ifdef HAS_BF16_DOT
#define SIDES ROUNDING /* of a product, where they are bfloat16 */
#else
#define SIDES 0.0
#endif
#ifdef HAS_BYTE_PAIRS
#define EIGHT (1.0 / 253) /* an input below 1 to a whole number of eight bits */
#else
#define EIGHT 0.0
#endif

static double of_bf16(bf16 x) {
    const uint32_t bits = (uint32_t)x << 16;
    float found;
    memcpy(&found, &bits, sizeof found);
    return found;
}

static bf16 to_bf16(double x) {
    const float single = (float)x;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    return (bf16)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

static double near(double x) { return of_bf16(to_bf16(x)); }

static uint16_t word_at(const void *from) {
    uint16_t found;
    memcpy(&found, from, sizeof found);
    return found;
}

/* A number in half precision. */
static double half_at(const void *from) {
    const int half = word_at(from), power = half >> 10 & 31;
    const double size = ldexp((half & 1023) + (power ? 1024 : 0), (power ? power : 1) - 25);
    return half & 0x8000 ? -size : size;
}

/* The formats of weights by their numbers in GGUF files; `power` is that of a usual scale. */
enum { BF16, Q4_0 = 2, Q4_1, Q5_0 = 6, Q5_1, Q8_0, Q4_K = 12, Q5_K, Q6_K, KINDS };
static const struct {
    const char *name;
    int bits, offset, has_minimum, columns, bytes, power;
} kinds[KINDS] = {
    [BF16] = {"bfloat16", 16, 0, 0, 1, 2, 0},  [Q4_0] = {"Q4_0", 4, 8, 0, 32, 18, -5},
    [Q4_1] = {"Q4_1", 4, 0, 1, 32, 20, -5},    [Q5_0] = {"Q5_0", 5, 16, 0, 32, 22, -6},
    [Q5_1] = {"Q5_1", 5, 0, 1, 32, 24, -6},    [Q8_0] = {"Q8_0", 8, 128, 0, 32, 34, -9},
    [Q4_K] = {"Q4_K", 4, 0, 1, 256, 144, -11}, [Q5_K] = {"Q5_K", 5, 0, 1, 256, 176, -12},
    [Q6_K] = {"Q6_K", 6, 32, 0, 256, 210, -14},
};

/* Number `at` of a block in a file, and the magnitude of what it is computed from. */
static double weight_of(int kind, const uint8_t *block, int at, double *magnitude) {
    const int place = at % 16, upper = at / 16 * 4;
    double scale = half_at(block), minimum = kinds[kind].has_minimum ? -half_at(block + 2) : 0;
    int code = 0;
    switch (kind) {
    case BF16: return *magnitude = fabs(of_bf16(word_at(block))), of_bf16(word_at(block));
    case Q8_0: code = (int8_t)block[2 + at]; break;
    case Q4_0: code = (block[2 + place] >> upper & 15) - 8; break;
    case Q4_1: code = block[4 + place] >> upper & 15; break;
    case Q5_0:
        code = (block[6 + place] >> upper & 15) + (block[2 + at / 8] >> at % 8) % 2 * 16 - 16;
        break;
    case Q5_1:
        code = (block[8 + place] >> upper & 15) + (block[4 + at / 8] >> at % 8) % 2 * 16;
        break;
    case Q6_K: {
        const int quarter = at / 32 % 4, four = block[at / 128 * 64 + at % 64];
        code = (quarter < 2 ? four % 16 : four / 16) - 32;
        code += (block[128 + at / 128 * 32 + at % 32] >> 2 * quarter) % 4 * 16;
        scale = half_at(block + 208) * (int8_t)block[192 + at / 16];
        break;
    }
    default: { /* Q4_K and Q5_K */
        const int span = at / 32, four = block[(kind == Q4_K ? 16 : 48) + span / 2 * 32 + at % 32];
        const uint8_t *six = block + 4;
        code = span % 2 ? four / 16 : four % 16;
        if (kind == Q5_K) code += (block[16 + at % 32] >> span) % 2 * 16;
        scale *= span < 4 ? six[span] % 64 : six[span + 4] % 16 + six[span - 4] / 64 * 16;
        minimum *= -(span < 4 ? six[span + 4] % 64 : six[span + 4] / 16 + six[span] / 64 * 16);
    }
    }
    *magnitude = fabs(scale) * (1 << kinds[kind].bits) + fabs(minimum);
    return scale * code - minimum;
}

static double plain_gate(int64_t ending, double x) {
    const double z = sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x);
    return ending == SWIGLU ? x / (1 + exp(-x)) : x / 2 * (1 + tanh(z));
}

static void plain_norm(const double *x, const float *weight, double epsilon, bool twice,
                       int64_t size, double *out) {
    double sum = 0;
    for (int64_t at = 0; at < size; at++) sum += x[at] * x[at];
    const double factor = 1 / sqrt(sum / (double)size + epsilon);
    for (int64_t at = 0; at < size; at++) {
        const double quotient = x[at] * factor;
        out[at] = near((twice ? near(quotient) : quotient) * weight[at]);
    }
}

/* Component `at` of a head after its rotation, and the magnitude of its summands. */
static double plain_rotation(const double *x, const float *cosine, const float *sine, int64_t size,
                             int64_t at, double *magnitude) {
    const double own = x[at] * cosine[at], other = x[(at + size / 2) % size] * sine[at];
    *magnitude = fabs(own) + fabs(other);
    return own + other;
}

/* Attention of a query to several ranges: out[size], and the same of magnitudes.
 *
 * `head` and `row` are those of the query, and `group` is the head of the keys. Returns the
 * logarithm of the sum.
 */
static double plain_attention(const Range *ranges, int64_t count, int64_t head, int64_t group,
                              int64_t row, int64_t size, double softcap, int64_t position,
                              double *out, double *magnitude) {
    double total_weight = 0;
    memset(out, 0, (size_t)size * sizeof *out);
    memset(magnitude, 0, (size_t)size * sizeof *magnitude);
    for (const Range *range = ranges; range < ranges + count; range++)
        for (int64_t at = 0; at < range->keys; at++) {
            const int64_t distance = position - range->key_start - at;
            if (distance < range->nearest || distance >= range->farthest) continue;
            const bf16 *query = range->query + head * range->query_head + row * range->query_row;
            const bf16 *key = range->key + group * range->key_head + at * size;
            const bf16 *value = range->value + group * range->value_head + at * size;
            double score = 0;
            for (int64_t k = 0; k < size; k++) score += of_bf16(query[k]) * of_bf16(key[k]);
            if (softcap > 0) score = softcap * tanh(score / softcap);
            if (range->slopes)
                score -= range->slopes[head] * (double)(range->query_at[row] - range->key_at[at]);
            total_weight += exp(score);
            for (int64_t k = 0; k < size; k++) {
                out[k] += exp(score) * of_bf16(value[k]);
                magnitude[k] += exp(score) * fabs(of_bf16(value[k]));
            }
        }
    for (int64_t k = 0; k < size && total_weight > 0; k++)
        out[k] /= total_weight, magnitude[k] /= total_weight;
    return log(total_weight);
}

static void *room(int64_t bytes) {
    void *made = calloc((size_t)bytes + 64, 1);
    if (made == NULL) exit(2);
    return made;
}

static uint32_t random_bits(void) {
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

/* Between -1 and 1. */
static double uniform(void) { return random_bits() / 1073741824.0 - 1; }

static bf16 *randoms(int64_t count, double most) {
    bf16 *made = room(count * 2);
    for (int64_t at = 0; at < count; at++) made[at] = to_bf16(most * uniform());
    return made;
}

static float *singles(int64_t count) {
    float *made = room(count * 4);
    for (int64_t at = 0; at < count; at++) made[at] = (float)uniform();
    return made;
}

static double *doubles(const bf16 *from, int64_t count) {
    double *made = room(count * 8);
    for (int64_t at = 0; at < count; at++) made[at] = of_bf16(from[at]);
    return made;
}

/* A layer and its weights [rows][columns]: of a gated one, all of the gate, then the others. */
typedef struct {
    Linear linear;
    bool gated, coded;
    double *weight, *magnitude, *bias;
    double error; /* of scales, relative */
} Weights;

static Weights weights_of(int64_t rows, int64_t columns, bool gated) {
    return (Weights){.linear.columns = columns, .gated = gated, .weight = room(8 * rows * columns),
                     .magnitude = room(8 * rows * columns), .bias = room(8 * rows)};
}

/* The product of a row with x[columns], whose components are below 1, and its error.
 *
 * Codes are multiplied by whole numbers, or become the one side of a product where tokens are many
 * and bytes are not multiplied faster.
 */
static double plain_product(const Weights *all, int64_t row, const double *x, bool many,
                            double *error) {
    double sum = all->bias[row], size = fabs(sum), computed = 0, whole = 0;
    for (int64_t at = 0; at < all->linear.columns; at++) {
        const int64_t place = row * all->linear.columns + at;
        sum += all->weight[place] * x[at];
        size += fabs(all->weight[place] * x[at]);
        computed += all->magnitude[place] * fabs(x[at]);
        whole += all->magnitude[place];
    }
    *error = SUMMING * size;
    if (all->coded) *error += (SUMMING + all->error) * computed;
    if (all->coded) *error += many ? SIDES * size + EIGHT * whole : WHOLE * whole;
    return sum;
}

/* What a layer makes of the products a and, if it is gated, b, and the error of that. */
static double plain_ending(int ending, double a, double a_error, double b, double b_error,
                           double before, double *error) {
    const double moved = a_error + ROUNDING * fabs(a), active = plain_gate(ending, a);
    *error = ending == WIDE ? a_error : moved;
    if (ending == ADD) return *error += ROUNDING * fabs(before + a), before + a;
    if (ending != SWIGLU && ending != GEGLU) return a;
    *error = (1.13 * moved + 2 * ROUNDING * fabs(active)) * fabs(b) + /* 1.13 is above all slopes */
             (fabs(active) + 1.13 * moved) * (b_error + ROUNDING * fabs(b));
    return active * b;
}
