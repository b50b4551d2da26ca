// The rules of the verifier, kernel by kernel: which elements a field's address is followed to, what must divide what, and
// what the fixed arrays of the kernels hold. Those of deploy/kernels/rules.py are the same: a test holds both to each other.
#include "verify.h"

#include <string.h>

#define VALUES_OF(name, of) , (of)->name

// Room for the signs of a result, and thresholds. The fields are those of `struct after` and of a binary convolution.
struct signs {
  int64_t height, width, top, left, words;
  const void *bits, *threshold;
};
#define SIGNS_OF(a) \
  (struct signs) { (a)->bits_height, (a)->bits_width, (a)->bits_top, (a)->bits_left, (a)->bits_words, (a)->bits, (a)->threshold }

static void check_signs(struct check *c, struct signs s, int64_t images, int64_t height, int64_t width, int64_t of_pixel) {
  if (!s.bits) return;
  NEED(s.top >= 0 && s.left >= 0, "signs begin before their map");
  const bool fits = plus(height, s.top) <= s.height && plus(width, s.left) <= s.width;
  NEED(fits && of_pixel <= 2 * s.words, "signs have more pixels or channels than room");
  reach(c, s.bits, product(times(images, s.height), s.width, s.words), FLOAT, WRITE);
  need(c, s.threshold != 0, "signs have no threshold");
}

static void check_after(struct check *c, const struct after *a, int64_t images, int64_t height, int64_t width) {
  POSITIVE(height, width, a->channels);
  NEED(a->out_channels >= a->channels, "a result has more channels than its memory");
  PARAMETERS(a->channels, a->threshold BNN_AFTER(VALUES_OF, a));
  const int64_t pixels = product(images, height, width);
  reach(c, a->out, pixels ? plus(times(pixels - 1, a->out_channels), a->channels) : 0, FLOAT, WRITE | OPTIONAL);
  check_signs(c, SIGNS_OF(a), images, height, width, blocks(a->channels));
  need(c, a->out || a->bits, "a call writes nothing");
}

// No block of channels may be read across the end of a residual whose channels are read again and again.
static void check_repeats(struct check *c, int64_t added, int64_t channels, int64_t groups) {
  NEED(added > 0, "a residual has no channels");
  const int64_t all = times(groups, channels);
  const bool whole = added % BLOCK == 0 && (groups == 1 || channels % BLOCK == 0);
  if (added >= all || whole || added % channels == 0) return;
  NEED(groups > 1, "a block of channels does not divide a residual");
  for (int64_t first = 0; first < all && !c->wrong; first += channels)
    for (int64_t block = 0; block < channels && !c->wrong; block += BLOCK) {
      const int64_t some = channels - block < BLOCK ? channels - block : BLOCK;
      need(c, (first + block) % added + some <= added, "a block of channels does not divide a residual");
    }
}

static void check_pack(struct check *c, const struct bnn_pack *p) {
  POSITIVE(p->channels, p->height, p->width, p->groups, p->words);
  NEED(p->images >= 0 && p->top >= 0 && p->left >= 0, "a place is negative");
  NEED(p->stride_image >= 0 && p->stride_channel >= 0 && p->stride_y >= 0 && p->stride_x >= 0, "a stride is negative");
  NEED(times(p->words, WORD_BITS) >= p->channels, "there are more channels than bits");
  const int64_t channels = times(p->groups, p->channels) - 1;
  const int64_t last = plus(plus(times(most(p->images - 1, 0), p->stride_image), times(channels, p->stride_channel)),
                            plus(times(p->height - 1, p->stride_y), times(p->width - 1, p->stride_x)));
  reach(c, p->x, p->images ? plus(last, 1) : 0, FLOAT, READ);
  reach(c, p->threshold, product(p->groups, p->words, WORD_BITS), FLOAT, READ);
  NEED(plus(p->height, p->top) <= p->bits_height && plus(p->width, p->left) <= p->bits_width, "signs have more pixels than their map");
  reach(c, p->bits, times(product(p->images, p->bits_height, p->bits_width), times(p->groups, p->words)), FLOAT, WRITE);
}

