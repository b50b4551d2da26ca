// Convolutions of real-valued maps, directly: no im2col, one tile of pixels x channels in registers. See epilogue.h.
//
//   t[pixel, c] = sum_k weight[k, c] * x[pixel + offset k] ; t += bias[c] ; t = t * gain[c] + offset[c] (+ residual)
//
// and then what follows (`struct after`). Products are added by rows, columns and channels, and each step is rounded, as
// in oneDNN's direct convolutions and torch's batch norm: where these run, with fused products and sums, the bits are the
// same.
// Images in bytes and weights in int8 have sums that are whole numbers, the same on every instruction set:
//
//   t[pixel, c] = bias[c] + scale[c] * sum_k weight[k, c] * x[pixel + offset k]
//
// Weights are (block, tap and input channel, BLOCK), those in int8 (block, word, BLOCK, 4): a word is four pixels side by
// side. Where windows leave the map, or x is averaged or normalized first, or is bytes, as many rows as `band` rows of the
// result need are copied into the worker's memory with all that lies around them. Maxima of windows may follow while rows
// are in the cache: only they are written then.
#include "dot.h"
#include "epilogue.h"

enum { MOST = 14 };  // pixels of a tile

// Compilers load the pixels of a tile ahead of the products, and have no registers left for the sums, unless told.
#if __AVX512F__
#define IN_TURN(v) __asm__ volatile("" : "+v"(v))
#else
#define IN_TURN(v) (void)(v)
#endif
#define SUMS(PIXELS, NB)                                                                                               \
  INNERMOST void sums_##PIXELS##_##NB(const void *const *x, const int32_t *offsets, const void *weight,                \
                                      const float *scale, int64_t n, F *acc) {                                         \
    F sums[PIXELS][NB] = {0};                                                                                          \
    const float *w = weight;                                                                                           \
    (void)scale;                                                                                                       \
    for (int64_t k = 0; k < n; k++, w += BLOCK) {                                                                      \
      const ptrdiff_t offset = offsets[k];                                                                             \
      F weights[NB];                                                                                                   \
      UNROLL for (int b = 0; b < NB; b++) weights[b] = LOAD(F, w + b * n * BLOCK);                                     \
      UNROLL for (int p = 0; p < PIXELS; p++) {                                                                        \
        F pixel = ((const float *)x[p])[offset];                                                                       \
        IN_TURN(pixel);                                                                                                \
        UNROLL for (int b = 0; b < NB; b++) sums[p][b] = fused(weights[b], pixel, sums[p][b]);                                          \
      }                                                                                                                \
    }                                                                                                                  \
    UNROLL for (int p = 0; p < PIXELS; p++) UNROLL for (int b = 0; b < NB; b++) acc[p * NB + b] = sums[p][b];          \
  }

#define WHOLE(PIXELS, NB)                                                                                              \
  INNERMOST void whole_##PIXELS##_##NB(const void *const *x, const int32_t *offsets, const void *weight,               \
                                       const float *scale, int64_t n, F *acc) {                                        \
    I sums[PIXELS][NB] = {0}, missing[NB] = {0};                                                                       \
    const int8_t *w = weight;                                                                                          \
    for (int64_t k = 0; k < n; k++, w += 4 * BLOCK) {                                                                  \
      const ptrdiff_t offset = offsets[k];                                                                             \
      weights_of_word weights[NB];                                                                                     \
      UNROLL for (int b = 0; b < NB; b++) weights[b] = split_weights(w + b * n * 4 * BLOCK);                           \
      if (LESS) UNROLL for (int b = 0; b < NB; b++) missing[b] = dot(missing[b], split_pixels(ONES), weights[b]); \
      UNROLL for (int p = 0; p < PIXELS; p++) {                                                                        \
        uint32_t word;                                                                                                 \
        __builtin_memcpy(&word, (const uint8_t *)x[p] + offset, sizeof word);                                          \
        const pixels_of_word pixels = split_pixels(word);                                                              \
        UNROLL for (int b = 0; b < NB; b++) sums[p][b] = dot(sums[p][b], pixels, weights[b]);                          \
      }                                                                                                                \
    }                                                                                                                  \
    UNROLL for (int p = 0; p < PIXELS; p++) UNROLL for (int b = 0; b < NB; b++)                                        \
        acc[p * NB + b] = __builtin_convertvector(sums[p][b] + LESS * missing[b], F) * LOAD(F, scale + b * BLOCK);                         \
  }
