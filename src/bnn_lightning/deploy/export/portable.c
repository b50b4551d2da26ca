// Functions that generated networks call: C99, no libc, no allocation. `deploy/export/c99.py` copies the functions that a network needs.
// Real tensors are planes: channel, row, column. Signs are bits, 1 for +1, a pixel's (or a tap's) channels side by side in
// words of WORD bits, the first channel in the lowest bit.

//// sizes
// Size of an image, or of a layer's result.
struct bnn_size {
  int channels, height, width;
};

//// window
// Movement of a window over an image. Padding lies before the first row and column.
struct bnn_window {
  int height, width, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
};

//// fma
// A product and a sum, rounded once, as torch and packed files do. Others than GCC do not say whether there is an
// instruction, and Clang takes `__builtin_fmaf` for a function of the mathematics library, which may set errno. Without an
// instruction doubles do it; where these are slow and single images may get another class, compile with
// -D'BNN_FMA(a,b,c)=((a)*(b)+(c))'.
#if !defined(BNN_FMA) && defined(__clang__) && defined(__has_builtin)
#if __has_builtin(__builtin_elementwise_fma) && (defined(__FMA__) || defined(__ARM_FEATURE_FMA) || defined(__riscv_flen))
#define BNN_FMA(a, b, c) __builtin_elementwise_fma(a, b, c)
#endif
#elif !defined(BNN_FMA) && defined(__GNUC__) && defined(__FP_FAST_FMAF)
#define BNN_FMA(a, b, c) __builtin_fmaf(a, b, c)
#endif
#ifndef BNN_FMA
#define BNN_FMA(a, b, c) bnn_fma(a, b, c)
typedef char bnn_double_must_have_64_bits[sizeof(double) == sizeof(uint64_t) ? 1 : -1];

// Doubles hold a whole product, and round the sum. Where that gives what may lie halfway between two floats, the last bit
// is made odd if something was lost, on the side where the sum lies: floats then round as of the whole sum.
static float bnn_fma(float a, float b, float c) {
  const double product = (double)a * (double)b, other = (double)c;
  union {
    double value;
    uint64_t bits;
  } sum = {product + other};
  if ((sum.bits & 0xFFFFFFFu) == 0) {
    const double added = sum.value - product, lost = (product - (sum.value - added)) + (other - added);
    if (lost > 0 || lost < 0) sum.bits = (lost > 0) == (sum.value > 0) ? sum.bits + 1 : sum.bits - 1;
  }
  return (float)sum.value;
}
#endif

//// conv2d
// Products are added by rows, columns and channels.
static void bnn_conv2d(const float *x, struct bnn_size in, const float *weight, const float *bias, struct bnn_window k,
                       int groups, float *y, struct bnn_size out) {
  const int inputs = in.channels / groups, outputs = out.channels / groups;
  for (int o = 0; o < out.channels; o++)
    for (int row = 0; row < out.height; row++)
      for (int column = 0; column < out.width; column++) {
        float sum = 0;
        for (int a = 0; a < k.height; a++)
          for (int b = 0; b < k.width; b++) {
            const int h = row * k.stride_y - k.pad_y + a * k.dilation_y;
            const int w = column * k.stride_x - k.pad_x + b * k.dilation_x;
            if (h < 0 || h >= in.height || w < 0 || w >= in.width) continue;
            for (int i = 0; i < inputs; i++)
              sum = BNN_FMA(x[((o / outputs * inputs + i) * in.height + h) * in.width + w],
                            weight[((o * inputs + i) * k.height + a) * k.width + b], sum);
          }
        y[(o * out.height + row) * out.width + column] = bias ? sum + bias[o] : sum;
      }
}

//// linear
static void bnn_linear(const float *x, int rows, int inputs, const float *weight, const float *bias, float *y,
                       int outputs) {
  for (int row = 0; row < rows; row++, x += inputs, y += outputs)
    for (int o = 0; o < outputs; o++) {
      float sum = 0;
      for (int i = 0; i < inputs; i++) sum = BNN_FMA(x[i], weight[o * inputs + i], sum);
      y[o] = bias ? sum + bias[o] : sum;
    }
}