static void check_convolve(struct check *c, const struct bnn_convolve *p) {
  POSITIVE(p->groups, p->words, p->channels, p->kernel_height, p->kernel_width, p->stride_y, p->stride_x, p->out_height,
           p->out_width, p->dilation_y, p->dilation_x);
  NEED(p->images >= 0, "a number is out of its range");
  NEED(p->pad_y >= 0 && p->pad_x >= 0 && p->real_height >= 0 && p->real_width >= 0, "a zero padding is negative");
  const int64_t span_y = times(p->kernel_height - 1, p->dilation_y), span_x = times(p->kernel_width - 1, p->dilation_x);
  const int64_t last_y = times(p->out_height - 1, p->stride_y), last_x = times(p->out_width - 1, p->stride_x);
  NEED(plus(last_y, span_y) < p->height && plus(last_x, span_x) < p->width, "windows leave the map");
  NEED(p->reach > 0 && p->reach < MOST_FACTORS, "a sum has no factors, or too many");
  const int64_t taps = product(p->kernel_height, p->kernel_width, p->words), pixel = times(p->groups, p->words);
  const int64_t far = table(c, p->offsets, taps);
  const int64_t begin = plus(times(plus(times(most(p->images - 1, 0), p->height), last_y), p->width), last_x);
  reach(c, p->x, p->images ? plus(plus(times(begin, pixel), pixel - p->words), far + 1) : 0, FLOAT, READ);
  const int64_t every = product(p->groups, blocks(p->channels), BLOCK);
  reach(c, p->weight, times(every, taps), FLOAT, READ);
  if (p->real_height || p->center) reach(c, p->tap_sums, product(p->kernel_height, p->kernel_width, every), FLOAT, READ);
  NEED(p->scale && p->bias, "sums have no scale, or no bias");
  VALUES(every, p->threshold BNN_EPILOGUE(VALUES_OF, p));
  if (c->wrong) return;
  const int64_t pixels = product(p->images, p->out_height, p->out_width), channels = times(p->groups, p->channels);
  if (p->residual) {
    const int64_t added = p->residual_channels ? p->residual_channels : channels;
    check_repeats(c, added, p->channels, p->groups);
    reach(c, p->residual, times(pixels, added), FLOAT, READ);
  }
  reach(c, p->out, times(pixels, channels), FLOAT, WRITE | OPTIONAL);
  reach(c, p->sums, product(p->images, parts(times(p->out_height, p->out_width)), every), FLOAT, WRITE | OPTIONAL);
  NEED(p->groups == 1 || p->channels % BLOCK == 0 || !(p->bits || p->sums), "signs and sums of groups need whole blocks");
  check_signs(c, SIGNS_OF(p), p->images, p->out_height, p->out_width, times(p->groups, blocks(p->channels)));
  need(c, p->out || p->bits || p->sums, "a call writes nothing");
}

static void check_windows(struct check *c, const struct windows *w, int64_t height, int64_t width, int64_t out_height,
                          int64_t out_width) {
  POSITIVE(w->height, w->width, w->stride_y, w->stride_x, out_height, out_width);
  NEED(w->pad_y >= 0 && w->pad_x >= 0, "windows have no pixels");
  const bool begin = times(out_height - 1, w->stride_y) - w->pad_y < height && times(out_width - 1, w->stride_x) - w->pad_x < width;
  NEED(begin, "windows begin behind the map");
  need(c, w->pad_y < w->height && w->pad_x < w->width, "windows lie before the map");
  need(c, times(w->height, w->width) < MOST_FACTORS, "windows have too many pixels");
}

// Rows that are copied lie in the input. Returns the bytes of their copy and of a word more.
static int64_t check_band(struct check *c, const struct bnn_real_convolve *p, int64_t height, int64_t width, int64_t far) {
  if (!need(c, p->band > 0, "a number must be positive")) return 0;
  const bool apart = p->whole || p->mean || p->x_channel != 1;
  const int64_t planes = apart ? p->channels : 1, inner = apart ? 1 : p->channels, size = p->whole ? 1 : FLOAT;
  const int64_t rows = plus(times(p->band - 1, p->stride_y), plus(times(p->kernel_height - 1, p->dilation_y), 1));
  const int64_t columns = plus(times(width - 1, p->stride_x), plus(times(p->kernel_width - 1, p->dilation_x), 1));
  const int64_t down = times(times(p->band - 1, p->stride_y), times(columns, inner));
  const int64_t place = plus(plus(down, product(width - 1, p->stride_x, inner)), far);
  const int64_t band = plus(times(product(planes, rows, columns), times(inner, size)), FLOAT);
  need(c, plus(times(place, size), FLOAT) <= band, "windows leave their band");
  if (p->mean || p->std) reach(c, p->mean, p->channels, FLOAT, READ), reach(c, p->std, p->channels, FLOAT, READ);
  if (!apart) need(c, p->x_x == p->channels || p->width == 1, "channels do not lie side by side");
  if (p->pool == 2) {
    const bool plain = p->kernel_height == 1 && p->kernel_width == 1 && p->stride_y == 1 && p->stride_x == 1 && !p->pad_y && !p->pad_x;
    need(c, plain && !apart && !p->bytes, "averages come before a plain 1x1 convolution");
    need(c, 2 * (height - 1) < p->height && 2 * (width - 1) < p->width, "averages leave the map");
  }
  // Planes and rows from their first element to the last one; the channels of a pixel where they are read together.
  const int64_t rest = plus(times(p->height - 1, p->x_y), times(p->width - 1, p->x_x));
  const int64_t last = plus(plus(times(most(p->images - 1, 0), p->x_image), rest), plus(times(planes - 1, p->x_channel), inner));
  reach(c, p->x, p->images ? last : 0, p->bytes ? 1 : FLOAT, READ);
  return band;
}

