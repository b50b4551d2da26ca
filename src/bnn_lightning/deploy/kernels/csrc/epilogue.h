// Common code of the real-valued kernels: vectors of 16 channels, and the epilogue of a sum. Clang vector types, no libc.
//
// Maps are (N, H, W, C), dense; parameters of channels are filled up to whole blocks of BLOCK. Arguments are the
// structures of arguments.h.
#pragma once
#include "simd.h"

typedef int8_t C __attribute__((ext_vector_type(BLOCK), aligned(1)));
// Its own function: with the rest inlined around it, compilers keep sums in memory. Clang tunes x86-64-v4 for vectors of
// half the width, unless it is told.
#define INNERMOST static __attribute__((noinline, min_vector_width(512)))

INLINE F load_bytes(const int8_t *p) { return __builtin_convertvector(LOAD(C, p), F); }

struct place {
  int64_t image, y, x;
};

INLINE int64_t blocks_of(int64_t channels) { return (channels + BLOCK - 1) / BLOCK; }

INLINE struct place place_of(int64_t pixel, int64_t height, int64_t width) {
  return (struct place){pixel / (height * width), pixel / width % height, pixel % width};
}

// Parameters of the epilogue for a block of channels, from `first` on; those that are not given have no effect.
struct terms {
  F slope, shift, threshold;
};

INLINE struct terms terms_of(const struct after *a, int64_t first) {
  struct terms terms = {1, 0, 0};
  if (a->slope) terms.slope = LOAD(F, a->slope + first);
  if (a->shift) terms.shift = LOAD(F, a->shift + first);
  if (a->bits) terms.threshold = LOAD(F, a->threshold + first);
  return terms;
}

// Offset of the signs of a pixel, in halves of words.
INLINE int64_t signs_at(const struct after *a, const struct place *at) {
  return (((at->image * a->bits_height + at->y + a->bits_top) * a->bits_width + at->x + a->bits_left) * a->bits_words) * 2;
}

// `t`, channels from `first` on, of a `pixel` whose signs begin at `signs`; returns what was written.
INLINE F finish_block(const struct after *a, const struct terms *terms, F t, int64_t pixel, int64_t signs, int64_t first) {
  if (a->slope) t = t > 0 ? t : t * terms->slope;
  if (a->shift) t += terms->shift;
  t = t < a->low ? (F)a->low : t;
  t = t > a->high ? (F)a->high : t;
  if (a->out) store_some(a->out + pixel * a->out_channels + first, t, a->channels - first);
  if (a->bits) a->bits[signs + first / BLOCK] = mask_of(__builtin_convertvector(t >= terms->threshold, M));
  return t;
}

// The same of the `pixel` that lies at `at`.
INLINE F finish(const struct after *a, F t, int64_t pixel, const struct place *at, int64_t first) {
  const struct terms terms = terms_of(a, first);
  return finish_block(a, &terms, t, pixel, signs_at(a, at), first);
}

// The lines of a map that windows of a row lie in: `width` pixels of `channels` floats; those below 0 are multiplied by
// `before`, if given.
struct lines {
  const float *at[MOST_LINES], *before;
  int64_t n, width, channels;
};

INLINE void maxima_of_window(const struct lines *l, const struct after *after, int64_t x0, int64_t x1, int64_t pixel,
                             int64_t signs, int64_t first, int64_t blocks) {
  F most[4], slope[4], sums[4];
  UNROLL for (int b = 0; b < blocks; b++) most[b] = -__builtin_inff(), slope[b] = 1, sums[b] = 0;
  if (l->before) UNROLL for (int b = 0; b < blocks; b++) slope[b] = LOAD(F, l->before + first + b * BLOCK);
  for (int64_t line = 0; line < l->n; line++)
    for (int64_t x = x0; x < x1; x++) {
      const float *from = l->at[line] + x * l->channels + first;
      UNROLL for (int b = 0; b < blocks; b++) {
        F t = blocks > 1 ? LOAD(F, from + b * BLOCK) : load_some(from, l->channels - first);
        if (l->before) t = t > 0 ? t : t * slope[b];
        most[b] = t > most[b] ? t : most[b];
        sums[b] += t;
      }
    }
  // The maximum with a NaN is a NaN. A sum is one with it, or with infinities of both signs: then it is looked for.
  I odd = 0;
  UNROLL for (int b = 0; b < blocks; b++) odd |= sums[b] != sums[b];
  if (__builtin_reduce_or(odd))
    for (int64_t i = 0; i < blocks * BLOCK && first + i < l->channels; i++)
      for (int64_t line = 0; line < l->n; line++)
        for (int64_t x = x0; x < x1; x++) {
          const float t = l->at[line][x * l->channels + first + i];
          if (t != t) most[i / BLOCK][i % BLOCK] = t;
        }
  UNROLL for (int b = 0; b < blocks; b++) {
    const struct terms terms = terms_of(after, first + b * BLOCK);
    finish_block(after, &terms, most[b], pixel, signs, first + b * BLOCK);
  }
}

// A row of maxima over windows. `row` is counted over all images.
INNERMOST __attribute__((unused)) void maxima_row(const struct windows *w, const struct after *given, const struct lines *l,
                                                  int64_t row) {
  const struct after after = *given;
  struct place at = {row / after.height, row % after.height, 0};
  for (; at.x < after.width; at.x++) {
    const int64_t left = at.x * w->stride_x - w->pad_x, x0 = left < 0 ? 0 : left, x1 = least(left + w->width, l->width);
    const int64_t pixel = row * after.width + at.x, signs = signs_at(&after, &at);
    int64_t first = 0;
    for (; first + 4 * BLOCK <= after.channels; first += 4 * BLOCK) maxima_of_window(l, &after, x0, x1, pixel, signs, first, 4);
    for (; first < after.channels; first += BLOCK) maxima_of_window(l, &after, x0, x1, pixel, signs, first, 1);
  }
}
