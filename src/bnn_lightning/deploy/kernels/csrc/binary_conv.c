// Packed binary convolution for any instruction set: Clang vector types, no intrinsics, no libc.
//
// A bit is 1 for +1 and 0 for -1; a word holds 32 channels, the first one in its lowest bit, the bits that are left over
// are 0. Activations are (N, H, W, group, word), padded already; weights are (group, block, tap, word, BLOCK), a block
// being BLOCK output channels. A sum of products of signs is the number of factors less twice the number of unlike bits:
//
//   dot[pixel, c] = reach - sum over padded taps of tap_sums[tap, c] - 2 sum_k popcount(weight[k, c] ^ x[pixel + offset k])
//   t = dot * gain[c] ; t += pull[c] * ones ; t += center[c] * (taps[c] * tap_scale[c] + tap_offset[c] * factors)
//   t += offset[c] ; t = max(t, floor[c]) ; t = t * scale[c] + bias[c] (+ residual) ; t += lift[c]
//   t < 0: t *= slope[c] ; t += shift[c] ; t = clamp(t, low, high)
//   out = t ; bits = t >= threshold[c] ; sums = of t over parts of PART pixels of an image
//
// where `ones` is the sum of the input's signs, `taps` of the weights' and `factors` the number of either, all of them over
// the part of a window that is not padded with zeros.
//
// The innermost tile, PIXELS x BLOCKS * BLOCK sums, lives in registers. See docs/internals/engine.md.
#include "simd.h"

// A tile has RUN_OF(blocks) pixels of up to BLOCKS blocks of channels, at most MOST, so many that its sums stay in registers.
// SHAPES are the pixels and blocks that tiles may have, fewer pixels first.
#if __AVX512VPOPCNTDQ__
enum { BLOCKS = 4, MOST = 12 };
#define RUN_OF(blocks) ((blocks) == 1 ? 12 : (blocks) == 2 ? 10 : 6)
#define BYTES 0
#define SHAPES(X) X(1, 1) X(1, 2) X(1, 3) X(1, 4) X(3, 3) X(3, 4) X(6, 1) X(6, 2) X(6, 3) X(6, 4) X(12, 1) X(10, 2)
#elif __AVX2__
enum { BLOCKS = 2, MOST = 4 };
#define RUN_OF(blocks) ((blocks) == 1 ? 4 : 2)
#define BYTES 1
#define SHAPES(X) X(1, 1) X(1, 2) X(2, 1) X(2, 2) X(4, 1)
#elif __aarch64__
enum { BLOCKS = 1, MOST = 4 };
#define RUN_OF(blocks) 4
#define BYTES 1
#define SHAPES(X) X(1, 1) X(4, 1)
#else
enum { BLOCKS = 1, MOST = 2 };
#define RUN_OF(blocks) 2
#define BYTES 1
#define SHAPES(X) X(1, 1) X(2, 1)
#endif
enum { STEP = 31 };  // a byte overflows after 31 words

INLINE U popcount(U x) { return BYTES ? (U)__builtin_elementwise_popcount((B)x) : __builtin_elementwise_popcount(x); }
INLINE U count(U sum, U unlike) { return BYTES ? (U)((B)sum + (B)popcount(unlike)) : sum + popcount(unlike); }

// The classes of rows (or of columns): 0 is all that has no padded tap, others have one row each.
struct border {
  int64_t begin, end, classes;  // from begin to before end lies class 0
};

static struct border border_of(int64_t pad, int64_t stride, int64_t reach, int64_t real, int64_t out) {
  const int64_t room = real + pad - reach - 1, first = (pad + stride - 1) / stride;
  struct border b = {first < out ? first : out, room < 0 ? 0 : room / stride + 1, 0};
  b.end = b.end < b.begin ? b.begin : b.end > out ? out : b.end;
  b.classes = 1 + b.begin + out - b.end;
  return b;
}

INLINE int64_t class_of(const struct border *b, int64_t place) {
  return place < b->begin ? 1 + place : place < b->end ? 0 : 1 + b->begin + place - b->end;
}

// Division of a layer: chunks of blocks, and in each of them units of pixels, a tile or a part that is summed.
struct cut {
  int64_t pixels, blocks, chunks, units, unit, run, parts;  // pixels of an image where its parts are summed, or of all
};

