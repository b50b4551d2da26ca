// Packed binary convolution for any instruction set: Clang vector types, no intrinsics, no libc.
//
// A bit is 1 for +1 and 0 for -1; a word holds 32 channels, the first one in its lowest bit, the bits that are left over
// are 0. Activations are (N, H, W, group, word), padded already; weights are (group, block, tap, word, BLOCK), a block
// being BLOCK output channels. A sum of products of signs is the number of factors less twice the number of unlike bits:
//
//   dot[pixel, c] = reach - sum over padded taps of tap_sums[tap, c] - 2 sum_k popcount(weight[k, c] ^ x[pixel + offset k])
//   t = dot * scale[c] + bias[c] (+ residual) ; t < 0: t *= slope[c] ; t += shift[c] ; t = clamp(t, low, high)
//   out = t ; bits = t >= threshold[c]
//
// The innermost tile, PIXELS x BLOCKS * BLOCK sums, lives in registers. See docs/packed.md.
#include "kernel.h"

// Sums in registers: WIDE tiles have BLOCKS blocks of channels, NARROW ones (16 channels, or what is left) have one.
#if __AVX512VPOPCNTDQ__
enum { BLOCKS = 4, BYTES = 0 };
#define WIDE 6
#define NARROW 12
#elif __AVX2__
enum { BLOCKS = 2, BYTES = 1 };
#define WIDE 2
#define NARROW 4
#elif __ARM_NEON
enum { BLOCKS = 1, BYTES = 1 };
#define WIDE 4
#define NARROW 4
#else
enum { BLOCKS = 1, BYTES = 1 };
#define WIDE 2
#define NARROW 2
#endif
enum { MOST = WIDE > NARROW ? WIDE : NARROW, STEP = BYTES ? 31 : 1 << 30 };  // a byte overflows after 31 words

// The layout of these structures is that of `deploy/kernels.py`.
struct bnn_convolve {
  int64_t images, height, width;           // of the padded activations
  int64_t out_height, out_width;
  int64_t groups, words, channels;         // words of a pixel and output channels, both of one group
  int64_t kernel_height, kernel_width, stride_y, stride_x, dilation_y, dilation_x;
  int64_t pad_y, pad_x, real_height, real_width;  // of the zero padding; real_height is 0 where nothing is to be corrected
  int64_t reach;                           // factors of a sum
  int64_t bits_height, bits_width, bits_top, bits_left, bits_words;  // of the signs that are written
  const uint32_t *x, *weight;
  const int32_t *tap_sums, *offsets;
  const float *scale, *bias, *residual, *slope, *shift, *threshold;
  float low, high;
  float *out;
  uint16_t *bits;
};

struct pixel {
  int64_t image, y, x;
};

INLINE U popcount(U x) { return BYTES ? (U)__builtin_elementwise_popcount((B)x) : __builtin_elementwise_popcount(x); }
INLINE U count(U sum, U unlike) { return BYTES ? (U)((B)sum + (B)popcount(unlike)) : sum + popcount(unlike); }
INLINE U total(U x) {  // from four counters a word to one
  if (!BYTES) return x;
  x = (x & 0xff00ff) + (x >> 8 & 0xff00ff);
  return (x & 0xffff) + (x >> 16);
}

// Its own function: with the rest inlined around it, compilers keep sums in memory.
#define DOTS(PIXELS, NB)                                                                                               \
  static __attribute__((noinline)) void dots_##PIXELS##_##NB(const uint32_t *const *x, const int32_t *offsets,         \
                                                             const uint32_t *w, int64_t stride, int64_t n, U *acc) {   \
    U sums[PIXELS][NB] = {0};                                                                                          \
    for (int64_t k = 0; k < n; k++, w += BLOCK) {                                                                      \
      const ptrdiff_t offset = offsets[k];                                                                             \
      UNROLL for (int p = 0; p < PIXELS; p++) UNROLL for (int b = 0; b < NB; b++) sums[p][b] =                         \
          count(sums[p][b], LOAD(U, w + b * stride) ^ x[p][offset]);                                                   \
    }                                                                                                                  \
    UNROLL for (int p = 0; p < PIXELS; p++) UNROLL for (int b = 0; b < NB; b++) acc[p * NB + b] += total(sums[p][b]);   \
  }