//// sign_linear
// The same with weights of -1 and +1, a bit each, one row behind the other.
static void bnn_sign_linear(const float *x, int rows, int inputs, const uint8_t *signs, const float *bias, float *y,
                            int outputs) {
  for (int row = 0; row < rows; row++, x += inputs, y += outputs)
    for (int o = 0; o < outputs; o++) {
      float sum = 0;
      for (int i = 0; i < inputs; i++) {
        const long at = (long)o * inputs + i;
        sum += signs[at / 8] >> at % 8 & 1 ? x[i] : -x[i];
      }
      y[o] = bias ? sum + bias[o] : sum;
    }
}

//// affine
static void bnn_affine(const float *x, int channels, int pixels, const float *scale, const float *shift, float *y) {
  for (int c = 0; c < channels; c++)
    for (int i = 0; i < pixels; i++) y[c * pixels + i] = BNN_FMA(x[c * pixels + i], scale[c], shift[c]);
}

//// prelu
static void bnn_prelu(const float *x, int channels, int pixels, const float *slope, int slopes, float *y) {
  for (int c = 0; c < channels; c++)
    for (int i = 0; i < pixels; i++) {
      const float v = x[c * pixels + i];
      y[c * pixels + i] = v > 0 ? v : v * slope[slopes == 1 ? 0 : c];
    }
}

//// clamp
// `bounds`: 1 the lower one, 2 the upper one, 3 both. The upper one holds where it is below the lower one.
static void bnn_clamp(const float *x, int number, int bounds, float low, float high, float *y) {
  for (int i = 0; i < number; i++) {
    const float v = bounds & 1 && x[i] < low ? low : x[i];
    y[i] = bounds & 2 && v > high ? high : v;
  }
}

//// relu
static void bnn_relu(const float *x, int number, float *y) {
  for (int i = 0; i < number; i++) y[i] = x[i] < 0 ? 0 : x[i];
}

//// operand
// Values with strides of channels, rows and columns; 0 takes the same value again.
struct bnn_operand {
  const float *values;
  int channel, row, column;
};

//// arithmetic
static void bnn_arithmetic(struct bnn_operand a, char sign, struct bnn_operand b, float *y, struct bnn_size out) {
  for (int c = 0; c < out.channels; c++)
    for (int row = 0; row < out.height; row++)
      for (int column = 0; column < out.width; column++) {
        const float p = a.values[c * a.channel + row * a.row + column * a.column];
        const float q = b.values[c * b.channel + row * b.row + column * b.column];
        *y++ = sign == '+' ? p + q : sign == '-' ? p - q : sign == '*' ? p * q : p / q;
      }
}

//// gather
static void bnn_gather(struct bnn_operand x, float *y, struct bnn_size out) {
  for (int c = 0; c < out.channels; c++)
    for (int row = 0; row < out.height; row++)
      for (int column = 0; column < out.width; column++)
        *y++ = x.values[c * x.channel + row * x.row + column * x.column];
}

//// reduce
// The sum over `size` places with the strides of `by`, times `factor`, or the maximum where `factor` is 0.
static void bnn_reduce(struct bnn_operand x, struct bnn_operand by, struct bnn_size size, float factor, float *y,
                       struct bnn_size out) {
  for (int c = 0; c < out.channels; c++)
    for (int row = 0; row < out.height; row++)
      for (int column = 0; column < out.width; column++) {
        const float *values = x.values + c * x.channel + row * x.row + column * x.column;
        double sum = 0;
        float most = values[0];
        for (int i = 0; i < size.channels; i++)
          for (int j = 0; j < size.height; j++)
            for (int k = 0; k < size.width; k++) {
              const float v = values[i * by.channel + j * by.row + k * by.column];
              sum += (double)v;
              if (v > most || v != v) most = v;
            }
        *y++ = factor == 0 ? most : (float)(sum * (double)factor);
      }
}

