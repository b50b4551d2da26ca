// The functions of bnn.h: networks, contexts, runs.
#include "internal.h"

#include <float.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef BNN_VERSION
#define BNN_VERSION "0.1.0"
#endif

static const float MOST_VALUE = 1.5f;  // amount of values of images in [0, 1]: resizing overshoots by less; see frontend/inputs.py

// Memory of one call at a time. Structures of both plans lie behind one another, and share arena and signs.
struct bnn_context {
  const bnn_network *network;
  int64_t most, threads;
  parallel_for parallel;
  void (*yield)(void);
  uint8_t *arena, *signs;
  size_t signs_size;
  const struct plan *filled;  // whose padding surrounds the signs: plans may lay them out in different places
  float *converted;  // images as floats, where the network has no plan for bytes
  size_t size;
  struct {
    uint8_t *structures;
    struct bnn_step *steps;
    struct moving {
      uint32_t call, place;
    } *moving;  // fields that change with the number of images, or with each run
    size_t num_moving;
    int64_t images;  // that places are computed for
  } of[2];
};

bnn_status bnn_fail(bnn_error *error, bnn_status status, const char *format, ...) {
  if (error) {
    va_list arguments;
    va_start(arguments, format);
    error->status = status;
    vsnprintf(error->text, sizeof error->text, format, arguments);
    va_end(arguments);
  }
  return status;
}

bnn_status bnn_succeed(bnn_error *error) {
  if (error) error->status = BNN_OK, error->text[0] = 0;
  return BNN_OK;
}

const char *bnn_library_version(void) { return BNN_VERSION; }

void bnn_close(bnn_network *n) {
  if (!n) return;
  for (int i = 0; i < 2; i++) free(n->plans[i].fills), free(n->plans[i].calls), free(n->plans[i].places);
  bnn_free(n->derived), bnn_free(n->copy);
  free(n->names), free((void *)n->name), free(n->own_name);
  bnn_unmap(n->map, n->map_size);
  free(n);
}

static bnn_status open_data(const void *data, size_t size, void *map, bnn_network **network, bnn_error *error) {
  bnn_network *n = calloc(1, sizeof *n);
  if (!n) {
    bnn_unmap(map, size);
    return bnn_fail(error, BNN_ERROR_MEMORY, "There is not enough memory.");
  }
  n->map = map, n->map_size = size;
  bnn_status status = bnn_load(n, data, size, error);
  if (!status) status = bnn_choose_set(&n->set, error);
  if (status) {
    bnn_close(n);
    return status;
  }
  n->facts.kernels = bnn_kernel_name(n->set);
  *network = n;
  return bnn_succeed(error);
}

bnn_status bnn_open_memory(const void *data, size_t size, bnn_network **network, bnn_error *error) {
  *network = 0;
  return open_data(data, size, 0, network, error);
}

// For Python with torch: open a plan section and its constants, which must stay, for an instruction set. There may be calls
// of torch.
BNN_API bnn_status bnn_open_sections(const void *plan, size_t plan_size, const void *constants, size_t size, int set,
                                     bnn_network **network, bnn_error *error) {
  *network = 0;
  if (!bnn_kernel_runs(set)) return bnn_fail(error, BNN_ERROR_PROCESSOR, "There is no instruction set %d here.", set);
  bnn_network *n = calloc(1, sizeof *n);
  if (!n) return bnn_fail(error, BNN_ERROR_MEMORY, "There is not enough memory.");
  n->partial = true, n->set = set, n->facts.kernels = bnn_kernel_name(set);
  const bnn_status status = bnn_load_sections(n, plan, plan_size, constants, size, error);
  if (status) {
    bnn_close(n);
    return status;
  }
  *network = n;
  return bnn_succeed(error);
}

bnn_status bnn_open(const char *path, bnn_network **network, bnn_error *error) {
  size_t size = 0;
  bnn_status status;
  *network = 0;
  const char *why;
  void *map = bnn_map(path, &size, &status, &why);
  if (!map) return bnn_fail(error, status, "`%.150s` cannot be opened: %.80s.", path, why);
  status = open_data(map, size, map, network, error);
  if (!status || !error) return status;
  char text[sizeof error->text];
  memcpy(text, error->text, sizeof text);
  return bnn_fail(error, status, "`%.100s`: %s", path, text);
}

const bnn_facts *bnn_describe(const bnn_network *network) { return &network->facts; }

const char *bnn_class_name(const bnn_network *n, int64_t number) {
  return n->facts.has_names && number >= 0 && number < n->facts.classes ? n->name[number] : 0;
}

