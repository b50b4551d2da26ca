// Constants that are computed when a plan is opened (kernels/derive.py says what they are, and computes the same).
#include "internal.h"

// As `DERIVED_KINDS` of format/plan_section.py.
enum { SIGNS, TAP_SUMS, BLOCKED_FLOATS, BLOCKED_SIGNS, BLOCKED_SCALED, BLOCKED_BYTES, KINDS };

// Values that all are computed from, and more a byte of constants; what a block of outputs counts as besides its own, and two
// words that are summed as one (kernels/derive.py has the same).
enum { MOST_VALUES = 1 << 20, VALUES_OF_BYTE = 9, VALUES_OF_BLOCK = 8 };

// Words or blocks, `size` values each, that hold so many.
static int64_t parts_of(int64_t values, int64_t size) { return (values + size - 1) / size; }

static int bit_at(const uint8_t *bits, int64_t i) { return bits[i / 8] >> i % 8 & 1; }

// Up to 32 bits, `step` apart.
static uint32_t word_of(const uint8_t *bits, int64_t first, int64_t step, int64_t count) {
  uint32_t word = 0;
  for (int64_t i = 0; i < count; i++) word |= (uint32_t)bit_at(bits, first + i * step) << i;
  return word;
}

// The signs of a binary layer, a bit each, (groups, outputs, inputs, taps), as kernels read them: words of 32 inputs,
// (groups, blocks, taps, words, 16); what is left over is 0.
static void expand_signs(const uint8_t *bits, uint32_t *words, const int64_t *a) {
  const int64_t outputs = a[1], inputs = a[2], taps = a[3];
  for (int64_t group = 0; group < a[0]; group++)
    for (int64_t out = 0; out < outputs; out += BLOCK)
      for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t in = 0; in < inputs; in += WORD_BITS, words += BLOCK)
          for (int64_t i = 0; i < BLOCK && i < outputs - out; i++) {
            const int64_t row = group * outputs + out + i, left = inputs - in;
            words[i] = word_of(bits, (row * inputs + in) * taps + tap, taps, left < WORD_BITS ? left : WORD_BITS);
          }
}

// The contribution of each tap, counted as -1, that lies in a zero padding: minus the sum of its signs, (taps, groups,
// blocks * 16), 0 beyond the last output.
static void sum_taps(const uint32_t *words, int32_t *sums, const int64_t *a) {
  const int64_t outputs = a[1], inputs = a[2], taps = a[3], blocks = parts_of(outputs, BLOCK);
  for (int64_t group = 0; group < a[0]; group++)
    for (int64_t out = 0; out < outputs; out += BLOCK)
      for (int64_t tap = 0; tap < taps; tap++) {
        int32_t *sum = sums + (tap * a[0] + group) * blocks * BLOCK + out;
        for (int64_t in = 0; in < inputs; in += WORD_BITS, words += BLOCK) {
          const int64_t count = inputs - in < WORD_BITS ? inputs - in : WORD_BITS;
          const uint32_t mask = count < WORD_BITS ? (1u << count) - 1 : ~0u;
          for (int64_t i = 0; i < BLOCK && i < outputs - out; i++)
            sum[i] += (int32_t)count - 2 * __builtin_popcount(words[i] & mask);
        }
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
  const int64_t outputs = a[1], inputs = a[2], taps = a[3];
  const int64_t size = kind == BLOCKED_BYTES ? BLOCK : 4 * BLOCK;
  for (int64_t group = 0; group < a[0]; group++)
    for (int64_t out = 0; out < outputs; out += BLOCK) {
      const int64_t row = group * outputs + out, lanes = outputs - out < BLOCK ? outputs - out : BLOCK;
      for (int64_t tap = 0; tap < taps; tap++)
        for (int64_t in = 0; in < inputs; in++, to += size) {
          const struct factors here = {by.scale ? by.scale + row : 0, by.factor ? by.factor + in : 0};
          block_factor(kind, from, here, (row * inputs + in) * taps + tap, inputs * taps, lanes, to);
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

const char *bnn_derive(bnn_network *n, const struct derived *d, struct derivation *done) {
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
  const bool of_words = d->kind == TAP_SUMS && d->regions[0] == REGION_DERIVED;
  const int64_t whole = of_words ? done->end : n->constants_size;
  bool wrong = (d->kind == TAP_SUMS || d->kind == BLOCKED_FLOATS) && d->source.fixed % 4;
  const struct factors by = {line_of(n, a[4], times(times(a[0], a[1]), 4), &wrong), line_of(n, a[5], times(a[2], 8), &wrong)};
  if (wrong || (d->regions[0] != REGION_CONSTANTS && !of_words) || d->source.each || plus(d->source.fixed, read[d->kind]) > whole)
    return "derived constants are computed from what is none";
  if (d->regions[1] != REGION_DERIVED || d->place.each || d->place.fixed % 4 || d->place.fixed < done->end ||
      plus(d->place.fixed, made[d->kind]) > n->derived_size)
    return "derived constants lie elsewhere than in their part of the region";
  const int64_t every = plus(d->kind == TAP_SUMS ? words / 8 : values, times(times(a[0], blocks / BLOCK), VALUES_OF_BLOCK));
  done->values = plus(done->values, every);
  if (done->values > plus(MOST_VALUES, times(n->constants_size, VALUES_OF_BYTE)))
    return "more is computed than its constants justify";
  done->end = d->place.fixed + made[d->kind];
  const void *from = (of_words ? n->derived : n->constants) + d->source.fixed;
  void *to = n->derived + d->place.fixed;
  if (d->kind == SIGNS) expand_signs(from, to, a);
  else if (d->kind == TAP_SUMS) sum_taps(from, to, a);
  else block(d->kind, from, by, to, a);
  return 0;
}
