// Signs and their surrogate gradients, forward and backward, for training on a CPU: each reads and writes an element once.
//
// Maps are dense, all in one memory format, float32 or bfloat16 (as 16 bits). Compiled into one library for each
// instruction set, without libc; loops are torch's own (`torch_parallel_for` of libtorch's stable C interface).
#include <stdint.h>

typedef int32_t (*parallel_for)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void *), void *);

enum { GRAIN = 1 << 14 };  // elements that a thread takes at least

// `x` is the input of the sign, `grad` the gradient of its output, `inside` one byte an element.
struct bnn_surrogate {
  const void *x, *grad;
  uint8_t *inside;
  void *out;
  float a, b;
};

static inline float of_bits(uint32_t bits) {
  union {
    uint32_t bits;
    float value;
  } u = {.bits = bits};
  return u.value;
}

static inline uint32_t bits_of(float value) {
  union {
    float value;
    uint32_t bits;
  } u = {.value = value};
  return u.bits;
}

static inline float read_f32(float x) { return x; }
static inline float write_f32(float x) { return x; }
static inline float read_bf16(uint16_t x) { return of_bits((uint32_t)x << 16); }
static inline uint16_t write_bf16(float x) {  // to the nearest, ties to even, as torch
  const uint32_t bits = bits_of(x);
  return x != x ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

static inline float magnitude(float x) { return of_bits(bits_of(x) & 0x7fffffff); }

// sign(0) = sign(-0.0) = +1; NaN stays NaN.
static inline float sign_f32(float x) { return x != x ? x : x < 0 ? -1.0f : 1.0f; }
static inline uint16_t sign_bf16(uint16_t x) {
  return (x & 0x7fff) > 0x7f80 ? x : x > 0x8000 ? 0xbf80 : 0x3f80;
}

// exp(z) for z <= 0, to two units in the last place; NaN stays NaN. Cody and Waite's reduction, Cephes' polynomial.
static inline float exp_of_negative(float z) {
  z = z < -87.0f ? -87.0f : z;
  const float shifted = z * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;  // 1.5 * 2^23 rounds to whole numbers
  const float f = (z - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * f + 1.3981999507e-3f;
  p = p * f + 8.3334519073e-3f;
  p = p * f + 4.1665795894e-2f;
  p = p * f + 1.6666665459e-1f;
  p = p * f + 5.0000001201e-1f;
  p = p * f * f + f + 1.0f;
  return p * of_bits((bits_of(shifted) - 0x4b400000u + 127) << 23);
}

// b s (1 - s) with s = sigmoid(-a |x|): with a = 2 t and b = 4 max(t, 1) the derivative of EDE (IR-Net, equation 9).
static inline float ede_slope(float x, float a, float b) {
  const float e = exp_of_negative(-a * magnitude(x)), d = 1.0f + e;
  return b * e / (d * d);
}

// max(2 - 2 |x|, 0), the derivative of ApproxSign (Bi-Real Net); NaN stays NaN.
static inline float approx_slope(float x) {
  const float slope = 2.0f - 2.0f * magnitude(x);
  return slope < 0.0f ? 0.0f : slope;
}

#define OPERATION(NAME, TYPE, ...)                                                                    \
  static void NAME##_loop(int64_t from, int64_t to, void *context) {                                  \
    const struct bnn_surrogate *job = context;                                                        \
    const TYPE *restrict x = job->x, *restrict grad = job->grad;                                      \
    uint8_t *restrict inside = job->inside;                                                           \
    TYPE *restrict out = job->out;                                                                    \
    const float a = job->a, b = job->b;                                                               \
    (void)x, (void)grad, (void)inside, (void)a, (void)b;                                              \
    _Pragma("clang loop vectorize_width(16)") for (int64_t i = from; i < to; i++) __VA_ARGS__                                                   \
  }                                                                                                   \
  void bnn_##NAME(const struct bnn_surrogate *job, int64_t n, parallel_for parallel) {                \
    if (!parallel || n <= GRAIN || parallel(0, n, GRAIN, NAME##_loop, (void *)job)) NAME##_loop(0, n, (void *)job); \
  }

#define OPERATIONS(SUFFIX, TYPE)                                                                      \
  OPERATION(sign_##SUFFIX, TYPE, { out[i] = sign_##SUFFIX(x[i]); })                                   \
  OPERATION(ste_##SUFFIX, TYPE, {                                                                     \
    out[i] = sign_##SUFFIX(x[i]);                                                                     \
    inside[i] = magnitude(read_##SUFFIX(x[i])) <= a;                                                  \
  })                                                                                                  \
  OPERATION(ste_gradient_##SUFFIX, TYPE, { out[i] = write_##SUFFIX(read_##SUFFIX(grad[i]) * (float)inside[i]); }) \
  OPERATION(ede_gradient_##SUFFIX, TYPE, {                                                            \
    out[i] = write_##SUFFIX(read_##SUFFIX(grad[i]) * ede_slope(read_##SUFFIX(x[i]), a, b));           \
  })                                                                                                  \
  OPERATION(approx_gradient_##SUFFIX, TYPE, {                                                         \
    out[i] = write_##SUFFIX(read_##SUFFIX(grad[i]) * approx_slope(read_##SUFFIX(x[i])));              \
  })

OPERATIONS(f32, float)
OPERATIONS(bf16, uint16_t)

int64_t bnn_version(void) { return 1; }