// Write a field of a structure. The layout of signs is that of the most images, so that what surrounds them, which is
// written once, stays where it is.
static void write_place(const bnn_context *c, size_t which, const struct call *call, const struct place *place,
                        int64_t images, const void *input, void *output) {
  uint8_t *to = c->of[which].structures + call->at + kernel_facts[call->kernel].field[place->field].at;
  const bnn_network *n = c->network;
  if (place->kind == REAL) {
    memcpy(to, &place->number, sizeof place->number);
    return;
  }
  const int64_t value = amount_at(place->amount, place->kind == POINTER && place->region == REGION_SIGNS ? c->most : images);
  if (place->kind == WHOLE) {
    memcpy(to, &value, sizeof value);
    return;
  }
  const uint8_t *const bases[REGIONS] = {n->constants, n->derived, c->arena, c->signs, input, output};
  const uint8_t *pointer = bases[place->region] ? bases[place->region] + value : 0;
  memcpy(to, &pointer, sizeof pointer);
}

static bool moves(const struct place *place) {
  return place->amount.each || (place->kind == POINTER && place->region >= REGION_INPUT);
}

// Write what surrounds the signs of a plan, unless it is there.
static void write_fills(bnn_context *c, const struct plan *plan) {
  if (c->filled == plan) return;
  if (c->filled) memset(c->signs, 0, c->signs_size);
  c->filled = plan;
  for (size_t i = 0; i < plan->num_fills; i++) {
    const struct fill *fill = plan->fills + i;
    uint8_t *to = c->signs + amount_at(fill->place, c->most);
    const int64_t size = amount_at(fill->size, c->most);
    for (int64_t at = 0; at < size; at += fill->length) memcpy(to + at, fill->pattern, fill->length);
  }
}

// Write the fields of the calls of a plan: all of them, or those that move; and what surrounds its signs.
static void write_fields(bnn_context *c, size_t which, int64_t images, const void *input, void *output) {
  const struct plan *plan = c->network->plans + which;
  write_fills(c, plan);
  for (size_t i = 0; i < plan->num_calls && !c->of[which].images; i++) {
    const struct call *call = plan->calls + i;
    for (size_t k = 0; k < call->count; k++) write_place(c, which, call, call->places + k, images, input, output);
  }
  for (size_t i = 0; i < c->of[which].num_moving && c->of[which].images; i++) {
    const struct call *call = plan->calls + c->of[which].moving[i].call;
    write_place(c, which, call, call->places + c->of[which].moving[i].place, images, input, output);
  }
  c->of[which].images = images;
}

// Sizes of a context's parts; false: beyond what this machine can address.
static bool sizes_of(const bnn_network *n, int64_t images, int64_t *arena, int64_t *signs, int64_t *converted) {
  bool has_bytes = false;
  *arena = *signs = 0;
  for (int i = 0; i < n->num_plans; i++) {
    const int64_t of_arena = amount_at(n->plans[i].arena, images), of_signs = amount_at(n->plans[i].signs, images);
    if (of_arena > *arena) *arena = of_arena;
    if (of_signs > *signs) *signs = of_signs;
    has_bytes |= n->plans[i].bytes;
  }
  *converted = has_bytes ? 0 : images * n->facts.channels * n->facts.height * n->facts.width * (int64_t)sizeof(float);
  return (uint64_t)*arena <= PTRDIFF_MAX / 8 && (uint64_t)*signs <= PTRDIFF_MAX / 8 && (uint64_t)*converted <= PTRDIFF_MAX / 8;
}

static bool allocate_calls(bnn_context *c, size_t which) {
  const struct plan *plan = c->network->plans + which;
  c->of[which].structures = bnn_allocate(plan->structures);
  c->of[which].steps = calloc(plan->num_calls + 1, sizeof(struct bnn_step));
  size_t moving = 0;
  for (size_t i = 0; i < plan->num_calls; i++)
    for (size_t k = 0; k < plan->calls[i].count; k++) moving += moves(plan->calls[i].places + k);
  c->of[which].moving = calloc(moving + 1, sizeof(struct moving));
  if (!c->of[which].structures || !c->of[which].steps || !c->of[which].moving) return false;
  c->size += plan->structures + plan->num_calls * sizeof(struct bnn_step) + moving * sizeof(struct moving);
  for (size_t i = 0; i < plan->num_calls; i++) {
    const struct call *call = plan->calls + i;
    for (size_t k = 0; k < call->count; k++)
      if (moves(call->places + k))
        c->of[which].moving[c->of[which].num_moving++] = (struct moving){(uint32_t)i, (uint32_t)k};
    if (call->kernel < KERNELS)
      c->of[which].steps[i] =
          (struct bnn_step){bnn_kernel_of(c->network->set, call->kernel), c->of[which].structures + call->at};
  }
  return true;
}

