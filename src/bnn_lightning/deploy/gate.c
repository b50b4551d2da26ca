// Squeeze-and-excite, and the second pass behind it: everything from the gate to the next layer's signs. See real.h.
#include "real.h"

// gate = sigmoid(excite relu(squeeze m)), m = own + mix * (other - own) of means; weights as those of `struct linear`.
struct bnn_gate {
  int64_t images, channels, hidden, out_channels;
  const float *own, *other, *mix;  // (images, channels); other, mix: null for m = own
  const float *squeeze, *squeeze_scale, *squeeze_bias, *excite, *excite_scale, *excite_bias;
  const int8_t *squeeze_bytes, *excite_bytes;  // in place of the floats
  float *work, *gate;  // (images, blocks of channels and of hidden), (images, out_channels)
};

INLINE F exponential(F x) {
  x = x < -87 ? (F)-87 : x;
  x = x > 88 ? (F)88 : x;
  const F shifted = x * 1.44269504f + 12582912.0f;  // rounds: 1.5 * 2^23
  const F n = shifted - 12582912.0f;
  const F r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  F y = (F)1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  return (F)((I)y + (__builtin_convertvector(n, I) << 23));
}

// One block of outputs; four sums, so that additions do not wait for each other.
INNERMOST F row_of(const float *x, const float *w, const int8_t *bytes, const float *scale, const float *bias, int64_t n) {
  F sums[4] = {0};
  int64_t k = 0;
  if (bytes) {
    for (; k + 4 <= n; k += 4) UNROLL for (int i = 0; i < 4; i++) sums[i] += __builtin_convertvector(LOAD(C, bytes + (k + i) * BLOCK), F) * x[k + i];
    for (; k < n; k++) sums[0] += __builtin_convertvector(LOAD(C, bytes + k * BLOCK), F) * x[k];
  } else {
    for (; k + 4 <= n; k += 4) UNROLL for (int i = 0; i < 4; i++) sums[i] += LOAD(F, w + (k + i) * BLOCK) * x[k + i];
    for (; k < n; k++) sums[0] += LOAD(F, w + k * BLOCK) * x[k];
  }
  const F sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return (scale ? sum * LOAD(F, scale) : sum) + LOAD(F, bias);
}

static void gate_image(const struct bnn_gate *c, int64_t image) {
  const int64_t blocks = blocks_of(c->channels), inner = blocks_of(c->hidden), outer = blocks_of(c->out_channels);
  float *mean = c->work + image * (blocks + inner) * BLOCK, *hidden = mean + blocks * BLOCK;
  for (int64_t b = 0; b < blocks; b++) {
    const int64_t at = image * c->channels + b * BLOCK, left = c->channels - b * BLOCK;
    F m = load_some(c->own + at, left);
    if (c->other) m += LOAD(F, c->mix + b * BLOCK) * (load_some(c->other + at, left) - m);
    *(F *)(mean + b * BLOCK) = m;
  }
  for (int64_t b = 0; b < inner; b++) {
    const int64_t at = b * c->channels * BLOCK;
    const F t = row_of(mean, c->squeeze + at, c->squeeze_bytes ? c->squeeze_bytes + at : 0,
                       c->squeeze_scale ? c->squeeze_scale + b * BLOCK : 0, c->squeeze_bias + b * BLOCK, c->channels);
    *(F *)(hidden + b * BLOCK) = t > 0 ? t : (F)0;
  }
  for (int64_t b = 0; b < outer; b++) {
    const int64_t at = b * c->hidden * BLOCK;
    const F t = row_of(hidden, c->excite + at, c->excite_bytes ? c->excite_bytes + at : 0,
                       c->excite_scale ? c->excite_scale + b * BLOCK : 0, c->excite_bias + b * BLOCK, c->hidden);
    store_some(c->gate + image * c->out_channels + b * BLOCK, 1 / (1 + exponential(-t)), c->out_channels - b * BLOCK);
  }
}

static void gate_images(int64_t from, int64_t to, void *context) {
  for (int64_t image = from; image < to; image++) gate_image(context, image);
}

void bnn_gate(const struct bnn_gate *c, struct worker *worker) { spread_out(worker, c->images, 1, gate_images, c); }

// t = x * gate[image] ; r = prelu(residual) ; t *= r where `multiply` ; t = t * scale + bias ; t = prelu(t) by `inner` ;
// t += r ; then what follows (`struct after`), and the sums of what is written over parts of PART pixels.
enum { PART = 64 };
struct bnn_combine {
  int64_t images, pixels, residual_channels;  // pixels of an image; the residual's channels are repeated
  int64_t multiply, sums_channels;
  const float *x, *gate, *residual, *residual_slope, *scale, *bias, *inner;  // x is needed; gate: (images, channels)
  float *sums;
  struct after after;
};

INLINE F combine(const struct bnn_combine *c, F t, F gate, F r, int64_t first) {
  t *= gate;
  if (c->residual_slope) r = r > 0 ? r : r * LOAD(F, c->residual_slope + first);
  if (c->multiply) t *= r;
  if (c->scale) t = t * LOAD(F, c->scale + first) + LOAD(F, c->bias + first);
  if (c->inner) t = t > 0 ? t : t * LOAD(F, c->inner + first);
  return c->residual ? t + r : t;
}

// FEW pixels from the p-th on: their channels lie one after the other in memory, and share what belongs to a channel.
enum { FEW = 4 };
INNERMOST void combine_few(const struct bnn_combine *c, int64_t image, int64_t p, int64_t n, float *sums, bool fresh) {
  const struct after after = c->after;
  const float *gates = c->gate ? c->gate + image * after.channels : 0;
  struct place at[FEW], next = place_of(p, after.height, after.width);
  for (int64_t i = 0; i < n; i++) at[i] = (struct place){image, next.y, next.x}, step(&next, after.height, after.width);
  for (int64_t first = 0; first < after.channels; first += BLOCK) {
    const int64_t left = after.channels - first, pixel = image * c->pixels + p;
    const F gate = gates ? load_some(gates + first, left) : (F)1;
    const float *x = c->x + pixel * after.channels + first;
    const float *residual = c->residual ? c->residual + pixel * c->residual_channels + first % c->residual_channels : 0;
    F sum = sums && !fresh ? LOAD(F, sums + first) : (F)0;
    for (int64_t i = 0; i < n; i++, x += after.channels) {
      const F r = residual ? load_some(residual + i * c->residual_channels, left) : (F)0;
      sum += finish(&after, combine(c, load_some(x, left), gate, r, first), pixel + i, at + i, first);
    }
    if (sums) *(F *)(sums + first) = sum;
  }
}

static void combine_parts(int64_t from, int64_t to, void *context) {
  const struct bnn_combine *c = context;
  const int64_t parts = (c->pixels + PART - 1) / PART;
  for (int64_t i = from; i < to; i++) {
    const int64_t begin = i % parts * PART, end = least(begin + PART, c->pixels);
    float *sums = c->sums ? c->sums + i * c->sums_channels : 0;
    for (int64_t p = begin; p < end; p += FEW) combine_few(c, i / parts, p, least(FEW, end - p), sums, p == begin);
  }
}

void bnn_combine(const struct bnn_combine *c, struct worker *worker) {
  spread_out(worker, c->images * ((c->pixels + PART - 1) / PART), 1 + (1 << 15) / (PART * c->after.channels), combine_parts, c);
}
