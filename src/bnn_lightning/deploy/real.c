// Convolutions of real-valued maps, directly: no im2col, one tile of pixels x channels in registers. See real.h.
//
//   t[pixel, c] = bias[c] + sum_k weight[k, c] * x[pixel + offset k] (+ residual) ; then what follows (`struct after`)
//
// Weights are (block, tap and input channel, BLOCK). Where windows leave the map, or x is averaged over 2x2 first, or is
// bytes, as many rows as `band` rows of the result need are copied into a small buffer with all that lies around them.
#include "real.h"

enum { MOST = 12, ROOM = 1 << 15 };  // pixels of a tile; floats of a band

struct bnn_real_convolve {
  int64_t images, channels, height, width;  // of x
  int64_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_y, pad_x;
  int64_t x_image, x_channel, x_y, x_x;  // strides of x in elements; of a band: pixels or channels are dense
  int64_t pool;                          // 2: x is averaged over 2x2 first, and the kernel is 1x1; otherwise 1
  int64_t band;                          // rows of the result that are computed at a time; 0: x is read in place
  const void *x;
  int64_t bytes;  // whether x is uint8
  const float *weight, *bias, *residual;
  const float *padding;    // (channels): what lies around x; null: 0
  const int32_t *offsets;  // of the factors of a window from its beginning, in x, or in a band
  struct after after;
};

#define SUMS(PIXELS, NB)                                                                                               \
  INNERMOST void sums_##PIXELS##_##NB(const float *const *x, const int32_t *offsets, const float *w, const float *bias, \
                                      int64_t n, F *acc) {                                                             \
    F sums[PIXELS][NB];                                                                                                \
    const int64_t stride = n * BLOCK;                                                                                  \
    UNROLL for (int p = 0; p < PIXELS; p++) UNROLL for (int b = 0; b < NB; b++) sums[p][b] = LOAD(F, bias + b * BLOCK); \
    for (int64_t k = 0; k < n; k++, w += BLOCK) {                                                                      \
      const ptrdiff_t offset = offsets[k];                                                                             \
      F weights[NB];                                                                                                   \
      UNROLL for (int b = 0; b < NB; b++) weights[b] = LOAD(F, w + b * stride);                                        \
      UNROLL for (int p = 0; p < PIXELS; p++) UNROLL for (int b = 0; b < NB; b++) sums[p][b] += weights[b] * x[p][offset]; \
    }                                                                                                                  \
    UNROLL for (int p = 0; p < PIXELS; p++) UNROLL for (int b = 0; b < NB; b++) acc[p * NB + b] = sums[p][b];          \
  }
#if __AVX512F__
SUMS(6, 4)
SUMS(12, 2)
SUMS(12, 1)
#elif __AVX2__ || __ARM_NEON
SUMS(6, 1)
#else
SUMS(3, 1)
#endif

typedef void (*sums_of)(const float *const *, const int32_t *, const float *, const float *, int64_t, F *);
// A tile of a layer: how many pixels and blocks, and what sums them.
struct shape {
  int64_t pixels, blocks;
  sums_of sums;
};

static struct shape shape_of(int64_t blocks) {
  (void)blocks;
#if __AVX512F__
  if (blocks >= 4) return (struct shape){6, 4, sums_6_4};
  if (blocks >= 2) return (struct shape){12, 2, sums_12_2};
  return (struct shape){12, 1, sums_12_1};
#elif __AVX2__ || __ARM_NEON
  return (struct shape){6, 1, sums_6_1};
#else
  return (struct shape){3, 1, sums_3_1};
#endif
}

// Where windows are read: x itself, or a band of it; strides in floats.
struct view {
  const float *x;
  int64_t image, y, x_step;
};

INNERMOST void tile(const struct bnn_real_convolve *c, const struct shape *s, const struct view *v, int64_t first, int64_t n) {
  const int64_t factors = c->kernel_height * c->kernel_width * c->channels, blocks = blocks_of(c->after.channels);
  const struct after after = c->after;
  struct place at[MOST], next = place_of(first, after.height, after.width);
  const float *x[MOST];
  for (int64_t p = 0; p < s->pixels; p++) {
    at[p] = next;
    x[p] = p < n ? v->x + next.image * v->image + next.y * v->y + next.x * v->x_step : x[n - 1];
    if (p < n) step(&next, after.height, after.width);
  }
  // The last blocks may overlap those before them: they are written twice, the same.
  for (int64_t done = 0; done < blocks; done += s->blocks) {
    const int64_t block = least(done, blocks - s->blocks);
    F acc[MOST * 4];
    s->sums(x, c->offsets, c->weight + block * factors * BLOCK, c->bias + block * BLOCK, factors, acc);
    for (int64_t p = 0; p < n; p++)
      for (int64_t b = 0; b < s->blocks; b++) {
        const int64_t channel = (block + b) * BLOCK, pixel = first + p;
        F value = acc[p * s->blocks + b];
        if (c->residual) value += load_some(c->residual + pixel * after.channels + channel, after.channels - channel);
        finish(&after, value, pixel, at + p, channel);
      }
  }
}