#define TILE(PIXELS, NB) SUMS(PIXELS, NB) WHOLE(PIXELS, NB)
#if __AVX512F__
TILE(6, 4)
TILE(12, 2)
TILE(14, 1)
#elif __AVX2__ || __aarch64__
TILE(6, 1)
#else
TILE(2, 1)
#endif

// Those of whole numbers are multiplied with the scale, the fourth argument.
typedef void (*sums_of)(const void *const *, const int32_t *, const void *, const float *, int64_t, F *);
// A tile of a layer: how many pixels and blocks, and what sums them.
struct shape {
  int64_t pixels, blocks;
  sums_of sums;
};

static struct shape shape_of(const struct bnn_real_convolve *c) {
#define SHAPE(PIXELS, NB) (struct shape) {PIXELS, NB, c->whole ? whole_##PIXELS##_##NB : sums_##PIXELS##_##NB}
#if __AVX512F__
  const int64_t blocks = blocks_of(c->after.channels);
  if (blocks >= 4) return SHAPE(6, 4);
  if (blocks >= 2) return SHAPE(12, 2);
  return SHAPE(14, 1);
#elif __AVX2__ || __aarch64__
  return SHAPE(6, 1);
#else
  return SHAPE(2, 1);
#endif
}

// Memory that windows are read from: x itself, or a band of it; strides in bytes.
struct view {
  const char *x;
  int64_t image, y, x_step;
};

// The pixels of a tile: where they are read and written, and where sums are whole, the bias of each.
struct pixels {
  const void *x[MOST];
  const float *bias[MOST];
  int64_t signs[MOST], n, to;
};

// The epilogue of the sums of some blocks; `plain` is whole blocks and neither residual, slope nor shift.
INLINE void follow(const struct bnn_real_convolve *c, const struct after *after, const struct pixels *at, const F *acc,
                   int64_t block, int64_t blocks, bool plain, bool whole) {
  for (int64_t b = 0; b < blocks; b++) {
    const int64_t channel = (block + b) * BLOCK;
    struct after own = *after;
    if (plain) own.slope = own.shift = 0, own.channels = channel + BLOCK;
    const struct terms terms = terms_of(&own, channel);
    const bool biased = !whole && c->bias, scaled = !whole && c->gain;
    const F bias = biased ? LOAD(F, c->bias + channel) : (F)0, gain = scaled ? LOAD(F, c->gain + channel) : (F)1;
    const F offset = scaled ? LOAD(F, c->offset + channel) : (F)0;
    if (plain && scaled && !biased && own.out && !own.bits) {  // what most layers are, without a question a pixel
      float *out = own.out + at->to * own.out_channels + channel;
      for (int64_t p = 0; p < at->n; p++, out += own.out_channels) {
        const F t = fused(acc[p * blocks + b], gain, offset), bounded = t < own.low ? (F)own.low : t;
        *(F *)out = bounded > own.high ? (F)own.high : bounded;
      }
      continue;
    }
    for (int64_t p = 0; p < at->n; p++) {
      F t = acc[p * blocks + b];
      if (whole) t += LOAD(F, at->bias[p] + channel);
      if (biased) t += bias;
      if (scaled) t = fused(t, gain, offset);
      if (!plain && c->residual)
        t += load_some(c->residual + (at->to + p) * own.channels + channel, own.channels - channel);
      finish_block(&own, &terms, t, at->to + p, at->signs[p], channel);
    }
  }
}

