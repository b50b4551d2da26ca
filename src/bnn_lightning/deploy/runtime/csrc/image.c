// Pictures: reading PGM and PPM, and preparing pictures for a network. The bytes are those of Pillow's resizing with its
// filters bilinear and bicubic, both with antialiasing (two passes, weights in fixed point), and of data/preparation.py and
// data/image_io.py, which say what is cut out and where.
#include "internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#pragma STDC FP_CONTRACT OFF  // weights are rounded as Pillow's

enum { PRECISION = 22, LONGEST = 16 };  // bits of weights behind the point; see Preparation.cut
static const int64_t MOST_PIXELS = (int64_t)1 << 28;

static double bilinear(double x) { return x < 0 ? bilinear(-x) : x < 1 ? 1 - x : 0; }

static double bicubic(double x) {
  const double a = -0.5;
  if (x < 0) x = -x;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// For each pixel of a result: the first pixel that it is made of, how many these are, and their weights, `most` a pixel.
struct weights {
  int64_t most;
  int32_t *first, *count, *weight;
};

static void free_weights(struct weights *w) { free(w->first), free(w->count), free(w->weight); }

static bool weights_of(struct weights *w, int64_t from, int64_t to, int filter) {
  const double scale = (double)from / (double)to, wide = scale < 1 ? 1 : scale, support = (filter == 2 ? 2 : 1) * wide;
  w->most = (int64_t)ceil(support) * 2 + 1;
  w->first = calloc((size_t)to, 4), w->count = calloc((size_t)to, 4);
  w->weight = calloc((size_t)(to * w->most), 4);
  double *exact = calloc((size_t)w->most, sizeof *exact);
  const bool fits = w->first && w->count && w->weight && exact;
  for (int64_t i = 0; fits && i < to; i++) {
    const double center = ((double)i + 0.5) * scale, narrow = 1 / wide;
    int64_t begin = (int64_t)(center - support + 0.5), end = (int64_t)(center + support + 0.5);
    double sum = 0;
    if (begin < 0) begin = 0;
    if (end > from) end = from;
    w->first[i] = (int32_t)begin, w->count[i] = (int32_t)(end - begin);
    for (int64_t k = 0; k < end - begin; k++) {
      const double x = ((double)(k + begin) - center + 0.5) * narrow;
      exact[k] = filter == 2 ? bicubic(x) : bilinear(x);
      sum += exact[k];
    }
    for (int64_t k = 0; k < end - begin; k++) {
      const double part = sum != 0 ? exact[k] / sum : exact[k], whole = part * (1 << PRECISION);
      w->weight[i * w->most + k] = (int32_t)(part < 0 ? whole - 0.5 : whole + 0.5);
    }
  }
  free(exact);
  return fits;
}

static uint8_t clip(int32_t sum) {
  sum >>= PRECISION;
  return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

// A plane: rows of bytes.
struct plane {
  int64_t width, height;
  uint8_t *pixels;
};

// Scale along one side: `to` gets pixels of its own. Neighbors are `step` bytes apart in `from`.
static bool pass(const struct plane *from, struct plane *to, bool down, int filter) {
  struct weights w = {0};
  const int64_t step = down ? from->width : 1;
  bool fits = weights_of(&w, down ? from->height : from->width, down ? to->height : to->width, filter);
  to->pixels = fits ? malloc((size_t)(to->width * to->height)) : 0;
  fits = to->pixels != 0;
  for (int64_t y = 0; fits && y < to->height; y++)
    for (int64_t x = 0; x < to->width; x++) {
      const int64_t place = down ? y : x;
      const uint8_t *at = from->pixels + (down ? x : y * from->width) + w.first[place] * step;
      int32_t sum = 1 << (PRECISION - 1);
      for (int32_t k = 0; k < w.count[place]; k++) sum += at[k * step] * w.weight[place * w.most + k];
      to->pixels[y * to->width + x] = clip(sum);
    }
  free_weights(&w);
  return fits;
}

// Scale a plane to `to`, whose pixels it allocates. Pillow 13 scales columns first where that leaves fewer pixels by its
// rule, and rows first elsewhere; each pass rounds.
static bool resize(const struct plane *from, struct plane *to, int filter) {
  const int64_t narrower = from->width > to->width ? from->width - to->width : 0;
  const bool down_first = from->height - to->height > 2 * narrower;
  if (from->height == to->height) return pass(from, to, false, filter);
  if (from->width == to->width) return pass(from, to, true, filter);
  struct plane between = {down_first ? from->width : to->width, down_first ? to->height : from->height, 0};
  const bool fits = pass(from, &between, down_first, filter) && pass(&between, to, !down_first, filter);
  free(between.pixels);
  return fits;
}

// First pixel of the middle: halves are rounded to even numbers, as Python's `round` does.
static int64_t middle_of(int64_t whole, int64_t part) {
  const int64_t twice = whole - part, half = twice / 2;
  return twice % 2 && half % 2 ? half + 1 : half;
}

// A channel of a part of a picture; of RGB as gray, Pillow's luma (ITU-R 601-2).
static uint8_t value_of(const bnn_picture *p, int64_t x, int64_t y, int64_t channel, int64_t channels) {
  const uint8_t *at = p->pixels + (y * p->width + x) * p->channels;
  if (p->channels == 1) return *at;
  if (channels == 3) return at[channel];
  return (uint8_t)((at[0] * 19595 + at[1] * 38470 + at[2] * 7471 + 0x8000) >> 16);
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Prepare a channel of a picture.
static bool prepare_channel(const bnn_network *n, const bnn_picture *p, int64_t channel, uint8_t *image) {
  const int64_t rows = n->preparation.height, columns = n->preparation.width, border = n->preparation.border;
  const int64_t height = n->facts.height, width = n->facts.width, inner_y = height - 2 * border, inner_x = width - 2 * border;
  // Preparation.cut and Preparation.scaled
  struct plane cut = {least(p->width, most(1, LONGEST * columns * p->height / rows)),
                      least(p->height, most(1, LONGEST * rows * p->width / columns)), 0};
  const bool flat = columns * cut.height >= rows * cut.width;
  struct plane scaled = {flat ? columns : most(columns, rows * cut.width / cut.height),
                         flat ? most(rows, columns * cut.height / cut.width) : rows, 0};
  const int64_t left = middle_of(p->width, cut.width), top = middle_of(p->height, cut.height);
  if (!(cut.pixels = malloc((size_t)(cut.width * cut.height)))) return false;
  for (int64_t y = 0; y < cut.height; y++)
    for (int64_t x = 0; x < cut.width; x++)
      cut.pixels[y * cut.width + x] = value_of(p, left + x, top + y, channel, n->facts.channels);
  const bool same = scaled.width == cut.width && scaled.height == cut.height;
  if (same) scaled.pixels = cut.pixels;
  else if (!resize(&cut, &scaled, n->preparation.filter)) {
    free(cut.pixels);
    return false;
  }
  const int64_t from_x = middle_of(scaled.width, inner_x), from_y = middle_of(scaled.height, inner_y);
  memset(image, 0, (size_t)(height * width));
  for (int64_t y = 0; y < inner_y; y++)
    memcpy(image + (border + y) * width + border, scaled.pixels + (from_y + y) * scaled.width + from_x, (size_t)inner_x);
  if (!same) free(scaled.pixels);
  free(cut.pixels);
  return true;
}

bnn_status bnn_prepare(const bnn_network *n, const bnn_picture *p, uint8_t *image, bnn_error *error) {
  const bool fits = p->width > 0 && p->height > 0 && p->width <= MOST_PIXELS / p->height && (p->channels == 1 || p->channels == 3);
  if (!fits || !p->pixels) return bnn_fail(error, BNN_ERROR_ARGUMENT, "A picture must have pixels, at most 2^28, of 1 or 3 bytes.");
  if (!n->facts.has_preparation)
    return bnn_fail(error, BNN_ERROR_ARGUMENT, "The file of this network does not say how pictures are prepared.");
  for (int64_t channel = 0; channel < n->facts.channels; channel++) {
    uint8_t *to = image + channel * n->facts.height * n->facts.width;
    if (channel && p->channels == 1) memcpy(to, image, (size_t)(n->facts.height * n->facts.width));
    else if (!prepare_channel(n, p, channel, to)) return bnn_fail(error, BNN_ERROR_MEMORY, "There is not enough memory.");
  }
  return bnn_succeed(error);
}

// The numbers of a PGM or PPM file: what is between them is white space or comments.
struct text_reader {
  const uint8_t *at, *end;
};

static int64_t next_number(struct text_reader *r) {
  while (r->at < r->end && (*r->at == '#' || *r->at <= ' ')) {
    if (*r->at++ != '#') continue;
    while (r->at < r->end && *r->at != '\n' && *r->at != '\r') r->at++;
  }
  int64_t value = -1;
  for (; r->at < r->end && *r->at >= '0' && *r->at <= '9' && value < MOST_PIXELS; r->at++)
    value = (value < 0 ? 0 : value) * 10 + (*r->at - '0');
  return value;
}

// A value as a byte. Of 16 bits the upper 8 count, as elsewhere; others are scaled to 255.
static uint8_t byte_of(int64_t value, int64_t largest, bool gray) {
  if (value > largest) value = largest;
  if (largest == 255) return (uint8_t)value;
  if (gray && largest > 255) {
    const double wide = (double)value / (double)largest * 65535;
    return (uint8_t)((int64_t)nearbyint(wide) >> 8);
  }
  return (uint8_t)nearbyint((double)value / (double)largest * 255);
}

bnn_status bnn_picture_read(const void *data, size_t size, bnn_picture *p, bnn_error *error) {
  struct text_reader r = {data, (const uint8_t *)data + size};
  *p = (bnn_picture){0};
  if (size < 3 || r.at[0] != 'P' || !strchr("2356", r.at[1]) || !r.at[1])
    return bnn_fail(error, BNN_ERROR_DAMAGED, "It is no PGM or PPM picture (P2, P3, P5 or P6).");
  const bool written = r.at[1] < '5', gray = r.at[1] == '2' || r.at[1] == '5';
  r.at += 2;
  const int64_t width = next_number(&r), height = next_number(&r), largest = next_number(&r), channels = gray ? 1 : 3;
  if (width < 1 || height < 1 || width > MOST_PIXELS / height || largest < 1 || largest > 65535)
    return bnn_fail(error, BNN_ERROR_DAMAGED, "Its size or its largest value is out of range.");
  const int64_t count = width * height * channels, bytes = largest > 255 ? 2 : 1;
  if (!written && (r.at >= r.end || r.end - r.at - 1 < count * bytes)) return bnn_fail(error, BNN_ERROR_DAMAGED, "It is truncated.");
  if (written && r.end - r.at < 2 * count) return bnn_fail(error, BNN_ERROR_DAMAGED, "It is truncated.");
  if (!written) r.at++;  // one white space
  uint8_t *pixels = malloc((size_t)count);
  if (!pixels) return bnn_fail(error, BNN_ERROR_MEMORY, "There is not enough memory.");
  for (int64_t i = 0; i < count; i++) {
    int64_t value = 0;
    if (written) value = next_number(&r);
    else for (int64_t k = 0; k < bytes; k++) value = value << 8 | *r.at++;
    if (value < 0) {
      free(pixels);
      return bnn_fail(error, BNN_ERROR_DAMAGED, "It is truncated.");
    }
    pixels[i] = byte_of(value, largest, gray);
  }
  *p = (bnn_picture){width, height, channels, pixels};
  return bnn_succeed(error);
}

bnn_status bnn_picture_open(const char *path, bnn_picture *picture, bnn_error *error) {
  size_t size = 0;
  bnn_status status;
  *picture = (bnn_picture){0};
  const char *why;
  void *data = bnn_map(path, &size, &status, &why);
  if (!data) return bnn_fail(error, status, "`%.150s` cannot be opened: %.80s.", path, why);
  status = bnn_picture_read(data, size, picture, error);
  bnn_unmap(data, size);
  if (!status || !error) return status;
  char text[sizeof error->text];
  memcpy(text, error->text, sizeof text);
  return bnn_fail(error, status, "`%.150s`: %s", path, text);
}

void bnn_picture_close(bnn_picture *picture) {
  free(picture->pixels);
  *picture = (bnn_picture){0};
}
