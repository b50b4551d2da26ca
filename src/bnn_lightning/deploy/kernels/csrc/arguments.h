// Arguments of kernels: one structure a kernel. deploy/kernels/abi.py has the same fields in the same order, and
// runtime/csrc/fields.c says where each of them lies. Pointers are valid while the kernel runs.
#pragma once
#include <stdint.h>

// VERSION: of the structures. Lanes of a block of channels; signs of a word. PART: pixels of an image that are summed by themselves, of any thread.
// WORKERS: how many have memory of their own in an operation that needs some. LINE: bytes of a line of the cache.
// MOST_LINES: rows of a window of maxima. abi.py and layout.py have the same: a test compares them.
enum { VERSION = 13, BLOCK = 16, WORD_BITS = 32, PART = 60, WORKERS = 16, LINE = 64, MOST_LINES = 16 };

// The kernels, in the order of their numbers in a plan section; new ones come last. X is called with name and `more`.
#define BNN_KERNELS(X, more)                                                                                 \
  X(convolve, more) X(pack, more) X(real_convolve, more) X(linear, more) X(pool, more) X(sum, more)          \
  X(average, more) X(pad, more) X(gate, more) X(combine, more) X(group_convolve, more) X(copy, more)         \
  X(unary, more) X(binary, more) X(softmax, more) X(reduce, more) X(layer_norm, more)

// The values of channels in epilogues, in the order in which the structures have them; X is called with name and `more`.
// BNN_EPILOGUE is that of binary convolutions: new ones come last, and plans of earlier files stay valid, as what is null
// has no effect. BNN_AFTER is that of the other kernels. `EPILOGUE` of deploy/ir/operations.py and `AFTER` of abi.py have
// the same names.
#define BNN_EPILOGUE(X, more) \
  X(gain, more) X(offset, more) X(scale, more) X(bias, more) X(lift, more) X(slope, more) X(shift, more) X(floor, more) \
  X(pull, more) X(center, more) X(tap_scale, more) X(tap_offset, more)
#define BNN_AFTER(X, more) X(slope, more) X(shift, more)
#define BNN_VALUES(name, more) const float *name;

// t < 0: t *= slope ; t += shift ; t = clamp(t, low, high) ; out = t ; bits = t >= threshold ; each where it is asked for.
struct after {
  int64_t height, width, channels;     // of the result
  int64_t out_channels;                // of a pixel of `out`, from whose first channel the result is written
  int64_t bits_height, bits_width, bits_top, bits_left, bits_words;  // words of a pixel of `bits`
  const float *threshold;
  float low, high;
  float *out;
  uint16_t *bits;
  BNN_AFTER(BNN_VALUES, )
};

// Windows of a pooling.
struct windows {
  int64_t height, width, stride_y, stride_x, pad_y, pad_x;
};

// A packed binary convolution, see binary_conv.c.
struct bnn_convolve {
  int64_t images, height, width;           // of the padded activations
  int64_t out_height, out_width;
  int64_t groups, words, channels;         // words of a pixel and output channels, both of one group
  int64_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x;
  int64_t pad_y, pad_x, real_height, real_width;  // of the zero padding; real_height is 0 where nothing is to be corrected
  int64_t reach;                           // factors of a sum
  int64_t bits_height, bits_width, bits_top, bits_left, bits_words;  // of the signs that are written
  int64_t residual_channels;               // of all groups; fewer than the output's are read again and again, by blocks
  const uint32_t *x, *weight;
  const int32_t *tap_sums, *offsets;
  const float *residual, *threshold;
  float low, high;
  float *out;
  uint16_t *bits;
  float *sums;  // (images, parts, channels of all groups in whole blocks)
  BNN_EPILOGUE(BNN_VALUES, )
};

// Floats as packed signs, see binary_conv.c.
struct bnn_pack {
  int64_t images, channels, height, width, groups, words;  // channels and words of one group
  int64_t stride_image, stride_channel, stride_y, stride_x;  // of x, in elements
  int64_t bits_height, bits_width, top, left;
  const float *x, *threshold;  // threshold (group, word, 32), +inf where there is no channel
  uint32_t *bits;
};

// A convolution of a real-valued map, see conv2d.c.
struct bnn_real_convolve {
  int64_t images, channels, height, width;  // of x
  int64_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_y, pad_x;
  int64_t x_image, x_channel, x_y, x_x;  // strides of x in elements; of a band: pixels or channels are dense
  int64_t pool;                          // 2: x is averaged over 2x2 first, and the kernel is 1x1; otherwise 1
  int64_t band;                          // rows of the result that are computed at a time; 0: x is read in place
  int64_t factors;                       // of a window: floats, or words
  const void *x;
  int64_t bytes, whole;  // whether x is uint8, in 255ths; whether pixels are computed with as bytes: floats are rounded
  const void *weight;
  const float *bias, *gain, *offset, *residual;  // null: there is none
  const float *mean, *std;  // (channels): x becomes (x - mean) / std first, and lies in zeros; null: it does not
  const int32_t *offsets;  // of the factors of a window from its beginning, in x, or in a band
  // The bias of whole sums depends on the part of a window outside of x: it lies at bias_y of the row + bias_x of the column.
  const float *scale;
  const int32_t *bias_y, *bias_x;
  // Memory of the workers, `work_size` bytes each: a band, a word behind it and, from the next multiple of 64 on, 2 * band rows in whole
  // blocks of the map before maxima, `inner`. The height of these windows is 0 where no maxima follow.
  char *work;
  int64_t work_size;
  struct windows maxima;
  struct after inner, after;
};

