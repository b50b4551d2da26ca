// Rows of operations, and the team of threads that runs them: thread_team.c.
#pragma once
#include <stdint.h>

#define HIDDEN __attribute__((visibility("hidden")))

// torch_parallel_for, of libtorch's stable C interface: (begin, end, grain, function(from, to, context), context).
typedef int32_t (*parallel_for)(int64_t, int64_t, int64_t, void (*)(int64_t, int64_t, void *), void *);

// One of the threads that run a row of operations together. Each of them calls every operation, which divides its loops
// by `spread_out` of simd.h and does nothing besides.
struct worker;
typedef void kernel_function(const void *arguments, struct worker *worker);

struct bnn_step {
  kernel_function *operation;
  const void *job;
};

// Run operations one after the other, on as many of torch's threads; null is no threads. `yield` gives the processor away.
HIDDEN void bnn_run(const struct bnn_step *steps, int64_t n, parallel_for parallel, int64_t threads, void (*yield)(void));

// Version of the structures of arguments.h.
HIDDEN int64_t bnn_version(void);

// Call `loop` for the shares of 0 .. n that this worker takes, at least `grain` at once; null waits for the others.
HIDDEN void bnn_share(struct worker *me, int64_t n, int64_t grain, void (*loop)(int64_t, int64_t, void *), void *context);
HIDDEN int64_t bnn_slot(const struct worker *me);     // number of the memory that a worker may use
HIDDEN int64_t bnn_threads(const struct worker *me);  // of its team

// Tell the processor that a thread waits.
static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || (defined(__arm__) && __ARM_ARCH >= 7)
  __asm__ volatile("yield");
#endif
}