// Compute `n` pixels from `next` on, which is moved behind them; in what is written they begin at `to`.
INNERMOST void tile(const struct bnn_real_convolve *c, const struct after *given, const struct shape *s,
                    const struct view *v, struct place *next, int64_t n, int64_t to) {
  const struct after after = *given;  // what is written cannot change it
  const int64_t factors = c->factors, blocks = blocks_of(after.channels), size = c->whole ? 4 : sizeof(float);
  const bool plain = !c->residual && !after.slope && !after.shift && after.channels % BLOCK == 0;
  struct pixels at;
  at.n = n, at.to = to;
  for (int64_t p = 0; p < n;) {  // row by row
    const int64_t end = p + least(n - p, after.width - next->x), pixel_signs = after.bits_words * (WORD_BITS / BLOCK);
    const char *x = v->x + next->image * v->image + next->y * v->y + next->x * v->x_step;
    const float *bias = c->whole ? c->bias + c->bias_y[next->y] : 0;
    int64_t signs = after.bits ? signs_at(&after, next) : 0;
    for (; p < end; p++, next->x++, x += v->x_step, signs += pixel_signs) {
      at.x[p] = x, at.signs[p] = signs;
      if (c->whole) at.bias[p] = bias + c->bias_x[next->x];
    }
    if (next->x < after.width) continue;
    next->x = 0;
    if (++next->y == after.height) next->y = 0, next->image++;
  }
  for (int64_t p = n; p < s->pixels; p++) at.x[p] = at.x[n - 1];
  // The last blocks may overlap those before them: they are written twice, the same.
  for (int64_t done = 0; done < blocks; done += s->blocks) {
    const int64_t block = least(done, blocks - s->blocks);
    const float *scale = c->whole ? c->scale + block * BLOCK : 0;
    F acc[MOST * 4];
    s->sums(at.x, c->offsets, (const char *)c->weight + block * factors * BLOCK * size, scale, factors, acc);
    if (plain && c->whole) follow(c, &after, &at, acc, block, s->blocks, true, true);
    else if (plain) follow(c, &after, &at, acc, block, s->blocks, true, false);
    else follow(c, &after, &at, acc, block, s->blocks, false, c->whole);
  }
}

static void tiles(int64_t from, int64_t to, void *context) {
  const struct bnn_real_convolve *c = context;
  const struct shape s = shape_of(c);
  const int64_t size = sizeof(float), pixels = c->images * c->after.height * c->after.width;
  const struct view v = {c->x, c->x_image * size, c->stride_y * c->x_y * size, c->stride_x * c->x_x * size};
  struct place at = place_of(from * s.pixels, c->after.height, c->after.width);
  for (int64_t i = from * s.pixels; i < to * s.pixels && i < pixels; i += s.pixels)
    tile(c, &c->after, &s, &v, &at, least(s.pixels, pixels - i), i);
}

// Numbers of a band: rows, pixels of a row, and those that lie in x; planes are channels that lie apart. Elements are
// floats, or bytes where sums are whole.
struct band {
  int64_t rows, columns, inner, planes, size;
  const struct after *after;  // of the map that is computed
};

static struct band band_of(const struct bnn_real_convolve *c) {
  const bool apart = c->whole || c->mean || c->x_channel != 1;
  struct band b = {.planes = apart ? c->channels : 1, .inner = apart ? 1 : c->channels};
  b.after = c->maxima.height ? &c->inner : &c->after;
  b.size = c->whole ? 1 : sizeof(float);
  b.rows = (c->band - 1) * c->stride_y + (c->kernel_height - 1) * c->dilation_y + 1;
  b.columns = (b.after->width - 1) * c->stride_x + (c->kernel_width - 1) * c->dilation_x + 1;
  return b;
}

// Pixels as bytes: the nearest 255th; NaN is 0.
INNERMOST void round_pixels(const float *x, int64_t step, int64_t n, uint8_t *to) {
  for (int64_t i = 0; i < n; i++) {
    float t = x[i * step] * 255;
    t = t > 0 ? t : 0;
    t = t < 255 ? t : 255;
    to[i] = (uint8_t)(int32_t)__builtin_rintf(t);
  }
}

#define COPY(FROM, TO)                                                  \
  do {                                                                  \
    const FROM *x = (const FROM *)c->x + from;                          \
    TO *y = to;                                                         \
    if (step == 1) for (int64_t i = 0; i < n; i++) y[i] = x[i];         \
    else for (int64_t i = 0; i < n; i++) y[i] = x[i * step];            \
  } while (0)
