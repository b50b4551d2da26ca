// Choice of the instruction set: the best of those that this library was built with and the processor has. BNN_SETS lists
// them as S(x86_64_v4) S(x86_64_v3) ..., the best first.
#include "internal.h"

#include <stdlib.h>
#include <string.h>

#ifndef BNN_SETS
#error "BNN_SETS must list the instruction sets: -DBNN_SETS='S(x86_64_v3) S(x86_64_v2)'"
#endif

#define PASTE(name, set) bnn_##name##_##set
#define DECLARE(name, set) HIDDEN kernel_function PASTE(name, set);
#define S(set) BNN_KERNELS(DECLARE, set)
BNN_SETS
#undef S

struct set {
  const char *name;
  kernel_function *kernels[KERNELS];
};
#define LIST(name, set) PASTE(name, set),
#define S(set) {#set, {BNN_KERNELS(LIST, set)}},
static const struct set sets[] = {BNN_SETS};
enum { SETS = sizeof sets / sizeof *sets };

#if defined(__x86_64__)
static void cpuid(uint32_t leaf, uint32_t sub, uint32_t r[4]) {
  __asm__ volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}

// Bits of processors (leaf 1 and 7), and of what the operating system saves: YMM, and with AVX-512 masks and ZMM.
static bool runs(const char *name) {
  uint32_t top[4], one[4], seven[4] = {0}, more[4], low = 0, high = 0;
  cpuid(0, 0, top), cpuid(1, 0, one), cpuid(0x80000001u, 0, more);
  if (top[0] >= 7) cpuid(7, 0, seven);
  if (one[2] >> 27 & 1) __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  const bool v2 = (one[2] >> 20 & 1) && (one[2] >> 23 & 1) && (one[2] >> 9 & 1);  // SSE4.2, POPCNT, SSSE3
  const bool v3 = v2 && (low & 6) == 6 && (one[2] >> 28 & 1) && (one[2] >> 12 & 1) && (one[2] >> 29 & 1) &&  // AVX, FMA, F16C
                  (one[2] >> 22 & 1) && (seven[1] >> 3 & 1) && (seven[1] >> 5 & 1) && (seven[1] >> 8 & 1) &&  // MOVBE, BMI1, AVX2, BMI2
                  (more[2] >> 5 & 1);                                                                         // LZCNT
  const uint32_t wide = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31;  // AVX-512 F, DQ, CD, BW, VL
  const uint32_t extra = 1u << 11 | 1u << 12 | 1u << 14;                       // VNNI, BITALG, VPOPCNTDQ
  const bool v4 = v3 && (low & 0xe6) == 0xe6 && (seven[1] & wide) == wide && (seven[2] & extra) == extra;
  if (!strcmp(name, "x86_64_v4")) return v4;
  return strcmp(name, "x86_64_v3") ? v2 : v3;
}
#elif defined(__linux__) && (defined(__aarch64__) || defined(__arm__))
#include <sys/auxv.h>
static bool runs(const char *name) {
  const unsigned long has = getauxval(AT_HWCAP), v7 = 1ul << 12 | 1ul << 16 | 1ul << 17;  // NEON, VFPv4, IDIVA
  if (!strcmp(name, "armv7")) return (has & v7) == v7;
  if (!strcmp(name, "aarch64_dot")) return has >> 20 & 1;  // ASIMDDP
  return true;
}
#else
// One set, or those that every processor of the system has: those of Apple have dot products.
static bool runs(const char *name) {
#ifdef __APPLE__
  return *name;
#else
  return strcmp(name, "aarch64_dot");
#endif
}
#endif

int bnn_num_kernels(void) { return SETS; }
const char *bnn_kernel_name(int number) { return number >= 0 && number < SETS ? sets[number].name : 0; }
int bnn_kernel_runs(int number) { return number >= 0 && number < SETS && runs(sets[number].name); }
kernel_function *bnn_kernel_of(int set, int kernel) { return sets[set].kernels[kernel]; }

// For Python: run calls of kernels; version of their arguments; address of a kernel of an instruction set.
BNN_API void bnn_run_steps(const struct bnn_step *steps, int64_t n, parallel_for parallel, int64_t threads, void (*yield)(void)) {
  bnn_run(steps, n, parallel, threads, yield);
}
BNN_API int64_t bnn_abi_version(void) { return bnn_version(); }
BNN_API void *bnn_kernel_address(int set, int kernel) {
  if (set < 0 || set >= SETS || kernel < 0 || kernel >= KERNELS) return 0;
  return (void *)(uintptr_t)bnn_kernel_of(set, kernel);
}

bnn_status bnn_choose_set(int *set, bnn_error *error) {
  const char *wanted = getenv("BNN_KERNEL");
  if (wanted && (!*wanted || !strcmp(wanted, "torch"))) wanted = 0;
  for (*set = 0; *set < SETS; ++*set)
    if ((!wanted || !strcmp(wanted, sets[*set].name)) && runs(sets[*set].name)) return BNN_OK;
  *set = 0;
  if (wanted) return bnn_fail(error, BNN_ERROR_PROCESSOR, "BNN_KERNEL=%.40s: this processor or library has no such kernels.", wanted);
  return bnn_fail(error, BNN_ERROR_PROCESSOR, "This library has no kernels for this processor.");
}