bnn_status bnn_context_open(const bnn_network *network, int64_t images, int threads, bnn_context **context, bnn_error *error) {
  int64_t arena, signs, converted;
  *context = 0;
  if (images < 1 || images > MOST_IMAGES)
    return bnn_fail(error, BNN_ERROR_ARGUMENT, "The most images of a call must be from 1 to %d, got %lld.", MOST_IMAGES, (long long)images);
  if (threads < 0 || threads > MOST_THREADS)
    return bnn_fail(error, BNN_ERROR_ARGUMENT, "Threads must be from 0 to %d, got %d.", MOST_THREADS, threads);
  bnn_context *c = calloc(1, sizeof *c);
  bool fits = c && sizes_of(network, images, &arena, &signs, &converted);
  if (fits) {
    c->network = network, c->most = images, c->threads = threads ? threads : bnn_processors();
    c->parallel = bnn_pool(), c->yield = bnn_yield;
    c->arena = bnn_allocate((size_t)arena), c->signs = bnn_allocate((size_t)signs), c->signs_size = (size_t)signs;
    c->converted = converted ? bnn_allocate((size_t)converted) : 0;
    c->size = sizeof *c + (size_t)arena + (size_t)signs + (size_t)converted;
    fits = c->arena && c->signs && (c->converted || !converted);
  }
  for (int i = 0; fits && i < network->num_plans; i++) fits = allocate_calls(c, (size_t)i);
  if (!fits) {
    bnn_context_close(c);
    return bnn_fail(error, BNN_ERROR_MEMORY, "There is not enough memory for %lld images at once.", (long long)images);
  }
  bnn_make_threads(c->threads - 1);
  *context = c;
  return bnn_succeed(error);
}

void bnn_context_close(bnn_context *c) {
  if (!c) return;
  for (int i = 0; i < 2; i++) bnn_free(c->of[i].structures), free(c->of[i].steps), free(c->of[i].moving);
  bnn_free(c->arena), bnn_free(c->signs), bnn_free(c->converted);
  free(c);
}

size_t bnn_context_size(const bnn_context *context) { return context->size; }

// The place of the plan for images of a type, or -1.
static int plan_for(const bnn_network *n, bool bytes) {
  for (int i = 0; i < n->num_plans; i++)
    if (n->plans[i].bytes == bytes) return i;
  return -1;
}

static bnn_status run_plan(bnn_context *c, int which, const void *images, int64_t n, float *logits, bnn_error *error) {
  write_fields(c, (size_t)which, n, images, logits);
  bnn_run(c->of[which].steps, (int64_t)c->network->plans[which].num_calls, c->parallel, c->threads, c->yield);
  return bnn_succeed(error);
}

static bnn_status check_run(const bnn_context *c, int64_t n, bnn_error *error) {
  if (n < 1 || n > c->most)
    return bnn_fail(error, BNN_ERROR_ARGUMENT, "The number of images must be from 1 to %lld, for which the context was opened, got %lld.",
                    (long long)c->most, (long long)n);
  if (c->network->plans[0].torch || c->network->plans[1].torch) return bnn_fail(error, BNN_ERROR_TORCH, "This network has operations of torch.");
  return BNN_OK;
}

// Write a number with two digits behind the point: error texts have no %g in web pages.
static void write_number(char *to, size_t size, float value) {
  const char *const sign = value < 0 ? "-" : "";
  const float amount = value < 0 ? -value : value;
  bnn_error text;
  if (value != value) bnn_fail(&text, BNN_OK, "NaN");
  else if (amount > FLT_MAX) bnn_fail(&text, BNN_OK, "%sinfinity", sign);
  else if (amount >= 1e15f) bnn_fail(&text, BNN_OK, "%s10^15 and more", sign);
  else bnn_fail(&text, BNN_OK, "%s%lld.%d%d", sign, (long long)amount, (int)((int64_t)(amount * 10) % 10), (int)((int64_t)(amount * 100) % 10));
  memcpy(to, text.text, size - 1), to[size - 1] = 0;
}

