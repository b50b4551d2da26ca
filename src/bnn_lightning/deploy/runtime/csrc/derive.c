// Constants that are computed when a plan is opened (kernels/derive.py says what they are, and computes the same).
#include "internal.h"

// As `DERIVED_KINDS` of format/plan_section.py.
enum { SIGNS, TAP_SUMS, BLOCKED_FLOATS, BLOCKED_SIGNS, BLOCKED_SCALED, BLOCKED_BYTES, KINDS };

// Words or blocks, `size` values each, that hold so many.
static int64_t parts_of(int64_t values, int64_t size) { return (values + size - 1) / size; }

static int bit_at(const uint8_t *bits, int64_t i) { return bits[i / 8] >> i % 8 & 1; }

// The signs of a binary layer, a bit each, (groups, outputs, inputs, taps), as kernels read them: words of 32 inputs,
// (groups, blocks, taps, words, 16); what is left over is 0.
static void expand_signs(const uint8_t *bits, uint32_t *words, const int64_t *a) {
  const int64_t outputs = a[1], inputs = a[2], taps = a[3], count = parts_of(inputs, WORD_BITS), blocks = parts_of(outputs, BLOCK);
  int64_t bit = 0;
  for (int64_t group = 0; group < a[0]; group++)
    for (int64_t out = 0; out < outputs; out++)
      for (int64_t in = 0; in < inputs; in++)
        for (int64_t tap = 0; tap < taps; tap++, bit++) {
          const int64_t block = (group * blocks + out / BLOCK) * taps + tap;
          words[(block * count + in / WORD_BITS) * BLOCK + out % BLOCK] |= (uint32_t)bit_at(bits, bit) << in % WORD_BITS;
        }
}

// The contribution of each tap, counted as -1, that lies in a zero padding: minus the sum of its signs, (taps, groups,
// blocks * 16), 0 beyond the last output.
static void sum_taps(const uint32_t *words, int32_t *sums, const int64_t *a) {
  const int64_t outputs = a[1], inputs = a[2], taps = a[3], count = parts_of(inputs, WORD_BITS), blocks = parts_of(outputs, BLOCK);
  for (int64_t group = 0; group < a[0]; group++)
    for (int64_t out = 0; out < outputs; out++)
      for (int64_t tap = 0; tap < taps; tap++) {
        const uint32_t *word = words + (((group * blocks + out / BLOCK) * taps + tap) * count) * BLOCK + out % BLOCK;
        int64_t ones = 0;
        for (int64_t i = 0; i < count; i++) {
          const int64_t left = inputs - i * WORD_BITS;
          ones += __builtin_popcount(word[i * BLOCK] & (left < WORD_BITS ? (1u << left) - 1 : ~0u));
        }
        sums[(tap * a[0] + group) * blocks * BLOCK + out] = (int32_t)(inputs - 2 * ones);
      }
}

// Factors of a weight: a scale of its output in float, and then a factor of its input in double; null: nothing.
struct factors {
  const float *scale;
  const double *factor;
};

// Sixteen outputs side by side, one factor of a real-valued weight: `first` is its place in the dense weight, `step` that
// of the next output's; `lanes` outputs exist.
static void block_factor(int kind, const void *from, struct factors by, int64_t first, int64_t step, int64_t lanes, void *to) {
  float *floats = to;
  int8_t *bytes = to;
  for (int64_t i = 0, at = first; i < lanes; i++, at += step) switch (kind) {
      case BLOCKED_FLOATS: floats[i] = ((const float *)from)[at]; break;
      case BLOCKED_SIGNS: floats[i] = bit_at(from, at) ? 1.0f : -1.0f; break;
      case BLOCKED_SCALED: floats[i] = (float)((const int8_t *)from)[at]; break;
      default: bytes[i] = ((const int8_t *)from)[at];
    }
  for (int64_t i = 0; by.scale && i < lanes; i++) floats[i] *= by.scale[i];
  for (int64_t i = 0; by.factor && i < lanes; i++) floats[i] = (float)(floats[i] * *by.factor);
}

