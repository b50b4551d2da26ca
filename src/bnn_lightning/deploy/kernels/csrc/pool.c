// Pooling, and averages over the whole map. See epilogue.h.
#include "epilogue.h"

INLINE F sum_of(const struct bnn_pool *c, int64_t image, int64_t y0, int64_t y1, int64_t x0, int64_t x1, int64_t first) {
  const int64_t channels = c->after.channels;
  const F slope = c->before ? LOAD(F, c->before + first) : (F)1;
  F sum = 0;
  for (int64_t y = y0; y < y1; y++)
    for (int64_t x = x0; x < x1; x++) {
      const F t = load_some(c->x + ((image * c->height + y) * c->width + x) * channels + first, channels - first);
      sum += t > 0 ? t : t * slope;
    }
  return sum;
}

// The pixels of a window along a dimension: those in the map, and how many lie in the map and its padding.
struct side {
  int64_t begin, end, padded;
};

INLINE struct side side_of(int64_t place, int64_t kernel, int64_t stride, int64_t pad, int64_t size) {
  const int64_t begin = place * stride - pad, end = least(begin + kernel, size + pad);
  return (struct side){begin < 0 ? 0 : begin, least(end, size), end - begin};
}

INNERMOST void average_rows(int64_t from, int64_t to, void *context) {
  const struct bnn_pool *c = context;
  const struct windows *w = &c->windows;
  for (int64_t row = from; row < to; row++) {
    struct place at = {row / c->after.height, row % c->after.height, 0};
    const struct side y = side_of(at.y, w->height, w->stride_y, w->pad_y, c->height);
    for (; at.x < c->after.width; at.x++) {
      const struct side x = side_of(at.x, w->width, w->stride_x, w->pad_x, c->width);
      const int64_t pixels = c->average == 2 ? y.padded * x.padded : (y.end - y.begin) * (x.end - x.begin);
      const float divisor = (float)(c->divisor ? c->divisor : pixels);
      for (int64_t first = 0; first < c->after.channels; first += BLOCK) {
        const F sum = sum_of(c, at.image, y.begin, y.end, x.begin, x.end, first);
        finish(&c->after, sum / divisor, row * c->after.width + at.x, &at, first);
      }
    }
  }
}

static void maxima_rows(int64_t from, int64_t to, void *context) {
  const struct bnn_pool *c = context;
  const struct windows *w = &c->windows;
  const int64_t pitch = c->width * c->after.channels;
  for (int64_t row = from; row < to; row++) {
    const int64_t top = row % c->after.height * w->stride_y - w->pad_y, end = least(top + w->height, c->height);
    const float *x = c->x + row / c->after.height * c->height * pitch;
    struct lines lines;
    lines.before = c->before, lines.n = 0, lines.width = c->width, lines.channels = c->after.channels;
    for (int64_t y = top < 0 ? 0 : top; y < end; y++) lines.at[lines.n++] = x + y * pitch;
    maxima_row(w, &c->after, &lines, row);
  }
}

void KERNEL(pool)(const void *job, struct worker *worker) {
  const struct bnn_pool *c = job;
  const double work = 1.0 * c->after.width * c->after.channels * c->windows.height * c->windows.width;
  spread_out(worker, c->images * c->after.height, grain_of(1 << 15, work), c->average ? average_rows : maxima_rows, c);
}

INNERMOST void sum_parts(int64_t from, int64_t to, void *context) {
  const struct bnn_sum *c = context;
  const int64_t parts = (c->pixels + PART - 1) / PART;
  for (int64_t i = from; i < to; i++) {
    const int64_t begin = i % parts * PART, end = least(begin + PART, c->pixels);
    const float *x = c->x + (i / parts * c->pixels + begin) * c->channels;
    for (int64_t first = 0; first < c->channels; first += BLOCK) {
      const F slope = c->before ? LOAD(F, c->before + first) : (F)1;
      F sum = 0;
      for (int64_t p = 0; p < end - begin; p++) {
        const F t = load_some(x + p * c->channels + first, c->channels - first);
        sum += t > 0 ? t : t * slope;
      }
      *(F *)(c->sums + i * c->sums_channels + first) = sum;
    }
  }
}

void KERNEL(sum)(const void *job, struct worker *worker) {
  const struct bnn_sum *c = job;
  spread_out(worker, c->images * ((c->pixels + PART - 1) / PART), grain_of(1 << 15, 1.0 * PART * c->channels), sum_parts, c);
}

static void average_images(int64_t from, int64_t to, void *context) {
  const struct bnn_average *c = context;
  for (int64_t image = from; image < to; image++)
    for (int64_t first = 0; first < c->channels; first += BLOCK) {
      F sum = 0;
      for (int64_t part = 0; part < c->parts; part++)
        sum += LOAD(F, c->sums + (image * c->parts + part) * c->sums_channels + first);
      store_some(c->mean + image * c->channels + first, sum * c->factor, c->channels - first);
    }
}

void KERNEL(average)(const void *job, struct worker *worker) {
  const struct bnn_average *c = job;
  spread_out(worker, c->images, 8, average_images, c);
}

static void pad_pixels(int64_t from, int64_t to, void *context) {
  const struct bnn_pad *c = context;
  for (int64_t p = from; p < to; p++) {
    float *out = c->out + p * c->channels;
    for (int64_t k = 0; k < c->first; k += BLOCK) store_some(out + k, 0, c->first - k);
    for (int64_t k = c->first + c->inner; k < c->channels; k += BLOCK) store_some(out + k, 0, c->channels - k);
  }
}

void KERNEL(pad)(const void *job, struct worker *worker) {
  const struct bnn_pad *c = job;
  spread_out(worker, c->pixels, grain_of(1 << 15, c->channels), pad_pixels, c);
}
