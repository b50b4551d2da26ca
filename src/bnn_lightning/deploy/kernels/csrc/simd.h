// Common code of the kernels: vectors of 16 lanes in Clang's types, for any instruction set, and loops of a team of threads.
//
// Every operation is a `kernel_function` bnn_<operation>, whose job is a `const struct bnn_<operation> *` of arguments.h. The
// files of kernels are compiled once for each instruction set, which BNN_SET names and their functions end with; one library
// holds all of them. They call nothing of libc. See docs/internals/engine.md.
#pragma once
#include "arguments.h"
#include "thread_team.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef BNN_SET
#define BNN_PASTE(name, set) bnn_##name##_##set
#define BNN_NAME(name, set) BNN_PASTE(name, set)
#define KERNEL(name) BNN_NAME(name, BNN_SET)
#else
#define KERNEL(name) bnn_##name
#endif

#define VECTOR(type, n) type __attribute__((ext_vector_type(n), aligned(4)))
typedef VECTOR(uint32_t, BLOCK) U;
typedef VECTOR(int32_t, BLOCK) I;
typedef VECTOR(float, BLOCK) F;
typedef VECTOR(uint8_t, 4 * BLOCK) B;
typedef bool M __attribute__((ext_vector_type(BLOCK)));
#define LOAD(type, p) (*(const type *)(p))
#define UNROLL _Pragma("clang loop unroll(full)")
#define INLINE static inline __attribute__((always_inline))

// a * b + c, rounded once where the processor can. Compilers fuse such an expression, but not for 32-bit ARM, which can.
INLINE F fused(F a, F b, F c) {
#if __ARM_FEATURE_FMA && !__aarch64__
  return __builtin_elementwise_fma(a, b, c);
#else
  return a * b + c;
#endif
}

INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

// Let `loop` be called for all of 0 .. n, at least `grain` at once, by the workers together; null is one that is alone.
INLINE void spread_out(struct worker *worker, int64_t n, int64_t grain, void (*loop)(int64_t, int64_t, void *),
                       const void *context) {
  if (worker) bnn_share(worker, n, grain, loop, (void *)context);
  else loop(0, n, (void *)context);
}

INLINE int64_t threads_of(const struct worker *worker) { return worker ? bnn_threads(worker) : 1; }

// A job, and the memory of the worker that runs it.
struct own {
  const void *job;
  char *work;
};

// The same for a loop whose context is a `struct own`: each worker has its own `size` bytes of `work`, WORKERS times as many.
// Workers beyond these leave the loop to others.
INLINE void spread_out_in(char *work, int64_t size, struct worker *worker, int64_t n, int64_t grain,
                          void (*loop)(int64_t, int64_t, void *), const void *job) {
  const int64_t slot = worker ? bnn_slot(worker) : 0;
  const struct own own = {job, work + slot * size};
  spread_out(worker, n, grain, slot < WORKERS ? loop : 0, &own);
}

// Turns of a loop that make a share: one turn is so much `work`, which may be 0; `worth` is the least work of a share. Work is
// a product of sizes that files give, which may be larger than whole numbers are.
INLINE int64_t grain_of(int64_t worth, double work) { return 1 + (work > 0 ? (int64_t)((double)worth / work) : worth); }

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

// Bit i of the result is lane i.
INLINE uint64_t mask_of(M mask) {
  union {
    M mask;
    uint16_t bits;
  } signs = {.bits = 0};
  signs.mask = mask;
  return signs.bits;
}