// Room, behind a band of so many bytes, for the map before maxima, which is computed in turns.
static void check_maxima(struct check *c, const struct bnn_real_convolve *p, int64_t band) {
  const struct after *inner = &p->inner;
  check_windows(c, &p->maxima, inner->height, inner->width, p->after.height, p->after.width);
  NEED(p->maxima.height <= MOST_LINES && p->band >= p->maxima.height - 1, "a window of maxima has too many rows");
  const bool whole = inner->channels == inner->out_channels && inner->channels == blocks(p->after.channels) * BLOCK;
  NEED(whole, "the map before maxima has odd blocks");
  NEED(!inner->bits, "the map before maxima has no signs");
  PARAMETERS(inner->channels, 0 BNN_AFTER(VALUES_OF, inner));
  const int64_t rows = times(product(2, p->band, inner->width), times(inner->out_channels, FLOAT));
  need(c, plus(band, rows) <= p->work_size, "rows before maxima are larger than the memory of a worker");
}

static void check_real_convolve(struct check *c, const struct bnn_real_convolve *p) {
  POSITIVE(p->channels, p->height, p->width, p->kernel_height, p->kernel_width, p->stride_y, p->stride_x, p->factors,
           p->dilation_y, p->dilation_x, p->after.channels);
  NEED(p->images >= 0 && p->pad_y >= 0 && p->pad_x >= 0 && p->band >= 0 && p->maxima.height >= 0 && p->work_size >= 0,
       "a number is out of its range");
  NEED((p->pool == 1 || p->pool == 2) && p->work_size % FLOAT == 0, "a number is out of its range");
  NEED(p->x_image >= 0 && p->x_channel >= 0 && p->x_y >= 0 && p->x_x >= 0, "a stride is negative");
  const struct after *map = p->maxima.height ? &p->inner : &p->after;
  const int64_t count = blocks(p->after.channels) * BLOCK;
  POSITIVE(map->height, map->width);
  reach(c, p->weight, times(count, p->factors), FLOAT, READ);
  PARAMETERS(p->after.channels, p->gain, p->scale, p->offset);
  NEED(!p->gain || p->offset, "a gain has no offset");
  const int64_t far = table(c, p->offsets, p->factors);
  if (p->whole) {
    NEED(p->scale, "whole sums have no scale");
    reach(c, p->bias, table(c, p->bias_y, map->height) + table(c, p->bias_x, map->width) + count, FLOAT, READ);
  } else
    PARAMETERS(p->after.channels, p->bias);
  if (c->wrong) return;
  if (p->band || p->maxima.height) {
    const int64_t band = check_band(c, p, map->height, map->width, far);
    need(c, band <= p->work_size, "a band is larger than the memory of a worker");
    if (c->wrong) return;
    if (p->maxima.height) check_maxima(c, p, (band + LINE - 1) / LINE * LINE);
    reach(c, p->work, times(WORKERS, p->work_size), 1, WRITE);
    reach(c, p->work, 0, LINE, WRITE);  // lines of the cache
  } else {
    NEED(!(p->bytes || p->whole || p->mean || p->pool == 2 || p->pad_y || p->pad_x), "the input must be copied");
    const int64_t steps = plus(product(map->height - 1, p->stride_y, p->x_y), product(map->width - 1, p->stride_x, p->x_x));
    reach(c, p->x, p->images ? plus(plus(times(p->images - 1, p->x_image), steps), far + 1) : 0, FLOAT, READ);
  }
  check_after(c, &p->after, p->images, p->after.height, p->after.width);
  if (!p->residual || c->wrong) return;
  NEED(!p->maxima.height, "maxima have a residual");
  reach(c, p->residual, times(product(p->images, p->after.height, p->after.width), p->after.channels), FLOAT, READ);
}