static struct cut cut_of(const struct bnn_convolve *c) {
  struct cut s = {.pixels = c->images * c->out_height * c->out_width, .blocks = (c->channels + BLOCK - 1) / BLOCK};
  s.run = RUN_OF(s.blocks);
  s.chunks = (s.blocks + BLOCKS - 1) / BLOCKS;
  s.unit = c->sums ? PART : s.run;
  if (c->sums && c->images) s.pixels /= c->images;
  s.parts = (s.pixels + s.unit - 1) / s.unit;
  s.units = c->sums ? c->images * s.parts : s.parts;
  return s;
}

INLINE int64_t first_of(const struct cut *s, int64_t unit) {
  return unit / s->parts * s->pixels + least(unit % s->parts * s->unit, s->pixels);
}

// Start values of the pixels of a class: factors of a sum, less what padded taps have counted as -1; what the centers of
// inputs add; and the factors without padded taps.
struct slot {
  _Alignas(LINE) I start[BLOCKS];
  F around[BLOCKS];
  int64_t factors;
};

// Values that all tiles of a chunk share. KEPT classes of pixels have their slot kept; what are more is computed each time.
enum { KEPT = 25 };
struct chunk {
  const struct bnn_convolve *c;
  struct border rows, columns;
  int64_t nb, left, parameters, channel;  // blocks; channels that are left; the first one among parameters and in a pixel
  int64_t residual[BLOCKS];               // where the blocks of what is added lie in its pixels
  uint32_t known;                         // classes whose slots are there
  struct slot slots[KEPT + MOST];
};

static struct chunk chunk_of(const struct bnn_convolve *c, const struct cut *s, int64_t number) {
  const int64_t group = number / s->chunks, block = number % s->chunks * BLOCKS, rest = s->blocks - block;
  struct chunk k;
  k.c = c, k.known = 0;
  k.rows = k.columns = (struct border){0, INT64_MAX, 1};
  if (c->real_height) {
    const int64_t reach_y = (c->kernel_height - 1) * c->dilation_y, reach_x = (c->kernel_width - 1) * c->dilation_x;
    k.rows = border_of(c->pad_y, c->stride_y, reach_y, c->real_height, c->out_height);
    k.columns = border_of(c->pad_x, c->stride_x, reach_x, c->real_width, c->out_width);
  }
  k.nb = rest < BLOCKS ? rest : BLOCKS;
  k.left = c->channels - block * BLOCK;
  k.parameters = (group * s->blocks + block) * BLOCK;
  k.channel = group * c->channels + block * BLOCK;
  for (int64_t b = 0; b < k.nb; b++)
    k.residual[b] = c->residual_channels ? (k.channel + b * BLOCK) % c->residual_channels : k.channel + b * BLOCK;
  return k;
}

// A pixel of the output, as they follow upon each other.
struct walk {
  int64_t image, y, x, row_class;
  const uint32_t *window;
  uint16_t *bits;
};

static void begin_row(const struct chunk *k, struct walk *at, int64_t first_word) {
  const struct bnn_convolve *c = k->c;
  at->row_class = class_of(&k->rows, at->y) * k->columns.classes;
  at->window = c->x + ((at->image * c->height + at->y * c->stride_y) * c->width + at->x * c->stride_x) * c->groups * c->words +
               first_word;
  const int64_t row = (at->image * c->bits_height + at->y + c->bits_top) * c->bits_width + at->x + c->bits_left;
  at->bits = !c->bits ? 0 : c->bits + row * c->bits_words * (WORD_BITS / BLOCK) + k->channel / BLOCK;
}

// Add the terms of the inputs' centers where the weights of the taps that are not padded have these sums.
static void add_center(const struct chunk *k, struct slot *slot, const I *taps) {
  const struct bnn_convolve *c = k->c;
  for (int64_t b = 0; b < k->nb; b++) {
    const int64_t at = k->parameters + b * BLOCK;
    F sum = __builtin_convertvector(taps[b], F);
    if (c->tap_scale) sum *= LOAD(F, c->tap_scale + at);
    if (c->tap_offset) {
      const F offset = LOAD(F, c->tap_offset + at) * (float)slot->factors;
      sum += offset;
    }
    slot->around[b] = LOAD(F, c->center + at) * sum;
  }
}

