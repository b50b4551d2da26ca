// What generated networks call: C99, no libc, no allocation. `deploy/export/c99.py` copies the functions that a network needs.
// Real tensors are planes: channel, row, column. Signs are bits, 1 for +1, a pixel's (or a tap's) channels side by side in
// words of WORD bits, the first channel in the lowest bit.

//// sizes
// Of an image, or of what a layer gives.
struct bnn_size {
  int channels, height, width;
};

//// window
// How a window moves over an image. Padding is what lies before the first row and column.
struct bnn_window {
  int height, width, stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
};

//// fma
// A product and a sum, rounded once, as torch and packed files do where processors have such an instruction. Others take
// doubles, which hold a whole product; where these are slow and single images may get another class, compile with
// -D'BNN_FMA(a,b,c)=((a)*(b)+(c))'.
#ifndef BNN_FMA
#if defined(__GNUC__) && (defined(__FMA__) || defined(__ARM_FEATURE_FMA))
#define BNN_FMA(a, b, c) __builtin_fmaf(a, b, c)
#else
#define BNN_FMA(a, b, c) ((float)((double)(a) * (double)(b) + (double)(c)))
#endif
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
static void bnn_linear(const float *x, int inputs, const float *weight, const float *bias, float *y, int outputs) {
  for (int o = 0; o < outputs; o++) {
    float sum = 0;
    for (int i = 0; i < inputs; i++) sum += x[i] * weight[o * inputs + i];
    y[o] = bias ? sum + bias[o] : sum;
  }
}

//// sign_linear
// The same with weights of -1 and +1, a bit each, one row behind the other.
static void bnn_sign_linear(const float *x, int inputs, const uint8_t *signs, const float *bias, float *y, int outputs) {
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
static void bnn_clamp(const float *x, int number, float low, float high, float *y) {
  for (int i = 0; i < number; i++) y[i] = x[i] < low ? low : x[i] > high ? high : x[i];
}

//// relu
static void bnn_relu(const float *x, int number, float *y) {
  for (int i = 0; i < number; i++) y[i] = x[i] > 0 ? x[i] : 0;
}

//// add
static void bnn_add(const float *a, const float *b, int number, float *y) {
  for (int i = 0; i < number; i++) y[i] = a[i] + b[i];
}

//// channels
// With a value a channel.
static void bnn_channels(const float *x, int channels, int pixels, const float *values, char sign, float *y) {
  for (int c = 0; c < channels; c++)
    for (int i = 0; i < pixels; i++) {
      const float a = x[c * pixels + i], b = values[c];
      y[c * pixels + i] = sign == '+' ? a + b : sign == '-' ? a - b : sign == '*' ? a * b : a / b;
    }
}

//// pool
// Averages count what is padded, as zeros; maxima do not.
static void bnn_pool(const float *x, struct bnn_size in, struct bnn_window k, int average, float *y, struct bnn_size out) {
  for (int c = 0; c < out.channels; c++)
    for (int row = 0; row < out.height; row++)
      for (int column = 0; column < out.width; column++) {
        float sum = 0, most = 0;
        int seen = 0;
        for (int a = 0; a < k.height; a++)
          for (int b = 0; b < k.width; b++) {
            const int h = row * k.stride_y - k.pad_y + a, w = column * k.stride_x - k.pad_x + b;
            if (h < 0 || h >= in.height || w < 0 || w >= in.width) continue;
            const float v = x[(c * in.height + h) * in.width + w];
            sum += v;
            if (!seen++ || v > most) most = v;
          }
        y[(c * out.height + row) * out.width + column] = average ? sum / (float)(k.height * k.width) : most;
      }
}

//// pad
// Channels, rows and columns of zeros before and behind.
static void bnn_pad(const float *x, struct bnn_size in, int front, int top, int left, float *y, struct bnn_size out) {
  for (int c = 0; c < out.channels; c++)
    for (int row = 0; row < out.height; row++)
      for (int column = 0; column < out.width; column++) {
        const int i = c - front, h = row - top, w = column - left;
        const int inside = i >= 0 && i < in.channels && h >= 0 && h < in.height && w >= 0 && w < in.width;
        y[(c * out.height + row) * out.width + column] = inside ? x[(i * in.height + h) * in.width + w] : 0;
      }
}

//// mean
static void bnn_mean(const float *x, int channels, int pixels, float *y) {
  for (int c = 0; c < channels; c++) {
    float sum = 0;
    for (int i = 0; i < pixels; i++) sum += x[c * pixels + i];
    y[c] = sum / (float)pixels;
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
// What follows the sums of a binary convolution; a null pointer leaves a part out.
struct bnn_epilogue {
  const float *gain, *offset, *scale, *bias, *lift, *slope, *shift, *floor;  // in the order of `EPILOGUE` of ir/operations.py
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

//// binary WORD
// `padding` is what a padded place holds: 0, -1 or +1. Weights are words for (output channel, tap).
static void bnn_binary_conv_WORD(const uintWORD_t *bits, struct bnn_size in, const uintWORD_t *weight,
                                 struct bnn_window k, int groups, int padding, struct bnn_epilogue e, float *y,
                                 struct bnn_size out) {
  const int inputs = in.channels / groups, words = (inputs + WORD - 1) / WORD, outputs = out.channels / groups;
  const uint32_t last = 0xFFFFFFFFu >> (32 - (inputs - (words - 1) * WORD));
  for (int o = 0; o < out.channels; o++)
    for (int row = 0; row < out.height; row++)
      for (int column = 0; column < out.width; column++) {
        int sum = 0;
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
            }
            sum += inputs - 2 * unlike;
          }
        const int at = (o * out.height + row) * out.width + column;
        float t = (float)sum;
        if (e.gain) t *= e.gain[o];
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