static void check_linear(struct check *c, const struct bnn_linear *p) {
  POSITIVE(p->rows, p->factors, p->after.channels);
  const int64_t count = blocks(p->after.channels) * BLOCK;
  NEED(p->x_row >= 0 && !p->weight != !p->bytes, "rows or weights are not one thing");
  reach(c, p->x, plus(times(p->rows - 1, p->x_row), p->factors), FLOAT, READ);
  reach(c, p->weight, times(count, p->factors), FLOAT, READ | OPTIONAL);
  reach(c, p->bytes, times(count, p->factors), 1, READ | OPTIONAL);
  reach(c, p->scale, count, FLOAT, p->bytes ? READ : READ | OPTIONAL);
  reach(c, p->bias, count, FLOAT, READ);
  if (!c->wrong) check_after(c, &p->after, 1, 1, p->rows);
}

static void check_pool(struct check *c, const struct bnn_pool *p) {
  const struct after *a = &p->after;
  POSITIVE(p->height, p->width);
  NEED(p->images >= 0, "a number is out of its range");
  check_windows(c, &p->windows, p->height, p->width, a->height, a->width);
  NEED(p->average >= 0 && p->average <= 2, "a number is out of its range");
  NEED(p->average || p->windows.height <= MOST_LINES, "a window of maxima has too many rows");
  if (c->wrong) return;
  check_after(c, a, p->images, a->height, a->width);
  if (c->wrong) return;
  PARAMETERS(a->channels, p->before);
  reach(c, p->x, times(product(p->images, p->height, p->width), a->channels), FLOAT, READ);
}

static void check_sum(struct check *c, const struct bnn_sum *p) {
  POSITIVE(p->pixels, p->channels, p->images);
  reach(c, p->x, product(p->images, p->pixels, p->channels), FLOAT, READ);
  PARAMETERS(p->channels, p->before);
  NEED(p->sums_channels >= blocks(p->channels) * BLOCK, "sums have fewer channels than the map");
  reach(c, p->sums, product(p->images, parts(p->pixels), p->sums_channels), FLOAT, WRITE);
}

static void check_average(struct check *c, const struct bnn_average *p) {
  POSITIVE(p->parts, p->channels, p->images);
  NEED(p->sums_channels >= blocks(p->channels) * BLOCK, "sums have fewer channels than the averages");
  reach(c, p->sums, product(p->images, p->parts, p->sums_channels), FLOAT, READ);
  reach(c, p->mean, times(p->images, p->channels), FLOAT, WRITE);
}

static void check_pad(struct check *c, const struct bnn_pad *p) {
  POSITIVE(p->channels);
  NEED(p->pixels >= 0 && p->first >= 0 && p->inner >= 0 && plus(p->first, p->inner) <= p->channels, "channels leave their pixel");
  reach(c, p->out, times(p->pixels, p->channels), FLOAT, WRITE);
}

static void check_layer(struct check *c, const void *weight, const void *bytes, const void *scale, const void *bias,
                        int64_t inputs, int64_t outputs) {
  const int64_t count = blocks(outputs) * BLOCK;
  reach(c, bytes, times(count, inputs), 1, READ | OPTIONAL);
  reach(c, weight, times(count, inputs), FLOAT, bytes ? READ | OPTIONAL : READ);
  reach(c, scale, count, FLOAT, READ | OPTIONAL);
  reach(c, bias, count, FLOAT, READ);
}

static void check_gate(struct check *c, const struct bnn_gate *p) {
  POSITIVE(p->images, p->channels, p->hidden, p->out_channels);
  reach(c, p->own, times(p->images, p->channels), FLOAT, READ);
  reach(c, p->other, times(p->images, p->channels), FLOAT, READ | OPTIONAL);
  reach(c, p->mix, blocks(p->channels) * BLOCK, FLOAT, p->other ? READ : READ | OPTIONAL);
  check_layer(c, p->squeeze, p->squeeze_bytes, p->squeeze_scale, p->squeeze_bias, p->channels, p->hidden);
  check_layer(c, p->excite, p->excite_bytes, p->excite_scale, p->excite_bias, p->hidden, p->out_channels);
  reach(c, p->work, product(p->images, blocks(p->channels) + blocks(p->hidden), BLOCK), FLOAT, WRITE);
  reach(c, p->gate, times(p->images, p->out_channels), FLOAT, WRITE);
}

