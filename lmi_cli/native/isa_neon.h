/* Vectors of four lanes: NEON, which every 64-bit ARM processor has. */
#ifndef LMI_ISA_H
#define LMI_ISA_H

#include <arm_neon.h>

#define LANES 4
#define ZIP_LOW 0, 4, 1, 5
#define ZIP_HIGH 2, 6, 3, 7
#define STEPS 0, 1, 2, 3

/* a * b + c, rounded once. The operators leave that to the compiler, which decides by the loop. */
static inline float32x4_t fused(float32x4_t a, float32x4_t b, float32x4_t c) {
    return vfmaq_f32(c, a, b);
}

/* The larger of each two; nan, if either is nan. */
static inline float32x4_t maximum(float32x4_t a, float32x4_t b) { return vmaxq_f32(a, b); }

static inline float total(float32x4_t x) { return vaddvq_f32(x); }

static inline float largest(float32x4_t x) { return vmaxvq_f32(x); }

static inline int any(int32x4_t mask) { return vmaxvq_u32(vreinterpretq_u32_s32(mask)) != 0; }

/* Four numbers in half precision. */
static inline float32x4_t from_half(const uint16_t *from) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
}

static inline uint16_t half_of(float x) {
    return vget_lane_u16(vreinterpret_u16_f16(vcvt_f16_f32(vdupq_n_f32(x))), 0);
}

static inline float float_of(uint16_t half) {
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
}

/* The sums of the products of pairs of sixteen-bit numbers. */
static inline int32x4_t multiply_words(int32x4_t a, int32x4_t b) {
    const int16x8_t left = vreinterpretq_s16_s32(a), right = vreinterpretq_s16_s32(b);
    return vpaddq_s32(vmull_s16(vget_low_s16(left), vget_low_s16(right)),
                      vmull_high_s16(left, right));
}

#endif
