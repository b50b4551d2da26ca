// Declarations that the files of the runtime share. bnn.h is the interface for users.
#pragma once
#define BNN_BUILD
#include "bnn.h"

#include <stdarg.h>
#include <stdbool.h>

#include "../../kernels/csrc/arguments.h"
#include "../../kernels/csrc/thread_team.h"

enum { ALIGN = 64, MOST_IMAGES = 1 << 20, MOST_THREADS = 256 };
enum region { REGION_CONSTANTS, REGION_DERIVED, REGION_ARENA, REGION_SIGNS, REGION_INPUT, REGION_OUTPUT, REGIONS };

// fields.c: the fields of the structures of arguments.h, with structures in them laid flat.
enum kind { WHOLE, REAL, POINTER };
struct field {
  const char *name;
  uint16_t at;  // byte in the structure
  uint8_t kind;
};
struct kernel_facts {
  const char *name;
  uint16_t size, fields;  // bytes of the structure; number of fields
  const struct field *field;
};
#define NUMBER(name, more) KERNEL_##name,
enum { BNN_KERNELS(NUMBER, ) KERNELS };
extern HIDDEN const struct kernel_facts kernel_facts[KERNELS];

// A number, or an offset in a region, of N images: fixed + N * each.
struct amount {
  int64_t fixed, each;
};
static inline int64_t amount_at(struct amount a, int64_t images) { return a.fixed + images * a.each; }

// A field of a call.
struct place {
  uint16_t field;
  uint8_t kind, region;
  float number;  // of REAL
  struct amount amount;
};
struct call {
  uint16_t kernel;
  uint32_t node, count;        // number of fields
  const struct place *places;  // of its fields
  size_t at;                   // of its structure in a context
};
struct fill {
  struct amount place, size;  // of the region SIGNS
  const uint8_t *pattern;
  uint16_t length;
};
struct plan {
  bool bytes;
  struct amount arena, signs;
  struct fill *fills;
  struct call *calls;
  struct place *places;
  size_t num_fills, num_calls, num_places, structures;  // bytes of all structures
  const uint8_t *torch;                                 // the first call of torch, null: there is none
};
struct bnn_network {
  bnn_facts facts;
  const uint8_t *constants;
  uint8_t *derived;
  int64_t constants_size, derived_size;
  struct plan plans[2];
  int num_plans, set;
  char *names;         // of classes, one after the other
  const char **name;   // of each class
  char *own_name;      // of the network
  void *copy, *map;    // constants, where data is not aligned; a mapped file
  size_t map_size;
  bool partial;        // may have calls of torch: run by range
  bool in_range;       // images as floats are in [0, 1]
  struct {
    int filter;  // 0: unknown, 1: bilinear, 2: bicubic
    int64_t height, width, border;
  } preparation;
};

// An error, which the caller returns.
HIDDEN bnn_status bnn_fail(bnn_error *error, bnn_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
HIDDEN bnn_status bnn_succeed(bnn_error *error);

// loader.c
HIDDEN bnn_status bnn_load(bnn_network *network, const uint8_t *data, size_t size, bnn_error *error);
HIDDEN bnn_status bnn_load_sections(bnn_network *network, const uint8_t *plan, size_t plan_size, const uint8_t *constants,
                                    size_t size, bnn_error *error);
HIDDEN int64_t bnn_region_size(const bnn_network *network, const struct plan *plan, int region, int64_t images);
HIDDEN uint32_t bnn_crc32(const void *data, size_t size);
// A file, mapped; null: status, and why.
HIDDEN void *bnn_map(const char *path, size_t *size, bnn_status *status, const char **why);
HIDDEN void bnn_unmap(void *map, size_t size);
HIDDEN void *bnn_allocate(size_t size);  // zeros, aligned to ALIGN; null where there is no memory
HIDDEN void bnn_free(void *memory);

// derive.c: compute constants, (groups, outputs, inputs, taps) and what their kind needs beside. Returns what is wrong,
// null: nothing.
struct derived {
  uint8_t kind, count, regions[2];  // number of arguments; regions of source and result
  struct amount source, place;
  int64_t arguments[6];
};
// All that was computed before: where it ends, and the values that were read for it.
struct derivation {
  int64_t end, values;
};
HIDDEN const char *bnn_derive(bnn_network *network, const struct derived *derived, struct derivation *done);

// verify.c: check what a plan's calls read and write.
HIDDEN bnn_status bnn_verify(const bnn_network *network, const struct plan *plan, bnn_error *error);

// cpu.c
HIDDEN bnn_status bnn_choose_set(int *set, bnn_error *error);
HIDDEN kernel_function *bnn_kernel_of(int set, int kernel);

// pool.c: threads of our own; null where there are none. `bnn_processors` is 1 there. `bnn_make_threads` makes threads
// beside the caller's until there are so many.
HIDDEN parallel_for bnn_pool(void);
HIDDEN void bnn_make_threads(int64_t number);
HIDDEN int bnn_processors(void);
HIDDEN void bnn_yield(void);

// Whole numbers that stay at the largest one instead of going beyond it. Operands are not negative.
static inline int64_t times(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}
static inline int64_t plus(int64_t a, int64_t b) {
  int64_t sum;
  return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}
