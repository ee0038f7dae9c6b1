/* The block formats of GGUF files, and bfloat16, converted to blocks as linear layers keep them.
 *
 * The formats are those of ggml-common.h and ggml-quants.c of llama.cpp.
 */
#include "blocks.h"
#include "pool.h"

/* Numbers of the formats in GGUF files. */
enum { Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q4_K = 12, Q5_K = 13, Q6_K = 14 };

enum { MOST_SPANS = 16, MOST_COLUMNS = 256 }; /* of a block of a file */

/* A block of one row of a file: codes, and what each span of them is multiplied by. */
typedef struct {
    uint8_t codes[MOST_COLUMNS];
    uint16_t scale[MOST_SPANS], minimum[MOST_SPANS];
} Unpacked;

static uint16_t half_at(const uint8_t *from) {
    uint16_t half;
    memcpy(&half, from, sizeof half);
    return half;
}

static uint16_t negated(uint16_t half) { return half ^ 0x8000; }

/* Thirty-two codes whose lower bits are in nibbles: the first sixteen low, the others high. */
static void nibbles(const uint8_t *from, const uint8_t *fifth, uint8_t *codes) {
    for (int at = 0; at < 16; at++) {
        codes[at] = from[at] & 15;
        codes[16 + at] = from[at] >> 4;
    }
    for (int at = 0; fifth && at < 32; at++) codes[at] |= (fifth[at / 8] >> at % 8 & 1) << 4;
}

/* Scale and minimum of span `at` of a Q4_K or Q5_K block, six bits each. */
static void scales(const uint8_t *block, int at, Unpacked *to) {
    const uint8_t *from = block + 4;
    const int low = at < 4 ? from[at] & 63 : (from[at + 4] & 15) | from[at - 4] >> 6 << 4;
    const int high = at < 4 ? from[at + 4] & 63 : from[at + 4] >> 4 | from[at] >> 6 << 4;
    to->scale[at] = half_of(float_of(half_at(block)) * (float)low);
    to->minimum[at] = half_of(float_of(half_at(block + 2)) * (float)high);
}

static void unpack(int64_t kind, const uint8_t *from, Unpacked *to) {
    switch (kind) {
    case Q4_0:
    case Q5_0:
    case Q8_0:
        to->scale[0] = half_at(from);
        if (kind == Q4_0) nibbles(from + 2, NULL, to->codes);
        if (kind == Q5_0) nibbles(from + 6, from + 2, to->codes);
        for (int at = 0; kind == Q8_0 && at < 32; at++) to->codes[at] = from[2 + at] ^ 0x80;
        break;
    case Q4_1:
    case Q5_1:
        to->scale[0] = half_at(from);
        to->minimum[0] = negated(half_at(from + 2));
        nibbles(from + (kind == Q4_1 ? 4 : 8), kind == Q4_1 ? NULL : from + 4, to->codes);
        break;
    case Q4_K:
    case Q5_K: {
        const uint8_t *fifth = from + 16, *low = kind == Q4_K ? from + 16 : from + 48;
        for (int span = 0; span < 8; span++) {
            scales(from, span, to);
            for (int at = 0; at < 32; at++) {
                int code = low[span / 2 * 32 + at] >> 4 * (span % 2) & 15;
                if (kind == Q5_K) code |= (fifth[at] >> span & 1) << 4;
                to->codes[32 * span + at] = (uint8_t)code;
            }
        }
        break;
    }
    default: { /* Q6_K */
        const uint8_t *low = from, *upper = from + 128;
        const float unit = float_of(half_at(from + 208));
        for (int span = 0; span < 16; span++)
            to->scale[span] = half_of(unit * (float)(int8_t)from[192 + span]);
        for (int at = 0; at < 256; at++) {
            const int half = at / 128, quarter = at % 128 / 32, place = at % 32;
            const int four = low[64 * half + 32 * (quarter % 2) + place] >> 4 * (quarter / 2) & 15;
            const int two = upper[32 * half + place] >> 2 * quarter & 3;
            to->codes[at] = (uint8_t)(four | two << 4);
        }
    }
    }
}