// A weight, (groups, outputs, inputs, taps), as kernels read it: (groups, blocks, taps, inputs, 16); zeros fill blocks up.
static void block(int kind, const void *from, struct factors by, uint8_t *to, const int64_t *a) {
  const int64_t outputs = a[1], inputs = a[2], taps = a[3], blocks = parts_of(outputs, BLOCK);
  const int64_t size = kind == BLOCKED_BYTES ? BLOCK : 4 * BLOCK;
  for (int64_t group = 0; group < a[0]; group++)
    for (int64_t out = 0; out < outputs; out += BLOCK) {
      const int64_t row = group * outputs + out, lanes = outputs - out < BLOCK ? outputs - out : BLOCK;
      const int64_t begin = (group * blocks + out / BLOCK) * taps * inputs;
      for (int64_t in = 0; in < inputs; in++)
        for (int64_t tap = 0; tap < taps; tap++) {
          const struct factors here = {by.scale ? by.scale + row : 0, by.factor ? by.factor + in : 0};
          block_factor(kind, from, here, (row * inputs + in) * taps + tap, inputs * taps, lanes, to + (begin + tap * inputs + in) * size);
        }
    }
}

// The place of numbers of `size` bytes in the section of constants, given as the line that they begin with, from 1 on; null
// for 0. What does not lie in the section makes it `wrong`.
static const void *line_of(const bnn_network *n, int64_t line, int64_t size, bool *wrong) {
  if (!line) return 0;
  if (plus((line - 1) * ALIGN, size) > n->constants_size) *wrong = true;
  return *wrong ? 0 : n->constants + (line - 1) * ALIGN;
}

const char *bnn_derive(bnn_network *n, const struct derived *d, int64_t *end) {
  const int64_t *a = d->arguments, blocks = parts_of(a[1], BLOCK) * BLOCK;
  if (d->kind >= KINDS || d->count != (d->kind >= BLOCKED_FLOATS && d->kind <= BLOCKED_SCALED ? 6 : 4))
    return "derived constants are of no kind";
  for (int i = 0; i < 4; i++)
    if (!a[i]) return "derived constants are of nothing";
  const int64_t values = times(times(times(a[0], a[1]), a[2]), a[3]), lanes = times(times(times(a[0], blocks), a[2]), a[3]);
  const int64_t bits = values / 8 + (values % 8 != 0), sums = times(times(times(a[0], blocks), a[3]), 4);
  const int64_t words = times(times(times(times(a[0], blocks), a[3]), parts_of(a[2], WORD_BITS)), 4);
  const int64_t read[KINDS] = {bits, words, times(values, 4), bits, values, values};
  const int64_t made[KINDS] = {words, sums, times(lanes, 4), times(lanes, 4), times(lanes, 4), lanes};
  const int64_t whole = d->regions[0] == REGION_CONSTANTS ? n->constants_size : n->derived_size;
  bool wrong = (d->kind == TAP_SUMS || d->kind == BLOCKED_FLOATS) && d->source.fixed % 4;
  const struct factors by = {line_of(n, a[4], times(times(a[0], a[1]), 4), &wrong), line_of(n, a[5], times(a[2], 8), &wrong)};
  if (wrong || d->regions[0] > REGION_DERIVED || d->source.each || plus(d->source.fixed, read[d->kind]) > whole)
    return "derived constants are computed from what is none";
  if (d->regions[1] != REGION_DERIVED || d->place.each || d->place.fixed % 4 || d->place.fixed < *end ||
      plus(d->place.fixed, made[d->kind]) > n->derived_size)
    return "derived constants lie elsewhere than in their part of the region";
  *end = d->place.fixed + made[d->kind];
  const void *from = (d->regions[0] == REGION_CONSTANTS ? n->constants : n->derived) + d->source.fixed;
  void *to = n->derived + d->place.fixed;
  if (d->kind == SIGNS) expand_signs(from, to, a);
  else if (d->kind == TAP_SUMS) sum_taps(from, to, a);
  else block(d->kind, from, by, to, a);
  return 0;
}