//// copy
// Rows of `length` values, which lie `step` apart in y.
static void bnn_copy(const float *x, int rows, int length, float *y, int step) {
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < length; i++) y[row * step + i] = x[row * length + i];
}

//// pool
// Maxima where `divisor` is 0. Sums are divided by `divisor`, or by the number of places of a window: those in the map
// (-1), or in the map and its padding (-2).
static void bnn_pool(const float *x, struct bnn_size in, struct bnn_window k, int divisor, float *y, struct bnn_size out) {
  for (int c = 0; c < out.channels; c++)
    for (int row = 0; row < out.height; row++)
      for (int column = 0; column < out.width; column++) {
        float sum = 0, most = -1.0f / 0.0f;  // of no pixel: what dilated windows may hold
        int inside = 0, places = 0;
        for (int a = 0; a < k.height; a++)
          for (int b = 0; b < k.width; b++) {
            const int h = row * k.stride_y - k.pad_y + a * k.dilation_y, w = column * k.stride_x - k.pad_x + b * k.dilation_x;
            if (h < in.height + k.pad_y && w < in.width + k.pad_x) places++;
            if (h < 0 || h >= in.height || w < 0 || w >= in.width) continue;
            const float v = x[(c * in.height + h) * in.width + w];
            sum += v;
            inside++;
            if (v > most || v != v) most = v;
          }
        const int by = divisor > 0 ? divisor : divisor == -1 ? inside : places;
        y[(c * out.height + row) * out.width + column] = divisor ? sum / (float)by : most;
      }
}

//// pad
// Channels, rows and columns of one value before and behind.
static void bnn_pad(const float *x, struct bnn_size in, int front, int top, int left, float value, float *y,
                    struct bnn_size out) {
  for (int c = 0; c < out.channels; c++)
    for (int row = 0; row < out.height; row++)
      for (int column = 0; column < out.width; column++) {
        const int i = c - front, h = row - top, w = column - left;
        const int inside = i >= 0 && i < in.channels && h >= 0 && h < in.height && w >= 0 && w < in.width;
        y[(c * out.height + row) * out.width + column] = inside ? x[(i * in.height + h) * in.width + w] : value;
      }
}

//// mean
// The sum of each channel times `factor`, in the order in which packed files add: sums of parts first, of 60 pixels each
// (`group` 1), or of so many groups of 4 pixels in a row (4) or of 2x2 pixels (2) that there are as many parts.
static float bnn_sum_of_group(const float *x, struct bnn_size in, int group, int number) {
  const int columns = (in.width + 1) / 2, pixels = in.height * in.width;
  float sum = 0;
  for (int i = 0; i < (group == 1 ? 1 : 4); i++) {
    const int h = number / columns * 2 + i / 2, w = number % columns * 2 + i % 2;
    const int pixel = group == 2 ? h * in.width + w : number * group + i;
    if (group == 2 ? h < in.height && w < in.width : pixel < pixels) sum += x[pixel];
  }
  return sum;
}

static void bnn_mean(const float *x, struct bnn_size in, int group, float factor, float *y) {
  const int pixels = in.height * in.width, parts = (pixels + 59) / 60;
  const int groups = group == 2 ? (in.height + 1) / 2 * ((in.width + 1) / 2) : (pixels + group - 1) / group;
  const int each = group == 1 ? 60 : (groups + parts - 1) / parts;
  for (int c = 0; c < in.channels; c++) {
    float total = 0;
    for (int first = 0; first < groups; first += each) {
      float sum = 0;
      for (int i = first; i < first + each && i < groups; i++) sum += bnn_sum_of_group(x + c * pixels, in, group, i);
      total += sum;
    }
    y[c] = total * factor;
  }
}

//// map
static void bnn_map(const float *x, int number, float (*function)(float), float *y) {
  for (int i = 0; i < number; i++) y[i] = function(x[i]);
}