static __attribute__((noinline)) void fill_slot(const struct chunk *k, struct slot *slot, const struct walk *at, int64_t class) {
  const struct bnn_convolve *c = k->c;
  const int32_t *sums = c->tap_sums ? c->tap_sums + k->parameters : 0;
  const int64_t all = c->groups * ((c->channels + BLOCK - 1) / BLOCK) * BLOCK;
  I start[BLOCKS], taps[BLOCKS] = {0};
  for (int64_t b = 0; b < BLOCKS; b++) start[b] = (I)(int32_t)c->reach;
  slot->factors = c->reach;
  for (int64_t i = 0; i < c->kernel_height && (class || c->center); i++) {
    const int64_t y = at->y * c->stride_y + i * c->dilation_y - c->pad_y;
    for (int64_t j = 0; j < c->kernel_width; j++, sums += all) {
      const int64_t x = at->x * c->stride_x + j * c->dilation_x - c->pad_x;
      if (class && (y < 0 || y >= c->real_height || x < 0 || x >= c->real_width)) {
        slot->factors -= c->reach / (c->kernel_height * c->kernel_width);
        for (int64_t b = 0; b < k->nb; b++) start[b] -= LOAD(I, sums + b * BLOCK);
      } else if (c->center)
        for (int64_t b = 0; b < k->nb; b++) taps[b] -= LOAD(I, sums + b * BLOCK);
    }
  }
  for (int64_t b = 0; b < k->nb; b++) slot->start[b] = start[b];
  if (c->center) add_center(k, slot, taps);
}

// The slot of a pixel. Those of a class are computed when its first pixel comes.
INLINE const struct slot *slot_of(struct chunk *k, const struct walk *at, int64_t pixel) {
  const int64_t class = at->row_class + class_of(&k->columns, at->x), number = class < KEPT ? class : KEPT + pixel;
  struct slot *const slot = k->slots + number;
  if (__builtin_expect(number < KEPT && k->known >> number & 1, 1)) return slot;
  k->known |= number < KEPT ? 1u << number : 0;
  fill_slot(k, slot, at, class);
  return slot;
}

struct tile {
  int64_t n, first;  // pixels, and the first one's number
  const uint32_t *x[MOST];
  const struct slot *slots[MOST];
  uint16_t *bits[MOST];
  float ones[MOST];  // sums of the input's signs
  _Alignas(LINE) U acc[MOST * BLOCKS];
  F sums[BLOCKS];  // of the tiles of a part
};