#if __AVX512VPOPCNTDQ__
DOTS(6, 4)
DOTS(1, 4)
DOTS(12, 1)
DOTS(1, 1)
#define dots_wide dots_6_4
#define dots_wide_one dots_1_4
#define dots_narrow dots_12_1
#elif __AVX2__
DOTS(2, 2)
DOTS(1, 2)
DOTS(4, 1)
DOTS(1, 1)
#define dots_wide dots_2_2
#define dots_wide_one dots_1_2
#define dots_narrow dots_4_1
#elif __ARM_NEON
DOTS(4, 1)
DOTS(1, 1)
#define dots_wide dots_4_1
#define dots_wide_one dots_1_1
#define dots_narrow dots_4_1
#else
DOTS(2, 1)
DOTS(1, 1)
#define dots_wide dots_2_1
#define dots_wide_one dots_1_1
#define dots_narrow dots_2_1
#endif

// The sums of the taps of a pixel that lie in the zero padding, which the bits there have counted as -1.
static I padded_sums(const struct bnn_convolve *c, const struct pixel *at, const int32_t *sums, int64_t tap_stride) {
  I sum = 0;
  for (int64_t i = 0; i < c->kernel_height; i++) {
    const int64_t y = at->y * c->stride_y + i * c->dilation_y - c->pad_y;
    for (int64_t j = 0; j < c->kernel_width; j++, sums += tap_stride) {
      const int64_t x = at->x * c->stride_x + j * c->dilation_x - c->pad_x;
      if (y < 0 || y >= c->real_height || x < 0 || x >= c->real_width) sum += LOAD(I, sums);
    }
  }
  return sum;
}

// How a layer is cut into tiles: chunks of blocks, and in each of them runs of pixels. Pixels from (top, left) to before
// (bottom, right) have no padded tap.
struct cut {
  int64_t pixels, blocks, chunks, tiles, run, top, bottom, left, right;
};

static int64_t inner(int64_t pad, int64_t stride, int64_t reach, int64_t real, int64_t *end) {
  const int64_t room = real + pad - reach - 1;
  *end = room < 0 ? 0 : room / stride + 1;
  return (pad + stride - 1) / stride;
}

static struct cut cut_of(const struct bnn_convolve *c) {
  struct cut s = {.pixels = c->images * c->out_height * c->out_width, .blocks = (c->channels + BLOCK - 1) / BLOCK};
  s.run = s.blocks < BLOCKS ? NARROW : WIDE;
  s.chunks = s.blocks < BLOCKS ? s.blocks : (s.blocks + BLOCKS - 1) / BLOCKS;
  s.tiles = (s.pixels + s.run - 1) / s.run;
  s.top = inner(c->pad_y, c->stride_y, (c->kernel_height - 1) * c->dilation_y, c->real_height, &s.bottom);
  s.left = inner(c->pad_x, c->stride_x, (c->kernel_width - 1) * c->dilation_x, c->real_width, &s.right);
  return s;
}

INLINE F load_some(const float *from, int64_t n) {
  F values = 0;
  if (n >= BLOCK) return LOAD(F, from);
  for (int i = 0; i < n; i++) values[i] = from[i];
  return values;
}

INLINE void store_some(float *to, F values, int64_t n) {
  if (n >= BLOCK) *(F *)to = values;
  else
    for (int i = 0; i < n; i++) to[i] = values[i];
}

// One block of a pixel; `padded` is its place among the parameters, `where` among the outputs, `left` its channels.
INLINE void finish(const struct bnn_convolve *c, const struct pixel *at, I dot, int64_t padded, int64_t where, int64_t left,
                   int64_t first) {
  F t = __builtin_convertvector(dot, F) * LOAD(F, c->scale + padded) + LOAD(F, c->bias + padded);
  if (c->residual) t += load_some(c->residual + where, left);
  if (c->slope) t = t > 0 ? t : t * LOAD(F, c->slope + padded);
  if (c->shift) t += LOAD(F, c->shift + padded);
  t = t < c->low ? (F)c->low : t;
  t = t > c->high ? (F)c->high : t;
  if (c->out) store_some(c->out + where, t, left);
  if (c->bits) {
    union {
      M mask;
      uint16_t bits;
    } signs = {.bits = 0};
    signs.mask = __builtin_convertvector(t >= LOAD(F, c->threshold + padded), M);
    const int64_t row = (at->image * c->bits_height + at->y + c->bits_top) * c->bits_width + at->x + c->bits_left;
    c->bits[row * c->bits_words * (WORD / BLOCK) + first / BLOCK] = signs.bits;
  }
}

