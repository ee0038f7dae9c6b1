/* Windowed softmax attention for bfloat16 on processors with AVX512-BF16.
 *
 * The same result as kernel.py, with scores and sums in float32: one softmax over several ranges of
 * keys, each in its own band of true distance. Keys and values are packed in pairs, as the dot
 * product instruction wants them, once for all queries; then tiles of queries go over blocks of
 * keys and keep a running maximum and sum (Milakov and Gimelshein 2018, arXiv 1805.02867). A single
 * query packs nothing, since it reads each key once.
 */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    ROWS = 24,       /* queries of a tile */
    STRIP_ROWS = 6,  /* of which so many are multiplied at once: 6 x 4 registers of sums */
    BLOCK = 256,     /* keys of a block */
    STRIP = 64,      /* columns multiplied at once: 4 registers of 16 floats */
    SPLIT = 1024,    /* keys of a job, for a single query */
    MAX_SIZE = 256,  /* components of a head */
    MAX_RANGES = 4
};

typedef uint16_t bf16;

/* Must match Range in native.py. Strides are in elements; rows of keys and values are contiguous. */
typedef struct {
    const bf16 *query, *key, *value;
    int64_t query_head, query_row, key_head, value_head;
    int64_t keys;      /* number of keys */
    int64_t key_start; /* true position of the first */
    int64_t nearest;   /* smallest visible distance */
    int64_t farthest;  /* first distance no longer visible */
} Range;

static inline int64_t clamp(int64_t x, int64_t low, int64_t high) {
    return x < low ? low : x > high ? high : x;
}

/* The keys of a range that a query at a position sees: [*from, *to). */
static inline void band(const Range *range, int64_t position, int64_t *from, int64_t *to) {
    *from = clamp(position - range->farthest + 1 - range->key_start, 0, range->keys);
    *to = clamp(position - range->nearest - range->key_start + 1, *from, range->keys);
}