INNERMOST void copy(const struct bnn_real_convolve *c, int64_t from, int64_t step, int64_t n, void *to) {
  if (c->whole && c->bytes) COPY(uint8_t, uint8_t);
  else if (c->whole) round_pixels((const float *)c->x + from, step, n, to);
  else if (c->bytes) COPY(uint8_t, float);
  else COPY(float, float);
}

INNERMOST void normalize(const struct bnn_real_convolve *c, int64_t plane, int64_t n, float *to) {
  const float mean = c->mean ? c->mean[plane] : 0, std = c->mean ? c->std[plane] : 1;
  if (c->bytes)
    for (int64_t i = 0; i < n; i++) to[i] /= 255;
  if (c->mean)
    for (int64_t i = 0; i < n; i++) to[i] = (to[i] - mean) / std;
}

// There is no libc to call.
__attribute__((no_builtin("memset"))) static void surround(const struct band *b, int64_t pixels, char *to) {
  for (int64_t i = 0; i < pixels * b->inner * b->size; i++) to[i] = 0;
}

// A row of the map, y of `plane`, and what lies left and right of it.
static void copy_row(const struct bnn_real_convolve *c, const struct band *b, int64_t image, int64_t plane, int64_t y, char *to) {
  const int64_t left = least(c->pad_x, b->columns), inside = least(c->width, b->columns - left), pixel = b->inner * b->size;
  if (y < 0 || y >= c->height) {
    surround(b, b->columns, to);
    return;
  }
  const int64_t from = image * c->x_image + plane * c->x_channel + y * c->x_y;
  surround(b, left, to);
  copy(c, from, b->inner == 1 ? c->x_x : 1, inside * b->inner, to + left * pixel);
  if (!c->whole) normalize(c, plane, inside * b->inner, (float *)(to + left * pixel));
  surround(b, b->columns - left - inside, to + (left + inside) * pixel);
}

// Averages over 2x2, or what there is of it at the far sides, added by rows and columns.
INNERMOST void average_row(const struct bnn_real_convolve *c, const struct band *b, int64_t image, int64_t y, float *to) {
  const float *row = (const float *)c->x + image * c->x_image + 2 * y * c->x_y;
  const bool down = 2 * y + 1 < c->height;
  for (int64_t i = 0; i < b->columns; i++, row += 2 * c->x_x, to += c->channels) {
    const bool right = 2 * i + 1 < c->width;
    const float factor = 1 / (float)((1 + down) * (1 + right));
    for (int64_t k = 0; k < c->channels; k += BLOCK) {
      const int64_t left = c->channels - k;
      const float *at = row + k, *below = at + c->x_y;
      F sum = load_some(at, left);
      if (down && right) sum = sum + load_some(at + c->x_x, left) + load_some(below, left) + load_some(below + c->x_x, left);
      else if (right) sum += load_some(at + c->x_x, left);
      else if (down) sum += load_some(below, left);
      store_some(to + k, sum * factor, left);
    }
  }
}

// Compute some rows of an image, at most a band, from the copy of what they need in `room`; pixels are written from `to` on.
static void band_rows(const struct bnn_real_convolve *c, const struct band *b, const struct shape *s, int64_t image,
                      int64_t top, int64_t rows, int64_t to, char *room) {
  const int64_t first_row = top * c->stride_y - c->pad_y, row = b->columns * b->inner * b->size;
  const int64_t needed = b->rows - (c->band - rows) * c->stride_y;
  for (int64_t plane = 0; plane < b->planes; plane++)
    for (int64_t y = 0; y < needed; y++) {
      char *place = room + (plane * b->rows + y) * row;
      if (c->pool == 1) copy_row(c, b, image, plane, first_row + y, place);
      else average_row(c, b, image, top + y, (float *)place);
    }
  // Rows are counted from the first one of the image; the band begins where the first of its own would be read.
  const struct view v = {room - top * c->stride_y * row, 0, c->stride_y * row, c->stride_x * b->inner * b->size};
  const int64_t pixels = rows * b->after->width;
  struct place at = {image, top, 0};
  for (int64_t p = 0; p < pixels; p += s->pixels) tile(c, b->after, s, &v, &at, least(s->pixels, pixels - p), to + p);
}

