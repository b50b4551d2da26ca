// Squeeze-and-excite, and the second pass behind it: everything from the gate to the next layer's signs. See epilogue.h.
#include "epilogue.h"
#include "functions.h"

// One block of outputs; four sums, so that additions do not wait for each other.
INNERMOST F row_of(const float *x, const float *w, const int8_t *bytes, const float *scale, const float *bias, int64_t n) {
  F sums[4] = {0};
  int64_t k = 0;
  if (bytes) {
    for (; k + 4 <= n; k += 4) UNROLL for (int i = 0; i < 4; i++) sums[i] = fused(load_bytes(bytes + (k + i) * BLOCK), x[k + i], sums[i]);
    for (; k < n; k++) sums[0] = fused(load_bytes(bytes + k * BLOCK), x[k], sums[0]);
  } else {
    for (; k + 4 <= n; k += 4) UNROLL for (int i = 0; i < 4; i++) sums[i] = fused(LOAD(F, w + (k + i) * BLOCK), x[k + i], sums[i]);
    for (; k < n; k++) sums[0] = fused(LOAD(F, w + k * BLOCK), x[k], sums[0]);
  }
  const F sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return (scale ? sum * LOAD(F, scale) : sum) + LOAD(F, bias);
}

static float *work_of(const struct bnn_gate *c, int64_t image) {
  return c->work + image * (blocks_of(c->channels) + blocks_of(c->hidden)) * BLOCK;
}

static void blend(int64_t from, int64_t to, void *context) {
  const struct bnn_gate *c = context;
  for (int64_t image = from; image < to; image++)
    for (int64_t first = 0; first < c->channels; first += BLOCK) {
      const int64_t at = image * c->channels + first, left = c->channels - first;
      F m = load_some(c->own + at, left);
      if (c->other) m = fused(LOAD(F, c->mix + first), load_some(c->other + at, left) - m, m);
      *(F *)(work_of(c, image) + first) = m;
    }
}

static void squeeze(int64_t from, int64_t to, void *context) {
  const struct bnn_gate *c = context;
  const int64_t blocks = blocks_of(c->hidden);
  for (int64_t i = from; i < to; i++) {
    const int64_t first = i % blocks * BLOCK, at = first * c->channels;
    float *mean = work_of(c, i / blocks);
    const F t = row_of(mean, c->squeeze + at, c->squeeze_bytes ? c->squeeze_bytes + at : 0,
                       c->squeeze_scale ? c->squeeze_scale + first : 0, c->squeeze_bias + first, c->channels);
    *(F *)(mean + blocks_of(c->channels) * BLOCK + first) = t < 0 ? (F)0 : t;  // NaN stays NaN
  }
}

static void excite(int64_t from, int64_t to, void *context) {
  const struct bnn_gate *c = context;
  const int64_t blocks = blocks_of(c->out_channels);
  for (int64_t i = from; i < to; i++) {
    const int64_t image = i / blocks, first = i % blocks * BLOCK, at = first * c->hidden;
    const float *hidden = work_of(c, image) + blocks_of(c->channels) * BLOCK;
    const F t = row_of(hidden, c->excite + at, c->excite_bytes ? c->excite_bytes + at : 0,
                       c->excite_scale ? c->excite_scale + first : 0, c->excite_bias + first, c->hidden);
    store_some(c->gate + image * c->out_channels + first, sigmoid(t), c->out_channels - first);
  }
}

void KERNEL(gate)(const void *job, struct worker *worker) {
  const struct bnn_gate *c = job;
  const int64_t grain = 1 << 14;  // weights that are worth a share
  spread_out(worker, c->images, grain_of(grain, c->channels), blend, c);
  spread_out(worker, c->images * blocks_of(c->hidden), grain_of(grain, 1.0 * c->channels * BLOCK), squeeze, c);
  spread_out(worker, c->images * blocks_of(c->out_channels), grain_of(grain, 1.0 * c->hidden * BLOCK), excite, c);
}

// Pixels that share what belongs to a channel: some that follow upon each other, or those of a window of 2x2.
enum { FEW = 4 };
struct few {
  int64_t n, pixels[FEW];
  uint16_t *bits[FEW];
};

INLINE void take(const struct bnn_combine *c, struct few *f, const struct place *at) {
  const struct after *a = &c->after;
  const int64_t row = (at->image * a->bits_height + at->y + a->bits_top) * a->bits_width + at->x + a->bits_left;
  f->pixels[f->n] = (at->image * a->height + at->y) * a->width + at->x;
  f->bits[f->n++] = a->bits ? a->bits + row * a->bits_words * (WORD_BITS / BLOCK) : 0;
}

// The next few pixels from `at` on.
INLINE struct few next_of(const struct bnn_combine *c, struct place *at) {
  const struct after *a = &c->after;
  struct few f = {.n = 0};
  if (c->half) {
    for (int64_t i = 0; i < FEW; i++) {
      const struct place one = {at->image, at->y + i / 2, at->x + i % 2};
      if (one.y < a->height && one.x < a->width) take(c, &f, &one);
    }
    at->x += 2;
    if (at->x >= a->width) at->x = 0, at->y += 2;
  } else
    while (f.n < FEW && at->y < a->height) {
      take(c, &f, at);
      if (++at->x == a->width) at->x = 0, at->y++;
    }
  return f;
}

