// Elementwise kernels, softmax and sums: copies between strides, functions of one value and of two, sums over dimensions.
#include "functions.h"

// out[i, j, k, l] over sizes and strides: the last loop is the innermost one.
static void copy_rows(int64_t from, int64_t to, void *context) {
  const struct bnn_copy *c = context;
  const int64_t n = c->size_2, step = c->x_2, out_step = c->out_2;
  for (int64_t row = from; row < to; row++) {
    const int64_t k = row % c->size_1, j = row / c->size_1 % c->size_0, i = row / c->size_1 / c->size_0;
    const int64_t at = c->x ? i * c->x_image + j * c->x_0 + k * c->x_1 : 0;
    float *out = c->out + i * c->out_image + j * c->out_0 + k * c->out_1;
    const float *x = (const float *)c->x + at;
    const uint8_t *bytes = (const uint8_t *)c->x + at;
    if (!c->x) for (int64_t l = 0; l < n; l++) out[l * out_step] = c->value;
    else if (c->bytes) for (int64_t l = 0; l < n; l++) out[l * out_step] = bytes[l * step] / 255.0f;
    else if (step == 1 && out_step == 1) for (int64_t l = 0; l < n; l++) out[l] = x[l];
    else for (int64_t l = 0; l < n; l++) out[l * out_step] = x[l * step];
    if (c->mean) for (int64_t l = 0; l < n; l++) out[l * out_step] = (out[l * out_step] - c->mean[j]) / c->std[j];
  }
}

void KERNEL(copy)(const void *job, struct worker *worker) {
  const struct bnn_copy *c = job;
  spread_out(worker, c->images * c->size_0 * c->size_1, grain_of(1 << 15, c->size_2), copy_rows, c);
}

// The functions, in the order of their numbers; `deploy/kernels/abi.py` has the same names.
#define FUNCTIONS(X)                                          \
  X(SIGMOID, sigmoid(t))                                      \
  X(TANH, tangent(t))                                         \
  X(HARDSIGMOID, bounded(t + 3, 0, 6) / 6)                    \
  X(HARDSWISH, t *bounded(t + 3, 0, 6) / 6)                   \
  X(SILU, t < -88 ? t * 0 : t / (1 + exponential(-t)))        \
  X(GELU, t * 0.5f * (1 + error_function(t * 0.70710678f)))   \
  X(GELU_TANH, gelu_of_tangent(t))                            \
  X(LEAKY_RELU, t > 0 ? t : t * c->a)                         \
  X(CLAMP, bounded(t, c->a, c->b))                            \
  X(ADD_NUMBER, t + c->a)                                     \
  X(MULTIPLY_NUMBER, t *c->a)                                 \
  X(DIVIDE_NUMBER, t / c->a)
enum function {
#define NAME(name, f) name,
  FUNCTIONS(NAME)
};

INLINE F bounded(F t, F low, F high) {  // NaN stays NaN
  t = t < low ? low : t;
  return t > high ? high : t;
}

INLINE F gelu_of_tangent(F t) { return 0.5f * t * (1 + tangent(0.79788456f * fused(0.044715f, t * t * t, t))); }

static void elements(int64_t from, int64_t to, void *context) {
  const struct bnn_unary *c = context;
  const int64_t end = least(to * BLOCK, c->count);
#define LOOP(name, f)                                   \
  case name:                                            \
    for (int64_t i = from * BLOCK; i < end; i += BLOCK) { \
      const F t = load_some(c->x + i, end - i);         \
      store_some(c->out + i, f, end - i);               \
    }                                                   \
    return;
  switch ((enum function)c->function) { FUNCTIONS(LOOP) }
}

void KERNEL(unary)(const void *job, struct worker *worker) {
  const struct bnn_unary *c = job;
  spread_out(worker, (c->count + BLOCK - 1) / BLOCK, 1 << 10, elements, c);
}

#define PAIRS(X) X(ADD, x + y) X(SUBTRACT, x - y) X(MULTIPLY, x *y) X(DIVIDE, x / y)
enum pair {
  PAIRS(NAME)
};