static void tiles(int64_t from, int64_t to, void *context) {
  const struct bnn_real_convolve *c = context;
  const struct shape s = shape_of(blocks_of(c->after.channels));
  const struct view v = {c->x, c->x_image, c->stride_y * c->x_y, c->stride_x * c->x_x};
  const int64_t pixels = c->images * c->after.height * c->after.width;
  for (int64_t i = from * s.pixels; i < to * s.pixels && i < pixels; i += s.pixels) tile(c, &s, &v, i, least(s.pixels, pixels - i));
}

// Numbers of a band: rows, pixels of a row, and those that lie in x; planes are channels that lie apart.
struct band {
  int64_t rows, columns, inner, planes;
};

static struct band band_of(const struct bnn_real_convolve *c) {
  struct band b = {.planes = c->x_channel == 1 ? 1 : c->channels, .inner = c->x_channel == 1 ? c->channels : 1};
  b.rows = (c->band - 1) * c->stride_y + (c->kernel_height - 1) * c->dilation_y + 1;
  b.columns = (c->after.width - 1) * c->stride_x + (c->kernel_width - 1) * c->dilation_x + 1;
  return b;
}

INNERMOST void copy(const struct bnn_real_convolve *c, int64_t from, int64_t n, float *to) {
  if (c->bytes) {
    const uint8_t *x = (const uint8_t *)c->x + from;
    for (int64_t i = 0; i < n; i++) to[i] = x[i];
  } else {
    const float *x = (const float *)c->x + from;
    for (int64_t i = 0; i < n; i++) to[i] = x[i];
  }
}

static void surround(const struct bnn_real_convolve *c, const struct band *b, int64_t plane, int64_t pixels, float *to) {
  for (int64_t i = 0; i < pixels * b->inner; i++) to[i] = c->padding ? c->padding[plane + i % b->inner] : 0;
}

// A row of the map, y of `plane`, and what lies left and right of it.
static void copy_row(const struct bnn_real_convolve *c, const struct band *b, int64_t image, int64_t plane, int64_t y, float *to) {
  const int64_t left = least(c->pad_x, b->columns), inside = least(c->width, b->columns - left);
  if (y < 0 || y >= c->height) {
    surround(c, b, plane, b->columns, to);
    return;
  }
  surround(c, b, plane, left, to);
  copy(c, image * c->x_image + plane * c->x_channel + y * c->x_y, inside * b->inner, to + left * b->inner);
  surround(c, b, plane, b->columns - left - inside, to + (left + inside) * b->inner);
}

// Averages over 2x2, or what there is of it at the far sides: what is missing is what lies before it, counted twice.
INNERMOST void average_row(const struct bnn_real_convolve *c, const struct band *b, int64_t image, int64_t y, float *to) {
  const float *row = (const float *)c->x + image * c->x_image + 2 * y * c->x_y;
  const int64_t down = 2 * y + 1 < c->height ? c->x_y : 0;
  for (int64_t i = 0; i < b->columns; i++, row += 2 * c->x_x, to += c->channels) {
    const int64_t right = 2 * i + 1 < c->width ? c->x_x : 0;
    for (int64_t k = 0; k < c->channels; k += BLOCK) {
      const int64_t left = c->channels - k;
      const float *at = row + k;
      const F sum = (load_some(at, left) + load_some(at + right, left)) + (load_some(at + down, left) + load_some(at + down + right, left));
      store_some(to + k, sum * 0.25f, left);
    }
  }
}

