// Convolutions of groups of channels, depthwise ones among them, directly on (N, H, W, C). See epilogue.h.
//
//   t[pixel, c] = sum_k weight[k, c] * x[pixel + offset k] ; t += bias[c] ; t = t * gain[c] + offset[c] (+ residual)
//
// and then what follows (`struct after`); products are added by rows, columns and channels. Weights are (group, block, tap
// and input channel, BLOCK); where each group has one channel and one result they are (block, tap, BLOCK): a block is 16
// groups. Parameters of channels follow upon each other, without gaps between groups, and are filled up to whole blocks behind
// the last one; a block more where groups are not whole blocks.
#include "epilogue.h"

enum { PIXELS = 4 };  // side by side, which share weights

// A row of the result, and the taps that lie in the map.
struct taps {
  int64_t image, y, first, end;  // rows of the window
};

// `n` pixels of a row, from x on, whose windows have the columns first .. end in the map.
typedef struct {
  int64_t x, n, first, end;
} span;

// Sums of 16 groups with a channel each.
INLINE void depthwise(const struct bnn_group_convolve *c, const struct taps *t, const span *s, const int64_t n, int64_t block,
                      F *sums) {
  const int64_t all = c->groups, left = all - block * BLOCK, step = c->stride_x * all;
  for (int64_t i = t->first; i < t->end; i++)
    for (int64_t j = s->first; j < s->end; j++) {
      const int64_t y = t->y * c->stride_y + i * c->dilation_y - c->pad_y, x = s->x * c->stride_x + j * c->dilation_x - c->pad_x;
      const float *from = c->x + ((t->image * c->height + y) * c->width + x) * all + block * BLOCK;
      const F weight = LOAD(F, c->weight + ((block * c->kernel_height + i) * c->kernel_width + j) * BLOCK);
      UNROLL for (int64_t p = 0; p < n; p++) sums[p] = fused(weight, load_some(from + p * step, left), sums[p]);
    }
}

// Sums of a block of results of one group.
INLINE void grouped(const struct bnn_group_convolve *c, const struct taps *t, const span *s, const int64_t n, int64_t group,
                    const float *weight, F *sums) {
  const int64_t all = c->groups * c->channels, step = c->stride_x * all;
  for (int64_t i = t->first; i < t->end; i++)
    for (int64_t j = s->first; j < s->end; j++) {
      const int64_t y = t->y * c->stride_y + i * c->dilation_y - c->pad_y, x = s->x * c->stride_x + j * c->dilation_x - c->pad_x;
      const float *from = c->x + ((t->image * c->height + y) * c->width + x) * all + group * c->channels;
      const float *w = weight + (i * c->kernel_width + j) * c->channels * BLOCK;
      for (int64_t k = 0; k < c->channels; k++, w += BLOCK) {
        const F weights = LOAD(F, w);
        UNROLL for (int64_t p = 0; p < n; p++) sums[p] = fused(weights, from[p * step + k], sums[p]);
      }
    }
}

// `end`: behind the channels that are computed, from `first` on.
INLINE void follow(const struct bnn_group_convolve *c, const struct after *given, const struct taps *t, const span *s, F *sums,
                   int64_t first, int64_t end) {
  struct after after = *given;
  after.channels = end;
  const struct terms terms = terms_of(&after, first);
  for (int64_t p = 0; p < s->n; p++) {
    const struct place at = {t->image, t->y, s->x + p};
    const int64_t pixel = (at.image * after.height + at.y) * after.width + at.x;
    F y = sums[p];
    if (c->bias) y += LOAD(F, c->bias + first);
    if (c->gain) y = fused(y, LOAD(F, c->gain + first), LOAD(F, c->offset + first));
    if (c->residual) y += load_some(c->residual + pixel * given->channels + first, end - first);
    finish_block(&after, &terms, y, pixel, after.bits ? signs_at(&after, &at) : 0, first);
  }
}

INLINE void span_of(const struct bnn_group_convolve *c, const struct after *given, const struct taps *t, const span *s,
                    const int64_t n) {
  const struct after after = *given;
  const int64_t channels = after.channels, outputs = channels / c->groups, factors = c->kernel_height * c->kernel_width * c->channels;
  if (c->channels == 1 && outputs == 1)
    for (int64_t block = 0; block < blocks_of(channels); block++) {
      F sums[PIXELS] = {0};
      depthwise(c, t, s, n, block, sums);
      follow(c, &after, t, s, sums, block * BLOCK, channels);
    }
  else
    for (int64_t group = 0; group < c->groups; group++)
      for (int64_t block = 0; block < blocks_of(outputs); block++) {
        F sums[PIXELS] = {0};
        grouped(c, t, s, n, group, c->weight + (group * blocks_of(outputs) + block) * factors * BLOCK, sums);
        const int64_t first = group * outputs + block * BLOCK;
        follow(c, &after, t, s, sums, first, least(first + BLOCK, (group + 1) * outputs));
      }
}

INNERMOST void span_of_one(const struct bnn_group_convolve *c, const struct after *after, const struct taps *t, const span *s) {
  span_of(c, after, t, s, 1);
}

INNERMOST void span_of_some(const struct bnn_group_convolve *c, const struct after *after, const struct taps *t, const span *s) {
  span_of(c, after, t, s, PIXELS);
}

// The taps of a window from `at` on that lie in 0 .. size: [first, end).
INLINE int64_t first_tap(int64_t at, int64_t dilation, int64_t taps) {
  return at >= 0 ? 0 : least(taps, (-at + dilation - 1) / dilation);
}
INLINE int64_t end_of_taps(int64_t at, int64_t dilation, int64_t taps, int64_t size) {
  return at >= size ? 0 : least(taps, (size - 1 - at) / dilation + 1);
}

static void rows(int64_t from, int64_t to, void *context) {
  const struct bnn_group_convolve *c = context;
  const int64_t width = c->after.width, height = c->after.height;
  for (int64_t row = from; row < to; row++) {
    struct taps t = {.image = row / height, .y = row % height};
    const int64_t top = t.y * c->stride_y - c->pad_y;
    t.first = first_tap(top, c->dilation_y, c->kernel_height);
    t.end = end_of_taps(top, c->dilation_y, c->kernel_height, c->height);
    for (span s = {.x = 0}; s.x < width; s.x += s.n) {
      const int64_t left = s.x * c->stride_x - c->pad_x, last = left + (PIXELS - 1) * c->stride_x;
      s.first = first_tap(left, c->dilation_x, c->kernel_width);
      s.end = end_of_taps(left, c->dilation_x, c->kernel_width, c->width);
      const bool whole = s.x + PIXELS <= width && !s.first && end_of_taps(last, c->dilation_x, c->kernel_width, c->width) == c->kernel_width;
      s.n = whole ? PIXELS : 1;
      (whole ? span_of_some : span_of_one)(c, &c->after, &t, &s);
    }
  }
}

void KERNEL(group_convolve)(const void *job, struct worker *worker) {
  const struct bnn_group_convolve *c = job;
  const double work = 1.0 * c->after.width * c->kernel_height * c->kernel_width * c->channels * c->after.channels;
  spread_out(worker, c->images * c->after.height, grain_of(1 << 18, work), rows, c);
}
