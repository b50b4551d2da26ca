// Declarations that the verifier and its rules share. See verify.c.
#pragma once
#include "internal.h"

enum { FLOAT = 4 };
#define MOST_FACTORS ((int64_t)1 << 31)
#define MOST_LOOKED ((int64_t)1 << 26)
#define MOST_ELEMENTS ((int64_t)1 << 28)  // of a value of one image

struct check {
  const bnn_network *network;
  const struct plan *plan;
  const struct place *places;  // of the call
  int64_t images;
  int64_t looked;  // numbers of tables that were looked at
  const char *wrong;
  uint64_t structure[128];  // the largest has less
};

static inline bool need(struct check *c, bool fits, const char *rule) {
  if (!fits && !c->wrong) c->wrong = rule;
  return fits;
}
#define NEED(fits, rule) \
  if (!need(c, fits, rule)) return
#define POSITIVE(...)                                                                       \
  do {                                                                                      \
    const int64_t numbers[] = {__VA_ARGS__};                                                \
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) need(c, numbers[i] > 0, "a number must be positive"); \
    if (c->wrong) return;                                                                   \
  } while (0)

static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t blocks(int64_t channels) { return (channels + BLOCK - 1) / BLOCK; }
static inline int64_t parts(int64_t pixels) { return (pixels + PART - 1) / PART; }
static inline int64_t product(int64_t a, int64_t b, int64_t d) { return times(times(a, b), d); }

// Demand that so many elements of `size` bytes lie where a field points, if it points anywhere.
enum { READ = 0, WRITE = 1, OPTIONAL = 2 };
HIDDEN void reach(struct check *c, const void *pointer, int64_t count, int64_t size, int how);

// Values for whole blocks of channels where fields point anywhere.
#define VALUES(count, ...)                                                                                     \
  do {                                                                                                         \
    const void *const pointers[] = {__VA_ARGS__};                                                              \
    for (size_t i = 0; i < sizeof pointers / sizeof *pointers; i++) reach(c, pointers[i], count, FLOAT, READ | OPTIONAL); \
  } while (0)
#define PARAMETERS(channels, ...) VALUES(blocks(channels) * BLOCK, __VA_ARGS__)

// The largest number of a table of int32, none of which may be negative. Tables lie in memory that no call writes to.
HIDDEN int64_t table(struct check *c, const int32_t *pointer, int64_t count);

// rules.c: check a call, whose structure is filled.
HIDDEN void bnn_check_call(struct check *c, int kernel);
// Whether a number of a kernel may depend on the number of images: all rules are linear in it.
HIDDEN bool bnn_may_grow(int kernel, const char *field);