// The epilogue of the sums of a block of `n` pixels of a tile, from `begin` on, and their stores; `whole`: all 16 channels are
// there. Stage by stage, so that what belongs to a channel stays in registers.
INLINE void finish(const struct chunk *k, struct tile *t, const U *acc, int64_t nb, int64_t b, int64_t begin, const int64_t n,
                   const bool whole) {
  const struct bnn_convolve *c = k->c;
  const int64_t channels = c->groups * c->channels, added = c->residual_channels ? c->residual_channels : channels;
  const float *residuals = c->residual ? c->residual + (t->first + begin) * added : 0;
  float *outs = c->out ? c->out + (t->first + begin) * channels + k->channel : 0;
  const F low = c->low, high = c->high;
  const int64_t at = k->parameters + b * BLOCK, left = whole ? BLOCK : k->left - b * BLOCK;
  const F scale = LOAD(F, c->scale + at), bias = LOAD(F, c->bias + at);
  F y[MOST];
  UNROLL for (int64_t p = 0; p < n; p++)
    y[p] = __builtin_convertvector(t->slots[begin + p]->start[b] - 2 * (I)acc[(begin + p) * nb + b], F);
  if (c->gain) UNROLL for (int64_t p = 0; p < n; p++) y[p] *= LOAD(F, c->gain + at);
  if (c->pull) {
    const F pull = LOAD(F, c->pull + at);
    UNROLL for (int64_t p = 0; p < n; p++) {
      const F sum = pull * t->ones[begin + p];
      y[p] += sum;
    }
  }
  if (c->center) UNROLL for (int64_t p = 0; p < n; p++) y[p] += t->slots[begin + p]->around[b];
  if (c->offset) UNROLL for (int64_t p = 0; p < n; p++) y[p] += LOAD(F, c->offset + at);
  if (c->floor) {
    const F floor = LOAD(F, c->floor + at);
    UNROLL for (int64_t p = 0; p < n; p++) y[p] = y[p] < floor ? floor : y[p];
  }
  UNROLL for (int64_t p = 0; p < n; p++) y[p] = fused(y[p], scale, bias);
  if (residuals) UNROLL for (int64_t p = 0; p < n; p++) y[p] += load_some(residuals + p * added + k->residual[b], left);
  if (c->lift) {
    const F lift = LOAD(F, c->lift + at);
    UNROLL for (int64_t p = 0; p < n; p++) y[p] += lift;
  }
  if (c->slope) {
    const F slope = LOAD(F, c->slope + at);
    UNROLL for (int64_t p = 0; p < n; p++) y[p] = y[p] > 0 ? y[p] : y[p] * slope;
  }
  if (c->shift) {
    const F shift = LOAD(F, c->shift + at);
    UNROLL for (int64_t p = 0; p < n; p++) y[p] += shift;
  }
  UNROLL for (int64_t p = 0; p < n; p++) y[p] = y[p] < low ? low : y[p], y[p] = y[p] > high ? high : y[p];
  if (c->bits) {
    const F threshold = LOAD(F, c->threshold + at);
    UNROLL for (int64_t p = 0; p < n; p++) t->bits[begin + p][b] = mask_of(__builtin_convertvector(y[p] >= threshold, M));
  }
  if (c->sums) {
    F sum = t->sums[b];
    UNROLL for (int64_t p = 0; p < n; p++) sum += y[p];
    t->sums[b] = sum;
  }
  if (outs) UNROLL for (int64_t p = 0; p < n; p++) store_some(outs + p * channels + b * BLOCK, y[p], left);
}

// The same of tiles that are not whole: rare, and so not in every tile's function.
static __attribute__((noinline)) void finish_some(const struct chunk *k, struct tile *t) {
  for (int64_t p = 0; p < t->n; p++)
    for (int64_t b = 0; b < k->nb; b++)
      if (k->left >= (b + 1) * BLOCK) finish(k, t, t->acc, k->nb, b, p, 1, true);
      else finish(k, t, t->acc, k->nb, b, p, 1, false);
}

static void store_sums(const struct chunk *k, const struct cut *s, struct tile *t, int64_t unit) {
  float *to = k->c->sums + unit * k->c->groups * s->blocks * BLOCK + k->parameters;
  for (int64_t b = 0; b < k->nb; b++) *(F *)(to + b * BLOCK) = t->sums[b], t->sums[b] = 0;
}

#define FINISH(PIXELS, NB, ACC)                                                                                        \
  UNROLL for (int64_t b = 0; b < NB; b++) finish(k, t, ACC, NB, b, 0, PIXELS, true)
// Whether a tile has one of the sizes that most have; others are rare.
#define WHOLE_TILE(PIXELS, NB) ((PIXELS == RUN_OF(NB) || PIXELS == RUN_OF(BLOCKS)) && t->n == PIXELS && k->left >= NB * BLOCK)

#if BYTES
INLINE U total(U x) {  // from four counters a word to one
  x = (x & 0xff00ff) + (x >> 8 & 0xff00ff);
  return (x & 0xffff) + (x >> 16);
}