static void step(const struct bnn_convolve *c, struct pixel *at) {
  if (++at->x < c->out_width) return;
  at->x = 0;
  if (++at->y < c->out_height) return;
  at->y = 0;
  at->image++;
}

static void tile(const struct bnn_convolve *c, const struct cut *s, int64_t group, int64_t block, int64_t nb,
                 int64_t first, int64_t n) {
  const int64_t taps = c->kernel_height * c->kernel_width * c->words, pixel_words = c->groups * c->words;
  const uint32_t *weight = c->weight + (group * s->blocks + block) * taps * BLOCK, *x[MOST];
  struct pixel at = {first / (c->out_height * c->out_width), first / c->out_width % c->out_height, first % c->out_width};
  struct pixel places[MOST];
  for (int64_t p = 0; p < s->run; p++) {
    if (p < n) {
      places[p] = at;
      x[p] = c->x + ((at.image * c->height + at.y * c->stride_y) * c->width + at.x * c->stride_x) * pixel_words +
             group * c->words;
      step(c, &at);
    } else x[p] = x[n - 1];
  }
  U acc[MOST * BLOCKS] = {0};
  for (int64_t k = 0; k < taps; k += STEP) {
    const int64_t some = taps - k < STEP ? taps - k : STEP;
    const uint32_t *w = weight + k * BLOCK;
    if (nb == BLOCKS) {
      (n == 1 ? dots_wide_one : dots_wide)(x, c->offsets + k, w, taps * BLOCK, some, acc);
    } else if (s->run == NARROW && n > 1) dots_narrow(x, c->offsets + k, w, 0, some, acc);
    else
      for (int64_t p = 0; p < n; p++)
        for (int64_t b = 0; b < nb; b++)
          dots_1_1(x + p, c->offsets + k, w + b * taps * BLOCK, 0, some, acc + p * nb + b);
  }
  const int64_t parameters = (group * s->blocks + block) * BLOCK, channel = group * c->channels + block * BLOCK;
  for (int64_t p = 0; p < n; p++) {
    const struct pixel *place = places + p;
    const bool border = c->real_height && (place->y < s->top || place->y >= s->bottom || place->x < s->left ||
                                           place->x >= s->right);
    for (int64_t b = 0; b < nb; b++) {
      I dot = (I)(int32_t)c->reach - 2 * (I)acc[p * nb + b];
      const int64_t at_block = parameters + b * BLOCK;
      if (border) dot -= padded_sums(c, place, c->tap_sums + at_block, c->groups * s->blocks * BLOCK);
      finish(c, place, dot, at_block, (first + p) * c->groups * c->channels + channel + b * BLOCK,
             c->channels - (block + b) * BLOCK, channel + b * BLOCK);
    }
  }
}

static void tiles(int64_t from, int64_t to, void *context) {
  const struct bnn_convolve *c = context;
  const struct cut s = cut_of(c);
  for (int64_t i = from; i < to; i++) {
    const int64_t chunk = i / s.tiles % s.chunks, group = i / s.tiles / s.chunks, first = i % s.tiles * s.run;
    const int64_t block = s.blocks < BLOCKS ? chunk : chunk * BLOCKS;
    const int64_t rest = s.blocks - block, nb = s.blocks < BLOCKS ? 1 : rest < BLOCKS ? rest : BLOCKS;
    tile(c, &s, group, block, nb, first, s.pixels - first < s.run ? s.pixels - first : s.run);
  }
}

enum { GRAIN = 1 << 22 };  // products that are worth a thread