static void pairs_of_rows(int64_t from, int64_t to, void *context) {
  const struct bnn_binary *c = context;
  const int64_t n = c->size_2;
  for (int64_t row = from; row < to; row++) {
    const int64_t k = row % c->size_1, j = row / c->size_1 % c->size_0, i = row / c->size_1 / c->size_0;
    const float *xs = c->x + i * c->x_image + j * c->x_0 + k * c->x_1, *ys = c->y + i * c->y_image + j * c->y_0 + k * c->y_1;
    float *out = c->out + row * n;
    const int64_t x_step = c->x_2, y_step = c->y_2;
#define ROW(name, f)                                        \
  case name:                                                \
    for (int64_t l = 0; l < n; l++) {                       \
      const float x = xs[l * x_step], y = ys[l * y_step];   \
      out[l] = f;                                           \
    }                                                       \
    break;
    switch ((enum pair)c->function) { PAIRS(ROW) }
  }
}

void KERNEL(binary)(const void *job, struct worker *worker) {
  const struct bnn_binary *c = job;
  spread_out(worker, c->images * c->size_0 * c->size_1, grain_of(1 << 15, c->size_2), pairs_of_rows, c);
}

// The classes of `n` places side by side, each in its lane; of one place (inner = 1) classes in lanes would be faster, but
// they are few.
static void classes_of(const struct bnn_softmax *c, const float *x, float *out, int64_t n) {
  F most = -__builtin_inff(), sum = 0;
  for (int64_t k = 0; k < c->classes; k++) {
    const F t = load_some(x + k * c->inner, n);
    most = ((t > most) | (t != t)) ? t : most;
  }
  for (int64_t k = 0; k < c->classes; k++) sum += exponential(load_some(x + k * c->inner, n) - most);
  const F less = logarithm(sum);
  for (int64_t k = 0; k < c->classes; k++) {
    const F t = load_some(x + k * c->inner, n) - most;
    store_some(out + k * c->inner, c->logarithm ? t - less : exponential(t) / sum, n);
  }
}

static void softmax_rows(int64_t from, int64_t to, void *context) {
  const struct bnn_softmax *c = context;
  for (int64_t row = from; row < to; row++)
    for (int64_t i = 0; i < c->inner; i += BLOCK) {
      const int64_t at = row * c->classes * c->inner + i;
      classes_of(c, c->x + at, c->out + at, least(BLOCK, c->inner - i));
    }
}

void KERNEL(softmax)(const void *job, struct worker *worker) {
  const struct bnn_softmax *c = job;
  spread_out(worker, c->rows, grain_of(1 << 12, 1.0 * c->classes * c->inner), softmax_rows, c);
}

static void reduced_rows(int64_t from, int64_t to, void *context) {
  const struct bnn_reduce *c = context;
  for (int64_t row = from; row < to; row++) {
    const int64_t k = row % c->size_1, j = row / c->size_1 % c->size_0, i = row / c->size_1 / c->size_0;
    const float *x = c->x + i * c->x_image + j * c->x_0 + k * c->x_1;
    double sum = 0;
    float most = x[0];
    for (int64_t l = 0; l < c->sum_0; l++)
      for (int64_t m = 0; m < c->sum_1; m++)
        for (int64_t n = 0; n < c->sum_2; n++) {
          const float t = x[l * c->by_0 + m * c->by_1 + n * c->by_2];
          sum += t;
          most = t > most || t != t ? t : most;  // NaN stays NaN
        }
    c->out[row] = c->maximum ? most : (float)(sum * c->factor);
  }
}

void KERNEL(reduce)(const void *job, struct worker *worker) {
  const struct bnn_reduce *c = job;
  const double work = 1.0 * c->sum_0 * c->sum_1 * c->sum_2;
  spread_out(worker, c->images * c->size_0 * c->size_1, grain_of(1 << 15, work), reduced_rows, c);
}