//// exponential
// Polynomials of Cephes (Moshier) and of Eigen, those of packed files: errors of a few units of the last place.
static float bnn_exponential(float x) {
  x = x < -87 ? -87 : x > 88 ? 88 : x;
  const float shifted = BNN_FMA(x, 1.44269504f, 12582912.0f);  // rounds: 1.5 * 2^23
  const float n = shifted - 12582912.0f;
  const float r = BNN_FMA(n, 2.12194440e-4f, BNN_FMA(-n, 0.693359375f, x));
  union {
    float value;
    uint32_t bits;
  } y = {1.9875691500e-4f};
  y.value = BNN_FMA(y.value, r, 1.3981999507e-3f);
  y.value = BNN_FMA(y.value, r, 8.3334519073e-3f);
  y.value = BNN_FMA(y.value, r, 4.1665795894e-2f);
  y.value = BNN_FMA(y.value, r, 1.6666665459e-1f);
  y.value = BNN_FMA(y.value, r, 5.0000001201e-1f);
  y.value = BNN_FMA(y.value * r, r, r) + 1.0f;
  if (x == x) y.bits += (uint32_t)(int32_t)n << 23;
  return y.value;
}

//// exponentials
// Return the sum of the exponentials of `classes` numbers that lie `inner` apart, less their maximum, `*most`.
static float bnn_sum_of_exponentials(const float *x, int classes, int inner, float *most) {
  float sum = 0;
  *most = x[0];
  for (int k = 1; k < classes; k++) *most = x[k * inner] > *most ? x[k * inner] : *most;
  for (int k = 0; k < classes; k++) sum += bnn_exponential(x[k * inner] - *most);
  return sum;
}

//// softmax
// Softmax of `classes` that lie `inner` apart, `rows` times as many.
static void bnn_softmax(const float *x, int rows, int classes, int inner, float *y) {
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < inner; i++) {
      const int first = row * classes * inner + i;
      float most;
      const float sum = bnn_sum_of_exponentials(x + first, classes, inner, &most);
      for (int k = 0; k < classes; k++) y[first + k * inner] = bnn_exponential(x[first + k * inner] - most) / sum;
    }
}

//// log_softmax
// Natural logarithm of a number from 1 on, by the polynomial of Cephes.
static float bnn_logarithm(float x) {
  union {
    float value;
    int32_t bits;
  } part = {x};
  const int32_t bits = part.bits - 0x3f3504f3;  // those of sqrt(1/2): the rest lies between it and sqrt(2)
  const float n = (float)(bits >> 23);
  part.bits = (bits & 0x7fffff) + 0x3f3504f3;
  const float r = part.value - 1, square = r * r;
  float y = BNN_FMA(7.0376836292e-2f, r, -1.1514610310e-1f);
  y = BNN_FMA(y, r, 1.1676998740e-1f);
  y = BNN_FMA(y, r, -1.2420140846e-1f);
  y = BNN_FMA(y, r, 1.4249322787e-1f);
  y = BNN_FMA(y, r, -1.6668057665e-1f);
  y = BNN_FMA(y, r, 2.0000714765e-1f);
  y = BNN_FMA(y, r, -2.4999993993e-1f);
  y = BNN_FMA(y, r, 3.3333331174e-1f);
  y = BNN_FMA(-n, 2.12194440e-4f, BNN_FMA(y * square, r, -0.5f * square));
  return BNN_FMA(n, 0.693359375f, r + y);
}

static void bnn_log_softmax(const float *x, int rows, int classes, int inner, float *y) {
  for (int row = 0; row < rows; row++)
    for (int i = 0; i < inner; i++) {
      const int first = row * classes * inner + i;
      float most;
      const float sum = bnn_sum_of_exponentials(x + first, classes, inner, &most);
      const float less = bnn_logarithm(sum);
      for (int k = 0; k < classes; k++) y[first + k * inner] = x[first + k * inner] - most - less;
    }
}

//// sigmoid
static float bnn_sigmoid(float x) { return 1 / (1 + bnn_exponential(-x)); }