void bnn_convolve(const struct bnn_convolve *c, parallel_for parallel) {
  const struct cut s = cut_of(c);
  const int64_t jobs = s.tiles * s.chunks * c->groups, work = s.run * BLOCK * WORD * c->kernel_height *
                                                              c->kernel_width * c->words * (s.blocks < BLOCKS ? 1 : BLOCKS);
  spread_out(parallel, jobs, 1 + GRAIN / work, tiles, c);
}

struct bnn_pack {
  int64_t images, channels, height, width, groups, words;  // channels and words of one group
  int64_t stride_image, stride_channel, stride_y, stride_x;  // of x, in elements
  int64_t bits_height, bits_width, top, left;
  const float *x, *threshold;  // threshold (group, word, 32), +inf where there is no channel
  uint32_t *bits;
};

// Pixels side by side, for channels that lie apart.
static void pack_apart(const struct bnn_pack *p, const float *x, const float *threshold, uint32_t *bits, int64_t channels) {
  const int64_t pixel_words = p->groups * p->words;
  for (int64_t i = 0; i < p->width; i += BLOCK) {
    U word = 0;
    const int64_t n = p->width - i < BLOCK ? p->width - i : BLOCK;
    for (int64_t c = 0; c < channels; c++) {
      const float *from = x + c * p->stride_channel + i * p->stride_x;
      F values = 0;
      if (n == BLOCK && p->stride_x == 1) values = LOAD(F, from);
      else
        for (int64_t k = 0; k < n; k++) values[k] = from[k * p->stride_x];
      word |= (U)(values >= (F)threshold[c]) & (U)1 << (uint32_t)c;
    }
    for (int64_t k = 0; k < n; k++) bits[(i + k) * pixel_words] = word[k];
  }
}

// Channels side by side.
static void pack_dense(const struct bnn_pack *p, const float *x, const float *threshold, uint32_t *bits, int64_t channels) {
  const int64_t pixel_words = p->groups * p->words;
  for (int64_t i = 0; i < p->width; i++, x += p->stride_x, bits += pixel_words) {
    uint32_t word = 0;
    if (channels == WORD) {
      union {
        M mask[2];
        uint16_t bits[2];
      } signs = {.bits = {0, 0}};
      signs.mask[0] = __builtin_convertvector(LOAD(F, x) >= LOAD(F, threshold), M);
      signs.mask[1] = __builtin_convertvector(LOAD(F, x + BLOCK) >= LOAD(F, threshold + BLOCK), M);
      word = signs.bits[0] | (uint32_t)signs.bits[1] << BLOCK;
    } else
      for (int64_t c = 0; c < channels; c++) word |= (uint32_t)(x[c] >= threshold[c]) << c;
    *bits = word;
  }
}

static void rows(int64_t from, int64_t to, void *context) {
  const struct bnn_pack *p = context;
  for (int64_t row = from; row < to; row++) {
    const int64_t image = row / p->height, y = row % p->height;
    for (int64_t group = 0; group < p->groups; group++)
      for (int64_t word = 0; word < p->words; word++) {
        const int64_t left = p->channels - word * WORD, at = group * p->words + word;
        const float *x = p->x + image * p->stride_image + y * p->stride_y +
                         (group * p->channels + word * WORD) * p->stride_channel;
        uint32_t *bits = p->bits + ((image * p->bits_height + y + p->top) * p->bits_width + p->left) * p->groups * p->words + at;
        (p->stride_channel == 1 ? pack_dense : pack_apart)(p, x, p->threshold + at * WORD, bits, left < WORD ? left : WORD);
      }
  }
}

void bnn_pack(const struct bnn_pack *p, parallel_for parallel) {
  spread_out(parallel, p->images * p->height, 1 + (1 << 16) / (p->width * p->groups * p->channels), rows, p);
}

// Operations one after the other, without Python in between.
struct bnn_step {
  void (*operation)(const void *job, parallel_for parallel);
  const void *job;
};

void bnn_run(const struct bnn_step *steps, int64_t n, parallel_for parallel) {
  for (int64_t i = 0; i < n; i++) steps[i].operation(steps[i].job, parallel);
}

int64_t bnn_version(void) { return 2; }