static void bands(int64_t from, int64_t to, void *context) {
  const struct bnn_real_convolve *c = context;
  const struct shape s = shape_of(blocks_of(c->after.channels));
  const struct band b = band_of(c);
  const int64_t each = (c->after.height + c->band - 1) / c->band, row = b.columns * b.inner;
  float room[ROOM];
  for (int64_t i = from; i < to; i++) {
    const int64_t image = i / each, top = i % each * c->band, rows = least(c->band, c->after.height - top);
    const int64_t first_row = top * c->stride_y - c->pad_y;
    for (int64_t plane = 0; plane < b.planes; plane++)
      for (int64_t y = 0; y < b.rows; y++) {
        float *place = room + (plane * b.rows + y) * row;
        if (c->pool == 1) copy_row(c, &b, image, plane, first_row + y, place);
        else if (y < rows) average_row(c, &b, image, top + y, place);
      }
    // Pixels are counted from the first one of all images; the band begins where the first of its own would be read.
    const struct view v = {room - top * c->stride_y * row, 0, c->stride_y * row, c->stride_x * b.inner};
    const int64_t first = (image * c->after.height + top) * c->after.width, pixels = rows * c->after.width;
    for (int64_t p = 0; p < pixels; p += s.pixels) tile(c, &s, &v, first + p, least(s.pixels, pixels - p));
  }
}

void bnn_real_convolve(const struct bnn_real_convolve *c, struct worker *worker) {
  const struct shape s = shape_of(blocks_of(c->after.channels));
  const int64_t pixels = c->images * c->after.height * c->after.width;
  const int64_t work = c->kernel_height * c->kernel_width * c->channels * c->after.channels;
  if (c->band)
    spread_out(worker, c->images * ((c->after.height + c->band - 1) / c->band), 1 + (1 << 18) / (work * c->band * c->after.width), bands, c);
  else spread_out(worker, (pixels + s.pixels - 1) / s.pixels, 1 + (1 << 18) / (work * s.pixels), tiles, c);
}

int64_t bnn_band_room(void) { return ROOM; }

// Linear layers, row by row: y[c] = bias[c] + scale[c] * sum_k weight[k, c] * x[k], with weights in float32 or int8.

struct bnn_linear {
  int64_t rows, factors, x_row;  // elements from one row of x to the next
  const float *x, *weight, *scale, *bias;  // scale: null unless the weights are int8
  const int8_t *bytes;
  struct after after;  // of pixels in a row
};
enum { LANES = 4 };  // blocks at a time

#define ROW(name, type, load)                                                                                          \
  INNERMOST void name(const float *x, const type *w, int64_t stride, int64_t n, F *acc) {       \
    F sums[LANES] = {0};                                                                                               \
    for (int64_t k = 0; k < n; k++, w += BLOCK) UNROLL for (int b = 0; b < LANES; b++) sums[b] += load(w + b * stride) * x[k]; \
    UNROLL for (int b = 0; b < LANES; b++) acc[b] = sums[b];                                                           \
  }
#define FLOATS(p) LOAD(F, p)
#define BYTES(p) __builtin_convertvector(LOAD(C, p), F)
ROW(row_of_floats, float, FLOATS)
ROW(row_of_bytes, int8_t, BYTES)

// Strides of blocks: fewer than LANES of them are summed several times, which nobody sees.
static void linear_rows(int64_t from, int64_t to, void *context) {
  const struct bnn_linear *c = context;
  const int64_t blocks = blocks_of(c->after.channels);
  for (int64_t i = from; i < to; i++)
    for (int64_t row = 0; row < c->rows; row++) {
      const int64_t block = i * LANES, some = least(LANES, blocks - block), stride = some < LANES ? 0 : c->factors * BLOCK;
      for (int64_t b = 0; b < some; b += stride ? LANES : 1) {
        F acc[LANES];
        const int64_t at = (block + b) * c->factors * BLOCK;
        if (c->bytes) row_of_bytes(c->x + row * c->x_row, c->bytes + at, stride, c->factors, acc);
        else row_of_floats(c->x + row * c->x_row, c->weight + at, stride, c->factors, acc);
        for (int64_t k = 0; k < (stride ? LANES : 1); k++) {
          const int64_t first = (block + b + k) * BLOCK;
          const F scaled = c->scale ? acc[k] * LOAD(F, c->scale + first) : acc[k];
          const struct place place = {0, 0, row};
          finish(&c->after, scaled + LOAD(F, c->bias + first), row, &place, first);
        }
      }
    }
}

void bnn_linear(const struct bnn_linear *c, struct worker *worker) {
  const int64_t chunks = (blocks_of(c->after.channels) + LANES - 1) / LANES;
  spread_out(worker, chunks, 1 + (1 << 16) / (c->rows * c->factors * BLOCK * LANES), linear_rows, c);
}
