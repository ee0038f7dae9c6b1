/* Vectors of sixteen lanes: AVX-512 (F, BW, VL, DQ), and BF16 and VNNI where compiled for them. */
#ifndef LMI_ISA_H
#define LMI_ISA_H

#include <immintrin.h>

#define LANES 16
#define ZIP_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define STEPS 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15

/* a * b + c, rounded once. The operators leave that to the compiler, which decides by the loop. */
static inline __m512 fused(__m512 a, __m512 b, __m512 c) { return _mm512_fmadd_ps(a, b, c); }

/* The larger of each two; of b, if either is nan. */
static inline __m512 maximum(__m512 a, __m512 b) { return _mm512_max_ps(a, b); }

#define HAS_BLEND 1

/* The lanes of `yes` where the mask is set, else of `no`. */
static inline __m512 chosen(__m512i mask, __m512 yes, __m512 no) {
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(mask), no, yes);
}

static inline float total(__m512 x) { return _mm512_reduce_add_ps(x); }

static inline float largest(__m512 x) { return _mm512_reduce_max_ps(x); }

static inline int any(__m512i mask) { return _mm512_test_epi32_mask(mask, mask) != 0; }

#define HAS_SCALE 1

typedef __m512 Power;

/* x minus its nearest whole number, which goes to *power; 0 for an infinity. */
static inline __m512 split(__m512 x, Power *power) {
    const __m512 part = _mm512_reduce_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    *power = _mm512_sub_ps(x, part);
    return part;
}

/* y * 2**power, for y between 1/2 and 2. */
static inline __m512 scaled(__m512 y, Power power, __m512 x) {
    (void)x;
    return _mm512_scalef_ps(y, power);
}

/* Sixteen numbers in half precision. */
static inline __m512 from_half(const uint16_t *from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

static inline uint16_t half_of(float x) { return (uint16_t)_cvtss_sh(x, 0); }

static inline float float_of(uint16_t half) { return _cvtsh_ss(half); }

#ifdef __AVX512BF16__
#define HAS_BF16_DOT 1

static inline __m256i narrowed(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }

/* The bfloat16 of a, then those of b. */
static inline __m512i both_narrowed(__m512 a, __m512 b) {
    return (__m512i)_mm512_cvtne2ps_pbh(b, a);
}

/* Pairs of bfloat16: the lanes of `even` and `odd` side by side. */
static inline __m512i paired(__m512 even, __m512 odd) {
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
                                           8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(order, (__m512i)_mm512_cvtne2ps_pbh(odd, even));
}

/* sums + left[0] * right[0] + left[1] * right[1], for pairs of bfloat16. */
static inline __m512 add_pairs(__m512 sums, __m512i left, __m512i right) {
    return _mm512_dpbf16_ps(sums, (__m512bh)left, (__m512bh)right);
}
#endif

#ifdef __AVX512VNNI__
#define HAS_BYTE_DOT 1

/* sums + the product of four unsigned bytes of `codes` with four signed ones of `bytes`. */
static inline __m512i add_bytes(__m512i sums, __m512i codes, __m512i bytes) {
    return _mm512_dpbusd_epi32(sums, codes, bytes);
}
#endif

/* The sums of the products of pairs of sixteen-bit numbers. */
static inline __m512i multiply_words(__m512i a, __m512i b) { return _mm512_madd_epi16(a, b); }

#ifndef __AVX512BF16__
#define HAS_BYTE_PAIRS 1

/* The sums of the products of pairs of bytes, unsigned and signed, in sixteen bits. */
static inline __m512i multiply_bytes(__m512i codes, __m512i bytes) {
    return _mm512_maddubs_epi16(codes, bytes);
}
#endif

#endif