// Counters of bytes overflow: they are added to others in memory now and then.
#define TILE(PIXELS, NB)                                                                                               \
  static __attribute__((noinline)) void dots_##PIXELS##_##NB(const uint32_t *const *x, const int32_t *offsets,         \
                                                             const uint32_t *w, int64_t stride, int64_t n, U *acc) {   \
    U sums[PIXELS][NB] = {0};                                                                                          \
    for (int64_t k = 0; k < n; k++, w += BLOCK) {                                                                      \
      const ptrdiff_t offset = offsets[k];                                                                             \
      UNROLL for (int p = 0; p < PIXELS; p++) UNROLL for (int b = 0; b < NB; b++) sums[p][b] =                         \
          count(sums[p][b], LOAD(U, w + b * stride) ^ x[p][offset]);                                                   \
    }                                                                                                                  \
    UNROLL for (int p = 0; p < PIXELS; p++) UNROLL for (int b = 0; b < NB; b++) acc[p * NB + b] += total(sums[p][b]);  \
  }                                                                                                                    \
  static __attribute__((noinline)) void tile_##PIXELS##_##NB(const struct chunk *k, struct tile *t, const uint32_t *w, \
                                                             int64_t taps) {                                           \
    for (int64_t p = t->n; p < PIXELS; p++) t->x[p] = t->x[t->n - 1];                                                  \
    for (int64_t i = 0; i < PIXELS * NB; i++) t->acc[i] = 0;                                                           \
    for (int64_t i = 0; i < taps; i += STEP)                                                                           \
      dots_##PIXELS##_##NB(t->x, k->c->offsets + i, w + i * BLOCK, taps * BLOCK, least(taps - i, STEP), t->acc);       \
    if (WHOLE_TILE(PIXELS, NB)) FINISH(PIXELS, NB, t->acc);                                                            \
    else finish_some(k, t);                                                                                            \
  }
#else
// The sums never leave their registers, which compilers must be told.
#define PIN(v) __asm__ volatile("" : "+v"(v))
#define FORGET __asm__ volatile("" ::: "memory")
#define TILE(PIXELS, NB)                                                                                               \
  static __attribute__((noinline)) void tile_##PIXELS##_##NB(const struct chunk *k, struct tile *t, const uint32_t *w, \
                                                             int64_t taps) {                                           \
    for (int64_t p = t->n; p < PIXELS; p++) t->x[p] = t->x[t->n - 1];                                                  \
    const int32_t *offsets = k->c->offsets;                                                                            \
    const uint32_t *x[PIXELS];                                                                                         \
    UNROLL for (int p = 0; p < PIXELS; p++) x[p] = t->x[p];                                                            \
    const int64_t stride = taps * BLOCK;                                                                               \
    U sums[PIXELS * NB] = {0};                                                                                         \
    for (int64_t i = 0; i < taps; i++, w += BLOCK) {                                                                   \
      const ptrdiff_t offset = offsets[i];                                                                             \
      UNROLL for (int b = 0; b < NB; b++) {                                                                            \
        const U weights = LOAD(U, w + b * stride);                                                                     \
        UNROLL for (int p = 0; p < PIXELS; p++) sums[p * NB + b] = count(sums[p * NB + b], weights ^ x[p][offset]);    \
        UNROLL for (int p = 0; p < PIXELS; p++) PIN(sums[p * NB + b]);                                                 \
        FORGET;                                                                                                        \
      }                                                                                                                \
    }                                                                                                                  \
    if (WHOLE_TILE(PIXELS, NB)) FINISH(PIXELS, NB, sums);                                                              \
    else {                                                                                                             \
      UNROLL for (int p = 0; p < PIXELS * NB; p++) t->acc[p] = sums[p];                                                \
      finish_some(k, t);                                                                                               \
    }                                                                                                                  \
  }
#endif
SHAPES(TILE)

typedef void (*tile_of)(const struct chunk *, struct tile *, const uint32_t *, int64_t);

// The smallest tile that holds so many pixels of so many blocks.
static tile_of tile_for(int64_t pixels, int64_t blocks) {
#define CHOOSE(PIXELS, NB) \
  if (blocks == NB && pixels <= PIXELS) return tile_##PIXELS##_##NB;
  SHAPES(CHOOSE)
  return 0;
}

