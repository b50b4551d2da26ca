// A verifier of plans: whatever a call reads and writes lies within its regions, for every number of images. The rules
// are those of deploy/kernels/rules.py: a test holds both to each other.
//
// Structures are filled for a number of images, with pointers that are numbers of places: region and offset. Only fields
// that every rule is linear in may depend on the number of images (`bnn_may_grow`). Rules that hold for one image and for
// MOST_IMAGES so hold for all between them.
#include "verify.h"

#include <string.h>

void reach(struct check *c, const void *pointer, int64_t count, int64_t size, int how) {
  if (!pointer) {
    need(c, how & OPTIONAL, "a field points nowhere");
    return;
  }
  const struct place *place = c->places + (uintptr_t)pointer - 1;
  const bool fixed = place->region == REGION_CONSTANTS || place->region == REGION_DERIVED || place->region == REGION_INPUT;
  NEED(!(how & WRITE) || !fixed, "a result lies in memory that is only read");
  NEED(place->amount.fixed % size == 0 && place->amount.each % size == 0, "an address is none of its elements");
  const int64_t end = plus(amount_at(place->amount, c->images), times(most(count, 0), size));
  need(c, end <= bnn_region_size(c->network, c->plan, place->region, c->images), "an address leaves its region");
}

int64_t table(struct check *c, const int32_t *pointer, int64_t count) {
  int64_t largest = 0;
  if (!need(c, count > 0, "a table is empty")) return 0;
  reach(c, pointer, count, FLOAT, READ);
  if (c->wrong) return 0;
  const struct place *place = c->places + (uintptr_t)pointer - 1;
  if (!need(c, place->region == REGION_CONSTANTS && !place->amount.each, "a table is no constant")) return 0;
  if (!need(c, (c->looked += count) <= MOST_LOOKED, "there are more tables than in any network")) return 0;
  const uint8_t *at = c->network->constants + place->amount.fixed;
  for (int64_t i = 0; i < count; i++) {
    int32_t value;
    memcpy(&value, at + 4 * i, sizeof value);
    if (!need(c, value >= 0, "a table points before what it begins with")) return 0;
    largest = most(largest, value);
  }
  return largest;
}

// Fill the structure of a call for a number of images, with numbers of places for pointers.
static void fill(struct check *c, const struct call *call, int64_t images) {
  const struct kernel_facts *kernel = kernel_facts + call->kernel;
  c->places = call->places, c->images = images;
  memset(c->structure, 0, sizeof c->structure);
  for (uint32_t i = 0; i < call->count && !c->wrong; i++) {
    const struct place *place = c->places + i;
    const struct field *field = kernel->field + place->field;
    char *to = (char *)c->structure + field->at;
    const int64_t number = amount_at(place->amount, images);
    const void *pointer = (const void *)(uintptr_t)(i + 1);
    if (place->kind == WHOLE) {
      need(c, !place->amount.each || bnn_may_grow(call->kernel, field->name), "a number may not depend on the number of images");
      memcpy(to, &number, sizeof number);
    } else if (place->kind == REAL) memcpy(to, &place->number, sizeof place->number);
    else memcpy(to, &pointer, sizeof pointer);
  }
}

static bnn_status check_sizes(const bnn_network *n, const struct plan *plan, bnn_error *error) {
  for (size_t i = 0; i < plan->num_fills; i++) {
    const struct fill *fill = plan->fills + i;
    for (int64_t images = 1; images <= MOST_IMAGES; images += MOST_IMAGES - 1) {
      const int64_t size = amount_at(fill->size, images), end = plus(amount_at(fill->place, images), size);
      if (!fill->length || size % fill->length || end > bnn_region_size(n, plan, REGION_SIGNS, images))
        return bnn_fail(error, BNN_ERROR_DAMAGED, "Its plan section is wrong: fill %zu leaves the memory of signs.", i);
    }
  }
  return BNN_OK;
}

bnn_status bnn_verify(const bnn_network *n, const struct plan *plan, bnn_error *error) {
  struct check c = {.network = n, .plan = plan};
  const bnn_status status = check_sizes(n, plan, error);
  if (status) return status;
  for (size_t i = 0; i < plan->num_calls; i++) {
    const struct call *call = plan->calls + i;
    if (call->kernel >= KERNELS) continue;  // of torch
    for (int64_t images = 1; images <= MOST_IMAGES && !c.wrong; images += MOST_IMAGES - 1) {
      fill(&c, call, images);
      if (!c.wrong) bnn_check_call(&c, call->kernel);
    }
    if (c.wrong)
      return bnn_fail(error, BNN_ERROR_DAMAGED, "Its plan section is wrong: call %zu, `%s`: %s.", i,
                      kernel_facts[call->kernel].name, c.wrong);
  }
  return BNN_OK;
}
