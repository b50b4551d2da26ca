// Signs of real-valued maps, a bit a channel: what binary convolutions read (binary_conv.c), for any instruction set.
//
// A bit is 1 where a value reaches its channel's threshold. A word holds 32 channels of a pixel, the first one in its lowest
// bit; the bits that are left over are 0. Signs are (N, H, W, group, word), with a padding around that this leaves as it is.
#include "simd.h"

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
    if (channels == WORD_BITS) {
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
        const int64_t rest = p->channels - word * WORD_BITS, count = rest < WORD_BITS ? rest : WORD_BITS;
        const int64_t at = group * p->words + word;
        const float *x = p->x + image * p->stride_image + y * p->stride_y +
                         (group * p->channels + word * WORD_BITS) * p->stride_channel;
        uint32_t *bits = p->bits + ((image * p->bits_height + y + p->top) * p->bits_width + p->left) * p->groups * p->words + at;
        (p->stride_channel == 1 ? pack_dense : pack_apart)(p, x, p->threshold + at * WORD_BITS, bits, count);
      }
  }
}

void KERNEL(pack)(const void *job, struct worker *worker) {
  const struct bnn_pack *p = job;
  spread_out(worker, p->images * p->height, grain_of(1 << 16, 1.0 * p->width * p->groups * p->channels), rows, p);
}