// The pixels of a tile, from `at` on. Those of a row that have no padded tap on the left or on the right start from the same sums.
INLINE void next_pixels(struct chunk *k, struct walk *at, struct tile *t, int64_t first_word) {
  const struct bnn_convolve *c = k->c;
  const int64_t inner = k->columns.begin, end = least(k->columns.end, c->out_width), step = c->stride_x * c->groups * c->words;
  const int64_t bits_step = c->bits ? c->bits_words * (WORD_BITS / BLOCK) : 0;
  const int64_t n = t->n;
  for (int64_t p = 0; p < n;) {
    const int64_t run = at->x >= inner && at->x < end ? least(n - p, end - at->x) : 1;
    const struct slot *const slot = slot_of(k, at, p);
    const uint32_t *window = at->window;
    uint16_t *bits = at->bits;
    for (int64_t last = p + run; p < last; p++, window += step, bits += bits_step)
      t->x[p] = window, t->bits[p] = bits, t->slots[p] = slot;
    at->window = window, at->bits = bits, at->x += run;
    if (at->x < c->out_width) continue;
    at->x = 0;
    if (++at->y == c->out_height) at->y = 0, at->image++;
    begin_row(k, at, first_word);
  }
}

// The sums of the signs that the pixels of a tile are computed from: products with a filter of ones.
static __attribute__((noinline)) void sum_ones(const struct bnn_convolve *c, struct tile *t, int64_t taps) {
  for (int64_t p = 0; p < t->n; p++) {
    int64_t ones = 0;
    for (int64_t i = 0; i < taps; i++) ones += __builtin_popcount(t->x[p][c->offsets[i]]);
    t->ones[p] = (float)(2 * ones - t->slots[p]->factors);
  }
}

static void run_chunk(const struct bnn_convolve *c, const struct cut *s, int64_t number, int64_t from, int64_t to) {
  struct chunk k = chunk_of(c, s, number);
  const int64_t group = number / s->chunks, taps = c->kernel_height * c->kernel_width * c->words;
  const uint32_t *weight = c->weight + k.parameters * taps;
  const int64_t first = first_of(s, from), end = first_of(s, to);
  const tile_of whole = tile_for(s->run, k.nb);
  struct walk at = {.image = first / (c->out_height * c->out_width)};
  at.y = first / c->out_width % c->out_height, at.x = first % c->out_width;
  struct tile t = {.sums = {0}};
  begin_row(&k, &at, group * c->words);
  for (t.first = first; t.first < end; t.first += t.n) {
    const int64_t stop = c->sums ? first_of(s, from + 1) : end;
    t.n = least(stop - t.first, s->run);
    next_pixels(&k, &at, &t, group * c->words);
    if (c->pull) sum_ones(c, &t, taps);
    (t.n == s->run ? whole : tile_for(t.n, k.nb))(&k, &t, weight, taps);
    if (c->sums && t.first + t.n == stop) store_sums(&k, s, &t, from++);
  }
}

// Number of units of a chunk before an item, which is a unit of a chunk. Where signs are written the chunks of a unit
// follow upon each other: threads compute pixels side by side, and write into no line of each other's signs.
INLINE int64_t units_before(const struct bnn_convolve *c, const struct cut *s, int64_t number, int64_t item) {
  const int64_t chunks = s->chunks * c->groups, first = item - number * s->units;
  if (c->bits) return item > number ? (item - number + chunks - 1) / chunks : 0;
  return first < 0 ? 0 : least(first, s->units);
}

// A share computes its units chunk by chunk: the weights of one stay in the cache.
static void tiles(int64_t from, int64_t to, void *context) {
  const struct bnn_convolve *c = context;
  const struct cut s = cut_of(c);
  for (int64_t number = 0; number < s.chunks * c->groups; number++) {
    const int64_t begin = units_before(c, &s, number, from), end = units_before(c, &s, number, to);
    if (begin < end) run_chunk(c, &s, number, begin, end);
  }
}

// Products that are worth a thread; units of each chunk that are worth its beginning.
enum { GRAIN = 1 << 22, RUN = 4 };

void KERNEL(convolve)(const void *job, struct worker *worker) {
  const struct bnn_convolve *c = job;
  const struct cut s = cut_of(c);
  const double work = 1.0 * s.unit * BLOCK * WORD_BITS * c->kernel_height * c->kernel_width * c->words *
                      (s.blocks < BLOCKS ? s.blocks : BLOCKS);
  const int64_t chunks = s.chunks * c->groups, all = s.units * chunks, grain = grain_of(GRAIN, work);
  const int64_t run = c->bits ? least(RUN * chunks, all / threads_of(worker)) : 1;
  spread_out(worker, all, grain > run ? grain : run, tiles, c);
}
