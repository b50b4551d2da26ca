// The rate of xor, popcount and addition on registers, as the tiles of binary convolutions have them: what bounds these.
#include "../src/bnn_lightning/deploy/kernels/csrc/simd.h"

#if __AVX512VPOPCNTDQ__
enum { SUMS = 12 };
#define COUNT(sum, x) sum + __builtin_elementwise_popcount(x)
#define PIN(v) __asm__ volatile("" : "+v"(v))
#elif __x86_64__
enum { SUMS = 3 };
#define COUNT(sum, x) (U)((B)sum + __builtin_elementwise_popcount((B)x))
#define PIN(v) (void)(v)
#else
enum { SUMS = 4 };
#define COUNT(sum, x) (U)((B)sum + __builtin_elementwise_popcount((B)x))
#define PIN(v) (void)(v)
#endif
enum { TIMES = 1000 };

// Return the products of signs, multiply and add counted as one, of a number of rounds.
__attribute__((visibility("default"))) int64_t peak(int64_t rounds, uint32_t *out) {
  U sums[SUMS] = {0}, x[SUMS], w = LOAD(U, out);
  for (int i = 0; i < SUMS; i++) x[i] = w * (uint32_t)(i + 1);
  for (int64_t k = 0; k < rounds * TIMES; k++) {
#if __AVX512F__
    PIN(w);
#else
    w += 1;  // otherwise the sums would be computed once
#endif
    UNROLL for (int i = 0; i < SUMS; i++) sums[i] = COUNT(sums[i], (x[i] ^ w));
  }
  for (int i = 1; i < SUMS; i++) sums[0] += sums[i];
  *(U *)out = sums[0];
  return rounds * TIMES * SUMS * BLOCK * WORD_BITS;
}