//// tanh
static float bnn_tanh(float x) {
  const float size = x < 0 ? -x : x, square = x * x;
  if (size < 0.625f) {
    float small = BNN_FMA(-5.70498872745e-3f, square, 2.06390887954e-2f);
    small = BNN_FMA(small, square, -5.37397155531e-2f);
    small = BNN_FMA(small, square, 1.33314422036e-1f);
    small = BNN_FMA(small, square, -3.33332819422e-1f);
    return BNN_FMA(small * square, x, x);
  }
  const float large = 1 - 2 / (bnn_exponential(2 * size) + 1);
  return x < 0 ? -large : large;
}

//// hardsigmoid
static float bnn_hardsigmoid(float x) { return (x + 3 < 0 ? 0 : x + 3 > 6 ? 6 : x + 3) / 6; }

//// hardswish
static float bnn_hardswish(float x) { return x * (x + 3 < 0 ? 0 : x + 3 > 6 ? 6 : x + 3) / 6; }

//// silu
static float bnn_silu(float x) { return x < -88 ? x * 0 : x / (1 + bnn_exponential(-x)); }

//// gelu
static float bnn_gelu(float x) {
  const float t = x * 0.70710678f, s = t < -4 ? -4 : t > 4 ? 4 : t, square = s * s;
  float p = BNN_FMA(-2.72614225801306e-10f, square, 2.77068142495902e-08f);
  p = BNN_FMA(p, square, -2.10102402082508e-06f);
  p = BNN_FMA(p, square, -5.69250639462346e-05f);
  p = BNN_FMA(p, square, -7.34990630326855e-04f);
  p = BNN_FMA(p, square, -2.95459980854025e-03f);
  p = BNN_FMA(p, square, -1.60960333262415e-02f);
  float q = BNN_FMA(-1.45660718464996e-05f, square, -2.13374055278905e-04f);
  q = BNN_FMA(q, square, -1.68282697438203e-03f);
  q = BNN_FMA(q, square, -7.37332916720468e-03f);
  q = BNN_FMA(q, square, -1.42647390514189e-02f);
  return x * 0.5f * (1 + s * p / q);
}

//// neg
static float bnn_neg(float x) { return -x; }

//// gate
// Squeeze-and-excite: sigmoid(excite relu(squeeze m)), m = own + mix * (other - own), or own where `other` is null.
struct bnn_dense {
  const float *weight, *bias;
  int outputs;
};