static void check_combine(struct check *c, const struct bnn_combine *p) {
  const struct after *a = &p->after;
  POSITIVE(p->images, p->parts, p->x_channels, a->height, a->width, a->channels);
  const int64_t pixels = product(p->images, a->height, a->width);
  NEED(a->channels == p->x_channels * (p->second ? 2 : 1), "maps of other channels are combined");
  NEED(!p->second || p->x_channels % BLOCK == 0, "two maps side by side need whole blocks");
  NEED(p->parts <= times(a->height, a->width), "a map has more parts than pixels");
  NEED(a->out_channels >= a->channels, "a result has more channels than its memory");
  PARAMETERS(a->channels, a->threshold BNN_AFTER(VALUES_OF, a));
  reach(c, a->out, plus(times(pixels - 1, a->out_channels), a->channels), FLOAT, WRITE | OPTIONAL);
  check_signs(c, SIGNS_OF(a), p->images, a->height, a->width, blocks(a->channels));
  reach(c, p->x, times(pixels, p->x_channels), FLOAT, READ);
  reach(c, p->second, times(pixels, p->x_channels), FLOAT, READ | OPTIONAL);
  reach(c, p->gate, times(p->images, p->x_channels), FLOAT, READ | OPTIONAL);
  reach(c, p->second_gate, times(p->images, p->x_channels), FLOAT, READ | OPTIONAL);
  if (p->residual) {
    check_repeats(c, p->residual_channels, a->channels, 1);
    reach(c, p->residual, times(pixels, p->residual_channels), FLOAT, READ);
  }
  NEED(!p->scale || p->bias, "a scale has no bias");
  PARAMETERS(a->channels, p->residual_slope, p->scale, p->bias, p->inner, p->half_slope);
  reach(c, p->sums, product(p->images, p->parts, blocks(a->channels) * BLOCK), FLOAT, WRITE | OPTIONAL);
  const int64_t halves = times((a->height + 1) / 2, (a->width + 1) / 2);
  reach(c, p->half, product(p->images, halves, a->channels), FLOAT, WRITE | OPTIONAL);
  need(c, a->out || a->bits || p->sums || p->half, "a call writes nothing");
}

static void check_group_convolve(struct check *c, const struct bnn_group_convolve *p) {
  const struct after *a = &p->after;
  POSITIVE(p->height, p->width, p->groups, p->channels, p->kernel_height, p->kernel_width, p->stride_y, p->stride_x,
           p->dilation_y, p->dilation_x, a->height, a->width, a->channels);
  NEED(p->images >= 0 && p->pad_y >= 0 && p->pad_x >= 0, "a number is out of its range");
  NEED(a->channels % p->groups == 0, "groups do not divide the channels");
  const int64_t outputs = a->channels / p->groups, taps = times(p->kernel_height, p->kernel_width);
  const bool depthwise = p->channels == 1 && outputs == 1;
  const int64_t count = depthwise ? blocks(a->channels) * BLOCK : (p->groups - 1) * outputs + blocks(outputs) * BLOCK;
  const int64_t weights = depthwise ? blocks(a->channels) : times(times(p->groups, blocks(outputs)), p->channels);
  reach(c, p->weight, product(weights, taps, BLOCK), FLOAT, READ);
  VALUES(count, p->bias, p->gain, p->offset, a->threshold BNN_AFTER(VALUES_OF, a));
  NEED(!p->gain || p->offset, "a gain has no offset");
  NEED(depthwise || p->groups == 1 || outputs % BLOCK == 0 || !a->bits, "signs of groups need whole blocks");
  const int64_t pixels = product(p->images, a->height, a->width);
  reach(c, p->residual, times(pixels, a->channels), FLOAT, READ | OPTIONAL);
  reach(c, p->x, times(product(p->images, p->height, p->width), times(p->groups, p->channels)), FLOAT, READ);
  if (!c->wrong) check_after(c, a, p->images, a->height, a->width);
}

// The elements from the first to the last of `images` times (size_0, size_1, size_2) with strides that are not negative.
static int64_t span(struct check *c, int64_t images, const int64_t sizes[3], const int64_t strides[4]) {
  int64_t last = times(most(images - 1, 0), strides[0]);
  for (int i = 0; i < 4; i++) need(c, strides[i] >= 0, "a stride is negative");
  for (int i = 0; i < 3; i++) last = plus(last, times(sizes[i] - 1, strides[i + 1]));
  need(c, product(sizes[0], sizes[1], sizes[2]) <= MOST_ELEMENTS, "there are more elements than in any value");
  return !c->wrong && images ? plus(last, 1) : 0;
}

