// Layer norm of rows of features. Sums are added in BLOCK lanes, feature i in lane i % BLOCK, and these from the first to the
// last: the order hangs on nothing but the number of features.
#include "epilogue.h"

INLINE float total_of(F lanes) {
  float sum = 0;
  UNROLL for (int i = 0; i < BLOCK; i++) sum += lanes[i];
  return sum;
}

//   mean = sum x / n ; variance = sum (x - mean)^2 / n ; out = (x - mean) / sqrt(variance + eps) * scale + shift
static void normalized_rows(int64_t from, int64_t to, void *context) {
  const struct bnn_layer_norm *c = context;
  const int64_t n = c->features;
  for (int64_t row = from; row < to; row++) {
    const float *x = c->x + row * n;
    float *out = c->out + row * n;
    F sums = 0, squares = 0;
    for (int64_t i = 0; i < n; i += BLOCK) sums += load_some(x + i, n - i);
    const float mean = total_of(sums) / (float)n;
    for (int64_t i = 0; i < n; i += BLOCK) {
      const F difference = load_some(x + i, n - i) - mean, square = difference * difference;
      squares += n - i < BLOCK ? load_some((const float *)&square, n - i) : square;
    }
    const F root = __builtin_elementwise_sqrt((F)(total_of(squares) / (float)n + c->eps));
    for (int64_t i = 0; i < n; i += BLOCK) {
      F t = (load_some(x + i, n - i) - mean) / root;
      if (c->scale) t *= load_some(c->scale + i, n - i);
      if (c->shift) t += load_some(c->shift + i, n - i);
      store_some(out + i, t, n - i);
    }
  }
}

void KERNEL(layer_norm)(const void *job, struct worker *worker) {
  const struct bnn_layer_norm *c = job;
  spread_out(worker, c->rows, grain_of(1 << 15, c->features), normalized_rows, c);
}