// Four sums, added at the end, as packed files add.
static float bnn_row_of_gate(const float *x, int inputs, const float *weight) {
  float sums[4] = {0, 0, 0, 0};
  for (int i = 0; i < inputs; i++) {
    float *sum = sums + (i < inputs / 4 * 4 ? i % 4 : 0);
    *sum = BNN_FMA(weight[i], x[i], *sum);
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

static void bnn_gate(const float *own, const float *other, const float *mix, int channels, struct bnn_dense squeeze,
                     struct bnn_dense excite, float *means, float *hidden, float *y) {
  for (int c = 0; c < channels; c++) means[c] = other ? BNN_FMA(mix[c], other[c] - own[c], own[c]) : own[c];
  for (int o = 0; o < squeeze.outputs; o++) {
    const float sum = bnn_row_of_gate(means, channels, squeeze.weight + o * channels);
    const float t = squeeze.bias ? sum + squeeze.bias[o] : sum;
    hidden[o] = t < 0 ? 0 : t;
  }
  for (int o = 0; o < excite.outputs; o++) {
    const float sum = bnn_row_of_gate(hidden, squeeze.outputs, excite.weight + o * squeeze.outputs);
    y[o] = bnn_sigmoid(excite.bias ? sum + excite.bias[o] : sum);
  }
}

//// count
static int bnn_count(uint32_t v) {
  v = v - (v >> 1 & 0x55555555u);
  v = (v & 0x33333333u) + (v >> 2 & 0x33333333u);
  v = (v + (v >> 4)) & 0x0F0F0F0Fu;
  return (int)(v * 0x01010101u >> 24);
}

//// binary
// Steps that follow the sums of a binary convolution; a null pointer leaves one out.
struct bnn_epilogue {
  // In the order of `EPILOGUE` of ir/operations.py.
  const float *gain, *offset, *scale, *bias, *lift, *slope, *shift, *floor, *pull, *center, *tap_scale, *tap_offset;
  const float *residual;
  float low, high;
  int clamp_low, clamp_high;
};

//// pack WORD
// The signs of an image: words for (group, pixel), `threshold` a channel or null.
static void bnn_pack_WORD(const float *x, struct bnn_size in, int groups, const float *threshold, uintWORD_t *bits) {
  const int inputs = in.channels / groups, words = (inputs + WORD - 1) / WORD, pixels = in.height * in.width;
  for (int i = 0; i < groups * pixels * words; i++) bits[i] = 0;
  for (int c = 0; c < in.channels; c++)
    for (int p = 0; p < pixels; p++)
      if (x[c * pixels + p] >= (threshold ? threshold[c] : 0)) {
        const int i = c % inputs;
        bits[(c / inputs * pixels + p) * words + i / WORD] |= (uintWORD_t)((uint32_t)1 << i % WORD);
      }
}

//// binary_conv WORD
// `padding` is what a padded place holds: 0, -1 or +1. Weights are words for (output channel, tap).
static void bnn_binary_conv_WORD(const uintWORD_t *bits, struct bnn_size in, const uintWORD_t *weight,
                                 struct bnn_window k, int groups, int padding, struct bnn_epilogue e, float *y,
                                 struct bnn_size out) {
  const int inputs = in.channels / groups, words = (inputs + WORD - 1) / WORD, outputs = out.channels / groups;
  const uint32_t last = 0xFFFFFFFFu >> (32 - (inputs - (words - 1) * WORD));
  for (int o = 0; o < out.channels; o++)
    for (int row = 0; row < out.height; row++)
      for (int column = 0; column < out.width; column++) {
        int sum = 0, ones = 0, taps = 0, factors = 0;
        for (int a = 0; a < k.height; a++)
          for (int b = 0; b < k.width; b++) {
            const int h = row * k.stride_y - k.pad_y + a * k.dilation_y;
            const int w = column * k.stride_x - k.pad_x + b * k.dilation_x;
            const int inside = h >= 0 && h < in.height && w >= 0 && w < in.width;
            if (!inside && !padding) continue;
            const uintWORD_t *s = weight + ((o * k.height + a) * k.width + b) * words;
            const uintWORD_t *v = inside ? bits + ((o / outputs * in.height + h) * in.width + w) * words : 0;
            int unlike = 0;
            for (int i = 0; i < words; i++) {
              const uint32_t all = i == words - 1 ? last : (uint32_t)(uintWORD_t)0xFFFFFFFFu;
              const uint32_t value = v ? v[i] : padding > 0 ? all : 0;
              unlike += bnn_count((value ^ s[i]) & all);
              if (e.pull) ones += bnn_count(value & all);
              if (e.center) taps += bnn_count(s[i] & all);
            }
            factors += inputs;
            sum += inputs - 2 * unlike;
          }
        const int at = (o * out.height + row) * out.width + column;
        float t = (float)sum;
        if (e.gain) t *= e.gain[o];
        if (e.pull) {
          const float pulled = e.pull[o] * (float)(2 * ones - factors);
          t += pulled;
        }
        if (e.center) {
          float around = (float)(2 * taps - factors);
          if (e.tap_scale) around *= e.tap_scale[o];
          if (e.tap_offset) {
            const float offset = e.tap_offset[o] * (float)factors;
            around += offset;
          }
          around *= e.center[o];
          t += around;
        }
        if (e.offset) t += e.offset[o];
        if (e.floor && t < e.floor[o]) t = e.floor[o];
        if (e.scale && e.bias) t = BNN_FMA(t, e.scale[o], e.bias[o]);
        else if (e.scale) t *= e.scale[o];
        else if (e.bias) t += e.bias[o];
        if (e.residual) t += e.residual[at];
        if (e.lift) t += e.lift[o];
        if (e.slope) t = t > 0 ? t : t * e.slope[o];
        if (e.shift) t += e.shift[o];
        if (e.clamp_low && t < e.low) t = e.low;
        if (e.clamp_high && t > e.high) t = e.high;
        y[at] = t;
      }
}