static void check_copy(struct check *c, const struct bnn_copy *p) {
  POSITIVE(p->images, p->size_0, p->size_1, p->size_2);
  const int64_t sizes[] = {p->size_0, p->size_1, p->size_2};
  const int64_t from[] = {p->x_image, p->x_0, p->x_1, p->x_2}, to[] = {p->out_image, p->out_0, p->out_1, p->out_2};
  const int64_t read = span(c, p->images, sizes, from), written = span(c, p->images, sizes, to);
  reach(c, p->x, read, p->bytes ? 1 : FLOAT, READ | OPTIONAL);
  reach(c, p->out, written, FLOAT, WRITE);
  if (p->mean || p->std) reach(c, p->mean, p->size_0, FLOAT, READ), reach(c, p->std, p->size_0, FLOAT, READ);
}

static void check_unary(struct check *c, const struct bnn_unary *p) {
  enum { FUNCTIONS = 12 };
  NEED(p->count >= 0 && p->function >= 0 && p->function < FUNCTIONS, "a number is out of its range");
  reach(c, p->x, p->count, FLOAT, READ);
  reach(c, p->out, p->count, FLOAT, WRITE);
}

static void check_binary(struct check *c, const struct bnn_binary *p) {
  enum { PAIRS = 4 };
  POSITIVE(p->images, p->size_0, p->size_1, p->size_2);
  NEED(p->function >= 0 && p->function < PAIRS, "a number is out of its range");
  const int64_t sizes[] = {p->size_0, p->size_1, p->size_2};
  const int64_t one[] = {p->x_image, p->x_0, p->x_1, p->x_2}, two[] = {p->y_image, p->y_0, p->y_1, p->y_2};
  reach(c, p->x, span(c, p->images, sizes, one), FLOAT, READ);
  reach(c, p->y, span(c, p->images, sizes, two), FLOAT, READ);
  reach(c, p->out, times(p->images, product(p->size_0, p->size_1, p->size_2)), FLOAT, WRITE);
}

static void check_softmax(struct check *c, const struct bnn_softmax *p) {
  POSITIVE(p->rows, p->classes, p->inner);
  reach(c, p->x, product(p->rows, p->classes, p->inner), FLOAT, READ);
  reach(c, p->out, product(p->rows, p->classes, p->inner), FLOAT, WRITE);
}

static void check_reduce(struct check *c, const struct bnn_reduce *p) {
  POSITIVE(p->images, p->size_0, p->size_1, p->sum_0, p->sum_1, p->sum_2);
  const int64_t sizes[] = {p->size_0, p->size_1, p->sum_0}, strides[] = {p->x_image, p->x_0, p->x_1, p->by_0};
  const int64_t sums[] = {p->sum_1, p->sum_2, 1}, by[] = {0, p->by_1, p->by_2, 0};
  const int64_t added = product(p->sum_0, p->sum_1, p->sum_2);
  NEED(product(p->size_0, p->size_1, added) <= MOST_ELEMENTS, "there are more elements than in any value");
  reach(c, p->x, plus(span(c, p->images, sizes, strides), span(c, 1, sums, by)) - 1, FLOAT, READ);
  reach(c, p->out, product(p->images, p->size_0, p->size_1), FLOAT, WRITE);
}

static void check_layer_norm(struct check *c, const struct bnn_layer_norm *p) {
  POSITIVE(p->rows, p->features);
  reach(c, p->x, times(p->rows, p->features), FLOAT, READ);
  VALUES(p->features, p->scale, p->shift);
  reach(c, p->out, times(p->rows, p->features), FLOAT, WRITE);
}

void bnn_check_call(struct check *c, int kernel) {
  switch (kernel) {
#define CHECK(name, more) \
  case KERNEL_##name: check_##name(c, (const struct bnn_##name *)(const void *)c->structure); return;
    BNN_KERNELS(CHECK, )
  }
}

bool bnn_may_grow(int kernel, const char *field) {
  switch (kernel) {
    case KERNEL_pad: return !strcmp(field, "pixels");
    case KERNEL_unary: return !strcmp(field, "count");
    case KERNEL_softmax:
    case KERNEL_layer_norm: return !strcmp(field, "rows");
    case KERNEL_linear: return !strcmp(field, "rows") || !strcmp(field, "after.width") || !strcmp(field, "after.bits_width");
  }
  return !strcmp(field, "images");
}