/* Columns and bytes of a block of a file, and bits of a code. */
static void shape_of(int64_t kind, int64_t *columns, int64_t *bytes, int *bits) {
    *columns = kind >= Q4_K ? 256 : 32;
    switch (kind) {
    case Q4_0: *bytes = 18, *bits = 4; break;
    case Q4_1: *bytes = 20, *bits = 4; break;
    case Q5_0: *bytes = 22, *bits = 5; break;
    case Q5_1: *bytes = 24, *bits = 5; break;
    case Q8_0: *bytes = 34, *bits = 8; break;
    case Q4_K: *bytes = 144, *bits = 4; break;
    case Q5_K: *bytes = 176, *bits = 5; break;
    default: *bytes = 210, *bits = 6;
    }
}

/* Where the codes of PANEL rows go; minimum may be NULL. */
typedef struct {
    uint8_t *codes;
    uint16_t *scale, *minimum;
} Target;

static Target target_of(const Target *all, int64_t panel, int64_t columns, int bits) {
    const int64_t scales = panel * (columns / span_of(bits)) * PANEL;
    return (Target){all->codes + panel * (columns / BLOCK) * block_bytes(bits),
                    all->scale + scales, all->minimum ? all->minimum + scales : NULL};
}

/* Puts `count` columns of a row, from `column` on, in their places. */
static void put(const Target *to, int bits, int64_t row, int64_t column, int64_t count,
                const Unpacked *from) {
    const int64_t span = span_of(bits);
    for (int64_t at = 0; at < count; at += BLOCK)
        put_codes(bits, to->codes + (column + at) / BLOCK * block_bytes(bits), row,
                  from->codes + at);
    for (int64_t at = 0; at < count / span; at++) {
        to->scale[(column / span + at) * PANEL + row] = from->scale[at];
        if (to->minimum) to->minimum[(column / span + at) * PANEL + row] = from->minimum[at];
    }
}

typedef struct {
    int64_t kind, rows, columns, wide, place;
    const uint8_t *from;
    Target to;
} Repacking;

static void repack_panel(const void *work, int64_t panel, int64_t thread) {
    const Repacking *all = work;
    int64_t columns, bytes;
    int bits;
    (void)thread;
    shape_of(all->kind, &columns, &bytes, &bits);
    const Target to = target_of(&all->to, panel, all->columns, bits);
    const int64_t rows = clamp(all->rows - panel * all->wide, 0, all->wide);
    for (int64_t row = 0; row < rows; row++) {
        const int64_t first = (panel * all->wide + row) * (all->columns / columns);
        for (int64_t at = 0; at < all->columns; at += columns) {
            Unpacked block = {0};
            unpack(all->kind, all->from + (first + at / columns) * bytes, &block);
            put(&to, bits, all->place + row, at, columns, &block);
        }
    }
}

/* Converts rows [rows, columns] of a GGUF file to panels, whose codes are zero before.
 *
 * `wide` and `place` as for lmi_pack. minimum: NULL for Q4_0, Q5_0, Q8_0 and Q6_K.
 */
void lmi_repack(int64_t kind, const uint8_t *from, int64_t rows, int64_t columns, int64_t wide,
                int64_t place, uint8_t *codes, uint16_t *scale, uint16_t *minimum) {
    const Repacking all = {kind, rows, columns, wide, place, from, {codes, scale, minimum}};
    pool_run((rows + wide - 1) / wide, repack_panel, &all);
}

/* Eight bits a weight: the largest magnitude of a block becomes 127. */
static void round_to_bytes(const float x[BLOCK], Unpacked *to) {
    float most = 0.0f, sum = 0.0f;
    for (int at = 0; at < BLOCK; at++) {
        most = fmaxf(most, fabsf(x[at]));
        sum += x[at];
    }
    const float unit = float_of(to->scale[0] = half_of(sum - sum == 0.0f ? most / 127.0f : NAN));
    for (int at = 0; at < BLOCK; at++) {
        const float code = unit > 0.0f ? rintf(x[at] / unit) : 0.0f;
        to->codes[at] = (uint8_t)(128 + (int)fminf(fmaxf(code, -127.0f), 127.0f));
    }
}