static void bands(int64_t from, int64_t to, void *context) {
  const struct own *own = context;
  const struct bnn_real_convolve *c = own->job;
  const struct shape s = shape_of(c);
  const struct band b = band_of(c);
  const int64_t each = (c->after.height + c->band - 1) / c->band;
  for (int64_t i = from; i < to; i++) {
    const int64_t image = i / each, top = i % each * c->band;
    const int64_t first = (image * c->after.height + top) * c->after.width;
    band_rows(c, &b, &s, image, top, least(c->band, c->after.height - top), first, own->work);
  }
}

// Maxima of the rows `from` .. `to` of an image. Rows before them lie in `work` in turns: those of the last band are kept.
static void maxima_of(const struct bnn_real_convolve *c, const struct band *b, const struct shape *s, int64_t image,
                      int64_t from, int64_t to, float *work, char *room) {
  const int64_t top = from * c->maxima.stride_y - c->maxima.pad_y, first = top < 0 ? 0 : top, width = b->after->width;
  const int64_t end = least((to - 1) * c->maxima.stride_y - c->maxima.pad_y + c->maxima.height, b->after->height);
  struct after inner = *b->after;
  struct band own = *b;
  inner.out = work;
  own.after = &inner;
  for (int64_t row = first, y = from; row < end; row += c->band) {
    const int64_t rows = least(c->band, end - row);
    band_rows(c, &own, s, image, row, rows, (row - first) / c->band % 2 * c->band * width, room);
    for (; y < to; y++) {
      const int64_t above = y * c->maxima.stride_y - c->maxima.pad_y, last = least(above + c->maxima.height, end);
      if (last > row + rows) break;
      struct lines lines;
      lines.before = 0, lines.n = 0, lines.width = width, lines.channels = inner.out_channels;
      for (int64_t r = above < 0 ? 0 : above; r < last; r++)
        lines.at[lines.n++] = work + (r - first) % (2 * c->band) * width * inner.out_channels;
      maxima_row(&c->maxima, &c->after, &lines, image * c->after.height + y);
    }
  }
}

static void rows_of_maxima(int64_t from, int64_t to, void *context) {
  const struct own *own = context;
  const struct bnn_real_convolve *c = own->job;
  const struct shape s = shape_of(c);
  const struct band b = band_of(c);
  const int64_t height = c->after.height, room = b.planes * b.rows * b.columns * b.inner * b.size + sizeof(uint32_t);
  float *work = (float *)(own->work + (room + LINE - 1) / LINE * LINE);
  for (int64_t row = from, some; row < to; row += some) {
    some = least(to - row, height - row % height);
    maxima_of(c, &b, &s, row / height, row % height, row % height + some, work, own->work);
  }
}

void KERNEL(real_convolve)(const void *job, struct worker *worker) {
  const struct bnn_real_convolve *c = job;
  const struct shape s = shape_of(c);
  const int64_t pixels = c->images * c->after.height * c->after.width;
  const double work = 1.0 * c->kernel_height * c->kernel_width * c->channels * c->after.channels;
  if (c->maxima.height) {
    // Shares compute the rows between them twice: as few as there are threads.
    const int64_t rows = c->images * c->after.height, least_rows = rows / threads_of(worker);
    const int64_t grain = grain_of(1 << 18, work * c->inner.width * c->inner.height / c->after.height);
    spread_out_in(c->work, c->work_size, worker, rows, grain > least_rows ? grain : least_rows, rows_of_maxima, c);
  } else if (c->band) {
    const int64_t bands_of_image = (c->after.height + c->band - 1) / c->band;
    const int64_t grain = grain_of(1 << 18, work * c->band * c->after.width);
    spread_out_in(c->work, c->work_size, worker, c->images * bands_of_image, grain, bands, c);
  } else spread_out(worker, (pixels + s.pixels - 1) / s.pixels, grain_of(1 << 18, work * s.pixels), tiles, c);
}
