// What the real-valued kernels share: vectors of 16 channels, and what follows a sum. Clang vector types, no libc.
//
// Maps are (N, H, W, C), dense; parameters of channels are filled up to whole blocks of BLOCK. Every file declares the
// structures of its jobs, whose layout is that of `deploy/native.py`.
#pragma once
#include "kernel.h"

typedef int8_t C __attribute__((ext_vector_type(BLOCK), aligned(1)));
// Its own function: with the rest inlined around it, compilers keep sums in memory. Clang tunes x86-64-v4 for vectors of
// half the width, unless it is told.
#define INNERMOST static __attribute__((noinline, min_vector_width(512)))

// t < 0: t *= slope ; t += shift ; t = clamp(t, low, high) ; out = t ; bits = t >= threshold ; each where it is asked for.
struct after {
  int64_t height, width, channels;     // of the result
  int64_t out_channels;                // of a pixel of `out`, from whose first channel the result is written
  int64_t bits_height, bits_width, bits_top, bits_left, bits_words;  // words of a pixel of `bits`
  const float *slope, *shift, *threshold;
  float low, high;
  float *out;
  uint16_t *bits;
};

struct place {
  int64_t image, y, x;
};

INLINE int64_t blocks_of(int64_t channels) { return (channels + BLOCK - 1) / BLOCK; }

INLINE struct place place_of(int64_t pixel, int64_t height, int64_t width) {
  return (struct place){pixel / (height * width), pixel / width % height, pixel % width};
}

INLINE void step(struct place *at, int64_t height, int64_t width) {
  if (++at->x < width) return;
  at->x = 0;
  if (++at->y < height) return;
  at->y = 0;
  at->image++;
}

// `t`, channels from `first` on, of the `pixel` that lies at `at`; returns what was written.
INLINE F finish(const struct after *a, F t, int64_t pixel, const struct place *at, int64_t first) {
  if (a->slope) t = t > 0 ? t : t * LOAD(F, a->slope + first);
  if (a->shift) t += LOAD(F, a->shift + first);
  t = t < a->low ? (F)a->low : t;
  t = t > a->high ? (F)a->high : t;
  if (a->out) store_some(a->out + pixel * a->out_channels + first, t, a->channels - first);
  if (a->bits) {
    const int64_t row = (at->image * a->bits_height + at->y + a->bits_top) * a->bits_width + at->x + a->bits_left;
    a->bits[row * a->bits_words * 2 + first / BLOCK] = mask_of(__builtin_convertvector(t >= LOAD(F, a->threshold + first), M));
  }
  return t;
}

// Windows of a pooling.
struct windows {
  int64_t height, width, stride_y, stride_x, pad_y, pad_x;
};
enum { MOST_LINES = 16 };  // rows of a window, where their map is not kept

// A row of maxima over windows: of `n` lines of a map, `width` pixels of `channels` floats, of which those below 0 are
// multiplied by `before`, if given. A NaN stays. `row` is counted over all images.
INNERMOST __attribute__((unused)) void maxima_row(const struct windows *w, const struct after *after, const float *before,
                                                  const float *const *lines, int64_t n, int64_t width, int64_t channels,
                                                  int64_t row) {
  struct place at = {row / after->height, row % after->height, 0};
  for (; at.x < after->width; at.x++) {
    const int64_t left = at.x * w->stride_x - w->pad_x, x0 = left < 0 ? 0 : left, x1 = least(left + w->width, width);
    for (int64_t first = 0; first < after->channels; first += BLOCK) {
      const F slope = before ? LOAD(F, before + first) : (F)1;
      F most = -__builtin_inff();
      I odd = 0;
      for (int64_t line = 0; line < n; line++)
        for (int64_t x = x0; x < x1; x++) {
          F t = load_some(lines[line] + x * channels + first, channels - first);
          if (before) t = t > 0 ? t : t * slope;
          most = t > most ? t : most;
          odd |= t != t;
        }
      finish(after, odd ? (F)__builtin_nanf("") : most, row * after->width + at.x, &at, first);
    }
  }
}