/* Codes of x for a scale and a minimum; returns the sum of squared errors. */
static float codes_for(const float x[BLOCK], float scale, float minimum, float codes[BLOCK]) {
    const float factor = scale > 0.0f ? 1.0f / scale : 0.0f;
    float error = 0.0f;
    for (int at = 0; at < BLOCK; at++) {
        codes[at] = fminf(fmaxf(rintf((x[at] + minimum) * factor), 0.0f), 15.0f);
        const float off = scale * codes[at] - minimum - x[at];
        error += off * off;
    }
    return error;
}

/* Four bits a weight: of several ranges of the block, each fitted to its codes by least squares, the
 * one with the smallest error, in half precision as it is kept.
 */
static void round_to_nibbles(const float x[BLOCK], Unpacked *to) {
    enum { TRIES = 12 };
    float low = x[0], high = x[0], sum = 0.0f, best = INFINITY;
    for (int at = 0; at < BLOCK; at++) {
        low = fminf(low, x[at]);
        high = fmaxf(high, x[at]);
        sum += x[at];
    }
    to->scale[0] = to->minimum[0] = half_of(NAN); /* of what half precision cannot hold, too */
    memset(to->codes, 0, BLOCK);
    for (int attempt = 0; attempt < TRIES && sum - sum == 0.0f; attempt++) {
        float codes[BLOCK], scale = (high - low) / (14.0f + 0.2f * (float)attempt), minimum = -low;
        codes_for(x, scale, minimum, codes);
        float of_codes = 0.0f, squares = 0.0f, products = 0.0f;
        for (int at = 0; at < BLOCK; at++) {
            of_codes += codes[at];
            squares += codes[at] * codes[at];
            products += codes[at] * x[at];
        }
        const float spread = BLOCK * squares - of_codes * of_codes;
        if (spread > 0.0f) {
            scale = (BLOCK * products - of_codes * sum) / spread;
            minimum = (scale * of_codes - sum) / BLOCK;
        }
        const uint16_t kept_scale = half_of(scale), kept_minimum = half_of(minimum);
        const float error = codes_for(x, float_of(kept_scale), float_of(kept_minimum), codes);
        if (error < best) {
            best = error, to->scale[0] = kept_scale, to->minimum[0] = kept_minimum;
            for (int at = 0; at < BLOCK; at++) to->codes[at] = (uint8_t)codes[at];
        }
    }
}

typedef struct {
    const Part *part;
    int64_t columns, bits;
    Target to;
} Quantizing;

static void quantize_panel(const void *work, int64_t panel, int64_t thread) {
    const Quantizing *all = work;
    const int64_t columns = all->columns;
    const int bits = (int)all->bits;
    const bf16 *from = (const bf16 *)all->part->weight + panel * PANEL * columns;
    const Target to = target_of(&all->to, panel, columns, bits);
    (void)thread;
    for (int64_t row = 0; row < PANEL; row++)
        for (int64_t column = 0; column < columns; column += BLOCK) {
            float x[BLOCK];
            Unpacked block = {0};
            for (int at = 0; at < BLOCK; at++) {
                const int64_t pair = (column + at) / 2 * PANEL + row;
                const uint32_t whole = (uint32_t)from[2 * pair + at % 2] << 16;
                memcpy(x + at, &whole, sizeof whole);
            }
            if (bits == 8)
                round_to_bytes(x, &block);
            else
                round_to_nibbles(x, &block);
            put(&to, bits, row, column, BLOCK, &block);
        }
}

/* Converts a part in bfloat16 to blocks of 4 bits, or of 8 (offset 128, no minimum). */
void lmi_quantize(const Part *part, int64_t columns, int64_t bits, uint8_t *codes, uint16_t *scale,
                  uint16_t *minimum) {
    const Quantizing all = {part, columns, bits, {codes, scale, minimum}};
    pool_run(panels_of(part), quantize_panel, &all);
}