// A linear layer, see linear.c.
struct bnn_linear {
  int64_t rows, factors, x_row;  // elements from one row of x to the next
  const float *x, *weight, *scale, *bias;  // scale: null unless the weights are int8
  const int8_t *bytes;
  struct after after;  // of pixels in a row
};

// out = max or average over the windows of x; x < 0 is multiplied by `before` first, where that is given. The sum of a
// window is divided by `divisor`, or where that is 0 by the pixels of the window that lie in the map (`average` is 1), or
// in the map and its padding (2).
struct bnn_pool {
  int64_t images, height, width;
  struct windows windows;
  int64_t average, divisor;
  const float *x, *before;
  struct after after;
};

// Sums over parts of the map, PART pixels each: sums[image, part, c] = sum_pixel prelu(x). Added in the same order by any
// number of threads.
struct bnn_sum {
  int64_t images, pixels, channels, sums_channels;  // pixels of an image; channels of `sums`, whole blocks
  const float *x, *before;
  float *sums;
};

// mean[image, c] = sum over parts / pixels
struct bnn_average {
  int64_t images, parts, channels, sums_channels;
  const float *sums;
  float *mean;
  float factor;  // 1 / pixels
};

// Zeros in the channels around `inner` ones, which begin with the channel `first` and are written by others.
struct bnn_pad {
  int64_t pixels, channels, first, inner;
  float *out;
};

// gate = sigmoid(excite relu(squeeze m)), m = own + mix * (other - own) of means; weights as those of `struct linear`.
struct bnn_gate {
  int64_t images, channels, hidden, out_channels;
  const float *own, *other, *mix;  // (images, channels); other, mix: null for m = own
  const float *squeeze, *squeeze_scale, *squeeze_bias, *excite, *excite_scale, *excite_bias;
  const int8_t *squeeze_bytes, *excite_bytes;  // in place of the floats
  float *work, *gate;  // (images, blocks of channels and of hidden), (images, out_channels)
};

// t = x * gate[image] ; r = prelu(residual) ; t *= r where `multiply` ; t = t * scale + bias ; t = prelu(t) by `inner` ;
// t += r ; then what follows (`struct after`), sums of the result over parts of an image, and its averages over 2x2.
struct bnn_combine {
  int64_t images, parts;                  // parts of an image
  int64_t x_channels, residual_channels;  // of a pixel; the residual's channels are repeated
  int64_t multiply;
  const float *x, *gate, *second, *second_gate;  // `second`: the channels that follow upon those of x; gates: (images, x_channels)
  const float *residual, *residual_slope, *scale, *bias, *inner;
  float *sums, *half;       // (images, parts, channels in whole blocks); (images, height / 2, width / 2, channels), rounded up
  const float *half_slope;  // of a PReLU before these averages
  struct after after;
};

// A convolution of groups of channels, see group_conv.c. Maps are (N, H, W, C), dense.
struct bnn_group_convolve {
  int64_t images, height, width;  // of x
  int64_t groups, channels;       // input channels of a group; `after.channels` are those of all groups' results
  int64_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x, pad_y, pad_x;
  const float *x, *weight;
  const float *bias, *gain, *offset, *residual;  // null: there is none
  struct after after;
};

// A copy between strides, in elements: out[i, j, k, l] = x[i, j, k, l], or `value` where x is null. Bytes are taken in 255ths;
// then (x - mean[j]) / std[j], if given.
struct bnn_copy {
  int64_t images, size_0, size_1, size_2;
  int64_t x_image, x_0, x_1, x_2, out_image, out_0, out_1, out_2;
  int64_t bytes;
  const void *x;
  const float *mean, *std;
  float *out;
  float value;
};

// out = f(x), element by element; f is one of FUNCTIONS in elementwise.c, with parameters a and b.
struct bnn_unary {
  int64_t count, function;
  const float *x;
  float *out;
  float a, b;
};

// out[i, j, k, l] = x[i, j, k, l] f y[i, j, k, l]: f is one of PAIRS in elementwise.c; out is dense.
struct bnn_binary {
  int64_t images, size_0, size_1, size_2;
  int64_t x_image, x_0, x_1, x_2, y_image, y_0, y_1, y_2;
  int64_t function;
  const float *x, *y;
  float *out;
};

// Softmax, or its logarithm, over the classes of x, (rows, classes, inner), dense.
struct bnn_softmax {
  int64_t rows, classes, inner, logarithm;
  const float *x;
  float *out;
};

// out[i, j, k] = factor * the sum of x[i, j, k, l, m, n] over l, m and n, in this order, or where `maximum` their largest;
// out is dense.
struct bnn_reduce {
  int64_t images, size_0, size_1, sum_0, sum_1, sum_2;
  int64_t x_image, x_0, x_1, by_0, by_1, by_2;  // strides, in elements
  int64_t maximum;
  const float *x;
  float *out;
  float factor;
};

// Layer norm of dense rows, see layer_norm.c. Scale and shift: (features), or null.
struct bnn_layer_norm {
  int64_t rows, features;
  const float *x, *scale, *shift;
  float *out;
  float eps;
};
