// Products of four pixels, unsigned bytes, with the weights of 16 channels, signed bytes (channel, 4), added to 16 sums: what
// each instruction set has for it. All of them compute the same whole numbers.
#pragma once
#include "simd.h"

#if __AVX512VNNI__
#define LESS 0
typedef I weights_of_word;
typedef U pixels_of_word;
INLINE weights_of_word split_weights(const int8_t *w) { return LOAD(I, w); }
INLINE pixels_of_word split_pixels(uint32_t word) {
  U pixels = word;
  __asm__ volatile("" : "+v"(pixels));  // not ahead of the products: compilers have no registers left for the sums then
  return pixels;
}
INLINE I dot(I sum, pixels_of_word x, weights_of_word w) {
  typedef int VNNI __attribute__((vector_size(64)));
  return (I)__builtin_ia32_vpdpbusd512((VNNI)sum, (VNNI)x, (VNNI)w);
}

#elif __ARM_NEON
#include <arm_neon.h>
typedef union {
  I all;
  int32x4_t part[BLOCK / 4];
} sums_of_word;
#if __ARM_FEATURE_DOTPROD
// Both are signed there: pixels less 128, so that LESS times the sum of the weights is missing.
#define LESS 128
typedef struct {
  int8x16_t part[BLOCK / 4];
} weights_of_word;
typedef int8x16_t pixels_of_word;
INLINE weights_of_word split_weights(const int8_t *w) {
  weights_of_word weights;
  UNROLL for (int i = 0; i < BLOCK / 4; i++) weights.part[i] = vld1q_s8(w + 16 * i);
  return weights;
}
INLINE pixels_of_word split_pixels(uint32_t word) { return vreinterpretq_s8_u32(vdupq_n_u32(word ^ 0x80808080)); }
INLINE I dot(I sum, pixels_of_word x, weights_of_word w) {
  sums_of_word sums = {.all = sum};
  UNROLL for (int i = 0; i < BLOCK / 4; i++) sums.part[i] = vdotq_s32(sums.part[i], w.part[i], x);
  return sums.all;
}
#else
#define LESS 0
typedef struct {
  int16x8_t tap[4][2];  // of 8 channels
} weights_of_word;
typedef int16x4_t pixels_of_word;
INLINE weights_of_word split_weights(const int8_t *w) {
  const int8x16x4_t bytes = vld4q_s8(w);
  weights_of_word weights;
  UNROLL for (int k = 0; k < 4; k++) {
    weights.tap[k][0] = vmovl_s8(vget_low_s8(bytes.val[k]));
    weights.tap[k][1] = vmovl_s8(vget_high_s8(bytes.val[k]));
  }
  return weights;
}
INLINE pixels_of_word split_pixels(uint32_t word) {
  return vreinterpret_s16_u16(vget_low_u16(vmovl_u8(vcreate_u8(word))));
}
INLINE I dot(I sum, pixels_of_word x, weights_of_word w) {
  sums_of_word sums = {.all = sum};
#define TAP(k)                                                                                  \
  UNROLL for (int i = 0; i < 2; i++) {                                                          \
    sums.part[2 * i] = vmlal_lane_s16(sums.part[2 * i], vget_low_s16(w.tap[k][i]), x, k);       \
    sums.part[2 * i + 1] = vmlal_lane_s16(sums.part[2 * i + 1], vget_high_s16(w.tap[k][i]), x, k); \
  }
  TAP(0) TAP(1) TAP(2) TAP(3)
  return sums.all;
}
#endif

#else
// In 16 bits nothing is lost: bytes 0 and 2, and 1 and 3. Products are added two by two, by one instruction for some lanes.
#define LESS 0
typedef int16_t H __attribute__((ext_vector_type(2 * BLOCK), aligned(4)));
typedef struct {
  H even, odd;
} weights_of_word;
typedef struct {
  uint32_t even, odd;
} pixels_of_word;
#if __AVX2__
#define DOT_PAIRS __builtin_ia32_pmaddwd256
enum { DOT_LANES = 8 };
#elif __SSE2__
#define DOT_PAIRS __builtin_ia32_pmaddwd128
enum { DOT_LANES = 4 };
#elif __wasm_simd128__
#define DOT_PAIRS __builtin_wasm_dot_s_i32x4_i16x8
enum { DOT_LANES = 4 };
#endif
#ifdef DOT_PAIRS
INLINE I pairs(H x, H w) {
  typedef int16_t halves __attribute__((vector_size(4 * DOT_LANES)));
  typedef int32_t words __attribute__((vector_size(4 * DOT_LANES)));
  union {
    H all;
    halves part[BLOCK / DOT_LANES];
  } xs = {.all = x}, ws = {.all = w};
  union {
    I all;
    words part[BLOCK / DOT_LANES];
  } sums;
  UNROLL for (int i = 0; i < BLOCK / DOT_LANES; i++) sums.part[i] = DOT_PAIRS(xs.part[i], ws.part[i]);
  return sums.all;
}
#else
INLINE I pairs(H x, H w) {
  return __builtin_convertvector(x.even, I) * __builtin_convertvector(w.even, I) +
         __builtin_convertvector(x.odd, I) * __builtin_convertvector(w.odd, I);
}
#endif
INLINE weights_of_word split_weights(const int8_t *w) { return (weights_of_word){LOAD(H, w) << 8 >> 8, LOAD(H, w) >> 8}; }
INLINE pixels_of_word split_pixels(uint32_t word) { return (pixels_of_word){word & 0xff00ff, word >> 8 & 0xff00ff}; }
INLINE I dot(I sum, pixels_of_word x, weights_of_word w) {
  return sum + pairs((H)(U)x.even, w.even) + pairs((H)(U)x.odd, w.odd);
}
#endif

// Pixels that are 1, as `LESS` wants them.
#define ONES (LESS ? 0x81818181 : 0x01010101)
