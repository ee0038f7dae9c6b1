/* bfloat16 and vectors of floats: what all kernels share.
 *
 * Kernels are written once, in the vector types of GCC and Clang, whose operators work lane by lane.
 * What those cannot express is in one header for each instruction set.
 */
#ifndef LMI_VECTORS_H
#define LMI_VECTORS_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__AVX512F__)
#include "isa_avx512.h"
#elif defined(__AVX2__)
#include "isa_avx2.h"
#elif defined(__aarch64__)
#include "isa_neon.h"
#else
#error "there are no kernels for this instruction set"
#endif

typedef uint16_t bf16;
typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t bits32 __attribute__((vector_size(4 * LANES)));
typedef uint16_t bits16 __attribute__((vector_size(2 * LANES)));

/* A kernel that is compiled once for each value of a constant argument. */
#define INLINE static inline __attribute__((always_inline))

/* Bytes to prefetch ahead: the hardware's own prefetching stops at the end of a page. */
enum { AHEAD = 8192 };

/* Into the second-level cache. */
#define PREFETCH(address) __builtin_prefetch((const char *)(address) + AHEAD, 0, 2)

static inline int64_t clamp(int64_t x, int64_t low, int64_t high) {
    return x < low ? low : x > high ? high : x;
}

static inline floats load(const float *from) {
    floats x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline void store(float *to, floats x) { memcpy(to, &x, sizeof x); }

/* A register of any thirty-two-bit lanes. */
static inline bits32 load_bits(const void *from) {
    bits32 x;
    memcpy(&x, from, sizeof x);
    return x;
}

static inline void store_bits(void *to, bits32 x) { memcpy(to, &x, sizeof x); }

/* x in every lane. */
static inline floats fill(float x) { return x - (floats){0}; }

static inline bits32 fill_bits(uint32_t x) { return x - (bits32){0}; }

#ifndef HAS_BLEND
/* The lanes of `yes` where the mask is set, else of `no`. */
static inline floats chosen(ints mask, floats yes, floats no) {
    return (floats)((mask & (ints)yes) | (~mask & (ints)no));
}
#endif

static inline floats absolute(floats x) { return (floats)((bits32)x & 0x7FFFFFFF); }

/* LANES numbers in bfloat16, each in the lower half of a lane. */
static inline bits32 extended(const bf16 *from) {
    bits16 half;
    memcpy(&half, from, sizeof half);
    return __builtin_convertvector(half, bits32);
}

/* LANES numbers in bfloat16 as floats. */
static inline floats widened(const bf16 *from) { return (floats)(extended(from) << 16); }

#ifdef HAS_BF16_DOT
static inline bits32 rounded_bits(floats x) {
    return __builtin_convertvector((bits16)narrowed(x), bits32);
}

static inline void narrow(bf16 *to, floats x) {
    const bits16 half = (bits16)narrowed(x);
    memcpy(to, &half, sizeof half);
}
#else
/* The nearest bfloat16 of each lane, in its lower half; of two, the even one. nan stays nan. */
static inline bits32 rounded_bits(floats x) {
    const bits32 whole = (bits32)x, nearest = (whole + 0x7FFF + (whole >> 16 & 1)) >> 16;
    const bits32 broken = (bits32)(x != x);
    return (broken & (whole >> 16 | 0x40)) | (~broken & nearest);
}

static inline void narrow(bf16 *to, floats x) {
    const bits16 half = __builtin_convertvector(rounded_bits(x), bits16);
    memcpy(to, &half, sizeof half);
}
#endif

/* Rounded to bfloat16 and back. */
static inline floats rounded(floats x) { return (floats)(rounded_bits(x) << 16); }

#ifdef __clang__
#define SHUFFLED(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLED(a, b, ...) __builtin_shuffle(a, b, (bits32){__VA_ARGS__})
#endif

/* The lower halves of a and b, lanes in turn; and the upper halves. */
static inline bits32 zip_low(bits32 a, bits32 b) { return SHUFFLED(a, b, ZIP_LOW); }

static inline bits32 zip_high(bits32 a, bits32 b) { return SHUFFLED(a, b, ZIP_HIGH); }

/* The sums of LANES vectors: lane i is the sum of rows[i]. */
static inline floats sums_of(floats rows[LANES]) {
#pragma GCC unroll 4
    for (int left = LANES / 2; left > 0; left /= 2)
#pragma GCC unroll 8
        for (int at = 0; at < left; at++) {
            const bits32 a = (bits32)rows[at], b = (bits32)rows[at + left];
            rows[at] = (floats)zip_low(a, b) + (floats)zip_high(a, b);
        }
    return rows[0];
}

/* Transposes LANES rows of LANES lanes. */
static inline void transpose(bits32 rows[LANES]) {
#pragma GCC unroll 4
    for (int step = 1; step < LANES; step *= 2) {
        bits32 next[LANES];
#pragma GCC unroll 8
        for (int at = 0; at < LANES / 2; at++) {
            next[2 * at] = zip_low(rows[at], rows[at + LANES / 2]);
            next[2 * at + 1] = zip_high(rows[at], rows[at + LANES / 2]);
        }
        memcpy(rows, next, sizeof next);
    }
}

#ifndef HAS_SCALE
typedef bits32 Power;

/* x minus its nearest whole number, which goes to *power, in the place of an exponent. */
static inline floats split(floats x, Power *power) {
    const floats shifted = x + 12582912.0f; /* 1.5 * 2**23: what is below 1 is rounded away */
    *power = (bits32)shifted << 23;
    return x - (shifted - 12582912.0f);
}

/* y * 2**power, for y between 1/2 and 2; 0 for x < -125. */
static inline floats scaled(floats y, Power power, floats x) {
    return (floats)(((bits32)y + power) & ~(bits32)(x < -125.0f));
}
#endif

/* The nearest whole number. For magnitudes below 2**22. */
static inline floats nearest(floats x) { return x + 12582912.0f - 12582912.0f; }

/* exp(x), relative error below 1e-6 where x > -8 and 1e-5 below; 0 for -inf and very low x, nan for
 * nan. For x <= 88.
 */
static inline floats exponential(floats x) {
    Power power;
    const floats exponent = x * 1.44269504f, part = split(exponent, &power);
    floats sum = fill(1.3264727e-3f); /* 2**part, as near as five terms and the one come to it */
    sum = sum * part + 9.671513e-3f;
    sum = sum * part + 5.5507336e-2f;
    sum = sum * part + 0.24022243f;
    sum = sum * part + 0.693147f;
    sum = sum * part + 1.0f;
    return scaled(sum, power, exponent);
}

#endif
