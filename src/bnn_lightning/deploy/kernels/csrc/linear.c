// Linear layers, row by row: y[c] = bias[c] + scale[c] * sum_k weight[k, c] * x[k], with weights in float32 or int8. See epilogue.h.
#include "epilogue.h"

enum { LANES = 4 };  // blocks at a time

#define ROW(name, type, load)                                                                                          \
  INNERMOST void name(const float *x, const type *w, int64_t stride, int64_t n, F *acc) {       \
    F sums[LANES] = {0};                                                                                               \
    for (int64_t k = 0; k < n; k++, w += BLOCK) UNROLL for (int b = 0; b < LANES; b++) sums[b] = fused(load(w + b * stride), x[k], sums[b]); \
    UNROLL for (int b = 0; b < LANES; b++) acc[b] = sums[b];                                                           \
  }
#define FLOATS(p) LOAD(F, p)
ROW(row_of_floats, float, FLOATS)
ROW(row_of_bytes, int8_t, load_bytes)

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

void KERNEL(linear)(const void *job, struct worker *worker) {
  const struct bnn_linear *c = job;
  const int64_t chunks = (blocks_of(c->after.channels) + LANES - 1) / LANES;
  spread_out(worker, chunks, grain_of(1 << 16, 1.0 * c->rows * c->factors * BLOCK * LANES), linear_rows, c);
}