// Bits of the amount of a number: those of larger ones are larger, then come infinity and NaN.
static int32_t amount_of(const float *number) {
  int32_t bits;
  memcpy(&bits, number, sizeof bits);
  return bits & INT32_MAX;
}

// Refuse floats that are NaN or infinite, and those of an image that cannot be in [0, 1].
static bnn_status check_floats(const bnn_network *n, const float *images, int64_t number, bnn_error *error) {
  const bool in_range = n->in_range || n->facts.has_preparation;
  const float limit = in_range ? MOST_VALUE : FLT_MAX;
  const int64_t size = n->facts.channels * n->facts.height * n->facts.width;
  const int32_t most = amount_of(&limit);
  int32_t signs = 0;
  for (int64_t i = 0; i < number * size; i++) signs |= most - amount_of(images + i);
  if (signs >= 0) return BNN_OK;
  int64_t at = 0;
  while (amount_of(images + at) <= most) at++;
  char value[24];
  write_number(value, sizeof value, images[at]);
  return bnn_fail(error, BNN_ERROR_ARGUMENT, "Images must be %s, got %s (value %lld of image %lld)%s",
                  in_range ? "uint8, or floating in [0, 1]" : "finite", value, (long long)(at % size), (long long)(at / size),
                  in_range ? ": divide by 255, or pass bytes. Normalization is part of the packed network." : ".");
}

bnn_status bnn_run_floats(bnn_context *c, const float *images, int64_t n, float *logits, bnn_error *error) {
  bnn_status status = check_run(c, n, error);
  const int which = plan_for(c->network, false);
  if (status) return status;
  if (which < 0) return bnn_fail(error, BNN_ERROR_ARGUMENT, "This network takes images in bytes: bnn_run_bytes.");
  if ((status = check_floats(c->network, images, n, error))) return status;
  return run_plan(c, which, images, n, logits, error);
}

bnn_status bnn_run_bytes(bnn_context *c, const uint8_t *images, int64_t n, float *logits, bnn_error *error) {
  const bnn_status status = check_run(c, n, error);
  const int which = plan_for(c->network, true);
  if (status) return status;
  if (which >= 0) return run_plan(c, which, images, n, logits, error);
  const int64_t count = n * c->network->facts.channels * c->network->facts.height * c->network->facts.width;
  for (int64_t i = 0; i < count; i++) c->converted[i] = (float)images[i] / 255;
  return run_plan(c, plan_for(c->network, false), c->converted, n, logits, error);
}

// For Python with torch: the number of calls for images as bytes or floats; 0: no plan is for these, or torch has a part.
BNN_API int64_t bnn_native_calls(const bnn_network *n, int bytes) {
  const int which = plan_for(n, bytes);
  return which < 0 || n->plans[which].torch ? 0 : (int64_t)n->plans[which].num_calls;
}

// For Python with torch: torch's parallel loop and number of threads in place of our own; null is no threads.
BNN_API void bnn_context_threads(bnn_context *c, parallel_for parallel, int64_t threads, void (*yield)(void)) {
  c->parallel = parallel, c->threads = threads, c->yield = yield;
}

// For Python with torch: let calls know images and logits. Returns a status.
BNN_API bnn_status bnn_context_place(bnn_context *c, int bytes, const void *images, int64_t n, void *logits, bnn_error *error) {
  const int which = plan_for(c->network, bytes);
  if (which < 0 || n < 1 || n > c->most) return bnn_fail(error, BNN_ERROR_ARGUMENT, "There is no plan for these images.");
  write_fields(c, (size_t)which, n, images, logits);
  return bnn_succeed(error);
}

// For Python with torch: run the calls from `begin` to before `end` of a plan that was placed.
BNN_API bnn_status bnn_context_run(bnn_context *c, int bytes, int64_t begin, int64_t end, bnn_error *error) {
  const int which = plan_for(c->network, bytes);
  const bool fits = which >= 0 && c->of[which].images && begin >= 0 && begin <= end &&
                    end <= (int64_t)c->network->plans[which].num_calls;
  if (!fits) return bnn_fail(error, BNN_ERROR_ARGUMENT, "There are no such calls.");
  for (int64_t i = begin; i < end; i++)
    if (!c->of[which].steps[i].operation) return bnn_fail(error, BNN_ERROR_TORCH, "Call %lld is torch's.", (long long)i);
  bnn_run(c->of[which].steps + begin, end - begin, c->parallel, c->threads, c->yield);
  return bnn_succeed(error);
}

// For Python with torch: the memory of the arena.
BNN_API void *bnn_context_arena(bnn_context *c) { return c->arena; }