// A block of n pixels: returns the sum of what is written. Whole ones ask for those of the next pixels: maps side by side fit
// into no cache of a core, and processors do not foresee so many short rows of channels.
INLINE F combine_block(const struct bnn_combine *c, const struct few *f, int64_t image, float *half, int64_t first,
                       const int64_t n, const bool whole) {
  const struct after *a = &c->after;
  const int64_t left = whole ? BLOCK : a->channels - first;
  const bool other = first >= c->x_channels;
  const float *x = other ? c->second : c->x, *gate = other ? c->second_gate : c->gate;
  const int64_t own = first - (other ? c->x_channels : 0);  // the block among the channels of its map
  F t[FEW], r[FEW];
  const int64_t ahead = c->half ? FEW / 2 : FEW;
  for (int64_t i = 0; i < n && whole; i++) __builtin_prefetch(x + own + (f->pixels[i] + ahead) * c->x_channels);
  for (int64_t i = 0; i < n; i++) t[i] = load_some(x + own + f->pixels[i] * c->x_channels, left);
  if (gate) {
    const F gates = load_some(gate + image * c->x_channels + own, left);
    for (int64_t i = 0; i < n; i++) t[i] *= gates;
  }
  if (c->residual) {
    int64_t at = first;
    while (at >= c->residual_channels) at -= c->residual_channels;
    for (int64_t i = 0; i < n && whole; i++)
      __builtin_prefetch(c->residual + at + (f->pixels[i] + ahead) * c->residual_channels);
    for (int64_t i = 0; i < n; i++) r[i] = load_some(c->residual + at + f->pixels[i] * c->residual_channels, left);
    if (c->residual_slope) {
      const F slope = LOAD(F, c->residual_slope + first);
      for (int64_t i = 0; i < n; i++) r[i] = r[i] > 0 ? r[i] : r[i] * slope;
    }
    if (c->multiply) for (int64_t i = 0; i < n; i++) t[i] *= r[i];
  }
  if (c->scale) {
    const F scale = LOAD(F, c->scale + first), bias = LOAD(F, c->bias + first);
    for (int64_t i = 0; i < n; i++) t[i] = fused(t[i], scale, bias);
  }
  if (c->inner) {
    const F slope = LOAD(F, c->inner + first);
    for (int64_t i = 0; i < n; i++) t[i] = t[i] > 0 ? t[i] : t[i] * slope;
  }
  if (c->residual) for (int64_t i = 0; i < n; i++) t[i] += r[i];
  if (a->slope) {
    const F slope = LOAD(F, a->slope + first);
    for (int64_t i = 0; i < n; i++) t[i] = t[i] > 0 ? t[i] : t[i] * slope;
  }
  if (a->shift) {
    const F shift = LOAD(F, a->shift + first);
    for (int64_t i = 0; i < n; i++) t[i] += shift;
  }
  if (a->low > -__builtin_inff() || a->high < __builtin_inff()) {
    const F low = a->low, high = a->high;
    for (int64_t i = 0; i < n; i++) t[i] = t[i] < low ? low : t[i], t[i] = t[i] > high ? high : t[i];
  }
  if (a->bits) {
    const F threshold = LOAD(F, a->threshold + first);
    for (int64_t i = 0; i < n; i++) f->bits[i][first / BLOCK] = mask_of(__builtin_convertvector(t[i] >= threshold, M));
  }
  if (a->out) for (int64_t i = 0; i < n; i++) store_some(a->out + first + f->pixels[i] * a->out_channels, t[i], left);
  F sum = t[0];
  for (int64_t i = 1; i < n; i++) sum += t[i];
  if (half) {
    F all = sum;
    if (c->half_slope) {
      const F slope = LOAD(F, c->half_slope + first);
      for (int64_t i = 0; i < n; i++) t[i] = t[i] > 0 ? t[i] : t[i] * slope;
      all = t[0];
      for (int64_t i = 1; i < n; i++) all += t[i];
    }
    store_some(half + first, all / (float)n, left);
  }
  return sum;
}

INNERMOST void combine_part(const struct bnn_combine *job, int64_t image, int64_t part) {
  const struct bnn_combine c = *job;  // for all that compilers know, the stores change what `job` points to
  const int64_t channels = c.after.channels, columns = c.half ? (c.after.width + 1) / 2 : c.after.width;
  const int64_t fews = c.half ? (c.after.height + 1) / 2 * columns : (c.after.height * columns + FEW - 1) / FEW;
  const int64_t each = (fews + c.parts - 1) / c.parts, begin = least(part * each, fews), end = least(begin + each, fews);
  const int64_t pixel = c.half ? begin : begin * FEW;
  float *sums = c.sums ? c.sums + (image * c.parts + part) * blocks_of(channels) * BLOCK : 0;
  for (int64_t first = 0; sums && first < channels; first += BLOCK) *(F *)(sums + first) = 0;
  struct place at = {image, pixel / columns * (c.half ? 2 : 1), pixel % columns * (c.half ? 2 : 1)};
  for (int64_t i = begin; i < end; i++) {
    const struct few f = next_of(&c, &at);
    float *half = c.half ? c.half + (image * fews + i) * channels : 0;
    for (int64_t first = 0; first < channels; first += BLOCK) {
      F sum;
      if (f.n == FEW && channels - first >= BLOCK) sum = combine_block(&c, &f, image, half, first, FEW, true);
      else if (channels - first >= BLOCK) sum = combine_block(&c, &f, image, half, first, f.n, true);
      else sum = combine_block(&c, &f, image, half, first, f.n, false);
      if (sums) *(F *)(sums + first) += sum;
    }
  }
}

static void combine_parts(int64_t from, int64_t to, void *context) {
  const struct bnn_combine *c = context;
  for (int64_t i = from; i < to; i++) combine_part(c, i / c->parts, i % c->parts);
}

void KERNEL(combine)(const void *job, struct worker *worker) {
  const struct bnn_combine *c = job;
  spread_out(worker, c->images * c->parts, grain_of(1 << 15, 1.0 * PART * c->after.channels), combine_parts, c);
}