/* exp(x) for x <= 0, relative error below 1e-5; zero below -87; nan for nan. */
static inline __m512 exp_negative(__m512 x) {
    __mmask16 live = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.0f), _CMP_NLE_UQ);
    __m512 scaled = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f));
    __m512 whole = _mm512_roundscale_ps(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 part = _mm512_sub_ps(scaled, whole);
    __m512 sum = _mm512_set1_ps(1.3333558e-3f); /* the series of 2**part */
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(9.6181291e-3f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(5.5504109e-2f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(0.24022651f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(0.69314718f));
    sum = _mm512_fmadd_ps(sum, part, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(live, sum, whole);
}

/* The largest of some scores, a multiple of 16 of them; nan if one is. */
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

/* Keys [n, size] to [size / 2][BLOCK][2]. */
static void pack_keys(const bf16 *key, int64_t n, int64_t size, bf16 *packed) {
    uint32_t *out = (uint32_t *)packed;
    for (int64_t column = 0; column < BLOCK; column++)
        for (int64_t pair = 0; pair < size / 2; pair++) {
            uint32_t both = 0;
            if (column < n) memcpy(&both, key + column * size + 2 * pair, sizeof both);
            out[pair * BLOCK + column] = both;
        }
}

/* Values [n, size] to [BLOCK / 2][size][2]: components of two neighbouring keys side by side. */
static void pack_values(const bf16 *value, int64_t n, int64_t size, bf16 *packed) {
    for (int64_t row = 0; row < BLOCK; row += 2)
        for (int64_t at = 0; at < size; at++) {
            packed[row * size + 2 * at] = row < n ? value[row * size + at] : 0;
            packed[row * size + 2 * at + 1] = row + 1 < n ? value[(row + 1) * size + at] : 0;
        }
}

/* sums[STRIP_ROWS][64] += left[STRIP_ROWS][pairs] * right[pairs][64], in pairs of bfloat16. */
static inline __attribute__((always_inline)) void multiply(
    __m512 sums[STRIP_ROWS][4], const bf16 *left, int64_t left_row, const bf16 *right,
    int64_t right_row, int64_t pairs) {
    for (int64_t pair = 0; pair < pairs; pair++) {
        const bf16 *row = right + pair * right_row;
        __m512bh r0 = (__m512bh)_mm512_loadu_si512(row), r1 = (__m512bh)_mm512_loadu_si512(row + 32);
        __m512bh r2 = (__m512bh)_mm512_loadu_si512(row + 64);
        __m512bh r3 = (__m512bh)_mm512_loadu_si512(row + 96);
#pragma GCC unroll 6
        for (int at = 0; at < STRIP_ROWS; at++) {
            int32_t both;
            memcpy(&both, left + at * left_row + 2 * pair, sizeof both);
            __m512bh l = (__m512bh)_mm512_set1_epi32(both);
            sums[at][0] = _mm512_dpbf16_ps(sums[at][0], l, r0);
            sums[at][1] = _mm512_dpbf16_ps(sums[at][1], l, r1);
            sums[at][2] = _mm512_dpbf16_ps(sums[at][2], l, r2);
            sums[at][3] = _mm512_dpbf16_ps(sums[at][3], l, r3);
        }
    }
}

/* A tile of queries on its way over the keys. */
typedef struct {
    _Alignas(64) bf16 query[ROWS * MAX_SIZE];
    _Alignas(64) float scores[ROWS * BLOCK];
    _Alignas(64) bf16 weights[ROWS * BLOCK];
    _Alignas(64) float output[ROWS * MAX_SIZE];
    float peak[ROWS], sum[ROWS], shrink[ROWS];
} Tile;

/* Scores of one row become weights exp(score - peak); `first` and `last` bound the columns. */
static void softmax_row(Tile *tile, int row, int64_t first, int64_t last) {
    const float *scores = tile->scores + row * BLOCK;
    const float here = highest(scores, first, last);
    const float peak = isnan(here) ? here : fmaxf(tile->peak[row], here);
    bf16 *weights = tile->weights + row * BLOCK;
    if (peak == -INFINITY) { /* nothing seen yet */
        tile->shrink[row] = 1.0f;
        memset(weights + first, 0, (last - first) * sizeof *weights);
        return;
    }
    tile->shrink[row] = expf(tile->peak[row] - peak);
    tile->peak[row] = peak;
    __m512 top = _mm512_set1_ps(peak), sum0 = _mm512_setzero_ps(), sum1 = sum0;
    for (int64_t at = first; at < last; at += 32) {
        __m512 w0 = exp_negative(_mm512_sub_ps(_mm512_load_ps(scores + at), top));
        __m512 w1 = exp_negative(_mm512_sub_ps(_mm512_load_ps(scores + at + 16), top));
        sum0 = _mm512_add_ps(sum0, w0);
        sum1 = _mm512_add_ps(sum1, w1);
        _mm512_store_si512(weights + at, (__m512i)_mm512_cvtne2ps_pbh(w1, w0));
    }
    tile->sum[row] =
        tile->sum[row] * tile->shrink[row] + _mm512_reduce_add_ps(_mm512_add_ps(sum0, sum1));
}

static void mask_row(float *scores, int64_t from, int64_t to, int64_t first, int64_t last) {
    const __m512i steps = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    const __m512i low = _mm512_set1_epi32((int)from), high = _mm512_set1_epi32((int)to);
    for (int64_t at = first; at < last; at += 16) {
        __m512i column = _mm512_add_epi32(_mm512_set1_epi32((int)at), steps);
        __mmask16 seen =
            _mm512_cmpge_epi32_mask(column, low) & _mm512_cmplt_epi32_mask(column, high);
        __m512 masked = _mm512_mask_blend_ps(
            seen, _mm512_set1_ps(-INFINITY), _mm512_load_ps(scores + at));
        _mm512_store_ps(scores + at, masked);
    }
}

/* `count` queries at positions from `position` on take up what they see of a range. */
static void take_up(Tile *tile, const Range *range, const bf16 *keys, const bf16 *values,
                    int64_t count, int64_t position, int64_t size) {
    int64_t begin, end, unused;
    band(range, position, &begin, &unused);
    band(range, position + count - 1, &unused, &end);
    for (int64_t block = begin / BLOCK; block * BLOCK < end; block++) {
        const int64_t base = block * BLOCK;
        const int64_t first = clamp(begin - base, 0, BLOCK) / STRIP * STRIP;
        const int64_t last = (clamp(end - base, 0, BLOCK) + STRIP - 1) / STRIP * STRIP;
        const bf16 *key = keys + base * size, *value = values + base * size;
        for (int row = 0; row < count; row += STRIP_ROWS)
            for (int64_t at = first; at < last; at += STRIP) {
                __m512 sums[STRIP_ROWS][4];
                for (int r = 0; r < STRIP_ROWS; r++)
                    for (int j = 0; j < 4; j++) sums[r][j] = _mm512_setzero_ps();
                multiply(sums, tile->query + row * size, size, key + 2 * at, 2 * BLOCK, size / 2);
                for (int r = 0; r < STRIP_ROWS; r++)
                    for (int j = 0; j < 4; j++)
                        _mm512_store_ps(tile->scores + (row + r) * BLOCK + at + 16 * j, sums[r][j]);
            }
        for (int row = 0; row < count; row++) {
            int64_t from, to;
            band(range, position + row, &from, &to);
            from -= base, to -= base;
            if (from > first || to < last)
                mask_row(tile->scores + row * BLOCK, clamp(from, 0, BLOCK), clamp(to, 0, BLOCK),
                         first, last);
            softmax_row(tile, row, first, last);
        }
        for (int row = 0; row < count; row += STRIP_ROWS)
            for (int64_t at = 0; at < size; at += STRIP) {
                __m512 sums[STRIP_ROWS][4];
                float *output = tile->output + row * size + at;
                for (int r = 0; r < STRIP_ROWS; r++)
                    for (int j = 0; j < 4; j++)
                        sums[r][j] = _mm512_mul_ps(_mm512_set1_ps(tile->shrink[row + r]),
                                                   _mm512_loadu_ps(output + r * size + 16 * j));
                multiply(sums, tile->weights + row * BLOCK + first, BLOCK,
                         value + first * size + 2 * at, 2 * size, (last - first) / 2);
                for (int r = 0; r < STRIP_ROWS; r++)
                    for (int j = 0; j < 4; j++)
                        _mm512_storeu_ps(output + r * size + 16 * j, sums[r][j]);
            }
    }
}

static void write_row(bf16 *out, const float *values, float factor, int64_t size) {
    const __m512 scale = _mm512_set1_ps(factor);
    for (int64_t at = 0; at < size; at += 32) {
        __m512 low = _mm512_mul_ps(scale, _mm512_loadu_ps(values + at));
        __m512 high = _mm512_mul_ps(scale, _mm512_loadu_ps(values + at + 16));
        _mm512_storeu_si512(out + at, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

/* Attention of `rows` queries of every head, the first at true position `position`.
 *
 * out: [heads, rows, size]; lse: [heads, rows] or NULL. Returns 0, or 1 if memory ran out.
 */
int lmi_attend(const Range *ranges, int64_t count, int64_t heads, int64_t key_heads, int64_t rows,
               int64_t size, int64_t position, bf16 *out, float *lse) {
    const int64_t folds = heads / key_heads;
    bf16 *keys[MAX_RANGES] = {0}, *values[MAX_RANGES] = {0};
    int64_t blocks[MAX_RANGES];
    int failed = 0;
    for (int64_t at = 0; at < count; at++) {
        blocks[at] = (ranges[at].keys + BLOCK - 1) / BLOCK;
        const size_t bytes = (size_t)(key_heads * blocks[at]) * BLOCK * size * sizeof(bf16);
        keys[at] = aligned_alloc(64, bytes + 64 - bytes % 64);
        values[at] = aligned_alloc(64, bytes + 64 - bytes % 64);
        failed |= keys[at] == NULL || values[at] == NULL;
    }
    const int64_t tiles = (rows + ROWS - 1) / ROWS;
    if (!failed)
#pragma omp parallel
    {
        for (int64_t at = 0; at < count; at++) {
            const Range *range = ranges + at;
#pragma omp for schedule(static)
            for (int64_t job = 0; job < key_heads * blocks[at]; job++) {
                const int64_t head = job / blocks[at], first = job % blocks[at] * BLOCK;
                const int64_t n = clamp(range->keys - first, 0, BLOCK);
                const int64_t place = job * BLOCK * size;
                pack_keys(range->key + head * range->key_head + first * size, n, size,
                          keys[at] + place);
                pack_values(range->value + head * range->value_head + first * size, n, size,
                            values[at] + place);
            }
        }
        Tile tile;
#pragma omp for schedule(dynamic)
        for (int64_t job = 0; job < heads * tiles; job++) {
            const int64_t head = job / tiles, row = job % tiles * ROWS;
            const int64_t n = clamp(rows - row, 0, ROWS), group = head / folds;
            memset(tile.output, 0, sizeof tile.output);
            memset(tile.query, 0, sizeof tile.query);
            memset(tile.weights, 0, sizeof tile.weights);
            for (int at = 0; at < ROWS; at++)
                tile.peak[at] = -INFINITY, tile.sum[at] = 0.0f, tile.shrink[at] = 0.0f;
            for (int64_t at = 0; at < count; at++) {
                const Range *range = ranges + at;
                for (int64_t r = 0; r < n; r++)
                    memcpy(tile.query + r * size,
                           range->query + head * range->query_head + (row + r) * range->query_row,
                           size * sizeof(bf16));
                const int64_t place = group * blocks[at] * BLOCK * size;
                take_up(&tile, range, keys[at] + place, values[at] + place, n, position + row, size);
            }
            for (int64_t r = 0; r < n; r++) {
                const float sum = tile.sum[r];
                const int64_t index = head * rows + row + r;
                write_row(out + index * size, tile.output + r * size, sum == 0 ? 0 : 1 / sum, size);
                if (lse) lse[index] = sum == 0 ? -INFINITY : tile.peak[r] + logf(sum);
            }
        }
    }
    for (int64_t at = 0; at < count; at++) free(keys[at]), free(values[at]);
    return failed;
}

/* Sixteen sums of sixteen floats: result[i] is the sum of rows[i]. */
static inline __m512 sums_of(__m512 rows[16]) {
#pragma GCC unroll 8
    for (int at = 0; at < 8; at++) {
        __m512 low = _mm512_shuffle_f32x4(rows[at], rows[at + 8], 0x44);
        __m512 high = _mm512_shuffle_f32x4(rows[at], rows[at + 8], 0xEE);
        rows[at] = _mm512_add_ps(low, high); /* 8 lanes of row at, 8 of row at + 8 */
    }
#pragma GCC unroll 4
    for (int at = 0; at < 4; at++) {
        __m512 low = _mm512_shuffle_f32x4(rows[at], rows[at + 4], 0x88);
        __m512 high = _mm512_shuffle_f32x4(rows[at], rows[at + 4], 0xDD);
        rows[at] = _mm512_add_ps(low, high); /* 4 lanes each of at, at + 8, at + 4, at + 12 */
    }
#pragma GCC unroll 2
    for (int at = 0; at < 2; at++) {
        __m512 low = _mm512_unpacklo_ps(rows[at], rows[at + 2]);
        __m512 high = _mm512_unpackhi_ps(rows[at], rows[at + 2]);
        rows[at] = _mm512_add_ps(low, high); /* two lanes of at and at + 2, in turn */
    }
    __m512 low = _mm512_unpacklo_ps(rows[0], rows[1]);
    __m512 high = _mm512_unpackhi_ps(rows[0], rows[1]);
    __m512 sum = _mm512_add_ps(low, high); /* in each quarter: 0, 1, 2, 3 plus 0, 8, 4, 12 */
    return _mm512_shuffle_f32x4(sum, sum, 0xD8);
}

/* A single query of every head; nothing is packed. Otherwise like lmi_attend. */
int lmi_attend_one(const Range *ranges, int64_t count, int64_t heads, int64_t key_heads,
                   int64_t size, int64_t position, bf16 *out, float *lse) {
    const int64_t folds = heads / key_heads;
    int64_t splits[MAX_RANGES], from[MAX_RANGES], to[MAX_RANGES], parts = 0;
    for (int64_t at = 0; at < count; at++) {
        band(ranges + at, position, from + at, to + at);
        splits[at] = (to[at] - from[at] + SPLIT - 1) / SPLIT;
        parts += splits[at];
    }
    /* Of each part and head: output, peak, sum. */
    const int64_t width = size + 2;
    float *partial = malloc((size_t)(parts * heads * width + 1) * sizeof *partial);
    if (partial == NULL) return 1;
#pragma omp parallel for schedule(dynamic) collapse(2) if (parts * key_heads > 1)
    for (int64_t part = 0; part < parts; part++)
        for (int64_t group = 0; group < key_heads; group++) {
            int64_t which = 0, split = part;
            while (split >= splits[which]) split -= splits[which++];
            const Range *range = ranges + which;
            const int64_t first = from[which] + split * SPLIT;
            const int64_t n = clamp(to[which] - first, 0, SPLIT);
            const bf16 *key = range->key + group * range->key_head + first * size;
            const bf16 *value = range->value + group * range->value_head + first * size;
            _Alignas(64) float scores[SPLIT];
            for (int64_t fold = 0; fold < folds; fold++) {
                const int64_t head = group * folds + fold;
                const bf16 *query = range->query + head * range->query_head;
                float *output = partial + (part * heads + head) * width;
                for (int64_t at = 0; at < n; at += 16) {
                    __m512 rows[16];
                    for (int r = 0; r < 16; r++) {
                        rows[r] = _mm512_setzero_ps();
                        if (at + r >= n) continue;
                        for (int64_t c = 0; c < size; c += 32)
                            rows[r] = _mm512_dpbf16_ps(
                                rows[r], (__m512bh)_mm512_loadu_si512(query + c),
                                (__m512bh)_mm512_loadu_si512(key + (at + r) * size + c));
                    }
                    __m512 found = sums_of(rows);
                    if (n - at < 16)
                        found = _mm512_mask_blend_ps((__mmask16)((1u << (n - at)) - 1),
                                                     _mm512_set1_ps(-INFINITY), found);
                    _mm512_store_ps(scores + at, found);
                }
                const float peak = highest(scores, 0, n);
                __m512 sum = _mm512_setzero_ps();
                for (int64_t at = 0; at < n; at += 16) {
                    __m512 w = exp_negative(
                        _mm512_sub_ps(_mm512_load_ps(scores + at), _mm512_set1_ps(peak)));
                    sum = _mm512_add_ps(sum, w);
                    _mm512_store_ps(scores + at, w);
                }
                for (int64_t c = 0; c < size; c += STRIP) {
                    __m512 sums[4];
                    for (int j = 0; j < 4; j++) sums[j] = _mm512_setzero_ps();
                    for (int64_t at = 0; at < n; at++) {
                        const __m512 w = _mm512_set1_ps(scores[at]);
                        for (int j = 0; j < 4; j++) {
                            __m256i half = _mm256_loadu_si256(
                                (const __m256i *)(value + at * size + c + 16 * j));
                            __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16);
                            sums[j] = _mm512_fmadd_ps(w, _mm512_castsi512_ps(wide), sums[j]);
                        }
                    }
                    for (int j = 0; j < 4; j++) _mm512_storeu_ps(output + c + 16 * j, sums[j]);
                }
                output[size] = peak;
                output[size + 1] = _mm512_reduce_add_ps(sum);
            }
        }
    for (int64_t head = 0; head < heads; head++) {
        float peak = -INFINITY, sum = 0.0f;
        for (int64_t part = 0; part < parts; part++)
            peak = fmaxf(peak, partial[(part * heads + head) * width + size]);
        float whole[MAX_SIZE] = {0};
        for (int64_t part = 0; part < parts; part++) {
            const float *found = partial + (part * heads + head) * width;
            const float share = expf(found[size] - peak);
            sum += share * found[size + 1];
            for (int64_t at = 0; at < size; at++) whole[at] += share * found[at];
        }
        write_row(out + head * size, whole, sum == 0 ? 0 : 1 / sum, size);
        if (lse) lse[head] = sum == 0 ? -INFINITY : peak + logf(sum);
    }
    free(partial);
    return 0;
}
